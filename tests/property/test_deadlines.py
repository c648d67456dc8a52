"""The timer wheel against a list of instants."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings, strategies as st

from wirebell.deadlines import Deadline, DeadlineWheel

RESOLUTION = 0.05
# Floats near 10,000 s are this far apart; nothing in the wheel is finer.
ROUNDING = 1e-9

INSTANTS = st.floats(0, 10_000, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(
    planned=st.lists(st.tuples(INSTANTS, st.booleans()), max_size=30),
    looks=st.lists(INSTANTS, max_size=20),
)
def test_never_early_and_hardly_late(planned: list[tuple[float, bool]], looks: list[float]) -> None:
    """Each deadline is handed out once: not early, and by the first look a resolution later."""
    wheel = DeadlineWheel(RESOLUTION)
    open_: dict[int, float] = {}
    fired: list[int] = []
    for number, (at, is_cancelled) in enumerate(planned):
        deadline: Deadline = wheel.schedule(at, lambda number=number: fired.append(number))  # type: ignore[misc]
        if is_cancelled:
            wheel.cancel(deadline)
        else:
            open_[number] = at

    for now in [*sorted(looks), 20_000.0]:
        fired.clear()
        for callback in wheel.due(now):
            callback()

        late = [at for number, at in open_.items() if number not in fired]
        assert all(open_.pop(number) <= now + ROUNDING for number in fired)
        assert all(at + RESOLUTION > now - ROUNDING for at in late)

    assert {} == open_
    assert wheel.next_at() is None


@settings(max_examples=100, deadline=None)
@given(instants=st.lists(INSTANTS, min_size=1, max_size=20))
def test_waking_when_told(instants: list[float]) -> None:
    """Who calls at `next_at`, and only then, hands out everything, earliest first."""
    wheel = DeadlineWheel(RESOLUTION)
    fired: list[float] = []
    for at in instants:
        wheel.schedule(at, lambda at=at: fired.append(at))  # type: ignore[misc]

    looks = 0
    while (now := wheel.next_at()) is not None:
        callbacks = wheel.due(now)
        assert callbacks
        for callback in callbacks:
            callback()
        looks += 1

    assert sorted(instants) == sorted(fired)
    assert looks <= len(instants)
    assert all(one <= two + RESOLUTION for one, two in pairwise(fired))
