"""Names that stand for many channels: what they are, and what a node does with them."""

from __future__ import annotations

import json

import pytest

from tests.unit.fakes import FakeTransport
from tests.unit.nodes import options_for
from wirebell import Realtime
from wirebell.backlog import Backlog
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.errors import BadRequest
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    Membership,
    Overflow,
    PayloadFormat,
    Publication,
)
from wirebell.namespaces import Namespaces
from wirebell.node import Node
from wirebell.patterns import Patterns, is_pattern
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.protobuf import PROTOBUF
from wirebell.protocol.text import TEXT
from wirebell.settings import Settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("*", True),
        (">", True),
        ("chat.*", True),
        ("chat.>", True),
        ("*.chat", True),
        ("news:*", False),
        ("news:x.*", True),
        ("chat", False),
        ("chat.a*", False),
        ("chat.>.a", False),
        ("chat.a>", False),
        ("", False),
    ],
)
def test_is_pattern(name: str, expected: bool) -> None:
    """A wildcard stands alone between dots, and the one for the rest at the end."""
    assert expected == is_pattern(name)


def test_a_pattern_keeps_nothing() -> None:
    """Where patterns are on, one may not be asked for what it cannot have."""
    on, off = Patterns(lambda _, __: True, are_on=True), Patterns(lambda _, __: True, are_on=False)

    on.check("chat.*", False, None)
    on.check("chat.a", True)
    off.check("chat.*", True)
    with pytest.raises(BadRequest, match=r"'chat\.\*' is a pattern: it has no history"):
        on.check("chat.*", False, True)


def test_guard() -> None:
    """What a pattern may not hear is left out; everything else passes, and costs nothing."""
    taken: list[str] = []
    handle = lambda name, _: taken.append(name)  # noqa: E731
    on = Patterns(lambda _, channel: channel != "chat.secret", are_on=True).guard(handle)

    on("chat.*", Publication(b"1", channel="chat.a"))
    on("chat.*", Publication(b"2", channel="chat.secret"))
    on("chat.secret", Publication(b"3"))
    on("chat.b", Membership(ClientInfo("1"), joined=True))

    assert ["chat.*", "chat.secret", "chat.b"] == taken
    assert handle is Patterns(lambda _, __: False, are_on=False).guard(handle)


class PatternBroker(MemoryBroker):
    """A broker that says that it delivers by patterns."""

    has_patterns = True


@pytest.mark.anyio
async def test_a_node_subscribes_to_a_pattern() -> None:
    """A plain socket hears what a pattern may hear; a pattern that would keep something is not."""
    broker = PatternBroker(Settings())
    hears = lambda _, channel: channel != "chat.secret"  # noqa: E731
    node = Node(Settings(), broker, MemoryPresenceStore(), options_for, hears=hears)
    await node.start()
    try:
        transport = FakeTransport()
        connection = node.connect(transport, TEXT, "10.0.0.1")
        await node.subscribe(connection, "cat.*")
        for name in ("chats.*", "pets.*"):
            with pytest.raises(BadRequest, match="is a pattern"):
                await node.subscribe(connection, name)
        for channel in ("chat.secret", "cat.tom"):
            node.handle_item("cat.*", Publication(channel.encode(), channel=channel))
        node.flushing.flush()

        assert ["cat.tom"] == transport.messages
        assert ["cat.*"] == list(connection.channels)
    finally:
        await node.aclose()


def test_the_latest_of_each_channel_waits() -> None:
    """Publications of two channels that a pattern hears do not replace each other."""
    backlog = Backlog(10_000)
    items = [
        Publication(data, key="k", channel=channel)
        for data, channel in ((b"1", "a"), (b"2", "b"), (b"3", "a"))
    ]

    assert 1 == backlog.add("*", items, Overflow.KEEP_LATEST)
    assert [("*", items[1:])] == backlog.runs()


@pytest.mark.parametrize(
    ("pattern", "channel", "expected"),
    [
        ("chat.*", "chat.a", True),
        ("news:x.*", "news:x.a", True),
        ("news:chat.>", "news:chat.a.b", True),
        ("*", "news:a", False),
        ("chat.*", "chat.news:a", False),
        (">", "$secret", False),
        ("$b.*", "$b.a", True),
        ("news:x.*", "news:x.#7", False),
        ("dialog.*", "dialog.x#1,2", False),
    ],
)
def test_namespaces_cover(pattern: str, channel: str, expected: bool) -> None:
    """A pattern hears its own namespace, and no name that asks for more than its own does."""
    namespaces = Namespaces(ChannelOptions(), {"news": ChannelOptions()})

    assert expected == namespaces.covers(pattern, channel)


def test_declarations_cover() -> None:
    """A pattern hears channels of its own declaration, and no declaration's where it has none."""
    rt = Realtime(Settings())
    rt.channel("room.{name}")
    rt.channel("{name}.log")

    assert rt.authority.hears("room.*", "room.a")
    assert rt.authority.hears("room.>", "room.a.b")
    assert not rt.authority.hears("*.log", "room.log")
    assert not rt.authority.hears("*.a", "room.a")
    assert rt.authority.hears("*.a", "other.a")


@pytest.mark.parametrize("codec", [JSON, PROTOBUF])
def test_a_publication_says_its_channel(codec: Codec) -> None:
    """Who subscribed to a pattern is told where something was published (field 10)."""
    publication = Publication(b'"x"', PayloadFormat.JSON, channel="chat.a")
    message = codec.encode_publication("chat.*", publication)

    if isinstance(message, str):
        expected: object = {"channel": "chat.*", "pub": {"data": "x", "channel": "chat.a"}}
        assert {"push": expected} == json.loads(message)
        plain = codec.encode_publication("a", Publication(b"1", PayloadFormat.JSON))
        assert {"push": {"channel": "a", "pub": {"data": 1}}} == json.loads(plain)
    else:
        reply = pb.Reply.FromString(message[1:])
        assert ("chat.*", "chat.a") == (reply.push.channel, reply.push.pub.channel)
