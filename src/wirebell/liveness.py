"""The ring of pings: every peer once in an interval, all of them spread over it.

Strategy: peers stand in slots around a ring; each step pings one slot and looks again at the one
that was pinged a time-out ago. A new peer goes to the emptiest slot of the interval's second half,
so that a storm of connections is no storm of pings and nobody is pinged who has just come. One
timer serves all. Pure: it calls its peers and nothing else of the world; whoever owns the clock
asks `start` and then `plan` when to call `step`.

Invariant: a peer stands in one slot or in none.
"""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ("LEAVE_SECONDS", "Peer", "PingRing")

# A step is a hundredth of the interval: 10,000 peers are 100 pings at a time, under 2 ms of work.
SLOTS_MAX = 100
# Shorter steps would wake the process more often than its clock is exact.
STEP_SECONDS_MIN = 0.05

LEAVE_SECONDS = 1.0
"""How long a peer that is gone may stay in its channels, because what it said before is still being
handled. Handlers mostly take milliseconds, and may ask what it is subscribed to; that presence is
right within two seconds is what others count on."""


class Peer(Protocol):
    """What the ring knows of a connection."""

    unheard_since: int | None
    """Number of the step that pinged it first without anything coming back since; ``None`` while
    the peer was heard. Set by the ring, reset by whoever hears the peer."""
    ping_slot: int
    """Where it stands; -1 nowhere. The ring's own."""

    def send_ping(self) -> None:
        """Ping the peer; one that is not pinged resets ``unheard_since``."""

    def handle_silence(self) -> None:
        """Take that the peer did not answer in time."""


class PingRing:
    """Peers in slots.

    Mutable state: the slots, the number of the step, and when the next one is due.

    Args:
        interval_seconds: Time between two pings of one peer, above 0.
        timeout_seconds: Time for an answer, above 0; may be longer than the interval. A silent
            peer is found at most one step, or, past one interval, one interval later.

    Raises:
        ValueError: An argument is not above 0.
    """

    def __init__(self, interval_seconds: float, timeout_seconds: float) -> None:
        if interval_seconds <= 0 or timeout_seconds <= 0:
            raise ValueError(
                f"interval and timeout must be above 0, got {interval_seconds}, {timeout_seconds}"
            )
        slot_count = max(1, min(SLOTS_MAX, int(interval_seconds / STEP_SECONDS_MIN)))
        self.step_seconds = interval_seconds / slot_count
        self.timeout_steps = math.ceil(timeout_seconds / self.step_seconds)
        self.slots: list[dict[Peer, None]] = [{} for _ in range(slot_count)]
        # How many stand in each: asking all slots at every connection took 12 µs of it.
        self.sizes = [0] * slot_count
        self.number = 0
        self.due_at = 0.0

    def start(self, now: float) -> float:
        """Begin to count time; returns when the first step is due, in seconds of ``now``'s clock.

        Args:
            now: Monotonic seconds.
        """
        self.due_at = now
        return self.plan(now)

    def plan(self, now: float) -> float:
        """Return when the step after this one is due; to be asked once for each step.

        Steps that come late do not add up: the next is due a step after this one was. After a
        stall it is due at once, and no missed step is made up for, since time-outs are counted
        in steps.

        Args:
            now: Monotonic seconds.
        """
        self.due_at = max(self.due_at + self.step_seconds, now)
        return self.due_at

    def add(self, peer: Peer) -> None:
        """Begin to ping a peer that stands nowhere; first after half an interval to a whole one."""
        assert peer.ping_slot == -1
        count = len(self.slots)
        first = (self.number + count // 2 + 1) % count
        ahead = (self.sizes * 2)[first : first + count - count // 2]
        peer.ping_slot = (first + ahead.index(min(ahead))) % count
        self.slots[peer.ping_slot][peer] = None
        self.sizes[peer.ping_slot] += 1

    def remove(self, peer: Peer) -> None:
        """Forget a peer; idempotent."""
        if peer.ping_slot != -1:
            del self.slots[peer.ping_slot][peer]
            self.sizes[peer.ping_slot] -= 1
            peer.ping_slot = -1

    @property
    def peer_count(self) -> int:
        """Peers in the ring."""
        return sum(len(slot) for slot in self.slots)

    def step(self) -> None:
        """Go on by ``step_seconds``: find who is silent, then ping the next slot."""
        self.number += 1
        count = len(self.slots)
        # Lists, because a peer may leave while it is called.
        for peer in list(self.slots[self.number % count]):
            if not self._check(peer) and peer.ping_slot != -1:
                if peer.unheard_since is None:
                    peer.unheard_since = self.number
                peer.send_ping()
        if self.timeout_steps % count:
            for peer in list(self.slots[(self.number - self.timeout_steps) % count]):
                self._check(peer)

    def _check(self, peer: Peer) -> bool:
        """Find out whether a peer has been silent for too long, and tell it."""
        since = peer.unheard_since
        if since is None or self.number - since < self.timeout_steps:
            return False
        peer.handle_silence()
        return True
