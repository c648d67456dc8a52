"""A node's tasks that nobody waits for, and the failures that nobody else would see."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from wirebell.errors import BrokerError
from wirebell.statistics import NodeStatistics

__all__ = ("Background",)

logger = logging.getLogger(__name__)

# A broker that is away fails thousands of calls: one in so many seconds is told.
FAILURE_LOG_SECONDS = 10.0


class Background:
    """Tasks of a node. Used on its event loop.

    Mutable state: the tasks that run, and when a failure of the broker was logged last.

    Args:
        loop: Gives the loop on which they run; raises while the node does not.
        statistics: Counts failures.
    """

    def __init__(
        self, loop: Callable[[], asyncio.AbstractEventLoop], statistics: NodeStatistics
    ) -> None:
        self.loop = loop
        self.statistics = statistics
        self.tasks: set[asyncio.Task[None]] = set()
        self.logged_at = float("-inf")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what nobody waits for; as `begin`."""
        _ = self.begin(work)

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what need not be waited for; `aclose` does, and a failure is logged and counted.

        Raises:
            NotRunning: The node does not run; the work is dropped.
        """
        try:
            task = self.loop().create_task(work)
        except BaseException:
            work.close()
            raise
        self.tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    async def aclose(self, others: Iterable[asyncio.Task[None]], *, timeout_seconds: float) -> None:
        """Wait for what runs, then cancel it, and what else is given."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout_seconds)
        late = self.tasks | set(others)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def note_failure(self, error: BaseException) -> None:
        """Count what failed; of a broker that is away log only one failure once in a while."""
        self.statistics.broker_error_count += 1
        if not isinstance(error, BrokerError):
            logger.error("work that nobody waits for failed", exc_info=error)
            return
        now = asyncio.get_running_loop().time()
        if now - self.logged_at >= FAILURE_LOG_SECONDS:
            self.logged_at = now
            count = self.statistics.broker_error_count
            logger.error("the broker failed, %d times since the start: %s", count, error)

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Account for a task that ended."""
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.note_failure(error)
