"""A broker that breaks a promise fails the check of that promise: the contract is no formality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import msgspec
import pytest

from tests.unit.clocks import JumpingLoop
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.history import StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    History,
    Membership,
    PayloadFormat,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.settings import Settings
from wirebell.testing import RecordingListener, brokers, check_broker, check_presence_store

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Wait no real time for what a broken broker never delivers."""
    return "asyncio", {"loop_factory": JumpingLoop}


class Tampering(MemoryBroker):
    """A memory broker that does something to what it delivers."""

    def __init__(self) -> None:
        super().__init__(Settings())

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Deliver through `tamper`."""
        self.target = listener
        await super().start(self, node_id)

    def handle_control(self, data: bytes) -> None:
        """Hand over what a node told."""
        self.target.handle_control(data)

    def handle_reconnect(self) -> None:
        """Hand it over."""
        self.target.handle_reconnect()

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Hand over what `tamper` makes of an item."""
        for changed in self.tamper(item):
            self.target.handle_item(channel, changed)

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Leave it."""
        return [item]


class Reorders(Tampering):
    """Delivers every second item before the one in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[ChannelItem] = []

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Keep one back."""
        if self.kept:
            return [item, self.kept.pop()]
        self.kept.append(item)
        return []


class Loses(Tampering):
    """Loses every second item."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Lose it or not."""
        return [item] if next(self.numbers) % 2 else []


class Duplicates(Tampering):
    """Delivers everything twice."""

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Double it."""
        return [item, item]


class Trims(Tampering):
    """Touches the payload."""

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Strip what it takes for white space."""
        if isinstance(item, Publication):
            return [Publication(item.data.strip(b"\\"), item.format, item.offset, item.epoch)]
        return [item]


class ForgetsFormat(Tampering):
    """Calls every payload JSON."""

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Change the format."""
        if isinstance(item, Publication):
            return [Publication(item.data, PayloadFormat.JSON, item.offset, item.epoch)]
        return [item]


class LosesJoins(Tampering):
    """Delivers no joins."""

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Leave joins out."""
        return [] if isinstance(item, Membership) and item.joined else [item]


class ForgetsEpoch(Tampering):
    """Has another epoch each time it is asked."""

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Answer with an epoch that it just made up."""
        part = await super().history(channel, options, since=since, limit=limit, reverse=reverse)
        return replace(part, top=StreamPosition(part.top.offset, self.log.new_epoch()))


class OneEpoch(Tampering):
    """Gives all streams the same epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.log.new_epoch = lambda: "e"


class KeepsTooMuch(Tampering):
    """Does not look at the size of a history."""

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Keep what should go."""
        kept = ChannelOptions(history=options.history and History(size=1_000))
        return super().publish(channel, publication, kept, how)


class KeepsAHole(Tampering):
    """Loses one publication out of the middle of its history."""

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Leave one out."""
        part = await super().history(channel, options, since=since, limit=limit, reverse=reverse)
        return replace(part, publications=part.publications[:2] + part.publications[3:])


class KeepsTooLate(Tampering):
    """Answers with what history held one publication ago."""

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Leave out the newest."""
        part = await super().history(channel, options, since=since, limit=limit, reverse=reverse)
        return replace(part, publications=part.publications[:-1])


class IgnoresSince(Tampering):
    """Starts at the oldest whatever it is asked."""

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read from the oldest, and let a negative limit pass."""
        return await super().history(
            channel, options, since=None, limit=max(0, limit), reverse=reverse
        )


class SameAnswer(Tampering):
    """Tells every publisher the first position."""

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Forget how far it is."""
        position = super().publish(channel, publication, options, how).position
        return Published(StreamPosition(min(1, position.offset), position.epoch))


class CountsEverything(Tampering):
    """Keeps history where none was asked for."""

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Keep."""
        return super().publish(channel, publication, ChannelOptions(history=History()), how)


class ForgetsHow(Tampering):
    """Does not look at what holds for one publication alone."""

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Publish it like any other."""
        return super().publish(channel, publication, options)


class PublishesAgain(Tampering):
    """Remembers the position of an idempotency key, and publishes all the same."""

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Publish twice."""
        published = super().publish(channel, publication, options, how)
        if published.is_suppressed:
            super().publish(channel, publication, options)
        return published


class KnowsNoReverse(Tampering):
    """Reads oldest first, whatever it is asked."""

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read the other way round."""
        return await super().history(channel, options, since=since, limit=limit)


class ForgetsTags(Tampering):
    """Drops what it has no field for."""

    def tamper(self, item: ChannelItem) -> list[ChannelItem]:
        """Leave out the tags."""
        if isinstance(item, Publication):
            return [msgspec.structs.replace(item, tags=None)]
        return [item]


class KeepsTheirPosition(Tampering):
    """Hands on the position that a publisher made up."""

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Deliver what is not kept as it came."""
        if options.history is None and publication.offset:
            self.handle_item(channel, publication)
            return Published(StreamPosition())
        return super().publish(channel, publication, options, how)


class TellsEverybody(Tampering):
    """Does not look which node is meant."""

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell this one."""
        await super().publish_control(data)


class TellsTwice(Tampering):
    """Tells everything twice."""

    def handle_control(self, data: bytes) -> None:
        """Hand it over twice."""
        super().handle_control(data)
        super().handle_control(data)


class SaysNothing(Tampering):
    """Runs, and says that it does not."""

    @property
    def is_connected(self) -> bool:
        """Deny it."""
        return False


class HoldsOn(Tampering):
    """Never unsubscribes."""

    async def unsubscribe(self, channel: str) -> None:
        """Do nothing."""


class RemovesAll(Tampering):
    """Forgets the position with the history."""

    async def remove_history(self, channel: str) -> None:
        """Forget too much."""
        self.log.forget(channel)


class StaysOpen(Tampering):
    """Takes what it is given after its end."""

    async def aclose(self) -> None:
        """Do nothing."""


BROKEN = (
    (Reorders, "check_order_with_history"),
    (Reorders, "check_order_without_history"),
    (Loses, "check_order_with_history"),
    (Loses, "check_order_without_history"),
    (Duplicates, "check_own_publications_once"),
    (Duplicates, "check_order_without_history"),
    (Trims, "check_payload_is_untouched"),
    (ForgetsFormat, "check_payload_is_untouched"),
    (LosesJoins, "check_memberships"),
    (ForgetsEpoch, "check_epoch_is_stable"),
    (ForgetsEpoch, "check_remove_history"),
    (OneEpoch, "check_epochs_differ"),
    (KeepsTooMuch, "check_history_size"),
    (KeepsTooMuch, "check_history_ttl"),
    (KeepsTooMuch, "check_recovery"),
    (KeepsAHole, "check_recovery"),
    (KeepsTooLate, "check_history_before_delivery"),
    (IgnoresSince, "check_history_since_and_limit"),
    (IgnoresSince, "check_negative_limit"),
    (SameAnswer, "check_position_is_the_publications_own"),
    (CountsEverything, "check_order_without_history"),
    (ForgetsHow, "check_skip_history"),
    (ForgetsHow, "check_idempotency_key"),
    (ForgetsHow, "check_version"),
    (PublishesAgain, "check_idempotency_key"),
    (KnowsNoReverse, "check_history_reverse"),
    (ForgetsTags, "check_fields_travel"),
    (KeepsTheirPosition, "check_fields_travel"),
    (TellsEverybody, "check_control"),
    (TellsTwice, "check_control"),
    (SaysNothing, "check_answers"),
    (HoldsOn, "check_unsubscribe"),
    (RemovesAll, "check_remove_history"),
    (StaysOpen, "check_close"),
)


@pytest.mark.parametrize(("broken", "check"), BROKEN)
async def test_broken_broker(broken: Callable[[], MemoryBroker], check: str) -> None:
    """A broker that breaks a promise fails the check that is named after it."""
    broker, listener = broken(), RecordingListener()
    await broker.start(listener)

    try:
        with pytest.raises((AssertionError, ValueError)):
            await getattr(brokers, check)(broker, listener)
    finally:
        await MemoryBroker.aclose(broker)


@pytest.mark.parametrize("broken", [Reorders, Loses, Duplicates, ForgetsEpoch, KeepsTooMuch])
async def test_broken_broker_is_refused(broken: Callable[[], MemoryBroker]) -> None:
    """`check_broker` fails with an ``AssertionError`` for a broker that breaks a promise."""
    with pytest.raises(AssertionError):
        await check_broker(broken)


def test_every_guarantee_can_fail() -> None:
    """No check of the contract is a formality."""
    assert {check.__name__ for check in brokers.BROKER_GUARANTEES} == {name for _, name in BROKEN}


class NeverForgets(MemoryPresenceStore):
    """Gives leases without an end."""

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Ignore the lease."""
        await super().add(channel, info, ttl_seconds=1e9)


class NeverRemoves(MemoryPresenceStore):
    """Keeps who left."""

    async def remove(self, channel: str, client_id: str) -> None:
        """Do nothing."""


class OneRoom(MemoryPresenceStore):
    """Takes all channels for one."""

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Answer for all."""
        found: dict[str, ClientInfo] = {}
        for name in self.presence.channels:
            found |= self.presence.members(name, self.clock())
        return found


@pytest.mark.parametrize("broken", [NeverForgets, NeverRemoves])
async def test_broken_store_is_refused(broken: Callable[[], MemoryPresenceStore]) -> None:
    """`check_presence_store` fails for a store that breaks a promise."""
    with pytest.raises((AssertionError, TimeoutError)):
        await check_presence_store(broken)


async def test_store_that_mixes_channels_is_refused() -> None:
    """A store that tells one channel's members to another fails."""
    store = OneRoom()

    with pytest.raises(AssertionError):
        await check_presence_store(lambda: store)
