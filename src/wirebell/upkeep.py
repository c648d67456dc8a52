"""What a node does at intervals: ping its peers, renew presence, compare positions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from wirebell.background import Background
from wirebell.connection import Connection
from wirebell.deadlines import Deadline
from wirebell.errors import BrokerError
from wirebell.leases import Leases
from wirebell.liveness import PingRing
from wirebell.receiving.positions import Positions
from wirebell.settings import Settings

__all__ = ("Upkeep",)

# A store that failed is asked again so soon: well within the lease that is left.
PRESENCE_RETRY_SECONDS = 5.0


class Upkeep:
    """The recurring work of a node, each kind once at a time. Used on the node's event loop.

    Args:
        settings: Intervals.
        connections: Client id → connection.
        pings: Who is pinged when.
        leases: Renews presence.
        positions: Compares positions.
        schedule: Has something called after so many seconds.
        background: Runs what nobody waits for.
    """

    def __init__(
        self,
        settings: Settings,
        connections: Mapping[str, Connection],
        pings: PingRing,
        leases: Leases,
        positions: Positions,
        schedule: Callable[[float, Callable[[], None]], Deadline],
        background: Background,
    ) -> None:
        self.settings = settings
        self.connections = connections
        self.pings = pings
        self.leases = leases
        self.positions = positions
        self.schedule = schedule
        self.background = background

    def start(self) -> None:
        """Plan all of it."""
        self.schedule(self.settings.presence_refresh_seconds, self._refresh_presence)
        self.schedule(self.settings.channel_position_check_seconds, self._check_positions)
        now = self._now()
        self.schedule(self.pings.start(now) - now, self._ping)

    def renew_presence(self) -> None:
        """Renew the leases of everybody who is connected here, unless that still runs."""
        if not self.leases.is_renewing:
            self.background.spawn(self._renew_presence())

    async def _renew_presence(self) -> None:
        """Renew leases; when the store does not answer they are renewed again soon."""
        try:
            await self.leases.renew(list(self.connections.values()))
        except BrokerError as error:
            self.background.note_failure(error)
            delay = min(PRESENCE_RETRY_SECONDS, self.settings.presence_refresh_seconds)
            self.schedule(delay, self.renew_presence)

    def _refresh_presence(self) -> None:
        """Renew leases, and come back."""
        self.schedule(self.settings.presence_refresh_seconds, self._refresh_presence)
        self.renew_presence()

    def _check_positions(self) -> None:
        """Look for what the broker lost on its way here, unless the last look still runs."""
        self.schedule(self.settings.channel_position_check_seconds, self._check_positions)
        if not self.positions.is_checking:
            self.background.spawn(self.positions.check())

    def _ping(self) -> None:
        """Ping those whose turn it is."""
        now = self._now()
        self.schedule(self.pings.plan(now) - now, self._ping)
        self.pings.step()

    def _now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()
