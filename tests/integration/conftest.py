"""The servers that integration tests share; one process each for the whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import (
    assert_echoes,
    connect,
    our_failures,
    receive,
    wait_quiet,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.servers import Server

SHORT = {
    "WIREBELL_HEARTBEAT_INTERVAL_SECONDS": "0.3",
    "WIREBELL_FIRST_MESSAGE_TIMEOUT_SECONDS": "0.5",
    "WIREBELL_PING_INTERVAL_SECONDS": "0.4",
    "WIREBELL_PONG_TIMEOUT_SECONDS": "0.6",
    "WIREBELL_DEMO_TOKEN_TTL_SECONDS": "3",
    "WIREBELL_DEMO_TICKET_TTL_SECONDS": "1",
}
"""Intervals that a test can wait for."""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of `demo`."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def shared_demo(data_dir: Path) -> Iterator[Server]:
    """Run the demo as a user would, with no settings."""
    with servers.demo(data_dir) as server:
        yield server


@pytest.fixture
async def demo(shared_demo: Server) -> AsyncIterator[Server]:
    """Hand out the shared demo when no connection of an earlier test is left on it."""
    await wait_quiet(shared_demo)
    yield shared_demo
    assert shared_demo.process.poll() is None, shared_demo.log()


@pytest.fixture(scope="session")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the demo with short intervals."""
    with servers.demo(tmp_path_factory.mktemp("short"), env=SHORT) as server:
        yield server


@pytest.fixture
async def healthy(demo: Server) -> AsyncIterator[Server]:
    """Hand out the demo with a bystander, who must be served before, during and after."""
    async with connect(demo, "/ws") as bystander:
        failures = our_failures(demo)
        yield demo
        await bystander.send("still served")
        assert await receive(bystander) == "Message received: still served"
    await assert_echoes(demo)
    assert our_failures(demo) == failures, demo.log()[-4_000:]
