"""A future that tells at once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from wirebell.deferred import Deferred

pytestmark = pytest.mark.anyio


async def test_callbacks_run_at_once() -> None:
    """In their order, while it is settled; one that comes later, when it comes."""
    deferred: Deferred[int] = Deferred()
    seen: list[tuple[str, int]] = []
    for name in "ab":
        deferred.add_done_callback(lambda settled, name=name: seen.append((name, settled.result())))  # type: ignore[misc]

    before = list(seen)
    deferred.set_result(7)
    after = list(seen)
    deferred.add_done_callback(lambda settled: seen.append(("c", settled.result())))

    assert ([], [("a", 7), ("b", 7)], [("a", 7), ("b", 7), ("c", 7)]) == (before, after, seen)


async def test_who_waits() -> None:
    """Several may await it, before and afterwards."""
    deferred: Deferred[str] = Deferred()

    async def wait() -> str:
        return await deferred

    tasks = [asyncio.create_task(wait()) for _ in range(2)]
    await asyncio.sleep(0)
    deferred.set_result("there")

    assert ["there", "there", "there"] == [*await asyncio.gather(*tasks), await deferred]


async def test_an_error() -> None:
    """It is raised to who awaits it or asks for the result, and shown to who asks for it."""
    deferred: Deferred[None] = Deferred()
    error = ValueError("no")
    before = deferred.exception()
    deferred.set_exception(error)

    with pytest.raises(ValueError, match="no"):
        await deferred
    with pytest.raises(ValueError, match="no"):
        deferred.result()
    assert (None, error) == (before, deferred.exception())
    assert (True, False) == (deferred.done(), deferred.cancelled())


async def test_who_goes_away_leaves_it() -> None:
    """The cancellation of one who awaits it is nobody else's."""
    deferred: Deferred[int] = Deferred()

    async def wait() -> int:
        return await deferred

    goes, stays = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.wait([goes])
    deferred.set_result(1)

    assert goes.cancelled()
    assert 1 == await stays


async def test_cancelling_it() -> None:
    """It is settled once: who cancels first is told so, and who comes later that it is over."""
    deferred: Deferred[int] = Deferred()
    seen: list[bool] = []
    deferred.add_done_callback(lambda settled: seen.append(settled.cancelled()))

    assert (True, False) == (deferred.cancel("too late"), deferred.cancel())
    assert (True, True, [True]) == (deferred.done(), deferred.cancelled(), seen)
    with pytest.raises(asyncio.CancelledError, match="too late"):
        deferred.result()


async def test_not_settled_yet() -> None:
    """There is no result before."""
    deferred: Deferred[int] = Deferred()

    with pytest.raises(asyncio.InvalidStateError, match="not settled"):
        deferred.result()
    assert not deferred.done()


async def test_a_callback_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next one is called."""
    deferred: Deferred[int] = Deferred()
    seen: list[int] = []
    deferred.add_done_callback(lambda _: 1 / 0)
    deferred.add_done_callback(lambda settled: seen.append(settled.result()))

    with caplog.at_level(logging.ERROR):
        deferred.set_result(3)

    assert [3] == seen
    assert "a callback failed" in caplog.text
