"""Nodes over each broker that crosses machines: they know each other, and do what one is told.

Workers over SQLite stand in `test_cluster`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.contract.cases import CASES, Create
from tests.unit.clients import FakeAccess, Peer
from tests.unit.stations import Station
from wirebell.access import ConnectGrant, ShownToken
from wirebell.control import QUESTION_BYTES_MAX
from wirebell.errors import NodesSilent
from wirebell.model import ChannelOptions, History, Publication
from wirebell.node import Node
from wirebell.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(120)]

WAIT_SECONDS = 20.0
REVOKED = (3500, "invalid token")
SETTINGS = Settings(
    node_announce_seconds=0.3,
    node_forget_seconds=1.0,
    survey_timeout_seconds=0.5,
    presence_refresh_seconds=0.4,
    presence_ttl_seconds=1.5,
    handover_seconds=0,
)


@pytest.fixture(scope="module", params=["redis", "nats", "postgresql"])
def create(request: pytest.FixtureRequest) -> Iterator[Create]:
    """Run a server."""
    with CASES[request.param]() as creating:
        yield creating


def options_for(channel: str) -> ChannelOptions:
    """Keep history for names with an ``h``, presence for a ``p``."""
    return ChannelOptions(history=History() if "h" in channel else None, presence="p" in channel)


@dataclass
class Host:
    """Whoever runs a node."""

    node: Node


@asynccontextmanager
async def running(create: Create, *names: str) -> AsyncIterator[list[Station[Host]]]:
    """Run nodes on one broker."""
    found = [Station(Host(Node(SETTINGS, *create(), options_for, name=name))) for name in names]
    for station in found:
        await station.node().start()
    try:
        yield found
    finally:
        for station in found:
            await station.node().aclose()


async def wait_until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for what comes as soon as it can."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def echo(body: bytes) -> bytes:
    """Answer what was asked, twice."""
    return body + body


async def test_one_cluster(create: Create) -> None:
    """Lists and counts are whole, orders and publications reach everybody."""
    async with running(create, "a", "b") as (a, b):
        ann, again = await a.connect("ann", "p h"), await b.connect("ann", "p h")
        ben = await b.connect("ben")
        ids = {peer.client.client_id for peer in (ann, again)}

        assert ["a", "b"] == [each.name for each in await a.nodes()]
        assert {"p h": 2} == await b.channels("p*")
        assert {"ann": 2} == await a.online_users(["ann", "eve"])
        assert ids == {each.client_id for each in await b.connections("ann")}
        assert ids == set(await a.presence("p h")) == set(await b.presence("p h"))

        await a.node().publish("p h", Publication(b"1"))
        await wait_until(lambda: heard(again), "a publication does not cross nodes")
        assert 2 == await a.subscribe("ann", "news")
        assert 2 == await b.disconnect("ann")
        assert [1, 1, 0] == [len(peer.closed) for peer in (ann, again, ben)]


async def heard(peer: Peer) -> bool:
    """Tell whether a client was sent a publication."""
    return any('"pub"' in str(message) for message in peer.transport.messages)


async def test_longest_messages(create: Create) -> None:
    """A question of the longest kind, and an answer in many parts, cross the broker."""
    async with running(create, "a", "b") as (a, b):
        b.node().cluster.handlers["echo"] = echo
        body = bytes(QUESTION_BYTES_MAX)
        a.node().cluster.settings = SETTINGS.model_copy(update={"survey_timeout_seconds": 20.0})

        assert body + body == await a.node().cluster.ask(b.node().node_id, "echo", body)


async def test_revoked_before_a_node_came(create: Create) -> None:
    """A node that starts later refuses what was revoked, from its first client on."""
    async with running(create, "a", "b") as (a, b):
        token = ShownToken("t1", time.time() - 10)
        ann = await b.connect("ann", token=token)
        assert 1 == await a.revoke(token_id="t1")
        async with running(create, "c") as (c,):
            access = FakeAccess()
            access.connect_grant = ConnectGrant("ann", token=token)
            late = Peer(c.site, access=access)
            await late.ask({"id": 1, "connect": {}})

            assert [[REVOKED], [REVOKED]] == [ann.closed, late.closed]
            assert 3 == len(await c.nodes())


async def test_killed(create: Create) -> None:
    """Who ends without a word is named, then forgotten; its presence ends with the lease."""
    async with running(create, "a", "b") as (a, b):
        here, there = await a.connect("ann", "p"), await b.connect("ben", "p")
        both = set(await a.presence("p"))
        # Its link ends, and nothing of it says so.
        await b.node().broker.aclose()
        await b.node().presence_store.aclose()
        with pytest.raises(NodesSilent, match=r"of: b;"):
            await a.disconnect("nobody")

        async def is_forgotten() -> bool:
            return not a.node().cluster.members and len(await a.presence("p")) == 1

        await wait_until(is_forgotten, "a dead node stays")
        assert 0 == await a.disconnect("nobody")
        assert {here.client.client_id, there.client.client_id} == both
        assert {here.client.client_id} == set(await a.presence("p"))
