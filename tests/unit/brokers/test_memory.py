"""The memory broker, beyond the contract: bounds, sweeping, and its clock."""

from __future__ import annotations

import pytest

from tests.unit.clocks import pass_time
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.errors import BrokerClosed
from wirebell.model import ChannelOptions, ClientInfo, History, Publication
from wirebell.settings import Settings
from wirebell.testing import ManualClock, RecordingListener

pytestmark = pytest.mark.anyio

KEPT = ChannelOptions(history=History(ttl_seconds=10, meta_ttl_seconds=20))


async def test_used_before_start() -> None:
    """A broker that was not started says so; closing it is allowed."""
    broker = MemoryBroker(Settings())

    with pytest.raises(BrokerClosed, match="not running"):
        await broker.subscribe("a")
    await broker.aclose()


async def test_delivers_before_it_returns() -> None:
    """A publication has reached the listener when ``publish`` returns."""
    broker, listener = MemoryBroker(Settings()), RecordingListener()
    await broker.start(listener)
    await broker.subscribe("a")

    await broker.publish("a", Publication(b"1"), ChannelOptions())

    assert [Publication(b"1")] == listener.of("a")
    await broker.aclose()


async def test_sweeps_while_nobody_asks() -> None:
    """What has expired is freed within a second of it, though nobody reads."""
    clock = ManualClock()
    broker = MemoryBroker(Settings(), clock=clock)
    await broker.start(RecordingListener())
    await broker.publish("a", Publication(b"1"), KEPT)

    clock.advance(10)
    await pass_time(1.5)
    after_ttl = broker.log.byte_count
    clock.advance(10)
    await pass_time(1.5)

    assert (0, {}) == (after_ttl, broker.log.streams)
    await broker.aclose()
    assert broker.sweeper is None


async def test_bounds_are_the_settings() -> None:
    """The bounds of all histories together come from the settings."""
    broker = MemoryBroker(Settings(history_channels_max=1))
    await broker.start(RecordingListener())
    await broker.publish("a", Publication(b"1"), KEPT)
    await broker.publish("b", Publication(b"1"), KEPT)

    part = await broker.history("a", ChannelOptions(), since=None, limit=9)
    await broker.aclose()

    assert () == part.publications


async def test_store_frees_what_is_past() -> None:
    """Entries of those who never came back are freed while others come."""
    clock = ManualClock()
    store = MemoryPresenceStore(clock=clock)
    await store.add("a", ClientInfo("1"), ttl_seconds=10)

    clock.advance(10)
    await store.add("b", ClientInfo("2"), ttl_seconds=10)

    assert {"b"} == store.presence.channels.keys()
