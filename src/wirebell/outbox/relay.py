"""Publishes what waits in an outbox: one relay at a time in each database.

Strategy: whoever is woken, or looks and finds something, takes the lease, publishes until nothing
waits, and gives the lease back. So any process can go on when another died, after its lease; and a
commit is relayed at once, in the process that committed.

Order: the rows of one channel are published one after the other, and none after one that failed.
Channels do not wait for each other.

Once: a row is removed after the broker has answered, so a relay that dies in between leaves rows
that are published. They are published again with the same idempotency key, which brokers remember
for five minutes. What is older is first looked for in the channel's history, by its origin.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random as randomness
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from wirebell.backoff import Backoff
from wirebell.errors import BrokerError, CommandError, NotRunning, WirebellError
from wirebell.interfaces import HistorySlice
from wirebell.model import (
    ChannelOptions,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.outbox.tables import (
    Settled,
    WaitingRow,
    claim,
    decode_row,
    has_waiting,
    is_newer,
    measure,
    release,
    settle,
)
from wirebell.records import UnknownRecord
from wirebell.settings import Settings
from wirebell.statistics import OutboxStatistics

__all__ = ("Publisher", "Relay", "Runner")

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# A row younger than this was first tried less long ago, and its key is remembered for 300 s.
KEY_SECONDS = 240.0
# Publications read at once while one is looked for in a history.
PAGE_SIZE = 500
# How often a node counts what waits: a scrape comes every 15 s or so.
MEASURE_SECONDS = 5.0
# A database that is away fails at every try: one in so many seconds is told.
FAILURE_LOG_SECONDS = 10.0
# First wait for another's lease: mostly it is given back within milliseconds.
HELD_SECONDS = 0.02
# Batches in a row of which nothing could be published, before the relay waits: a part of a broker
# may be away, and what waits for it must not hide everything else.
FRUITLESS_MAX = 4
SKIPPED_MAX = 1000
REASON_CHARACTERS_MAX = 1000


class Publisher(Protocol):
    """What a relay publishes with: the node."""

    @property
    def options_for(self) -> Callable[[str], ChannelOptions]:
        """Gives a channel's options."""

    def begin_publish(
        self, channel: str, publication: Publication, how: PublishOptions | None = None
    ) -> Published | Awaitable[Published]:
        """Put a publication into a channel; see `wirebell.node.Node`."""

    async def history(
        self, channel: str, *, since: StreamPosition | None, limit: int, reverse: bool = False
    ) -> HistorySlice:
        """Read what a channel keeps; likewise."""


class Runner(Protocol):
    """Runs statements; see `wirebell.outbox.database.Database`."""

    async def run(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Do something in a transaction of its own."""


class Turn(enum.Enum):
    """How a turn of the relay ended."""

    IDLE = enum.auto()
    """Nothing waits."""
    HELD = enum.auto()
    """Another has the lease."""
    STUCK = enum.auto()
    """Something waits in a channel that cannot be published now; others can."""
    AWAY = enum.auto()
    """The broker or the database does not answer."""


@dataclass(slots=True)
class Outcome:
    """What became of a batch.

    Attributes:
        published: Ids of rows that are published.
        aside: Id and reason of those that never can be.
        blocked: Channels in which nothing can be published now.
        reason: Why, of one of them.
        is_away: The broker did not answer.
    """

    published: list[int] = field(default_factory=list)
    aside: list[tuple[int, str]] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    reason: str = ""
    is_away: bool = False

    def block(self, channel: str, error: Exception) -> None:
        """Have a channel wait."""
        self.blocked.add(channel)
        self.reason = str(error) if isinstance(error, WirebellError) else repr(error)
        # A record that only a newer release reads says nothing of the broker.
        if not isinstance(error, UnknownRecord):
            self.is_away |= isinstance(error, BrokerError | NotRunning)

    @property
    def is_fruitless(self) -> bool:
        """Whether nothing of it is done."""
        return not (self.published or self.aside)


class Relay:
    """One process' relay of an outbox. Used on one event loop.

    Mutable state: whether it was woken, how long it waits after failures, and which rows it
    published that it could not remove yet: at most a batch.

    Args:
        database: Where the outbox is.
        publisher: Started, and closed after the relay.
        settings: Intervals and bounds.
        statistics: Is counted into.
        random: Gives numbers from 0 to below 1; tests give their own.
        wall_clock: Seconds that go on while the machine is suspended, as the loop's may not;
            likewise.
    """

    def __init__(
        self,
        database: Runner,
        publisher: Publisher,
        settings: Settings,
        statistics: OutboxStatistics,
        *,
        random: Callable[[], float] = randomness.random,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.publisher = publisher
        self.settings = settings
        self.statistics = statistics
        self.random = random
        self.wall_clock = wall_clock
        self.holder = uuid.uuid4().hex
        self.backoff = Backoff(random=random)
        self.woken = asyncio.Event()
        self.closing = asyncio.Event()
        self.measured_at = float("-inf")
        self.logged_at = float("-inf")
        self.held_seconds = HELD_SECONDS
        self.done: set[int] = set()

    def wake(self) -> None:
        """Look at once: a transaction of this process has committed."""
        self.woken.set()

    def close(self) -> None:
        """Have `run` end after what is being published."""
        self.closing.set()
        self.woken.set()

    async def run(self) -> None:
        """Relay until `close` is called, whatever fails."""
        is_woken = False
        while not self.closing.is_set():
            self.woken.clear()
            try:
                turn = await self._take_turn(is_woken=is_woken)
            except Exception as error:  # noqa: BLE001 - of any driver; counted, told, tried again
                self._note_failure(repr(error))
                turn = Turn.AWAY
            # A commit does not shorten the wait for a broker that is away.
            is_woken = await self._pause(self._delay(turn), can_wake=turn is not Turn.AWAY)
        await self._give_back()

    async def _take_turn(self, *, is_woken: bool) -> Turn:
        """Look, and relay what waits."""
        if not is_woken and not await self.database.run(has_waiting):
            await self._measure()
            return Turn.IDLE
        turn = await self._drain()
        await self._measure()
        return turn

    async def _drain(self) -> Turn:
        """Relay until nothing waits that can be published, or another relays."""
        lease, most = self.settings.outbox_lease_seconds, self.settings.outbox_batch_rows_max
        # Begins before the lease does, so that it ends before.
        is_late = self._watch(lease * 2 / 3)
        rows = await self.database.run(
            lambda link: claim(link, self.holder, lease_seconds=lease, rows_max=most)
        )
        if rows is None:
            return Turn.HELD
        skipped: set[str] = set()
        fruitless, is_away = 0, False
        while rows:
            outcome = await self._publish(rows, is_late)
            skipped |= outcome.blocked
            is_away |= outcome.is_away
            fruitless = fruitless + 1 if outcome.is_fruitless else 0
            is_over = (
                self.closing.is_set() or fruitless >= FRUITLESS_MAX or len(skipped) > SKIPPED_MAX
            )
            is_late = self._watch(lease * 2 / 3)
            rows = await self._settle(outcome, 0 if is_over else most, frozenset(skipped))
            if outcome.blocked:
                self._note_failure(outcome.reason)
        if skipped:
            return Turn.AWAY if is_away else Turn.STUCK
        # Rows that another removed meanwhile are not asked for again.
        self.done.clear()
        return Turn.IDLE

    async def _settle(
        self, outcome: Outcome, rows_max: int, skipped: Collection[str]
    ) -> list[WaitingRow]:
        """Write what became of a batch, and read the next one."""
        settled = Settled(outcome.published, outcome.aside)
        rows = await self.database.run(
            lambda link: settle(
                link,
                self.holder,
                settled,
                lease_seconds=self.settings.outbox_lease_seconds,
                rows_max=rows_max,
                skipped=skipped,
            )
        )
        self.statistics.relayed_count += len(outcome.published)
        self.done.difference_update(outcome.published)
        return rows

    async def _publish(self, rows: Sequence[WaitingRow], is_late: Callable[[], bool]) -> Outcome:
        """Publish a batch: each channel's rows one after the other, channels side by side."""
        lanes: dict[str, list[WaitingRow]] = {}
        for row in rows:
            lanes.setdefault(row.channel, []).append(row)
        outcome = Outcome()
        async with asyncio.TaskGroup() as tasks:
            for channel, lane in lanes.items():
                tasks.create_task(self._publish_lane(channel, lane, is_late, outcome))
        return outcome

    async def _publish_lane(
        self,
        channel: str,
        rows: Sequence[WaitingRow],
        is_late: Callable[[], bool],
        outcome: Outcome,
    ) -> None:
        """Publish one channel's rows until one cannot be published now."""
        kept: set[str] | None = None
        for row in rows:
            # Another may have taken over after the lease, if this process stood still.
            if self.closing.is_set() or is_late():
                return
            try:
                if row.age_seconds >= KEY_SECONDS and kept is None:
                    kept = await self._read_origins(channel)
                if row.id not in self.done and row.uid not in (kept or ()):
                    await self._publish_row(row)
                    self.done.add(row.id)
            except (UnknownRecord, CommandError) as error:
                if is_newer(row) or (isinstance(error, CommandError) and error.temporary):
                    outcome.block(channel, error)
                    return
                logger.error(  # noqa: TRY400 - the reason is all there is to say
                    "row %d of the outbox, for channel %r, can never be published and is set "
                    "aside: %s",
                    row.id,
                    channel,
                    error,
                )
                outcome.aside.append((row.id, str(error)[:REASON_CHARACTERS_MAX]))
            except Exception as error:  # noqa: BLE001 - of any broker; told and tried again
                outcome.block(channel, error)
                return
            else:
                outcome.published.append(row.id)

    def _watch(self, seconds: float) -> Callable[[], bool]:
        """Return what tells whether so much time has passed, also of a suspended machine."""
        loop, wall_clock = asyncio.get_running_loop(), self.wall_clock
        ends_at, wall_ends_at = loop.time() + seconds, wall_clock() + seconds
        return lambda: loop.time() >= ends_at or wall_clock() >= wall_ends_at

    async def _publish_row(self, row: WaitingRow) -> None:
        """Publish a row, or find that it was before."""
        publication, how = decode_row(row)
        published = self.publisher.begin_publish(row.channel, publication, how)
        if not isinstance(published, Published):
            await published

    async def _read_origins(self, channel: str) -> set[str]:
        """Return the origins of what a channel's history keeps; nothing where there is none."""
        if self.publisher.options_for(channel).history is None:
            return set()
        origins: set[str] = set()
        since: StreamPosition | None = None
        while True:
            page = await self.publisher.history(channel, since=since, limit=PAGE_SIZE, reverse=True)
            origins |= {each.origin for each in page.publications if each.origin}
            if len(page.publications) < PAGE_SIZE:
                return origins
            oldest = page.publications[-1]
            since = StreamPosition(oldest.offset, oldest.epoch)

    async def _measure(self) -> None:
        """Count what waits, once in a while."""
        now = asyncio.get_running_loop().time()
        if now - self.measured_at < MEASURE_SECONDS:
            return
        self.measured_at = now
        measured = await self.database.run(measure)
        self.statistics.waiting_count = measured.waiting_count
        self.statistics.oldest_seconds = measured.oldest_seconds
        self.statistics.aside_count = measured.aside_count

    def _delay(self, turn: Turn) -> float:
        """Return how many seconds to wait after a turn."""
        if turn in {Turn.STUCK, Turn.AWAY}:
            return self.backoff.next_delay()
        self.backoff.reset()
        # Processes that were started together do not look together.
        poll = self.settings.outbox_poll_seconds * (0.75 + self.random() / 2)
        if turn is Turn.IDLE:
            self.held_seconds = HELD_SECONDS
            return poll
        delay = min(self.held_seconds, poll)
        self.held_seconds *= 2
        return delay

    async def _pause(self, seconds: float, *, can_wake: bool) -> bool:
        """Wait; true when a commit ended it."""
        try:
            async with asyncio.timeout(seconds):
                await (self.woken if can_wake else self.closing).wait()
        except TimeoutError:
            return self.woken.is_set()
        return True

    async def _give_back(self) -> None:
        """Let another relay at once."""
        try:
            await self.database.run(lambda link: release(link, self.holder))
        except Exception as error:  # noqa: BLE001 - as in `run`; the lease ends by itself
            self._note_failure(repr(error))

    def _note_failure(self, reason: str) -> None:
        """Count a failure; tell one once in a while."""
        self.statistics.failure_count += 1
        now = asyncio.get_running_loop().time()
        if now - self.logged_at >= FAILURE_LOG_SECONDS:
            self.logged_at = now
            count = self.statistics.failure_count
            logger.warning("the outbox waits, %d times since the start: %s", count, reason)
