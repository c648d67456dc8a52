"""This node's connections in the presence of their channels: entered, renewed, taken back.

Strategy: what is written counts as there from its first ``await`` on, so whoever leaves meanwhile
takes it back, also after a failure or a cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from wirebell.connection import Connection, Subscription
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import ClientInfo, Membership

__all__ = ("Leases",)


class Leases:
    """Writes presence, and tells of joins and leaves. What is there stands in `Subscription`.

    Args:
        store: Who is in which channel.
        broker: Tells of joins and leaves.
        ttl_seconds: How long an entry lives that is not renewed, above 0.
        spawn: Runs what nobody waits for.
    """

    def __init__(
        self,
        store: PresenceStore,
        broker: Broker,
        ttl_seconds: float,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.store = store
        self.broker = broker
        self.ttl_seconds = ttl_seconds
        self.spawn = spawn

    async def enter(self, connection: Connection, channel: str, subscription: Subscription) -> None:
        """Write presence, and tell the others, as far as a subscription has either.

        Raises:
            BrokerError: One of them cannot be done; `leave` is owed all the same.
        """
        info = connection.info(channel)
        if subscription.has_presence:
            await self.add(connection, channel)
        if connection.channels.get(channel) is not subscription or connection.is_closed:
            return
        subscription.is_present = subscription.has_presence
        if subscription.has_join_leave:
            subscription.is_announced = True
            await self.broker.publish_membership(channel, Membership(info, joined=True))

    async def add(self, connection: Connection, channel: str) -> None:
        """Write an entry, or renew it; take it back from a peer that left meanwhile.

        Raises:
            BrokerError: The store does not answer.
        """
        info = connection.info(channel)
        try:
            await self.store.add(channel, info, ttl_seconds=self.ttl_seconds)
        except BaseException:
            # Whether it was written is not known.
            self.spawn(self.store.remove(channel, info.client_id))
            raise
        # Who came back may be there in another way.
        current = connection.channels.get(channel)
        if current is None or not current.has_presence:
            await self.store.remove(channel, info.client_id)

    async def leave(self, info: ClientInfo, channel: str, subscription: Subscription) -> None:
        """Remove presence, and tell the others, as far as `enter` came.

        Raises:
            BrokerError: One of them cannot be done; the entry ends with its lease.
        """
        if subscription.is_present:
            await self.store.remove(channel, info.client_id)
        if subscription.is_announced:
            await self.broker.publish_membership(channel, Membership(info, joined=False))

    async def renew(self, connections: Iterable[Connection]) -> None:
        """Renew one lease after the other; who left meanwhile is passed over.

        Raises:
            BrokerError: The store does not answer; those that follow wait for the next time.
        """
        for connection in connections:
            for channel in list(connection.channels):
                subscription = connection.channels.get(channel)
                if subscription is not None and subscription.is_present:
                    await self.add(connection, channel)
