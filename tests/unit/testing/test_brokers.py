"""The test kit's own parts."""

from __future__ import annotations

import asyncio

import pytest

from wirebell.model import Publication
from wirebell.testing import ManualClock, RecordingListener

pytestmark = pytest.mark.anyio


def test_manual_clock() -> None:
    """The clock stands until it is told."""
    clock = ManualClock()
    start = clock()

    clock.advance(2.5)

    assert (start + 2.5, start + 2.5) == (clock(), clock())


async def test_listener_waits() -> None:
    """The listener waits for so many items of a channel, and for no others."""
    listener = RecordingListener()
    loop = asyncio.get_running_loop()
    for number, channel in enumerate(("a", "b", "a")):
        loop.call_later(number, listener.handle_item, channel, Publication(b"%d" % number))

    items = await listener.wait_count("a", 2)

    assert [Publication(b"0"), Publication(b"2")] == items


async def test_listener_gives_up() -> None:
    """What does not come in time is a failed assertion that says what was expected."""
    listener = RecordingListener()

    with pytest.raises(AssertionError, match="1 items expected in 'a', got"):
        await listener.wait_count("a", 1)
