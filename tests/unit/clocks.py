"""An event loop whose clock jumps: whoever waits for a timer waits no real time at all."""

from __future__ import annotations

import asyncio
import selectors

# A test that needs more than this waits for something that never comes.
SECONDS_MAX = 7_200.0


class JumpingSelector(selectors.DefaultSelector):
    """Answers at once; counts the time that it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, or jump to the loop's next timer."""
        if timeout is None:
            raise AssertionError("nothing is planned and everybody waits: the test would hang")
        events = super().select(0)
        if not events and timeout > 0:
            self.skipped_seconds += timeout
            if self.skipped_seconds > SECONDS_MAX:
                raise AssertionError(f"nothing came within {SECONDS_MAX:g} seconds of its clock")
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop for tests without threads and sockets."""

    def __init__(self) -> None:
        self.jumps = JumpingSelector()
        super().__init__(self.jumps)

    def time(self) -> float:
        """Return the seconds that were skipped: real time does not pass here."""
        return self.jumps.skipped_seconds


async def pass_time(seconds: float) -> None:
    """Let a `JumpingLoop`'s clock pass by so much."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    await asyncio.sleep(seconds)


async def turns(count: int = 10) -> None:
    """Let everybody run who can run without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)
