"""The ring of pings: who is pinged when, and who is found silent."""

from __future__ import annotations

import pytest

from wirebell.liveness import PingRing


class FakePeer:
    """A peer that notes its pings and may answer, leave, or take another with it."""

    def __init__(self, *, answers: bool = True) -> None:
        self.unheard_since: int | None = None
        self.ping_slot = -1
        self.answers = answers
        self.leaves: list[tuple[PingRing, FakePeer]] = []
        self.calls: list[str] = []

    def send_ping(self) -> None:
        """Note it; answer at once when told."""
        self.calls.append("ping")
        if self.answers:
            self.unheard_since = None

    def handle_silence(self) -> None:
        """Note it; leave the ring when told."""
        self.calls.append("silent")
        for ring, peer in self.leaves:
            ring.remove(peer)


def step(ring: PingRing, count: int) -> None:
    """Go on by so many steps."""
    for _ in range(count):
        ring.step()


@pytest.mark.parametrize("interval", [0.0, -1.0])
def test_bounds(interval: float) -> None:
    """Neither time may be zero or less; the message has both."""
    with pytest.raises(ValueError, match=f"must be above 0, got {interval}, 1.0"):
        PingRing(interval, 1.0)
    with pytest.raises(ValueError, match=f"must be above 0, got 1.0, {interval}"):
        PingRing(1.0, interval)


@pytest.mark.parametrize(
    ("interval", "slots", "step_seconds"),
    [
        (25.0, 100, 0.25),
        (5.0, 100, 0.05),
        (1.0, 20, 0.05),
        (0.12, 2, 0.06),
        (0.01, 1, 0.01),
        (600.0, 100, 6.0),
    ],
)
def test_slots(interval: float, slots: int, step_seconds: float) -> None:
    """There are at most a hundred slots, no step is below 50 ms but the only one of a ring."""
    ring = PingRing(interval, 1.0)

    assert slots == len(ring.slots)
    assert step_seconds == pytest.approx(ring.step_seconds)


def test_pinged_once_in_an_interval() -> None:
    """Each peer is pinged once a turn, wherever it stands."""
    ring = PingRing(0.5, 10.0)
    step(ring, 3)
    peers = [FakePeer() for _ in range(25)]
    for peer in peers:
        ring.add(peer)

    step(ring, 3 * len(ring.slots))

    assert {("ping",) * 3} == {tuple(peer.calls) for peer in peers}


@pytest.mark.parametrize("interval", [0.05, 0.1, 0.15, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("earlier", [0, 1, 7])
def test_first_ping(interval: float, earlier: int) -> None:
    """A new peer is pinged after half an interval at the earliest, and within a whole one."""
    ring = PingRing(interval, 1.0)
    step(ring, earlier)
    peers = [FakePeer() for _ in range(5)]
    for peer in peers:
        ring.add(peer)

    count = len(ring.slots)
    step(ring, count // 2)
    early = [list(peer.calls) for peer in peers]
    step(ring, count - count // 2)

    assert ([[]] * 5, [["ping"]] * 5) == (early, [peer.calls for peer in peers])
    assert 5 == ring.peer_count


def test_a_storm_of_connections_is_no_storm_of_pings() -> None:
    """Peers that come at once are spread over half of the ring."""
    ring = PingRing(5.0, 1.0)
    for _ in range(1_000):
        ring.add(FakePeer())

    assert [0, 20] == sorted({len(slot) for slot in ring.slots})


def test_peers_that_come_one_by_one_stand_apart() -> None:
    """A steady stream of peers, one in each step, is spread as well."""
    ring = PingRing(5.0, 1.0)
    for _ in range(1_000):
        ring.add(FakePeer())
        ring.step()

    assert max(len(slot) for slot in ring.slots) <= 20


def test_plan() -> None:
    """Each step is due a step after the one before was, however late that one came."""
    ring = PingRing(5.0, 1.0)

    due = [ring.start(100.0), ring.plan(100.05), ring.plan(100.149), ring.plan(100.15)]

    assert [pytest.approx(at) for at in (100.05, 100.1, 100.15, 100.2)] == due


def test_plan_after_a_stall() -> None:
    """After a stall the next step is due at once, and those that were missed are left out."""
    ring = PingRing(5.0, 1.0)
    ring.start(100.0)

    due = [ring.plan(107.0), ring.plan(107.0)]

    assert [107.0, pytest.approx(107.05)] == due


def test_start_again() -> None:
    """A ring that stood still begins to count anew."""
    ring = PingRing(5.0, 1.0)
    ring.start(100.0)

    assert pytest.approx(200.05) == ring.start(200.0)


def test_added_twice() -> None:
    """Adding a peer that stands somewhere is a bug, and is found."""
    ring = PingRing(1.0, 1.0)
    peer = FakePeer()
    ring.add(peer)

    with pytest.raises(AssertionError):
        ring.add(peer)


def test_remove() -> None:
    """Who left is not pinged, may leave again, and may come back."""
    ring = PingRing(0.2, 1.0)
    peer = FakePeer()
    ring.add(peer)

    ring.remove(peer)
    ring.remove(peer)
    step(ring, 8)

    assert ([], 0, -1) == (peer.calls, ring.peer_count, peer.ping_slot)
    ring.add(peer)
    assert 1 == ring.peer_count


@pytest.mark.parametrize("timeout", [0.1, 0.3, 0.95])
def test_silence_within_an_interval(timeout: float) -> None:
    """A time-out below the interval is found in its own step, before the next ping."""
    ring = PingRing(1.0, timeout)
    peer = FakePeer(answers=False)
    peer.leaves = [(ring, peer)]
    ring.add(peer)

    pinged_at = 0
    while "silent" not in peer.calls:
        ring.step()
        pinged_at = pinged_at or peer.unheard_since or 0

    assert ["ping", "silent"] == peer.calls
    assert timeout == pytest.approx((ring.number - pinged_at) * ring.step_seconds)


def test_a_time_out_between_two_steps() -> None:
    """A time-out that is no multiple of a step ends with the step after it, never before."""
    ring = PingRing(1.0, 0.12)

    assert 3 == ring.timeout_steps


def test_silence_past_an_interval() -> None:
    """With a time-out above the interval a peer is pinged again, and found after it has passed."""
    ring = PingRing(0.2, 0.5)
    peer = FakePeer(answers=False)
    peer.leaves = [(ring, peer)]
    ring.add(peer)

    step(ring, 40)

    assert ["ping", "ping", "ping", "silent"] == peer.calls


@pytest.mark.parametrize("intervals", [1, 2])
def test_time_out_of_whole_intervals(intervals: int) -> None:
    """A peer whose time-out ends with its next ping is given up once, and not pinged then.

    Uvicorn's flags are 20 s and 20 s unless told.
    """
    ring = PingRing(0.4, 0.4 * intervals)
    peer = FakePeer(answers=False)
    ring.add(peer)

    while "silent" not in peer.calls:
        ring.step()

    assert [*["ping"] * intervals, "silent"] == peer.calls


def test_who_was_given_up_is_not_pinged() -> None:
    """A peer that leaves the ring when its silence is told is not called any more."""
    ring = PingRing(0.4, 0.4)
    peer = FakePeer(answers=False)
    peer.leaves = [(ring, peer)]
    ring.add(peer)

    step(ring, 24)

    assert ["ping", "silent"] == peer.calls


@pytest.mark.parametrize(("timeout", "calls"), [(0.4, 2), (0.8, 3)])
def test_leaving_in_the_step_of_its_ping(timeout: float, calls: int) -> None:
    """A peer that leaves when its silence is told, just where its ping is due, is not pinged."""
    ring = PingRing(0.4, timeout)
    peer = FakePeer(answers=False)
    peer.leaves = [(ring, peer)]
    ring.add(peer)

    step(ring, 40)

    assert (["ping", "ping", "silent"][-calls:], -1) == (peer.calls, peer.ping_slot)


def test_silent_when_its_ping_is_due() -> None:
    """A peer whose time-out passed since its slot was looked at is found before its next ping."""
    ring = PingRing(0.4, 1.0)
    peer = FakePeer(answers=False)
    peer.leaves = [(ring, peer)]
    ring.add(peer)
    step(ring, 8)
    # As if it had been pinged in another step: who owns the peer may have set it back.
    peer.unheard_since = ring.number - ring.timeout_steps
    slot = peer.ping_slot
    while (ring.number + 1) % len(ring.slots) != slot:
        ring.number += 1

    ring.step()

    assert ["ping", "silent"] == peer.calls


def test_hearing_a_peer() -> None:
    """Any sign of life counts, and the time-out begins anew with the next ping."""
    ring = PingRing(0.5, 0.2)
    peer = FakePeer(answers=False)
    ring.add(peer)

    for _ in range(50):
        ring.step()
        if peer.unheard_since is not None and ring.number == peer.unheard_since + 3:
            peer.unheard_since = None

    assert ["ping"] * 5 == peer.calls


def test_first_unanswered_ping_counts() -> None:
    """Pings that follow an unanswered one do not give more time."""
    ring = PingRing(0.4, 1.0)
    peer = FakePeer(answers=False)
    ring.add(peer)

    step(ring, 8)
    first = peer.unheard_since
    step(ring, 8)

    assert first is not None
    assert (["ping", "ping"], first) == (peer.calls, peer.unheard_since)


def test_others_leave_meanwhile() -> None:
    """A peer that takes its neighbours along when it is dropped disturbs no step."""
    ring = PingRing(0.05, 0.05)
    peers = [FakePeer(answers=False) for _ in range(3)]
    for peer in peers:
        peer.leaves = [(ring, other) for other in peers]
        ring.add(peer)

    step(ring, 2)

    assert (0, ["ping", "silent"]) == (ring.peer_count, peers[0].calls)
