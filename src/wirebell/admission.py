"""Who may connect: limits of how many, decided before a connection costs anything.

Pure: it counts what it admitted, and ``now`` is an argument.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from wirebell.settings import Settings

__all__ = ("Admission", "Limit", "Refusal")


class Limit(Enum):
    """What may refuse a connection; the values are labels of a metric."""

    CONNECTIONS = "connections"
    """``connections_max``."""
    ADDRESS = "address"
    """``connections_per_address_max``."""
    USER = "user"
    """``connections_per_user_max``."""
    RATE = "rate"
    """``connections_per_second_max``."""
    ORIGIN = "origin"
    """``allowed_origins``; asked where the handshake is seen."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection was not admitted.

    Attributes:
        limit: Which one was reached.
        reason: For a person, with the bound.
    """

    limit: Limit
    reason: str


class Admission:
    """Counts connections, and refuses the one that would pass a limit.

    Mutable state: connections in all, per address and per user, and those of the running second.
    A key without connections has no entry.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.connection_count = 0
        self.by_address: Counter[str] = Counter()
        self.by_user: Counter[str] = Counter()
        self.second = -1
        self.second_count = 0

    def admit(self, address: str, now: float) -> Refusal | None:
        """Count one more connection of ``address``, unless a limit forbids it.

        Args:
            address: The client's address; empty when unknown (a Unix socket), which the limit
                per address leaves alone.
            now: Monotonic seconds.

        Returns:
            ``None`` when admitted, and then `release` is owed; else which limit was reached.
        """
        limits = self.settings
        if self.second != int(now):
            self.second, self.second_count = int(now), 0
        if 0 < limits.connections_max <= self.connection_count:
            reason = f"connection limit of {limits.connections_max} reached, try again later"
            return Refusal(Limit.CONNECTIONS, reason)
        if address and 0 < limits.connections_per_address_max <= self.by_address[address]:
            bound = limits.connections_per_address_max
            reason = f"limit of {bound} connections per address reached, try again later"
            return Refusal(Limit.ADDRESS, reason)
        if 0 < limits.connections_per_second_max <= self.second_count:
            bound = limits.connections_per_second_max
            reason = f"limit of {bound} new connections per second reached, try again later"
            return Refusal(Limit.RATE, reason)
        self.second_count += 1
        self.connection_count += 1
        self.by_address[address] += 1
        return None

    def release(self, address: str) -> None:
        """Count one connection of ``address`` less."""
        assert self.connection_count > 0
        self.connection_count -= 1
        self.by_address[address] -= 1
        if not self.by_address[address]:
            del self.by_address[address]

    def admit_user(self, user_id: str) -> Refusal | None:
        """Count one more connection of a user, unless the limit forbids it.

        Returns:
            ``None`` when admitted, and then `release_user` is owed; else which limit was reached.
        """
        limit = self.settings.connections_per_user_max
        if 0 < limit <= self.by_user[user_id]:
            reason = f"limit of {limit} connections per user reached, try again later"
            return Refusal(Limit.USER, reason)
        self.by_user[user_id] += 1
        return None

    def release_user(self, user_id: str) -> None:
        """Count one connection of a user less."""
        self.by_user[user_id] -= 1
        assert self.by_user[user_id] >= 0
        if not self.by_user[user_id]:
            del self.by_user[user_id]
