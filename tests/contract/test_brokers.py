"""Every broker against every guarantee of its interface, and every presence store too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.contract.cases import CASES, Create, list_params
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.settings import Settings
from wirebell.testing import (
    BROKER_GUARANTEES,
    PRESENCE_GUARANTEES,
    ManualClock,
    RecordingListener,
    check_broker,
    check_presence_store,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=list_params(CASES))
def create(request: pytest.FixtureRequest) -> Iterator[Create]:
    """Make brokers and stores of one kind; what they need runs as long as the module."""
    with CASES[request.param]() as created:
        yield created


@pytest.mark.parametrize("guarantee", BROKER_GUARANTEES, ids=lambda check: check.__name__)
async def test_broker(
    create: Create, guarantee: Callable[[Broker, RecordingListener], Awaitable[None]]
) -> None:
    """A broker holds a guarantee of `wirebell.interfaces.Broker`."""
    (broker, _), listener = create(), RecordingListener()
    await broker.start(listener)

    try:
        await guarantee(broker, listener)
    finally:
        await broker.aclose()


@pytest.mark.parametrize("guarantee", PRESENCE_GUARANTEES, ids=lambda check: check.__name__)
async def test_presence_store(
    create: Create, guarantee: Callable[[PresenceStore], Awaitable[None]]
) -> None:
    """A store holds a guarantee of `wirebell.interfaces.PresenceStore`."""
    _, store = create()
    await store.start()

    try:
        await guarantee(store)
    finally:
        await store.aclose()


async def test_check_broker() -> None:
    """The one call that proves a broker takes a fresh one for each guarantee."""
    created: list[Broker] = []

    def create() -> Broker:
        created.append(MemoryBroker(Settings()))
        return created[-1]

    await check_broker(create)

    assert len(BROKER_GUARANTEES) == len(created)


class AnswersLater(MemoryBroker):
    """A broker that has to wait for its answers."""

    def publish(  # type: ignore[override]  # later, which the interface allows
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Awaitable[Published]:
        """Publish in a moment."""
        return self.publish_later(channel, publication, options, how)

    async def publish_later(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None,
    ) -> Published:
        """Publish."""
        return super().publish(channel, publication, options, how)


async def test_answers_that_come_later() -> None:
    """A broker may answer a publisher at once or later: the guarantees are the same."""
    await check_broker(lambda: AnswersLater(Settings()))


async def test_check_presence_store() -> None:
    """The one call that proves a presence store."""
    await check_presence_store(MemoryPresenceStore)


def test_every_guarantee_says_what_it_is() -> None:
    """A guarantee has a sentence of its own: it is what a failing broker's author reads."""
    checks = (*BROKER_GUARANTEES, *PRESENCE_GUARANTEES)
    sentences = [check.__doc__ for check in checks]

    assert None not in sentences
    assert len(set(sentences)) == len(sentences)


async def test_history_ends_by_its_ttl() -> None:
    """History ends after ``ttl_seconds``; offsets and epoch after ``meta_ttl_seconds``."""
    clock = ManualClock()
    broker = MemoryBroker(Settings(), clock=clock)
    await broker.start(RecordingListener())
    options = ChannelOptions(history=History(ttl_seconds=10, meta_ttl_seconds=100))
    first = broker.publish("a", Publication(b"1"), options).position

    clock.advance(9.9)
    kept = await broker.history("a", options, since=None, limit=9)
    clock.advance(0.1)
    ended = await broker.history("a", options, since=None, limit=9)
    clock.advance(90)
    anew = await broker.history("a", options, since=None, limit=9)
    await broker.aclose()

    assert (1, first) == (len(kept.publications), kept.top)
    assert (0, first) == (len(ended.publications), ended.top)
    assert 0 == anew.top.offset
    assert first.epoch != anew.top.epoch


async def test_publishing_renews_the_ttl() -> None:
    """The time to live counts from the newest publication."""
    clock = ManualClock()
    broker = MemoryBroker(Settings(), clock=clock)
    await broker.start(RecordingListener())
    options = ChannelOptions(history=History(ttl_seconds=10, meta_ttl_seconds=20))
    positions: list[StreamPosition] = []
    for _ in range(5):
        positions.append(broker.publish("a", Publication(b"1"), options).position)
        clock.advance(9)

    part = await broker.history("a", options, since=None, limit=9)
    await broker.aclose()

    assert [1, 2, 3, 4, 5] == [position.offset for position in positions]
    assert 5 == len(part.publications)


async def test_lease_by_the_clock() -> None:
    """An entry of presence ends with its lease, and renewing moves the end."""
    clock = ManualClock()
    store = MemoryPresenceStore(clock=clock)
    ann = ClientInfo("1", "ann")
    await store.add("a", ann, ttl_seconds=10)
    clock.advance(9)
    await store.add("a", ann, ttl_seconds=10)

    clock.advance(9.9)
    before = await store.members("a")
    clock.advance(0.1)

    assert {"1": ann} == before
    assert {} == await store.members("a")
