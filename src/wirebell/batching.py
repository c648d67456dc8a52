"""What is asked of a server in one turn of the event loop, gathered into one call.

Strategy: the first item starts a task, whose first step is at the end of the turn; it carries what
gathered until then, and goes on while there is more. So the next batch gathers behind a call that
runs: a slow server makes batches larger, not calls more. Where two calls may run at once, what is
about the same thing as an item on its way waits for that one's call, and stays in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from wirebell.deferred import Deferred
from wirebell.errors import BrokerClosed, BrokerUnavailable

__all__ = ("PENDING_MAX", "Batcher")

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Run: TypeAlias = Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]]

PENDING_MAX = 100_000
"""Items that wait at most."""

BYTES_MAX = 4 * 1024 * 1024
# As many small items as PENDING_MAX allows (671 bytes each), or a few large ones.
PENDING_BYTES_MAX = 64 * 1024 * 1024
# So many are shared between calls that may go at once; fewer cost less in one.
SHARED_MIN = 32
# The longest time that one call may take is a broker's own bound, 4 s unless it is told otherwise.
CLOSE_SECONDS_MAX = 5.0


@dataclass(slots=True, eq=False)
class _Lane(Generic[ItemT, ResultT]):
    """One call at a time.

    Attributes:
        run: Carries it.
        task: Goes on while there is something to carry; ``None`` while there is not.
        futures: Of the batch that is carried now.
        keys: Of its items.
    """

    run: Run[ItemT, ResultT]
    task: asyncio.Task[None] | None = None
    futures: list[Deferred[ResultT]] = field(default_factory=list)
    keys: frozenset[Hashable] = frozenset()


class Batcher(Generic[ItemT, ResultT]):
    """Gathers items, and hands them over in their order, a batch at a time.

    Mutable state: items that wait with the futures of their results, and the tasks that carry
    them. To be used on one event loop.

    Args:
        runs: Each carries a batch, never an empty one, and returns one result for each item, in
            order; an exception in place of a result is that item's alone. It bounds its own time.
            What it raises is the fate of its batch *and* of everything that waits: who is asked
            does not answer, and nobody shall wait for the next one to find that out. With several,
            as many batches are on their way at once.
        size_of: Bytes of an item.
        key_of: What an item is about; items that are about the same are never on their way at once
            in two batches. Not asked where there is one run.
        count_max: Items of a batch, 1 or more.
        bytes_max: Bytes of a batch; a larger item goes alone.
        pending_max: Items that wait, those of the calls that run not counted.
        pending_bytes_max: Bytes that wait, likewise.
        close_seconds_max: How long `aclose` waits for what was added before.
    """

    def __init__(
        self,
        *runs: Run[ItemT, ResultT],
        size_of: Callable[[ItemT], int],
        key_of: Callable[[ItemT], Hashable] | None = None,
        count_max: int = 1000,
        bytes_max: int = BYTES_MAX,
        pending_max: int = PENDING_MAX,
        pending_bytes_max: int = PENDING_BYTES_MAX,
        close_seconds_max: float = CLOSE_SECONDS_MAX,
    ) -> None:
        self.lanes = [_Lane(run) for run in runs]
        self.size_of = size_of
        self.key_of = key_of if len(runs) > 1 else None
        self.count_max = count_max
        self.bytes_max = bytes_max
        self.pending_max = pending_max
        self.pending_bytes_max = pending_bytes_max
        self.close_seconds_max = close_seconds_max
        self.items: list[ItemT] = []
        self.futures: list[Deferred[ResultT]] = []
        self.byte_count = 0
        # The task that carries this turn's items is about to begin.
        self.is_starting = False
        self.idle = [*self.lanes]
        self.is_closed = False

    def add(self, item: ItemT) -> Deferred[ResultT]:
        """Have an item carried with the others of this turn.

        Returns:
            Its result, later. Whoever cancels it does not take the item back.

        Raises:
            BrokerUnavailable: As much waits already as may.
            BrokerClosed: The batcher was closed.
        """
        if self.is_closed:
            raise BrokerClosed("the broker is not running")
        size = self.size_of(item)
        if len(self.items) >= self.pending_max or (
            self.items and self.byte_count + size > self.pending_bytes_max
        ):
            raise BrokerUnavailable(
                f"{len(self.items)} calls with {self.byte_count} bytes wait for the broker, limits "
                f"{self.pending_max} and {self.pending_bytes_max}: it is slower than its callers"
            )
        future: Deferred[ResultT] = Deferred()
        self.items.append(item)
        self.futures.append(future)
        self.byte_count += size
        if self.idle and not self.is_starting and not self._is_busy(item):
            self._start(self.idle.pop())
        return future

    def settle(self, lane: int, results: Sequence[ResultT | Exception]) -> None:
        """Hand out the results of a batch that is on its way; what its call says is too late then.

        Args:
            lane: Which of the runs carries it.
            results: One for each item, in order.
        """
        _settle(self.lanes[lane].futures, results)

    async def aclose(self) -> None:
        """Carry what was added before, within bounds, and take no more; idempotent.

        What does not get its turn in time raises `BrokerClosed`.
        """
        self.is_closed = True
        tasks = [lane.task for lane in self.lanes if lane.task is not None]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=self.close_seconds_max)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def _is_busy(self, item: ItemT) -> bool:
        """Tell whether something that is about the same is on its way: its lane takes this, too."""
        if self.key_of is None or len(self.idle) == len(self.lanes):
            return False
        key = self.key_of(item)
        return any(key in lane.keys for lane in self.lanes)

    def _start(self, lane: _Lane[ItemT, ResultT]) -> None:
        """Have a lane carry what waits, from the end of this turn on."""
        self.is_starting = True
        lane.task = asyncio.get_running_loop().create_task(self._work(lane))
        lane.task.add_done_callback(lambda task: self._finish(lane, task))

    async def _work(self, lane: _Lane[ItemT, ResultT]) -> None:
        """Carry batch after batch until nothing waits that may go."""
        self.is_starting = False
        try:
            while items := self._take(lane):
                try:
                    _settle(lane.futures, await lane.run(items))
                except Exception as error:  # noqa: BLE001 - it is raised to everybody who waits
                    _fail(lane.futures, error)
                    _fail(self._drop(), error)
        except BaseException:
            # The end came first: nobody else would carry what waits.
            _fail(lane.futures, _closed())
            _fail(self._drop(), _closed())
            raise
        finally:
            lane.futures, lane.keys, lane.task = [], frozenset(), None
            self.idle.append(lane)

    def _finish(self, lane: _Lane[ItemT, ResultT], task: asyncio.Task[None]) -> None:
        """Tell who waits that a task was ended before its first step."""
        if lane.task is task:
            lane.task = None
            self.is_starting = False
            self.idle.append(lane)
            _fail(self._drop(), _closed())

    def _take(self, lane: _Lane[ItemT, ResultT]) -> list[ItemT]:
        """Take a lane's next batch out of what waits; empty where nothing may go."""
        key_of = self.key_of
        count = self.count_max
        if self.idle and len(self.items) >= SHARED_MIN:
            # Two halves overlap: while one is carried the answers of the other are handed out.
            count = min(count, (len(self.items) + 1) // 2)
        others = [other.keys for other in self.lanes if other.keys and other is not lane]
        if not others and len(self.items) <= count and self.byte_count <= self.bytes_max:
            items, lane.futures = self.items, self.futures
            self.items, self.futures, self.byte_count = [], [], 0
        else:
            items = self._pick(lane, count, frozenset().union(*others))
        lane.keys = frozenset() if key_of is None else frozenset(map(key_of, items))
        if self.items and self.idle and not self.is_starting:
            self._start(self.idle.pop())
        return items

    def _pick(
        self, lane: _Lane[ItemT, ResultT], count: int, busy: frozenset[Hashable]
    ) -> list[ItemT]:
        """Take what fits into a batch and is about nothing that is on its way.

        What stays has all that is about the same and comes later stay with it.
        """
        items: list[ItemT] = []
        kept: list[ItemT] = []
        futures: list[Deferred[ResultT]] = []
        lane.futures, byte_count, looked_at = [], 0, 0
        for item, future in zip(self.items[:count], self.futures, strict=False):
            size = self.size_of(item)
            if items and byte_count + size > self.bytes_max:
                break
            looked_at += 1
            if self.key_of is not None and self.key_of(item) in busy:
                kept.append(item)
                futures.append(future)
            else:
                items.append(item)
                lane.futures.append(future)
                byte_count += size
        self.items = kept + self.items[looked_at:]
        self.futures = futures + self.futures[looked_at:]
        self.byte_count -= byte_count
        return items

    def _drop(self) -> list[Deferred[ResultT]]:
        """Let go of everything that waits."""
        futures = self.futures
        self.items, self.futures, self.byte_count = [], [], 0
        return futures


def _closed() -> BrokerClosed:
    """Say that the end came first."""
    return BrokerClosed("the broker was closed before it answered")


def _settle(futures: Sequence[Deferred[ResultT]], results: Sequence[ResultT | Exception]) -> None:
    """Hand out the results of a batch.

    Raises:
        AssertionError: There are more or fewer than items.
    """
    assert len(futures) == len(results), f"{len(results)} results for {len(futures)} items"
    for future, result in zip(futures, results, strict=True):
        if future.done():
            # Its owner went away.
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def _fail(futures: Sequence[Deferred[ResultT]], error: Exception) -> None:
    """Raise an error to everybody who waits."""
    for future in futures:
        if not future.done():
            future.set_exception(error)
