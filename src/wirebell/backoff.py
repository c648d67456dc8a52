"""How long to wait before the next try, when a link was lost."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ("Backoff",)


class Backoff:
    """Delays between tries: exponential, with full jitter.

    Each delay is drawn between 0 and a bound that doubles from try to try, so that nodes that
    lost the same server do not come back to it in step. For one task.

    Args:
        first_seconds: The first bound, above 0.
        longest_seconds: The bound does not grow beyond this.
        random: Gives numbers from 0 to below 1; tests give their own.

    Raises:
        ValueError: A bound is out of its own.
    """

    def __init__(
        self,
        first_seconds: float = 0.1,
        longest_seconds: float = 5.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < first_seconds <= longest_seconds:
            raise ValueError(
                f"first_seconds must be above 0 and at most longest_seconds ({longest_seconds}), "
                f"got {first_seconds}"
            )
        self.first_seconds = first_seconds
        self.longest_seconds = longest_seconds
        self.random = random
        self.bound_seconds = first_seconds

    def next_delay(self) -> float:
        """Return how many seconds to wait now, and widen the bound for the next time."""
        bound = self.bound_seconds
        self.bound_seconds = min(self.longest_seconds, bound * 2)
        return bound * self.random()

    def reset(self) -> None:
        """Begin again with the first bound: the link stands."""
        self.bound_seconds = self.first_seconds
