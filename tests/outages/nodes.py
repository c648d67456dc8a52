"""Nodes: each is ``wirebell serve`` on a port that it keeps, killed, paused and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.standalone import Standalone, standalone

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("KEY", "Node", "write_configuration")

KEY = "key-of-the-publisher"
READY_SECONDS = 30.0
CONFIGURATION = {
    "http_api": {"key": KEY},
    "health": {"enabled": True},
    "client": {"allow_anonymous_connect_without_token": True},
    "channel": {
        "without_namespace": {
            "allow_subscribe_for_client": True,
            "allow_subscribe_for_anonymous": True,
            "history_size": 1000,
            "history_ttl": "10m",
            "force_positioning": True,
            "force_recovery": True,
        }
    },
}


def write_configuration(folder: Path) -> Path:
    """Write what all nodes read."""
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIGURATION))
    return path


@dataclass
class Node:
    """One node.

    Attributes:
        configuration: File that it reads.
        broker_url: Where its broker is.
        host: Where it listens, and is reached.
        port: Likewise.
        place: Enters the network in which it lives.
    """

    configuration: Path
    broker_url: str
    host: str
    port: int
    place: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    stack: ExitStack = field(default_factory=ExitStack)
    process: Standalone | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://{self.host}:{self.port}/connection/websocket"

    def start(self) -> None:
        """Start it, and wait until it takes clients."""
        arguments = (
            *("--host", self.host, "--port", str(self.port)),
            *(f"--config={self.configuration}", "--close_timeout_seconds=1"),
        )
        environment = {"WIREBELL_BROKER_URL": self.broker_url}
        with self.place():
            self.process = self.stack.enter_context(
                standalone(self.configuration.parent, *arguments, env=environment)
            )

    def kill(self) -> None:
        """Kill it; idempotent."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.process.pid, signal.SIGKILL)
            self.process.process.wait()
            self.stack.close()

    def pause(self) -> None:
        """Stop it in the middle of what it does."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        os.killpg(self.process.process.pid, number)

    def has_ended(self) -> bool:
        """Tell whether it ended by itself."""
        return self.process is not None and self.process.process.poll() is not None
