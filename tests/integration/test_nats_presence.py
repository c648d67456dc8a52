"""Presence in a real NATS: leases, their order, and a server that is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats as client
import pytest

from tests.integration.nats_links import store_at
from tests.services import nats
from wirebell.errors import BrokerClosed, BrokerUnavailable
from wirebell.model import ClientInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[nats.NATSServer]:
    """A server for those who leave it as it was."""
    with nats.single() as started:
        yield started


async def test_presence_of_a_crowd(server: nats.NATSServer) -> None:
    """Members may come and go while somebody reads, who gets all that stay."""
    async with store_at(server.url) as store:
        stay = [ClientInfo(f"stay{number}") for number in range(1200)]
        await asyncio.gather(*(store.add("busy", each, ttl_seconds=60) for each in stay))

        async def come_and_go(name: str) -> None:
            for _ in range(10):
                await store.add("busy", ClientInfo(name), ttl_seconds=60)
                await store.remove("busy", name)

        async def read() -> None:
            for _ in range(5):
                found = set(await store.members("busy"))
                assert {each.client_id for each in stay} <= found

        await asyncio.gather(read(), *(come_and_go(f"zzz{number}") for number in range(5)))
        assert 1200 == len(await store.members("busy"))


async def test_presence_ends_by_itself(server: nats.NATSServer) -> None:
    """Leases end by the server's clock; a crowd that died is removed by who reads."""
    async with store_at(server.url) as store:
        await asyncio.gather(
            *(store.add("crowd", ClientInfo(str(number)), ttl_seconds=0.3) for number in range(500))
        )
        await store.add("crowd", ClientInfo("last"), ttl_seconds=60)
        there = await store.members("crowd")
        await asyncio.sleep(0.35)
        left = set(await store.members("crowd"))
        # A second later whoever reads removes them for good.
        await asyncio.sleep(1.0)
        await store.members("crowd")
        await store.add("crowd", ClientInfo("last"), ttl_seconds=60)
        link = await client.connect(server.url)
        kept = await link.jetstream().stream_info("wirebell-p", subjects_filter="*.p.0.crowd.>")
        await link.close()

        assert 501 == len(there)
        assert {"last"} == left
        assert ["wirebell.p.0.crowd.last"] == list(kept.state.subjects or ())


async def test_presence_of_one_turn(server: nats.NATSServer) -> None:
    """Calls for one entry take effect in their order."""
    async with store_at(server.url) as store:
        ann = ClientInfo("1", "ann")
        await asyncio.gather(
            store.add("turn", ann, ttl_seconds=60),
            store.remove("turn", "1"),
            store.add("turn", ClientInfo("2"), ttl_seconds=60),
        )
        left = set(await store.members("turn"))
        await asyncio.gather(store.remove("turn", "1"), store.add("turn", ann, ttl_seconds=60))

        assert {"2"} == left
        assert {"1", "2"} == set(await store.members("turn"))


async def test_presence_store_that_is_away() -> None:
    """A store says that it is away, that it is closed, and when it is back, with its entries."""
    with nats.single() as server:
        async with store_at(f"{server.url}?io_timeout=0.5") as store:
            await store.add("x", ClientInfo("1"), ttl_seconds=60)
            server.kill()
            with pytest.raises(BrokerUnavailable, match="away"):
                await store.members("x")
            server.start()
            async with asyncio.timeout(10):
                while not store.link.is_connected:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert {"1"} == set(await store.members("x"))
    with pytest.raises(BrokerClosed):
        await store.members("x")
