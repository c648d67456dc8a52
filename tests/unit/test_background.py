"""Tasks that nobody waits for, and their failures."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.unit.clocks import pass_time, turns
from wirebell.background import FAILURE_LOG_SECONDS, Background
from wirebell.errors import BrokerUnavailable, NotRunning
from wirebell.statistics import NodeStatistics

pytestmark = pytest.mark.anyio


async def fail(error: Exception) -> None:
    """Raise."""
    raise error


async def test_failures(caplog: pytest.LogCaptureFixture) -> None:
    """Every failure is counted; of a broker that is away one is told in a while."""
    background = Background(asyncio.get_running_loop, NodeStatistics())
    for _ in range(3):
        background.spawn(fail(BrokerUnavailable("away")))
    await turns()
    background.spawn(fail(ZeroDivisionError("a bug")))
    await pass_time(FAILURE_LOG_SECONDS)
    background.spawn(fail(BrokerUnavailable("still away")))
    await turns()

    assert 5 == background.statistics.broker_error_count
    assert [
        "the broker failed, 1 times since the start: away",
        "work that nobody waits for failed",
        "the broker failed, 5 times since the start: still away",
    ] == [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert set() == background.tasks


async def test_not_running() -> None:
    """Work that comes when the node does not run is dropped, and says so."""

    def no_loop() -> asyncio.AbstractEventLoop:
        raise NotRunning

    background = Background(no_loop, NodeStatistics())
    with pytest.raises(NotRunning):
        background.spawn(fail(ZeroDivisionError()))


async def test_the_end() -> None:
    """What runs has its time, and then is cancelled; what was cancelled is no failure."""
    background = Background(asyncio.get_running_loop, NodeStatistics())
    done: list[str] = []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        done.append(f"{seconds:g}")

    for seconds in (1, 3):
        background.spawn(work(seconds))
    other = asyncio.create_task(asyncio.sleep(100))
    await background.aclose([other], timeout_seconds=2)

    assert (["1"], True, 0) == (done, other.cancelled(), background.statistics.broker_error_count)
