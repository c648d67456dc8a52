"""Delays between tries."""

from __future__ import annotations

import pytest

from wirebell.backoff import Backoff


def test_delays_double_up_to_a_bound() -> None:
    """The bound of a delay doubles from try to try, and stops at the longest."""
    backoff = Backoff(0.1, 1.0, random=lambda: 1.0)

    delays = [backoff.next_delay() for _ in range(6)]

    assert [0.1, 0.2, 0.4, 0.8, 1.0, 1.0] == pytest.approx(delays)


def test_delays_have_full_jitter() -> None:
    """A delay is anything from 0 to its bound."""
    numbers = iter((0.0, 0.5))
    backoff = Backoff(0.1, 1.0, random=lambda: next(numbers))

    assert 0.0 == backoff.next_delay()
    assert pytest.approx(0.1) == backoff.next_delay()


def test_reset() -> None:
    """A link that stands begins with the first bound the next time."""
    backoff = Backoff(0.1, 1.0, random=lambda: 1.0)
    backoff.next_delay()
    backoff.next_delay()

    backoff.reset()

    assert pytest.approx(0.1) == backoff.next_delay()


def test_stays_within_its_bounds_by_itself() -> None:
    """The standard library's numbers stay within the bound."""
    backoff = Backoff()

    assert all(0 <= backoff.next_delay() <= 5.0 for _ in range(50))


@pytest.mark.parametrize(("first", "longest"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_bounds(first: float, longest: float) -> None:
    """A bound that makes no sense is refused."""
    with pytest.raises(ValueError, match="first_seconds must be above 0"):
        Backoff(first, longest)
