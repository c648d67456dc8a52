"""How many commands a connection may send in a second: one token bucket per command's name.

Pure: ``now`` is an argument. A bucket holds one second's commands, at least one, so that a client
may do at once what it may do in a second; it is created when its command comes for the first time.
"""

from __future__ import annotations

from collections.abc import Mapping

from wirebell.errors import ConfigError
from wirebell.session import RULES

__all__ = ("CommandBuckets", "CommandRates")


class CommandRates:
    """The limits that all connections share.

    Args:
        per_second: Command's name → how many of it a connection may send in a second, above 0; a
            command that is not named has no limit. ``{"publish": 0.5}`` is one in two seconds.

    Raises:
        ConfigError: There is no command of that name, or a limit is not above 0.
    """

    __slots__ = ("per_second",)

    def __init__(self, per_second: Mapping[str, float]) -> None:
        for name, rate in per_second.items():
            if name not in RULES:
                known = ", ".join(sorted(RULES))
                raise ConfigError(f"commands_per_second_max knows no {name!r}, only {known}")
            if not rate > 0:
                raise ConfigError(f"commands_per_second_max of {name!r} is above 0, got {rate}")
        self.per_second = dict(per_second)

    def create_buckets(self) -> CommandBuckets | None:
        """Create what one connection is measured by; ``None`` where nothing has a limit."""
        return CommandBuckets(self.per_second) if self.per_second else None


class CommandBuckets:
    """What one connection may still send.

    Mutable state: command's name → commands left, and the instant at which that was so. At most
    as many entries as there are limits.

    Args:
        per_second: As in `CommandRates`, and not copied.
    """

    __slots__ = ("left", "per_second")

    def __init__(self, per_second: Mapping[str, float]) -> None:
        self.per_second = per_second
        self.left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float) -> bool:
        """Count a command; false when it comes too soon, and then it is not counted.

        Args:
            name: Of the command.
            now: Monotonic seconds; an instant before an earlier one counts as that.
        """
        rate = self.per_second.get(name)
        if rate is None:
            return True
        most = max(1.0, rate)
        left, since = self.left.get(name, (most, now))
        left = min(most, left + max(0.0, now - since) * rate)
        if left < 1.0:
            self.left[name] = (left, max(since, now))
            return False
        self.left[name] = (left - 1.0, max(since, now))
        return True
