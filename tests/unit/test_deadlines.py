"""The timer wheel."""

from __future__ import annotations

import pytest

from wirebell.deadlines import DeadlineWheel


def test_resolution_is_above_zero() -> None:
    """A wheel without width is refused."""
    with pytest.raises(ValueError, match="resolution_seconds must be above 0, got 0"):
        DeadlineWheel(0)


def test_nothing_planned() -> None:
    """An empty wheel asks for no call and hands nothing out."""
    wheel = DeadlineWheel(1.0)

    assert wheel.next_at() is None
    assert [] == wheel.due(1e9)


def test_due_in_order() -> None:
    """Callbacks come out earliest bucket first, in the order of scheduling within one."""
    wheel = DeadlineWheel(1.0)
    called: list[str] = []
    for name, at in (("c", 2.5), ("a", 0.5), ("b", 0.6)):
        wheel.schedule(at, lambda name=name: called.append(name))  # type: ignore[misc]

    for callback in wheel.due(3.0):
        callback()

    assert ["a", "b", "c"] == called
    assert wheel.next_at() is None


def test_never_early() -> None:
    """A deadline inside a bucket waits for the bucket's end."""
    wheel = DeadlineWheel(0.5)
    wheel.schedule(1.1, lambda: None)

    assert wheel.next_at() == 1.5
    assert [] == wheel.due(1.4)
    assert len(wheel.due(1.5)) == 1


def test_cancel() -> None:
    """A cancelled deadline is not handed out; cancelling again, or late, does nothing."""
    wheel = DeadlineWheel(1.0)
    cancelled = wheel.schedule(1.0, lambda: None)
    fired = wheel.schedule(1.0, lambda: None)

    wheel.cancel(cancelled)
    wheel.cancel(cancelled)

    assert [fired.callback] == wheel.due(1.0)
    wheel.cancel(fired)
    assert [] == wheel.due(9.0)


def test_next_passes_over_the_cancelled() -> None:
    """A bucket in which everything was cancelled wakes nobody, and is freed."""
    wheel = DeadlineWheel(1.0)
    first = wheel.schedule(1.0, lambda: None)
    wheel.schedule(2.0, lambda: None)

    wheel.cancel(first)

    assert wheel.next_at() == 2.0
    assert {2} == wheel.buckets.keys()


def test_bucket_can_be_used_again() -> None:
    """After a bucket was emptied the same instant can be planned again."""
    wheel = DeadlineWheel(1.0)
    wheel.cancel(wheel.schedule(1.0, lambda: None))
    assert wheel.next_at() is None

    again = wheel.schedule(1.0, lambda: None)

    assert [again.callback] == wheel.due(1.0)


def test_cancelled_deadlines_leave_nothing() -> None:
    """Deadlines that were planned far ahead and cancelled do not pile up."""
    wheel = DeadlineWheel(0.05)
    kept = wheel.schedule(1.0, lambda: None)

    for number in range(10_000):
        wheel.cancel(wheel.schedule(1e6 + number, lambda: None))

    assert 1 == len(wheel.buckets)
    assert len(wheel.order) <= 2 + 64 + 1
    assert kept.bucket in wheel.buckets
    assert 1 == len(wheel.due(2.0))
    assert wheel.next_at() is None
