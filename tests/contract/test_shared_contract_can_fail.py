"""A broker that breaks a promise to two nodes fails the check of that promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.contract.shared_memory import MemoryNode, SharedMemory
from tests.unit.clocks import JumpingLoop
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.history import HistoryLog, IdempotentResults, StreamSlice
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    Membership,
    Publication,
    StreamPosition,
)
from wirebell.presence import Presence
from wirebell.settings import Settings
from wirebell.testing import check_shared_broker, run_shared_node, shared

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Wait no real time for what a broken broker never delivers."""
    return "asyncio", {"loop_factory": JumpingLoop}


def fresh_log() -> HistoryLog:
    """Make a log of a node's own."""
    return MemoryBroker(Settings()).log


class Island(MemoryNode):
    """Delivers only its own."""

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Leave out what others publish."""
        if sender is self:
            super().receive(channel, item, sender)


class Deaf(MemoryNode):
    """Delivers only what others publish."""

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Leave out its own."""
        if sender is not self:
            super().receive(channel, item, sender)


class Echo(MemoryNode):
    """Delivers its own twice: at once, and when they come back."""

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Deliver it once more."""
        super().receive(channel, item, sender)
        if sender is self:
            super().receive(channel, item, sender)


class Reorders(MemoryNode):
    """Delivers every second foreign item before the one in front of it."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self.kept: list[tuple[str, ChannelItem]] = []

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Keep one back."""
        if sender is self:
            super().receive(channel, item, sender)
        elif self.kept:
            super().receive(channel, item, sender)
            super().receive(*self.kept.pop(), sender)
        else:
            self.kept.append((channel, item))


class LosesTags(MemoryNode):
    """Hands others less than itself."""

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Leave out the tags."""
        if isinstance(item, Publication) and sender is not self:
            item = msgspec.structs.replace(item, tags=None)
        super().receive(channel, item, sender)


class LosesMemberships(MemoryNode):
    """Keeps joins and leaves to itself."""

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Leave them out."""
        if not isinstance(item, Membership) or sender is self:
            super().receive(channel, item, sender)


class HearsAll(MemoryNode):
    """Delivers what nobody here subscribed to."""

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Deliver it."""
        if self.listener is not None:
            self.listener.handle_item(channel, item)


class SubscribesLate(MemoryNode):
    """Is subscribed only with the second publication."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self.heard: set[str] = set()

    def receive(self, channel: str, item: ChannelItem, sender: MemoryNode) -> None:
        """Leave out the first."""
        if channel in self.heard:
            super().receive(channel, item, sender)
        self.heard.add(channel)


class LosesControl(MemoryNode):
    """Tells nobody but itself."""

    def told(self, data: bytes, sender: MemoryNode) -> None:
        """Take only its own."""
        if sender is self:
            super().told(data, sender)


class DoublesControl(MemoryNode):
    """Tells everything twice."""

    def told(self, data: bytes, sender: MemoryNode) -> None:
        """Take it twice."""
        super().told(data, sender)
        super().told(data, sender)


class TellsEverybody(MemoryNode):
    """Does not look who is meant."""

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all."""
        await super().publish_control(data)


class OwnHistory(MemoryNode):
    """Keeps a log of its own."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self.log = fresh_log()


class OwnEpoch(MemoryNode):
    """Calls a stream by a name of its own."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self.name = f"{len(memory.nodes)}"

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Put another epoch on it."""
        part = await super().history(channel, options, since=since, limit=limit, reverse=reverse)
        return StreamSlice(part.publications, StreamPosition(part.top.offset, self.name))


class KeepsLater(MemoryNode):
    """Delivers before it is in history."""

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
        return StreamSlice(part.publications[:-1], part.top)


class RemovesNothing(MemoryNode):
    """Removes a history nowhere."""

    async def remove_history(self, channel: str) -> None:
        """Do nothing."""


class OwnKeys(MemoryNode):
    """Knows only the idempotency keys that it was given itself."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        self.results = IdempotentResults(100)


class OwnVersions(MemoryNode):
    """Takes any version."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        memory.log.accept_version = lambda *_: True  # type: ignore[method-assign]


class KeepsTwice(MemoryNode):
    """Keeps as much of a history for each node."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory)
        append = HistoryLog.append

        def keep(channel: str, publication: Publication, history: Any, now: float) -> Publication:
            larger = msgspec.structs.replace(history, size=2 * history.size)
            return append(memory.log, channel, publication, larger, now)

        memory.log.append = keep  # type: ignore[method-assign]


class TakesAllAlong(MemoryNode):
    """Ends all nodes with the first."""

    async def aclose(self) -> None:
        """End them."""
        for node in list(self.memory.nodes):
            await MemoryNode.aclose(node)


class DropsItsLog(MemoryNode):
    """Takes the log along when it ends."""

    async def aclose(self) -> None:
        """Forget the streams."""
        self.log.streams.clear()
        await super().aclose()


BROKEN: list[tuple[type[MemoryNode], str]] = [
    (OwnHistory, "check_offsets_of_two_publishers"),
    (OwnHistory, "check_order_of_two_publishers"),
    (Island, "check_order_of_two_publishers"),
    (Deaf, "check_order_of_two_publishers"),
    (Echo, "check_order_of_two_publishers"),
    (Reorders, "check_order_of_two_publishers"),
    (LosesTags, "check_same_publications"),
    (Island, "check_same_publications"),
    (Island, "check_unkept_publications_cross"),
    (Echo, "check_unkept_publications_cross"),
    (Reorders, "check_unkept_publications_cross"),
    (LosesMemberships, "check_memberships_cross"),
    (Echo, "check_memberships_cross"),
    (Reorders, "check_memberships_cross"),
    (HearsAll, "check_unsubscribed_node"),
    (Island, "check_unsubscribed_node"),
    (SubscribesLate, "check_subscribe_then_publish"),
    (LosesControl, "check_control_reaches_all"),
    (DoublesControl, "check_control_reaches_all"),
    (TellsEverybody, "check_control_reaches_one"),
    (LosesControl, "check_control_reaches_one"),
    (OwnEpoch, "check_epoch_on_both"),
    (OwnHistory, "check_epoch_on_both"),
    (OwnHistory, "check_history_on_both"),
    (KeepsLater, "check_history_before_delivery_elsewhere"),
    (OwnHistory, "check_recovery_on_another_node"),
    (KeepsLater, "check_recovery_on_another_node"),
    (KeepsTwice, "check_history_size_of_both"),
    (OwnHistory, "check_history_size_of_both"),
    (RemovesNothing, "check_remove_history_of_both"),
    (OwnHistory, "check_remove_history_of_both"),
    (OwnKeys, "check_idempotency_key_of_both"),
    (OwnKeys, "check_idempotency_key_at_once"),
    (OwnVersions, "check_version_of_both"),
    (OwnHistory, "check_version_of_both"),
    (TakesAllAlong, "check_other_node_goes_on"),
    (DropsItsLog, "check_other_node_goes_on"),
    (Island, "check_other_node_goes_on"),
]


@pytest.mark.parametrize(("broken", "check"), BROKEN)
async def test_broken_broker(broken: type[MemoryNode], check: str) -> None:
    """A broker that breaks a promise fails the check that is named after it."""
    memory = SharedMemory(broken)

    async with run_shared_node(memory.create) as one, run_shared_node(memory.create) as other:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - a closed node raises its own
            await getattr(shared, check)(one, other)

    assert isinstance(caught.value, AssertionError) or broken is TakesAllAlong


class OwnPresence(SharedMemory):
    """Each node knows only who is with it."""

    def create_store(self) -> MemoryPresenceStore:
        """Make a store of its own."""
        store = super().create_store()
        store.presence = Presence()
        return store


class EndlessLeases(SharedMemory):
    """Leases have no end."""

    def create_store(self) -> MemoryPresenceStore:
        """Make a store that ignores them."""

        class Endless(MemoryPresenceStore):
            async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
                """Write an entry for ever."""
                await super().add(channel, info, ttl_seconds=1e9)

        store = Endless(clock=super().create_store().clock)
        store.presence = self.presence
        return store


class LeavesWithItsNode(SharedMemory):
    """Who was with a node that ended is forgotten at once."""

    def create_store(self) -> MemoryPresenceStore:
        """Make a store that clears up."""

        class Clears(MemoryPresenceStore):
            async def aclose(self) -> None:
                """Forget everybody."""
                self.presence.channels.clear()

        store = Clears(clock=super().create_store().clock)
        store.presence = self.presence
        return store


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (OwnPresence, "check_presence_of_both"),
        (OwnPresence, "check_lease_of_a_closed_node"),
        (EndlessLeases, "check_lease_of_a_closed_node"),
        (LeavesWithItsNode, "check_lease_of_a_closed_node"),
    ],
)
async def test_broken_store(broken: Callable[[], SharedMemory], check: str) -> None:
    """A presence store that breaks a promise fails the check that is named after it."""
    memory = broken()

    async with run_shared_node(memory.create) as one, run_shared_node(memory.create) as other:
        with pytest.raises((AssertionError, TimeoutError)):
            await getattr(shared, check)(one, other)


@pytest.mark.parametrize("broken", [Island, Echo, OwnHistory, TellsEverybody])
async def test_broken_broker_is_refused(broken: type[MemoryNode]) -> None:
    """`check_shared_broker` fails with an ``AssertionError`` for a broker that breaks a promise."""
    with pytest.raises(AssertionError):
        await check_shared_broker(SharedMemory(broken).create)


def test_every_guarantee_can_fail() -> None:
    """No check of the shared contract is a formality."""
    broken = {name for _, name in BROKEN}
    stores = {"check_presence_of_both", "check_lease_of_a_closed_node"}

    assert {check.__name__ for check in shared.SHARED_GUARANTEES} == broken | stores
