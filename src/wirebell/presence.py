"""Who is in a channel now: entries with leases.

Pure: ``now`` is an argument. Every entry belongs to one connection; an entry whose lease ran out
is not seen, whether or not it was swept yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from wirebell.model import ClientInfo

__all__ = ("Presence",)


@dataclass(slots=True)
class Lease:
    """One entry, and until when it counts."""

    info: ClientInfo
    expires_at: float


class Presence:
    """Members of all channels.

    Mutable state: channel → client id → lease. A channel that nobody is in has no entry.
    """

    def __init__(self) -> None:
        self.channels: dict[str, dict[str, Lease]] = {}

    def add(self, channel: str, info: ClientInfo, *, expires_at: float) -> None:
        """Write an entry, or renew it; ``expires_at`` is an instant of ``now``'s clock."""
        self.channels.setdefault(channel, {})[info.client_id] = Lease(info, expires_at)

    def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""
        leases = self.channels.get(channel)
        if leases is None:
            return
        leases.pop(client_id, None)
        if not leases:
            del self.channels[channel]

    def members(self, channel: str, now: float) -> dict[str, ClientInfo]:
        """Return client id → info of those whose lease stands; empty when nobody is there."""
        leases = self.channels.get(channel, {})
        return {key: lease.info for key, lease in leases.items() if lease.expires_at > now}

    def expire(self, now: float) -> None:
        """Sweep entries whose lease ran out."""
        for channel, leases in list(self.channels.items()):
            for client_id in [key for key, lease in leases.items() if lease.expires_at <= now]:
                self.remove(channel, client_id)
