"""Names of channels: any name has an answer, and the same one each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from wirebell.errors import ErrorCode, ProtocolError
from wirebell.model import ChannelOptions, ChannelPermissions, PayloadFormat
from wirebell.namespaces import Namespaces, check_publication, embed

OPEN = ChannelPermissions(allow_subscribe_for_client=True, allow_user_limited_channels=True)
PLAIN = ChannelOptions(presence=True)
OPTIONS = {
    "a": ChannelOptions(permissions=OPEN),
    "b": ChannelOptions(channel_regex="^b+$"),
}
NAMESPACES = Namespaces(PLAIN, OPTIONS, name_bytes_max=12)
CHANNELS = st.text("ab:$#,é\n", max_size=14)
USERS = st.text("ab1", max_size=2)


def catch(check: Callable[[], object]) -> ProtocolError | None:
    """Return the error that a check ends with, which is always 107."""
    try:
        check()
    except ProtocolError as error:
        if error.code == ErrorCode.BAD_REQUEST:
            return error
        raise
    return None


@settings(max_examples=300)
@given(channel=CHANNELS)
def test_options(channel: str) -> None:
    """The namespace is what stands before the first colon, without one dollar in front."""
    text = channel[1:] if channel.startswith("$") else channel
    name = text.split(":")[0] if ":" in text else ""

    for _ in range(2):
        assert ({**OPTIONS, "": PLAIN}).get(name) == NAMESPACES.options_for(channel)


@settings(max_examples=300)
@given(channel=CHANNELS)
def test_names(channel: str) -> None:
    """A name passes or gives 107; one that passes is of bounded length."""
    error = catch(lambda: NAMESPACES.check_name(channel))
    if error is None:
        assert 0 < len(channel.encode()) <= 12
        assert channel.isascii() or NAMESPACES.options_for(channel) is None


@settings(max_examples=300)
@given(channel=CHANNELS, user=USERS)
def test_listed_users(channel: str, user: str) -> None:
    """Where lists of users count, exactly the users of the list may come, and never to ``$``."""
    options = OPTIONS["a"]
    may = NAMESPACES.may_subscribe(channel, options, user)
    listed = channel.split("#")[-1].split(",") if "#" in channel else [user]

    assert may == (user != "" and user in listed and not channel.startswith("$"))


@settings(max_examples=200)
@given(data=st.binary(max_size=20) | st.text('{}[]",:01 \n\r', max_size=12).map(str.encode))
def test_publications(data: bytes) -> None:
    """What passes as JSON is JSON, and the same without its line feeds; the rest gives 107."""

    def refuse(name: str) -> Any:
        raise ValueError(name)  # Python reads NaN and Infinity, which JSON has not

    error = catch(lambda: check_publication(PLAIN, data))
    if error is None:
        assert PayloadFormat.JSON is check_publication(PLAIN, data)
        assert b"\n" not in embed(data)
        assert json.loads(data) == json.loads(embed(data))
    else:
        with pytest.raises(ValueError):  # noqa: PT011  # of several kinds
            json.loads(data.decode(), parse_constant=refuse)
