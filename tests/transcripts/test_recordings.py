"""Every recording of the real server, played against Wirebell with the same options.

What a case here does not complain about is the same on the wire; what we do otherwise on purpose
stands in ``protocol/transcripts/DIFFERENCES.md`` and is checked as exactly as the rest. The
scenarios are played side by side, once for this file: most of their time is somebody waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.transcripts.backend import Backend
from tests.transcripts.player import Player
from tests.transcripts.recordings import list_accepted, list_recordings, read_recording
from tests.transcripts.server import run_wirebell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.transcripts.recordings import Recording

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AT_ONCE = 8
"""Quick scenarios that share this process; more would only wait for each other."""

NOT_PLAYED = {row.scenario: row.reason for row in list_accepted() if not row.is_played}

CASES = [name for name in list_recordings() if name not in NOT_PLAYED]


def adapt(name: str) -> Recording:
    """Return a recording with the differences that we accept."""
    rows = [row for row in list_accepted() if row.scenario == name]
    return read_recording(name).with_accepted(rows)


@contextlib.asynccontextmanager
async def prepare(recording: Recording) -> AsyncIterator[Player]:
    """Start what a recording needs, and stop it at the end of the block."""
    async with contextlib.AsyncExitStack() as stack:
        backend = None
        if recording.needs_backend:
            backend = await stack.enter_async_context(Backend())
        configuration = recording.configuration(backend.url if backend else "")
        server = await stack.enter_async_context(run_wirebell(configuration))
        yield Player(recording, server.url, backend=backend, stop_server=server.stop)


async def play(player: Player) -> str:
    """Play one recording; return what was different, one line each."""
    try:
        return "\n".join(map(str, await player.play()))
    except Exception:  # noqa: BLE001 - the case of the scenario shows it
        return traceback.format_exc()


async def play_all(recordings: Sequence[Recording]) -> dict[str, str]:
    """Play the slow ones side by side, then the quick ones, a few at a time."""
    results: dict[str, str] = {}
    slow = [recording for recording in recordings if recording.is_slow]
    started, turns = asyncio.Barrier(max(1, len(slow))), asyncio.Semaphore(AT_ONCE)

    async def play_slow(recording: Recording) -> None:
        async with prepare(recording) as player:
            # Only theirs depend on time: nobody may start a server meanwhile.
            await started.wait()
            results[recording.name] = await play(player)

    async def play_quick(recording: Recording) -> None:
        async with turns, prepare(recording) as player:
            results[recording.name] = await play(player)

    async with asyncio.TaskGroup() as group:
        for recording in slow:
            group.create_task(play_slow(recording))
    async with asyncio.TaskGroup() as group:
        for recording in recordings:
            if not recording.is_slow:
                group.create_task(play_quick(recording))
    return results


@pytest.fixture(scope="module")
def differences(request: pytest.FixtureRequest) -> dict[str, str]:
    """Play the chosen scenarios, in a thread: there uvicorn leaves signals alone."""
    names = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    chosen = [adapt(name) for name in names]
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, play_all(chosen)).result()


@pytest.mark.parametrize("name", CASES)
def test_scenario(name: str, differences: dict[str, str]) -> None:
    """What our clients receive is what the clients of the real server received."""
    assert "" == differences[name]
