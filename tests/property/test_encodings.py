"""What is encoded is decoded to the same by somebody else's decoder."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from wirebell.model import ClientInfo, Membership, PayloadFormat, Publication
from wirebell.protocol.json import JSON, decode_connect
from wirebell.protocol.text import TEXT

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
TEXT_ITEMS = st.builds(lambda text: Publication(text.encode()), TEXTS)
JSON_ITEMS = st.builds(
    lambda value, offset: Publication(
        json.dumps(value).encode(), PayloadFormat.JSON, offset, "e" if offset else ""
    ),
    VALUES,
    st.integers(0, 2**63 - 1),
)
MEMBERSHIPS = st.builds(
    lambda user, client, joined: Membership(ClientInfo(client, user), joined=joined),
    TEXTS,
    TEXTS,
    st.booleans(),
)
ITEMS = st.lists(st.one_of(TEXT_ITEMS, JSON_ITEMS, MEMBERSHIPS), max_size=6)


@settings(max_examples=100, deadline=None)
@given(channel=TEXTS, items=ITEMS)
def test_json(channel: str, items: list[Publication | Membership]) -> None:
    """Each item is one push on one line; two decoders read the same payloads out of it."""
    frames = JSON.join(channel, items)

    assert len(items) == len(frames.messages)
    assert sum(len(message.encode()) for message in frames.messages) == frames.byte_count
    for item, message in zip(items, frames.messages, strict=True):
        push = json.loads(message)
        assert push == msgspec.json.decode(message)
        assert channel == push.pop("channel")
        assert "\n" not in message
        if isinstance(item, Membership):
            info = {"user": item.info.user_id, "client": item.info.client_id}
            assert {"join" if item.joined else "leave": {"info": info}} == push
            continue
        text = item.data.decode()
        is_json = item.format is PayloadFormat.JSON
        expected: dict[str, Any] = {"data": json.loads(text) if is_json else text}
        assert expected | ({"offset": item.offset} if item.offset else {}) == push["pub"]


@settings(max_examples=100, deadline=None)
@given(items=ITEMS)
def test_text(items: list[Publication | Membership]) -> None:
    """Each publication is its payload, and nothing else is said."""
    frames = TEXT.join("room", items)

    payloads = [item.data for item in items if isinstance(item, Publication)]
    assert payloads == [message.encode() for message in frames.messages]
    assert sum(len(payload) for payload in payloads) == frames.byte_count


@settings(max_examples=100, deadline=None)
@given(
    subs=st.dictionaries(
        TEXTS,
        st.fixed_dictionaries(
            {},
            optional={
                "recover": st.booleans(),
                "offset": st.integers(0, 2**63 - 1),
                "epoch": TEXTS,
            },
        ),
        max_size=4,
    ),
    token=TEXTS,
)
def test_connect_request(subs: dict[str, dict[str, Any]], token: str) -> None:
    """Whatever a client asks for is understood as it was meant."""
    request = decode_connect(json.dumps({"token": token, "subs": subs}))

    wanted = {
        channel: (sub.get("recover", False), sub.get("offset", 0), sub.get("epoch", ""))
        for channel, sub in subs.items()
    }
    assert token == request.token
    assert wanted == {
        channel: (sub.recover, sub.offset, sub.epoch) for channel, sub in request.subs.items()
    }
