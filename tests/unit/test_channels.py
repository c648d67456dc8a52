"""Declared channels: patterns, payloads, policies."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from wirebell import Realtime, Settings
from wirebell.channels import (
    KNOWN_OPTIONS_MAX,
    Channel,
    ChannelRegistry,
    ChannelTemplate,
    create_options,
)
from wirebell.errors import BadRequest, ConfigError, Denied, NotRunning, PermissionDenied
from wirebell.model import (
    ChannelOptions,
    ChannelPermissions,
    History,
    PayloadFormat,
    Publication,
)
from wirebell.node import Node
from wirebell.permissions import PermissionApp
from wirebell.publishing import encode_payload


class Note(BaseModel):
    """Something to publish."""

    text: str
    number: int = 1


def no_node() -> Node:
    """Say that nothing runs."""
    raise NotRunning


def create_channel(
    pattern: str,
    sends: type[Any] | None = None,
    *,
    options: ChannelOptions | None = None,
    public: bool = False,
) -> Channel[Any]:
    """Declare a channel without a node."""
    return Channel(
        pattern, sends, options or ChannelOptions(), no_node, PermissionApp(), public=public
    )


def handshake() -> HTTPConnection:
    """Make the handshake of a socket."""
    return HTTPConnection(
        {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            "path": "/ws",
            "query_string": b"",
            "headers": [],
        }
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("späť", Publication("späť".encode(), PayloadFormat.TEXT)),
        ("", Publication(b"", PayloadFormat.TEXT)),
        ({"a": [1, None]}, Publication(b'{"a":[1,null]}', PayloadFormat.JSON)),
        (Note(text="x"), Publication(b'{"text":"x","number":1}', PayloadFormat.JSON)),
        (None, Publication(b"null", PayloadFormat.JSON)),
        (["a\nb"], Publication(b'["a\\nb"]', PayloadFormat.JSON)),
    ],
)
def test_payload(data: object, expected: Publication) -> None:
    """Text travels as text, everything else as one line of JSON."""
    assert expected == encode_payload(data)


@pytest.mark.parametrize("data", ["\ud800", {"a": "\ud800"}, object(), b"\xff", {1, object()}])
def test_no_payload(data: object) -> None:
    """What neither UTF-8 nor JSON can hold is refused by its type's name."""
    with pytest.raises(BadRequest, match=f"cannot serialise {type(data).__name__}: "):
        encode_payload(data)


def test_circular_payload() -> None:
    """A value that holds itself is refused."""
    circle: list[object] = []
    circle.append(circle)

    with pytest.raises(BadRequest, match="cannot serialise list"):
        encode_payload(circle)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not(number: float) -> None:
    """JSON knows no NaN (RFC 8259, section 6): such a number is refused, or written as null."""
    try:
        written = encode_payload({"a": number}).data
    except BadRequest:
        return

    assert {"a": None} == json.loads(written, parse_constant=lambda name: name)


@pytest.mark.parametrize(
    ("pattern", "name", "parameters"),
    [
        ("room", "room", {}),
        ("room", "rooms", None),
        ("a.b", "axb", None),
        ("room:{room_id}", "room:7", {"room_id": "7"}),
        ("room:{room_id}", "room:7:8", None),
        ("room:{room_id}", "room:", None),
        ("room:{a}:{b}", "room:1:2", {"a": "1", "b": "2"}),
        ("topic:{topic:path}", "topic:a:b/c", {"topic": "a:b/c"}),
        ("topic:{topic:path}", "topic:", None),
        ("{x}", "anything", {"x": "anything"}),
    ],
)
def test_match(pattern: str, name: str, parameters: dict[str, str] | None) -> None:
    """A name matches whole: parameters take one part, paths the rest, and nothing is empty."""
    assert parameters == ChannelTemplate(pattern).match(name)


@pytest.mark.parametrize("pattern", ["{a}:{a}", "{a", "a}", "{}", "{1a}", "{a:int}", "{{a}}"])
def test_malformed_pattern(pattern: str) -> None:
    """A parameter that stands twice and a brace that is left over are refused."""
    with pytest.raises(ConfigError, match="not a channel pattern"):
        ChannelTemplate(pattern)


def test_format() -> None:
    """A name is built from values of any type that can be written."""
    template = ChannelTemplate("room:{room_id}:{rest:path}")

    assert template.format({"room_id": 7, "rest": "a:b"}) == "room:7:a:b"


@pytest.mark.parametrize("values", [{}, {"a": 1, "b": 2}, {"b": 1}])
def test_format_takes_its_parameters(values: dict[str, object]) -> None:
    """A missing or an unknown parameter is an error of the caller."""
    with pytest.raises(TypeError, match="takes"):
        ChannelTemplate("room:{a}").format(values)


@pytest.mark.parametrize("value", ["", "7:8"])
def test_format_refuses_another_channel(value: str) -> None:
    """A value that would name another channel is refused."""
    with pytest.raises(BadRequest, match=r"a of 'room:\{a\}' cannot be"):
        ChannelTemplate("room:{a}").format({"a": value})


def test_format_is_read_back() -> None:
    """A name that would be read back with other parameters is refused, not given out."""
    template = ChannelTemplate("file-{owner}-{name}")

    with pytest.raises(BadRequest):
        template.format({"owner": "ann", "name": "x-y"})


def test_call() -> None:
    """A declaration is called with its parameters in order or by name."""
    room = create_channel("room:{a}:{b}")

    assert room(1, 2).name == room(1, b=2).name == room(b=2, a=1).name == "room:1:2"
    assert room(1, 2).declaration is room


@pytest.mark.parametrize(
    ("args", "kwargs"), [((1, 2, 3), {}), ((1, 2), {"a": 1}), ((1,), {}), ((1,), {"c": 1})]
)
def test_call_with_wrong_parameters(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    """Too many, doubled, missing and unknown parameters are refused."""
    with pytest.raises(TypeError, match="takes"):
        create_channel("room:{a}:{b}")(*args, **kwargs)


def test_encode_checks_the_type() -> None:
    """What is published is checked against the declared type, and turned into it."""
    channel = create_channel("a", Note)

    assert channel.encode(Note(text="x")).data == b'{"text":"x","number":1}'
    assert channel.encode({"text": "y"}).data == b'{"text":"y","number":1}'
    with pytest.raises(BadRequest, match="not what 'a' sends"):
        channel.encode({"number": "x"})


def test_encode_without_a_type() -> None:
    """A declaration without a type takes everything."""
    assert Publication(b"x") == create_channel("a").encode("x")
    assert Publication(b"1", PayloadFormat.JSON) == create_channel("a").encode(1)


@pytest.mark.anyio
async def test_bound_channel_needs_a_node() -> None:
    """A channel says that nothing runs, whatever is asked of it."""
    room = create_channel("room")()

    for work in (room.publish("x"), room.presence(), room.history()):
        with pytest.raises(NotRunning):
            await work


@pytest.mark.anyio
async def test_public_and_not() -> None:
    """Without a function only public channels may be subscribed to."""
    await create_channel("a", public=True).check_subscribe(handshake(), {})

    with pytest.raises(PermissionDenied, match="channel 'a' is not public and has no authorize"):
        await create_channel("a").check_subscribe(handshake(), {})


@pytest.mark.anyio
async def test_authorize() -> None:
    """The function decides by the pattern's parameters, and for public channels too."""
    channel = create_channel("room:{room_id}", public=True)

    @channel.authorize
    async def only_seven(room_id: int) -> None:
        if room_id != 7:
            raise Denied("only seven")

    await channel.check_subscribe(handshake(), {"room_id": "7"})
    with pytest.raises(Denied, match="only seven"):
        await channel.check_subscribe(handshake(), {"room_id": "8"})


def test_one_function_decides() -> None:
    """A second function would never be asked: it is refused."""
    channel = create_channel("room:{room_id}")
    channel.authorize(lambda room_id: None)

    with pytest.raises(ConfigError, match="room_id}' has an authorize already"):
        channel.authorize(lambda room_id: None)


def test_registry() -> None:
    """The first declaration that matches decides; what matches none is not declared."""
    registry = ChannelRegistry()
    kept = ChannelOptions(history=History())
    one, rest = create_channel("room:1", options=kept), create_channel("room:{room_id}")
    registry.add(one)
    registry.add(rest)

    assert (one, {}) == registry.find("room:1")
    assert (rest, {"room_id": "2"}) == registry.find("room:2")
    assert registry.find("hall") is None
    assert registry.find_options("room:1") is kept
    assert registry.find_options("hall") is None


def test_registry_refuses_doubles() -> None:
    """A pattern is declared once."""
    registry = ChannelRegistry()
    registry.add(create_channel("a"))

    with pytest.raises(ConfigError, match="channel 'a' is declared twice"):
        registry.add(create_channel("a"))


def test_a_late_declaration_counts() -> None:
    """A declaration that comes after its name was asked for is not overlooked."""
    registry = ChannelRegistry()
    registry.add(create_channel("b"))
    before = registry.find_options("a")
    registry.add(create_channel("a", options=ChannelOptions(presence=True)))

    assert (None, ChannelOptions(presence=True)) == (before, registry.find_options("a"))


def test_nothing_is_declared() -> None:
    """Without a declaration no name is remembered."""
    registry = ChannelRegistry()

    assert registry.find_options("a") is None
    assert {} == registry.known_options


def test_options_of_history() -> None:
    """Subscribers of a declared channel may come back, and read what it keeps, unless refused."""
    implied = create_options({"history": History()})
    refused = create_options(
        {"history": History(), "force_recovery": False, "allow_history_for_subscriber": False}
    )

    assert (True, True, False) == (
        implied.force_positioning,
        implied.force_recovery,
        implied.presence,
    )
    assert implied.permissions == ChannelPermissions(
        allow_history_for_subscriber=True, allow_history_for_anonymous=True
    )
    assert (True, False) == (refused.force_positioning, refused.force_recovery)
    assert refused.permissions == ChannelPermissions(allow_history_for_anonymous=True)


def test_options_of_presence() -> None:
    """A declared channel with presence tells its subscribers who comes and goes."""
    options = create_options({"presence": True})

    assert (True, True, None) == (
        options.join_leave,
        options.force_push_join_leave,
        options.history,
    )
    assert options.permissions == ChannelPermissions(
        allow_presence_for_subscriber=True, allow_presence_for_anonymous=True
    )


def test_options_of_nothing() -> None:
    """What is not said is off."""
    assert ChannelOptions() == create_options({})


def test_known_names_are_bounded() -> None:
    """Names that peers make up do not fill the memory."""
    registry = ChannelRegistry()
    registry.add(create_channel("a"))

    for number in range(KNOWN_OPTIONS_MAX + 5):
        registry.find_options(str(number))

    assert len(registry.known_options) <= KNOWN_OPTIONS_MAX


def test_a_name_that_no_channel_can_have() -> None:
    """It is of no declaration, takes no time to match, and is not remembered."""
    registry = ChannelRegistry(name_bytes_max=10)
    registry.add(create_channel("a:{one:path}:{two:path}:z"))
    longest, longer = "a:" + "x" * 4 + ":y:z", "a:" + "x" * 5 + ":y:z"

    assert (True, False) == (bool(registry.find(longest)), bool(registry.find(longer)))
    assert registry.find_options(longest) is not None
    assert registry.find_options(longer) is None
    assert [longest] == list(registry.known_options)
    assert registry.find("a" + ":" * 10_000_000) is None


def test_encode_for_patches() -> None:
    """Where every publication may travel as a patch it says so."""
    assert not create_channel("a").encode(1).has_delta
    assert create_channel("a", options=ChannelOptions(delta_publish=True)).encode(1).has_delta


@pytest.mark.anyio
async def test_how_something_is_published() -> None:
    """A bound channel takes the keywords of `Realtime.publish`, and keeps what its channel says."""
    rt = Realtime(Settings())
    room = rt.channel("room", history=History(), delta_publish=True)()
    async with rt.lifespan(FastAPI()):
        first = await room.publish("x", idempotency_key="k", tags={"a": "b"})
        again = await room.publish("x", idempotency_key="k")
        await room.publish("y", version=2, key="z", exclude="me")
        await room.publish("z", version=1)
        with pytest.raises(BadRequest, match="an idempotency key has at most 1024 bytes"):
            await room.publish("x", idempotency_key="k" * 1025)
        newest = await room.history(limit=1, reverse=True)
        kept = await room.history(limit=-1)

    assert (1, 1) == (first.offset, again.offset)
    assert [("x", {"a": "b"}, True), ("y", None, True)] == [
        (item.data.decode(), item.tags, item.has_delta) for item in kept.publications
    ]
    assert [("y", "z", "me")] == [
        (item.data.decode(), item.key, item.exclude) for item in newest.publications
    ]


@pytest.mark.parametrize(
    ("permissions", "is_public", "named", "anonymous"),
    [
        (ChannelPermissions(), False, False, False),
        (ChannelPermissions(), True, True, True),
        (ChannelPermissions(allow_subscribe_for_client=True), False, True, False),
        (
            ChannelPermissions(allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True),
            False,
            True,
            True,
        ),
    ],
)
def test_lets_in(
    permissions: ChannelPermissions, is_public: bool, named: bool, anonymous: bool
) -> None:
    """Who may come without being asked: everybody, those with a user id, or nobody."""
    channel = create_channel("a", options=ChannelOptions(permissions=permissions), public=is_public)

    assert (named, anonymous) == (channel.lets_in("ann"), channel.lets_in(""))


@pytest.mark.parametrize("is_public", [False, True])
def test_a_function_asks_everybody(is_public: bool) -> None:
    """Where a function decides nobody comes in by the options alone, nor by ``public``."""
    permissions = ChannelPermissions(allow_subscribe_for_client=True)
    options = ChannelOptions(permissions=permissions)
    channel = create_channel("a", options=options, public=is_public)
    channel.authorize(lambda: None)

    assert not channel.lets_in("ann")


def test_what_clients_publish_is_checked() -> None:
    """JSON that a declaration does not send is refused by field, and not repeated."""
    registry = ChannelRegistry()
    registry.add(create_channel("room:{room_id}", Note))
    registry.add(create_channel("any:{name}"))

    registry.check_data("room:7", b'{"text": "hello"}')
    registry.check_data("any:7", b"[1]")
    registry.check_data("undeclared", b"[1]")
    with pytest.raises(BadRequest, match="sends: text: ") as refused:
        registry.check_data("room:7", b'{"txt": "secret"}')

    assert "secret" not in str(refused.value)
