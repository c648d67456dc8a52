"""What is asked of a server in one turn of the event loop, gathered into one call.

Strategy: the first item starts a task, whose first step is at the end of the turn; it carries what
gathered until then, and goes on while there is more. So one call runs at a time, and the next
batch gathers behind it: a slow server makes batches larger, not calls more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from wirebell.errors import BrokerClosed, BrokerUnavailable

__all__ = ("PENDING_MAX", "Batcher")

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

PENDING_MAX = 100_000
"""Items that wait at most."""

BYTES_MAX = 4 * 1024 * 1024
# As many small items as PENDING_MAX allows (671 bytes each), or a few large ones.
PENDING_BYTES_MAX = 64 * 1024 * 1024
# The longest time that one call may take is a broker's own bound, 4 s unless it is told otherwise.
CLOSE_SECONDS_MAX = 5.0


class Batcher(Generic[ItemT, ResultT]):
    """Gathers items, and hands them over in their order, one batch at a time.

    Mutable state: items that wait with the futures of their results, and the task that carries
    them. To be used on one event loop.

    Args:
        run: Carries a batch, never an empty one, and returns one result for each item, in order; an
            exception in place of a result is that item's alone. It bounds its own time. What it
            raises is the fate of its batch *and* of everything that waits: who is asked does not
            answer, and nobody shall wait for the next one to find that out.
        size_of: Bytes of an item.
        count_max: Items of a batch, 1 or more.
        bytes_max: Bytes of a batch; a larger item goes alone.
        pending_max: Items that wait, those of the call that runs not counted.
        pending_bytes_max: Bytes that wait, likewise.
        close_seconds_max: How long `aclose` waits for what was added before.
    """

    def __init__(
        self,
        run: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        *,
        size_of: Callable[[ItemT], int],
        count_max: int = 1000,
        bytes_max: int = BYTES_MAX,
        pending_max: int = PENDING_MAX,
        pending_bytes_max: int = PENDING_BYTES_MAX,
        close_seconds_max: float = CLOSE_SECONDS_MAX,
    ) -> None:
        self.run = run
        self.size_of = size_of
        self.count_max = count_max
        self.bytes_max = bytes_max
        self.pending_max = pending_max
        self.pending_bytes_max = pending_bytes_max
        self.close_seconds_max = close_seconds_max
        self.items: list[ItemT] = []
        self.futures: list[asyncio.Future[ResultT]] = []
        self.byte_count = 0
        self.task: asyncio.Task[None] | None = None
        self.is_closed = False

    def add(self, item: ItemT) -> asyncio.Future[ResultT]:
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
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self.items.append(item)
        self.futures.append(future)
        self.byte_count += size
        if self.task is None:
            self.task = loop.create_task(self._work())
            self.task.add_done_callback(self._finish)
        return future

    async def aclose(self) -> None:
        """Carry what was added before, within bounds, and take no more; idempotent.

        What does not get its turn in time raises `BrokerClosed`.
        """
        self.is_closed = True
        task = self.task
        if task is None:
            return
        await asyncio.wait((task,), timeout=self.close_seconds_max)
        task.cancel()
        await asyncio.wait((task,))

    async def _work(self) -> None:
        """Carry batch after batch until nothing waits."""
        try:
            while self.items:
                items, futures = self._take()
                try:
                    results = await self.run(items)
                    _settle(futures, results)
                except Exception as error:  # noqa: BLE001 - it is raised to everybody who waits
                    _fail(futures, error)
                    _fail(self._drop(), error)
                except BaseException:
                    _fail(futures, _closed())
                    raise
        finally:
            self.task = None
            # Only a cancellation leaves something: nobody else would carry it.
            _fail(self._drop(), _closed())

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Tell who waits that a task was ended before its first step."""
        if self.task is task:
            self.task = None
            _fail(self._drop(), _closed())

    def _take(self) -> tuple[list[ItemT], list[asyncio.Future[ResultT]]]:
        """Take the next batch out of what waits."""
        items, futures = self.items, self.futures
        if len(items) <= self.count_max and self.byte_count <= self.bytes_max:
            self.items, self.futures, self.byte_count = [], [], 0
            return items, futures
        count, size = 0, 0
        for item in items[: self.count_max]:
            item_size = self.size_of(item)
            if count and size + item_size > self.bytes_max:
                break
            count += 1
            size += item_size
        self.items, self.futures = items[count:], futures[count:]
        self.byte_count -= size
        return items[:count], futures[:count]

    def _drop(self) -> list[asyncio.Future[ResultT]]:
        """Let go of everything that waits."""
        futures = self.futures
        self.items, self.futures, self.byte_count = [], [], 0
        return futures


def _closed() -> BrokerClosed:
    """Say that the end came first."""
    return BrokerClosed("the broker was closed before it answered")


def _settle(
    futures: Sequence[asyncio.Future[ResultT]], results: Sequence[ResultT | Exception]
) -> None:
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


def _fail(futures: Sequence[asyncio.Future[ResultT]], error: Exception) -> None:
    """Raise an error to everybody who waits."""
    for future in futures:
        if not future.done():
            future.set_exception(error)
