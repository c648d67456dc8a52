"""The timer wheel: thousands of deadlines behind one timer of the event loop.

Pure: it holds callbacks in buckets and hands out those whose time has come; whoever owns the
clock calls it. A deadline fires never early and at most one resolution late.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

__all__ = ("Deadline", "DeadlineWheel")

# Rebuilding a small heap again and again would cost more than its numbers.
STALE_NUMBERS_MAX = 64


class Deadline:
    """A callback to come. Compared by identity."""

    __slots__ = ("bucket", "callback")

    def __init__(self, bucket: int, callback: Callable[[], None]) -> None:
        self.bucket = bucket
        self.callback = callback


class DeadlineWheel:
    """Deadlines in buckets of one resolution.

    Mutable state: bucket number → its deadlines, never none, and a heap with all the numbers and
    some that are gone.

    Args:
        resolution_seconds: Width of a bucket, above 0.

    Raises:
        ValueError: ``resolution_seconds`` is not above 0.
    """

    def __init__(self, resolution_seconds: float) -> None:
        if resolution_seconds <= 0:
            raise ValueError(f"resolution_seconds must be above 0, got {resolution_seconds}")
        self.resolution_seconds = resolution_seconds
        self.buckets: dict[int, dict[Deadline, None]] = {}
        self.order: list[int] = []

    def schedule(self, at: float, callback: Callable[[], None]) -> Deadline:
        """Have ``callback`` called when the clock has passed ``at``; returns what cancels it."""
        number = math.ceil(at / self.resolution_seconds)
        deadline = Deadline(number, callback)
        bucket = self.buckets.get(number)
        if bucket is None:
            bucket = self.buckets[number] = {}
            heapq.heappush(self.order, number)
        bucket[deadline] = None
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Forget a deadline; idempotent, also after it fired."""
        bucket = self.buckets.get(deadline.bucket)
        if bucket is None:
            return
        bucket.pop(deadline, None)
        if not bucket:
            del self.buckets[deadline.bucket]
            # Its number stays in the heap until its time; such numbers must not pile up.
            if len(self.order) > 2 * len(self.buckets) + STALE_NUMBERS_MAX:
                self.order = list(self.buckets)
                heapq.heapify(self.order)

    def due(self, now: float) -> list[Callable[[], None]]:
        """Take out the callbacks whose time has come, earliest bucket first."""
        callbacks: list[Callable[[], None]] = []
        while self.order and self.order[0] * self.resolution_seconds <= now:
            bucket = self.buckets.pop(heapq.heappop(self.order), {})
            callbacks.extend(deadline.callback for deadline in bucket)
        return callbacks

    def next_at(self) -> float | None:
        """Return when to call `due` next, or ``None`` when nothing is planned."""
        while self.order and self.order[0] not in self.buckets:
            heapq.heappop(self.order)
        return self.order[0] * self.resolution_seconds if self.order else None
