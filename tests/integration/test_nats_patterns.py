"""Subscriptions to patterns of names, with a real NATS: between brokers, and for clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.integration.nats_links import KEPT, LossyLink, Running, broker_at, publish
from tests.integration.standalone import Standalone, standalone
from tests.services import nats
from wirebell.errors import BadRequest
from wirebell.model import ChannelOptions, ClientInfo, Membership, Publication, PublishOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

UNKEPT = ChannelOptions()
ONCE = PublishOptions(idempotency_key="k")


@pytest.fixture(scope="module")
def server() -> Iterator[nats.NATSServer]:
    """A server for those who leave it as it was."""
    with nats.single() as started:
        yield started


def heard(running: Running, pattern: str) -> list[tuple[str, bytes]]:
    """Return what a pattern heard: channel and payload."""
    return [
        (item.channel, item.data)
        for item in running.listener.of(pattern)
        if isinstance(item, Publication)
    ]


async def test_a_pattern_hears_what_it_matches(server: nats.NATSServer) -> None:
    """On every node a pattern hears each channel that it matches, with its name, each once."""
    url = f"{server.url}?allow_wildcards=true"
    async with broker_at(url) as one, broker_at(url) as other:
        patterns = ("chat.*", "chat.>", "*.b", ">")
        for pattern in patterns:
            await one.broker.subscribe(pattern)
        await one.broker.subscribe("chat.a")
        names = ("chat.a", "chat.b", "chat", "chat.a.b", "Ü.b", "chat.x*", "chat..b", "chat.>.b")
        for number, name in enumerate(names):
            await publish((one, other)[number % 2], name, name.encode(), UNKEPT)
        # Twice under one key, once; kept, not at all; joins likewise.
        for _ in range(2):
            await publish(other, "chat.key", b"key", UNKEPT, ONCE)
        await publish(other, "chat.kept", b"kept")
        await other.broker.publish_membership("chat.b", Membership(ClientInfo("1"), joined=True))
        await publish(other, "chat.end", b"end", UNKEPT)
        await one.listener.wait_count(">", len(names) + 2)

        all_of_them = [*names, "chat.key", "chat.end"]
        expected = {
            "chat.*": ["chat.a", "chat.b", "chat.x*", "chat.key", "chat.end"],
            "chat.>": [name for name in all_of_them if name not in {"chat", "Ü.b"}],
            "*.b": ["chat.b", "Ü.b"],
            ">": all_of_them,
        }
        for pattern, channels in expected.items():
            assert sorted(channels) == sorted(name for name, _ in heard(one, pattern)), pattern
        assert [b"chat.a"] == one.arrived("chat.a")
        assert [] == other.listener.of("chat.a")


async def test_patterns_come_back(server: nats.NATSServer) -> None:
    """After a cut patterns hear again; what was let go hears nothing."""
    async with LossyLink(server.port) as link:
        url = f"{link.url}?allow_wildcards=true"
        async with broker_at(url) as running:
            await running.broker.subscribe("back.*")
            await running.broker.subscribe("gone.*")
            link.cut()
            await running.listener.wait_reconnect()
            await running.broker.unsubscribe("gone.*")
            await publish(running, "gone.a", b"1", UNKEPT)
            await publish(running, "back.a", b"2", UNKEPT)
            await running.listener.wait_count("back.*", 1)

            assert [("back.a", b"2")] == heard(running, "back.*")
            assert [] == heard(running, "gone.*")


async def test_nothing_is_published_to_a_pattern(server: nats.NATSServer) -> None:
    """A pattern can only be subscribed to; where they are off such a name is a channel's."""
    async with (
        broker_at(f"{server.url}?allow_wildcards=true") as on,
        broker_at(server.url) as off,
    ):
        for options in (UNKEPT, KEPT):
            with pytest.raises(BadRequest, match="can only be subscribed to"):
                await publish(on, "chat.*", b"1", options)
        with pytest.raises(BadRequest, match="can only be subscribed to"):
            await on.broker.history("chat.*", KEPT, since=None, limit=1)
        with pytest.raises(BadRequest, match="too long"):
            await on.broker.subscribe(".".join(["x" * 300] * 7) + ".*")
        # So long a name is published all the same, only not heard by patterns.
        await publish(on, ".".join(["ü" * 60] * 10), b"1", UNKEPT)
        await off.broker.subscribe("off.*")
        await publish(off, "off.a", b"1", UNKEPT)
        await publish(off, "off.*", b"2", UNKEPT)
        await off.listener.wait_count("off.*", 1)

        assert [b"2"] == off.arrived("off.*")


@pytest.fixture(scope="module")
def node(server: nats.NATSServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A server with patterns, by keys of the configuration's tree."""
    folder = tmp_path_factory.mktemp("patterns")
    allowed = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
    publish_too = {"allow_publish_for_client": True, "allow_publish_for_anonymous": True}
    configuration = {
        "broker": {
            "enabled": True,
            "type": "nats",
            "nats": {"url": server.url, "allow_wildcards": True},
        },
        "client": {"allow_anonymous_connect_without_token": True},
        "channel": {
            "without_namespace": allowed | publish_too,
            "namespaces": [
                {"name": "kept", "history_size": 10, "history_ttl": "60s", **allowed},
                {
                    "name": "seen",
                    "presence": True,
                    "allow_presence_for_client": True,
                    "allow_presence_for_anonymous": True,
                },
                {"name": "other", **allowed},
            ],
        },
    }
    (folder / "config.json").write_text(json.dumps(configuration))
    arguments = (
        f"--config={folder / 'config.json'}",
        "--drain_window_seconds=0",
        "--close_timeout_seconds=1",
    )
    with standalone(folder, *arguments) as started:
        yield started


@contextlib.asynccontextmanager
async def client_of(node: Standalone) -> AsyncIterator[ClientConnection]:
    """Connect a client of the protocol."""
    url = node.address.replace("http", "ws") + "/connection/websocket"
    async with asyncio.timeout(20), connect(url) as client:
        await ask(client, 1, connect={})
        yield client


async def ask(client: ClientConnection, number: int, **command: object) -> Any:
    """Send a command, and return its reply; pushes in between are left out."""
    await client.send(json.dumps({"id": number, **command}))
    while True:
        for line in str(await client.recv()).splitlines():
            reply = json.loads(line)
            if reply.get("id") == number:
                return reply


async def test_a_client_subscribes_to_a_pattern(server: nats.NATSServer, node: Standalone) -> None:
    """A client hears what another node publishes, with the name of the channel."""
    async with (
        client_of(node) as client,
        broker_at(f"{server.url}?allow_wildcards=true&prefix=wirebell") as other,
    ):
        for number, channel in enumerate(("chat.*", "chat.a"), 2):
            assert "error" not in await ask(client, number, subscribe={"channel": channel})
        # Neither another namespace, nor what is for some users only.
        for channel in ("chat.other:a", "chat.a#7", "chat.a", "chat.b"):
            await publish(other, channel, channel.encode(), UNKEPT)
        pushes: list[Any] = []
        while len(pushes) < 3:
            lines = map(json.loads, str(await client.recv()).splitlines())
            pushes += [line["push"] for line in lines if "push" in line]

        told = [(push["channel"], push["pub"].get("channel")) for push in pushes]
        assert {("chat.*", "chat.a"), ("chat.*", "chat.b"), ("chat.a", None)} == set(told)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"subscribe": {"channel": "wish.*", "recoverable": True}}, "is a pattern"),
        ({"subscribe": {"channel": "wish.*", "positioned": True}}, "is a pattern"),
        ({"subscribe": {"channel": "wish.*", "join_leave": True}}, "is a pattern"),
        ({"subscribe": {"channel": "kept:x.*"}}, "is a pattern"),
        ({"presence": {"channel": "seen:x.*"}}, "is a pattern"),
        ({"publish": {"channel": "wish.*", "data": 1}}, "can only be subscribed to"),
    ],
)
async def test_what_a_pattern_has_not(
    node: Standalone, command: dict[str, object], words: str
) -> None:
    """Who asks a pattern for what it has not is told so, and stays connected."""
    async with client_of(node) as client:
        reply = await ask(client, 2, **command)
        assert "error" not in await ask(client, 3, subscribe={"channel": "wish.*"})

    assert 107 == reply["error"]["code"]
    assert words in reply["error"]["message"]
