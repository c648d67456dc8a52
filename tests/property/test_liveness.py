"""The ring of pings against peers that answer and peers that do not."""

from __future__ import annotations

import math

from hypothesis import given, settings, strategies as st

from wirebell.liveness import PingRing

SECONDS = st.floats(0.02, 60.0, allow_nan=False)


class Answering:
    """A peer that answers a number of steps after each ping, or never."""

    def __init__(self, ring: PingRing, delay_steps: int | None) -> None:
        self.ring = ring
        self.delay_steps = delay_steps
        self.unheard_since: int | None = None
        self.ping_slot = -1
        self.first_ping: int | None = None
        self.ping_count = 0
        self.answers_at: list[int] = []
        self.silent_at: int | None = None

    def send_ping(self) -> None:
        """Plan the answer."""
        self.ping_count += 1
        self.first_ping = self.first_ping or self.ring.number
        if self.delay_steps is not None:
            self.answers_at.append(self.ring.number + self.delay_steps)

    def handle_silence(self) -> None:
        """Leave."""
        self.silent_at = self.ring.number
        self.ring.remove(self)

    def pass_step(self) -> None:
        """Have answers that are due arrive, after the step that saw no answer yet."""
        if self.ring.number in self.answers_at:
            self.unheard_since = None


def run(ring: PingRing, peers: list[Answering], steps: int) -> int:
    """Go on, and return the most pings of one step."""
    most = 0
    for _ in range(steps):
        before = sum(peer.ping_count for peer in peers)
        ring.step()
        most = max(most, sum(peer.ping_count for peer in peers) - before)
        for peer in peers:
            peer.pass_step()
    return most


@settings(max_examples=60, deadline=None)
@given(interval=SECONDS, timeout=SECONDS, data=st.data())
def test_who_answers_in_time_is_never_dropped(
    interval: float, timeout: float, data: st.DataObject
) -> None:
    """A peer whose answers take less than the time-out stays, pinged once in an interval."""
    ring = PingRing(interval, timeout)
    delays = st.integers(0, min(ring.timeout_steps - 1, 250))
    peer = Answering(ring, data.draw(delays))
    ring.add(peer)
    turns = 4

    run(ring, [peer], turns * len(ring.slots))

    assert peer.silent_at is None
    assert turns == peer.ping_count


@settings(max_examples=100, deadline=None)
@given(
    interval=SECONDS,
    ratio=st.floats(0.01, 4.0, allow_nan=False),
    earlier=st.integers(0, 300),
    others=st.integers(0, 300),
)
def test_who_is_silent_is_always_dropped(
    interval: float, ratio: float, earlier: int, others: int
) -> None:
    """A silent peer goes within interval, time-out and a step; one interval more past one.

    Never before its time-out, wherever it stands in the ring.
    """
    timeout = interval * ratio
    ring = PingRing(interval, timeout)
    run(ring, [], earlier)
    for _ in range(others):
        ring.add(Answering(ring, 0))
    peer = Answering(ring, None)
    ring.add(peer)
    bound = interval + timeout + ring.step_seconds
    if timeout > interval:
        bound += interval

    run(ring, [peer], math.ceil(bound / ring.step_seconds) + 1)

    assert peer.silent_at is not None
    assert peer.first_ping is not None
    rounding = 1e-6
    assert (peer.silent_at - earlier) * ring.step_seconds <= bound + rounding
    assert (peer.silent_at - peer.first_ping) * ring.step_seconds >= timeout - rounding


@settings(max_examples=60, deadline=None)
@given(
    interval=st.floats(0.02, 30.0, allow_nan=False),
    count=st.integers(1, 300),
    earlier=st.integers(0, 150),
)
def test_pings_are_spread(interval: float, count: int, earlier: int) -> None:
    """Peers added in a row are spread evenly over half of the ring."""
    ring = PingRing(interval, 1_000.0)
    run(ring, [], earlier)
    peers = [Answering(ring, 0) for _ in range(count)]
    for peer in peers:
        ring.add(peer)

    most = run(ring, peers, len(ring.slots))

    half = (len(ring.slots) + 1) // 2
    assert {1} == {peer.ping_count for peer in peers}
    assert math.ceil(count / half) == most


@settings(max_examples=100, deadline=None)
@given(interval=SECONDS, shares=st.lists(st.floats(0.0, 0.99), max_size=200))
def test_steps_do_not_drift(interval: float, shares: list[float]) -> None:
    """However late each step comes, within its own time, the last is due where it should be."""
    ring = PingRing(interval, 1.0)
    due_at = ring.start(1_000.0)
    for share in shares:
        due_at = ring.plan(due_at + share * ring.step_seconds)

    expected = 1_000.0 + (len(shares) + 1) * ring.step_seconds
    assert abs(expected - due_at) < 1e-6


@settings(max_examples=60, deadline=None)
@given(arrivals=st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_whoever_comes_when(arrivals: list[int]) -> None:
    """Every peer is pinged within one interval, and not before half of it, whenever it comes."""
    ring = PingRing(0.5, 1_000.0)
    count = len(ring.slots)
    waits: list[int] = []
    peers: list[tuple[int, Answering]] = []
    for arriving in arrivals + [0] * count:
        for _ in range(arriving):
            peer = Answering(ring, 0)
            ring.add(peer)
            peers.append((ring.number, peer))
        ring.step()
    waits = [(peer.first_ping or 0) - came_at for came_at, peer in peers]

    assert all(count / 2 <= wait <= count for wait in waits)
