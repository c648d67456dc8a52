"""A client's deadlines: one of a name, and none for who is gone."""

from __future__ import annotations

import pytest

from tests.unit.clocks import pass_time
from tests.unit.nodes import running
from wirebell.client_deadlines import ClientDeadlines

pytestmark = pytest.mark.anyio


async def test_one_of_a_name() -> None:
    """What is planned again is called once, at the later time; others are their own."""
    async with running() as rig:
        called: list[str] = []
        deadlines = ClientDeadlines(rig.node)
        deadlines.plan("a", 1.0, lambda: called.append("early"))
        deadlines.plan("b", 1.0, lambda: called.append("b"))
        deadlines.plan("a", 2.0, lambda: called.append("late"))

        await pass_time(1.5)
        assert ["b"] == called
        await pass_time(1.0)

        assert ["b", "late"] == called
        assert () == deadlines.planned


async def test_cancel() -> None:
    """What is cancelled is not called; cancelling is idempotent, also afterwards."""
    async with running() as rig:
        called: list[str] = []
        deadlines = ClientDeadlines(rig.node)
        deadlines.cancel("a")
        deadlines.plan("a", 1.0, lambda: called.append("a"))
        deadlines.plan("b", 1.0, lambda: called.append("b"))

        deadlines.cancel("a")
        deadlines.cancel("a")
        await pass_time(2.0)
        deadlines.cancel("b")

        assert ["b"] == called


async def test_planning_the_next_one() -> None:
    """A callback may plan its own repetition."""
    async with running() as rig:
        called: list[str] = []
        deadlines = ClientDeadlines(rig.node)

        def repeat() -> None:
            called.append("x")
            deadlines.plan("a", 1.0, repeat)

        deadlines.plan("a", 1.0, repeat)
        await pass_time(3.5)

        assert 3 == len(called)


async def test_close() -> None:
    """Who is gone has nothing planned, and plans nothing."""
    async with running() as rig:
        called: list[str] = []
        deadlines = ClientDeadlines(rig.node)
        deadlines.plan("a", 1.0, lambda: called.append("a"))

        deadlines.close()
        deadlines.close()
        deadlines.plan("b", 1.0, lambda: called.append("b"))
        await pass_time(2.0)

        assert ([], ()) == (called, deadlines.planned)
