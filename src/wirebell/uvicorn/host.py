"""What all WebSockets of one uvicorn server share: pings, the drain, the reserve of descriptors.

Uvicorn makes a protocol object for each connection and gives it the server's state; this is kept
beside that state, as long as it lives. Used on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

from wirebell.liveness import PingRing
from wirebell.process import PROCESS, Descriptors, read_descriptors_max
from wirebell.settings import Settings
from wirebell.takeover import Work

__all__ = ("ServerHost", "host_of")

# Read once, when uvicorn imports the class it was told to use: a value out of its bounds stops the
# server at once, in the words of the settings.
SETTINGS = Settings()

# Closing 100 connections a second is no storm for anybody: fewer are not spread any thinner.
DRAIN_STEP_SECONDS_MAX = 0.01
# Long enough for a close frame to leave.
RELOAD_SECONDS = 0.05
# Of a deadline that leaves no time for closing handshakes half goes to the window all the same.
DEADLINE_SHARE = 0.5


class ServerHost:
    """A `wirebell.takeover.Host`: one uvicorn server.

    Mutable state: the ring of pings of sockets that their endpoint keeps, and the running drain.

    Args:
        config: Uvicorn's, with its flags.
        state: The server's.
        settings: Ours.
    """

    def __init__(self, config: Config, state: ServerState, settings: Settings) -> None:
        self.settings = settings
        self.config = config
        # It waits for them when it stops, and cancels those that take too long.
        self.tasks = cast("set[Work]", state.tasks)
        self.connections: set[Any] = state.connections
        self.ring: PingRing | None = None
        if config.ws_ping_interval:
            # Without a time-out nobody is dropped: an hour is longer than any proxy keeps silence.
            timeout = config.ws_ping_timeout or 3600.0
            self.ring = PingRing(config.ws_ping_interval, timeout)
        self.is_ringing = False
        # With --reload somebody waits in front of the screen: nobody is waited for.
        self.drain_timeout_seconds = (
            RELOAD_SECONDS if config.should_reload else settings.close_timeout_seconds
        )
        self.is_draining = False
        self.drain_step_seconds: float | None = None
        self.drain_count = 0

    # Pings

    def start_pings(self) -> None:
        """Turn the ring of kept sockets, as long as there are any; idempotent."""
        if self.ring is not None and not self.is_ringing:
            self.is_ringing = True
            loop = asyncio.get_running_loop()
            loop.call_at(self.ring.start(loop.time()), self._step, self.ring)

    def _step(self, ring: PingRing) -> None:
        """Ping those whose turn it is."""
        if ring.peer_count == 0:
            self.is_ringing = False
            return
        loop = asyncio.get_running_loop()
        loop.call_at(ring.plan(loop.time()), self._step, ring)
        ring.step()

    # Drain

    def plan_drain(self, close: Callable[[], None]) -> None:
        """Have ``close`` called within the window, each call a step after the one before."""
        self.is_draining = True
        if self.drain_step_seconds is None:
            self.drain_step_seconds = self._choose_step(len(self.connections))
        delay = self.drain_count * self.drain_step_seconds
        self.drain_count += 1
        PROCESS.drained_count += 1
        if delay:
            asyncio.get_running_loop().call_later(delay, close)
        else:
            close()

    def _choose_step(self, count: int) -> float:
        """Spread ``count`` closes over the window; with ``--reload`` there is none."""
        if self.config.should_reload:
            return 0.0
        window = self.settings.drain_window_seconds
        deadline = self.config.timeout_graceful_shutdown
        if deadline is not None:
            left = deadline - self.settings.close_timeout_seconds - 1.0
            window = min(window, max(left, deadline * DEADLINE_SHARE))
        return min(window / max(count, 1), DRAIN_STEP_SECONDS_MAX)

    def abort(self, transport: asyncio.Transport) -> None:
        """Cut a link that did not end in time, and count it."""
        PROCESS.aborted_count += 1
        transport.abort()

    # Descriptors

    def has_descriptor(self, transport: asyncio.Transport) -> bool:
        """Tell whether a new connection leaves the process its reserve of descriptors."""
        link = transport.get_extra_info("socket")
        if link is None:
            return True
        descriptors = Descriptors(read_descriptors_max(), self.settings.descriptors_spare)
        return not descriptors.is_reserved(link.fileno())


_hosts: WeakKeyDictionary[ServerState, ServerHost] = WeakKeyDictionary()


def host_of(config: Config, state: ServerState) -> ServerHost:
    """Return what the connections of one server share."""
    host = _hosts.get(state)
    if host is None:
        host = _hosts[state] = ServerHost(config, state, SETTINGS)
    return host
