"""The memory broker, beyond the contract: bounds, sweeping, and its clock."""

from __future__ import annotations

import logging

import pytest

from tests.unit.clocks import pass_time
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.errors import BrokerClosed
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Publication,
    Published,
    PublishOptions,
)
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

    broker.publish("a", Publication(b"1"), ChannelOptions())

    assert [Publication(b"1")] == listener.of("a")
    await broker.aclose()


async def test_sweeps_while_nobody_asks() -> None:
    """What has expired is freed within a second of it, though nobody reads."""
    clock = ManualClock()
    broker = MemoryBroker(Settings(), clock=clock)
    await broker.start(RecordingListener())
    broker.publish("a", Publication(b"1"), KEPT)

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
    broker.publish("a", Publication(b"1"), KEPT)
    broker.publish("b", Publication(b"1"), KEPT)

    part = await broker.history("a", ChannelOptions(), since=None, limit=9)
    await broker.aclose()

    assert () == part.publications


async def test_answers_at_once() -> None:
    """``publish`` answers without a wait, however it is asked."""
    broker = MemoryBroker(Settings())
    await broker.start(RecordingListener())

    plain = broker.publish("a", Publication(b"1"), KEPT)
    keyed = broker.publish("a", Publication(b"2"), KEPT, PublishOptions(idempotency_key="k"))
    again = broker.publish("a", Publication(b"3"), KEPT, PublishOptions(idempotency_key="k"))
    await broker.aclose()

    assert (1, 2) == (plain.position.offset, keyed.position.offset)
    assert Published(keyed.position, is_suppressed=True) == again


async def test_idempotency_ends() -> None:
    """A key is forgotten after five minutes, and publishes again."""
    clock, listener = ManualClock(), RecordingListener()
    broker = MemoryBroker(Settings(), clock=clock)
    await broker.start(listener)
    await broker.subscribe("a")
    how = PublishOptions(idempotency_key="k")

    for seconds in (0.0, 299.9, 0.1):
        clock.advance(seconds)
        broker.publish("a", Publication(b"1"), ChannelOptions(), how)
    await broker.aclose()

    assert 2 == len(listener.of("a"))


async def test_an_old_version() -> None:
    """A version that is not newer is left out, and answered with the stream's top."""
    broker = MemoryBroker(Settings())
    await broker.start(RecordingListener())

    broker.publish("a", Publication(b"1"), KEPT, PublishOptions(version=5))
    newer = broker.publish("a", Publication(b"2"), KEPT)
    older = broker.publish("a", Publication(b"3"), KEPT, PublishOptions(version=5))
    await broker.aclose()

    assert Published(newer.position, is_suppressed=True) == older


async def test_versions_need_history() -> None:
    """Where nothing is kept there is no newest version to compare with."""
    broker, listener = MemoryBroker(Settings()), RecordingListener()
    await broker.start(listener)
    await broker.subscribe("a")

    for _ in range(2):
        broker.publish("a", Publication(b"1"), ChannelOptions(), PublishOptions(version=1))
    await broker.aclose()

    assert 2 == len(listener.of("a"))


async def test_store_frees_what_is_past() -> None:
    """Entries of those who never came back are freed while others come."""
    clock = ManualClock()
    store = MemoryPresenceStore(clock=clock)
    await store.add("a", ClientInfo("1"), ttl_seconds=10)

    clock.advance(10)
    await store.add("b", ClientInfo("2"), ttl_seconds=10)

    assert {"b"} == store.presence.channels.keys()


async def test_says_what_the_bounds_took(caplog: pytest.LogCaptureFixture) -> None:
    """When channels were forgotten for the bounds the log says so, once."""
    broker = MemoryBroker(Settings(history_channels_max=1))
    await broker.start(RecordingListener())
    for channel in "abc":
        broker.publish(channel, Publication(b"1"), KEPT)

    with caplog.at_level(logging.WARNING):
        await pass_time(3.5)
    await broker.aclose()

    assert ["history_channels_max or history_bytes_max is reached: 2 channels were forgotten"] == [
        message.split(",")[0] for message in caplog.messages
    ]
