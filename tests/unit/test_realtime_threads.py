"""Publishing from other threads: on an ordinary loop, which threads can wake."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from wirebell import BadRequest, History, Realtime, Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on an ordinary loop."""
    return "asyncio"


async def test_publish_from_thread() -> None:
    """A thread publishes, waits for the position, and gets the error of a bad call."""
    rt = Realtime(Settings())
    rt.channel("a", history=History())
    async with rt.lifespan(FastAPI()):
        position = await asyncio.to_thread(rt.publish_from_thread, "a", "x", idempotency_key="k")
        again = await asyncio.to_thread(rt.publish_from_thread, "a", "x", idempotency_key="k")
        with pytest.raises(BadRequest):
            await asyncio.to_thread(rt.publish_from_thread, "", "x")

    assert (1, 1) == (position.offset, again.offset)


async def test_another_loop_in_another_thread() -> None:
    """A thread that runs a loop of its own may publish too."""
    rt = Realtime(Settings())

    async def publish() -> int:
        return rt.publish_from_thread("a", "x").offset

    async with rt.lifespan(FastAPI()):
        offset = await asyncio.to_thread(asyncio.run, publish())

    assert 0 == offset
