"""A node's deadlines on the event loop: any number of them, and one timer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from wirebell.deadlines import Deadline, DeadlineWheel

__all__ = ("Timers",)

logger = logging.getLogger(__name__)

# Deadlines are seconds long, so a twentieth of one is early enough and saves wake-ups.
WHEEL_RESOLUTION_SECONDS = 0.05


class Timers:
    """Calls what is due.

    Mutable state: the deadlines, and the loop's one timer, which stands at the next of them.

    Args:
        loop: Where everything is called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wheel = DeadlineWheel(WHEEL_RESOLUTION_SECONDS)
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at: float | None = None

    def schedule(self, delay_seconds: float, callback: Callable[[], None]) -> Deadline:
        """Have ``callback`` called once, ``delay_seconds`` from now or slightly later."""
        deadline = self.wheel.schedule(self.loop.time() + max(0.0, delay_seconds), callback)
        self._set_timer()
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Forget a deadline; idempotent."""
        self.wheel.cancel(deadline)

    def close(self) -> None:
        """Call nothing any more; idempotent."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _set_timer(self) -> None:
        """Keep one timer of the loop, at the wheel's next bucket."""
        at = self.wheel.next_at()
        if at == self.timer_at and self.timer is not None:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer_at = at
        self.timer = None if at is None else self.loop.call_at(at, self._run_deadlines)

    def _run_deadlines(self) -> None:
        """Call what is due. One callback's failure is no other's."""
        self.timer = None
        for callback in self.wheel.due(self.loop.time()):
            try:
                callback()
            except Exception:
                logger.exception("a deadline's callback failed")
        self._set_timer()
