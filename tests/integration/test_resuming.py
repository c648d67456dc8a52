"""Two nodes over a real Redis whose links are cut: what was missed is read back, or told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.services.redis import RedisServer, single
from tests.unit.exchange import Listener
from wirebell.brokers import create_broker
from wirebell.errors import BrokerError
from wirebell.model import ChannelOptions, History, Publication
from wirebell.node import Node
from wirebell.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

WAIT_SECONDS = 20.0
KEPT = ChannelOptions(history=History(size=5_000))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Run a Redis."""
    with single() as running:
        yield running


@asynccontextmanager
async def two(server: RedisServer) -> AsyncIterator[tuple[Node, Node]]:
    """Run two nodes."""
    settings = Settings(broker_url=server.url, recovery_publications_max=5_000)
    nodes = [
        Node(settings, *create_broker(settings), lambda _: KEPT, name=name) for name in ("a", "b")
    ]
    for node in nodes:
        await node.start()
    try:
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            await node.aclose()


async def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what comes as soon as it can."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


class Publisher:
    """Publishes numbers to a channel until it is stopped.

    Mutable state: what was acknowledged.
    """

    def __init__(self, node: Node, channel: str) -> None:
        self.node = node
        self.channel = channel
        self.acknowledged: list[int] = []
        self.is_stopped = False

    async def run(self) -> None:
        """Publish."""
        number = 0
        while not self.is_stopped:
            number += 1
            try:
                await self.node.publish(self.channel, Publication(str(number).encode()))
            except BrokerError:
                continue
            self.acknowledged.append(number)
            await asyncio.sleep(0.002)


async def test_links_that_are_cut(server: RedisServer) -> None:
    """Nothing that was acknowledged is lost, nothing comes twice, and nobody is told of a gap."""
    async with two(server) as (here, there):
        publishers = [Publisher(there, f"h{number}") for number in range(4)]
        listeners = [Listener(here, "", is_json=False) for _ in publishers]
        for listener, publisher in zip(listeners, publishers, strict=True):
            await listener.subscribe(publisher.channel)
        work = [asyncio.create_task(publisher.run()) for publisher in publishers]
        for count in range(1, 4):
            await wait_until(
                lambda seen=count: min(len(p.acknowledged) for p in publishers) > 30 * seen,  # type: ignore[misc]
                "nothing is published",
            )
            server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await wait_until(
                lambda seen=count: here.broker.reconnect_count >= seen,  # type: ignore[misc]
                "the link does not come back",
            )
        for publisher in publishers:
            publisher.is_stopped = True
        await asyncio.gather(*work)
        for listener, publisher in zip(listeners, publishers, strict=True):
            await wait_until(
                lambda one=listener, last=publisher.acknowledged[-1]: (  # type: ignore[misc]
                    bool(one.heard) and int(one.heard[-1]) >= last
                ),
                "what was missed does not come",
            )

            heard = [int(text) for text in listener.heard]
            assert heard == sorted(set(heard))
            assert set(publisher.acknowledged) <= set(heard)
            assert [] == listener.gaps
        assert 1 == len(here.cluster.members) == len(there.cluster.members)


async def test_a_broker_that_lost_its_data(server: RedisServer) -> None:
    """A stream that is gone is told, and a client that comes back is not recovered."""
    async with two(server) as (here, there):
        listener = Listener(here, "", is_json=False)
        await listener.subscribe("h lost")
        for number in range(3):
            await there.publish("h lost", Publication(str(number).encode()))
        await wait_until(lambda: len(listener.heard) == 3, "nothing arrives")
        seen = here.hub.tops["h lost"]
        server.command("FLUSHALL")
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await wait_until(lambda: listener.gaps == ["h lost"], "nobody is told")
        again = here.connect(listener.transport, listener.connection.encoding, "")
        subscribed = await here.subscribe(again, "h lost", since=seen)

        assert subscribed.recovery is not None
        assert not subscribed.recovery.recovered
