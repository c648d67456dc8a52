"""What a process counts: links that were cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.unit.clocks import turns
from tests.unit.sockets import FakeSocket
from wirebell.process import PROCESS, abort_late

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _counters() -> Iterator[None]:
    """Put the process' counters back."""
    before = PROCESS.aborted_count
    yield
    PROCESS.aborted_count = before


@pytest.mark.parametrize(
    ("buffer_bytes", "is_closing", "count"),
    [(0, False, 1), (10, False, 1), (10, True, 1), (0, True, 0)],
    ids=["open", "open and stuck", "closing and stuck", "closed"],
)
async def test_abort_late(buffer_bytes: int, is_closing: bool, count: int) -> None:
    """Whatever is left of a link is cut; one that has closed by itself is not counted."""
    socket, before = FakeSocket(asyncio.Protocol()), PROCESS.aborted_count
    socket.buffer_bytes, socket.is_closed = buffer_bytes, is_closing

    abort_late(socket)
    await turns()

    assert (True, count) == (socket.is_aborted, PROCESS.aborted_count - before)
