"""A Wirebell for one scenario: in this process, on a port of its own, configured from its file.

A process for each of 260 scenarios would cost minutes; an application and a listener cost
milliseconds, and each scenario finds channels that nobody has used.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from wirebell.configuration import load
from wirebell.serve import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ("Running", "run_wirebell")

START_SECONDS = 30.0


@dataclass
class Running:
    """A server that serves.

    Attributes:
        url: Base of HTTP addresses, without a slash at the end.
    """

    url: str
    _server: uvicorn.Server
    _task: asyncio.Task[None]

    async def stop(self) -> None:
        """Tell it to end, as a signal does; its connections learn why."""
        self._server.should_exit = True


async def _ask_once(port: int) -> None:
    """Ask for something that is not there: FastAPI builds its routes at the first request.

    That takes tens of milliseconds, and would fall into the time that scenarios are about.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()


@contextlib.asynccontextmanager
async def run_wirebell(configuration: dict[str, Any]) -> AsyncIterator[Running]:
    """Run Wirebell until the block ends.

    Args:
        configuration: The tree of a configuration file.
    """
    with tempfile.TemporaryDirectory(prefix="wirebell-transcript-") as folder:
        path = Path(folder) / "wirebell.json"
        path.write_text(json.dumps(configuration))
        loaded = load(path, {}, {})
    # As `wirebell serve` has it, but for the logs: they are the whole process'.
    server = uvicorn.Server(
        uvicorn.Config(
            partial(create_app, loaded),
            factory=True,
            http="wirebell.uvicorn:HTTPProtocol",
            ws="wirebell.uvicorn:WebSocketProtocol",
            ws_max_size=loaded.settings.message_bytes_max,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", server, task)
        async with asyncio.timeout(START_SECONDS):
            while not server.started and not task.done():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
            await _ask_once(listener.getsockname()[1])
        try:
            yield running
        finally:
            await running.stop()
            await task
