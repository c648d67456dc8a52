"""This node's connections in the presence of their channels: entered, renewed, taken back.

Strategy: what is written counts as there from its first ``await`` on, so whoever leaves meanwhile
takes it back, also after a failure or a cancellation. Who leaves and comes back at once enters when
its leave is done: otherwise that would take the new entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from wirebell.connection import Connection, Subscription
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import ClientInfo, Membership

__all__ = ("Leases",)

# A store of this process answers at once: others must get their turn in between.
LEASES_IN_A_TURN = 100


class Leases:
    """Writes presence, and tells of joins and leaves. What is there stands in `Subscription`.

    Mutable state: the leaves that run, one for a client and a channel, and whether leases are
    being renewed.

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
        self.leaving: dict[tuple[str, str], asyncio.Event] = {}
        self.is_renewing = False

    async def enter(self, connection: Connection, channel: str, subscription: Subscription) -> None:
        """Write presence, and tell the others, as far as a subscription has either.

        Nothing of it is done for a subscription that has ended meanwhile.

        Raises:
            BrokerError: One of them cannot be done; `leave` is owed all the same.
        """
        earlier = self.leaving.get((connection.client_id, channel))
        if earlier is not None:
            await earlier.wait()
        if connection.channels.get(channel) is not subscription:
            return
        info = connection.info(channel)
        if subscription.has_presence:
            await self.add(connection, channel, subscription)
        if connection.channels.get(channel) is not subscription:
            return
        subscription.is_present = subscription.has_presence
        if subscription.has_join_leave:
            subscription.is_announced = True
            await self.broker.publish_membership(channel, Membership(info, joined=True))

    async def add(self, connection: Connection, channel: str, subscription: Subscription) -> None:
        """Write an entry, or renew it; take it back from a peer that left meanwhile.

        Raises:
            BrokerError: The store does not answer; an entry that is renewed keeps its lease.
        """
        info = connection.info(channel)
        try:
            await self.store.add(channel, info, ttl_seconds=self.ttl_seconds)
        except BaseException:
            # Whether it was written is not known.
            current = _find_present(connection, channel)
            if current is None or (current is subscription and not subscription.is_present):
                self.spawn(self.store.remove(channel, info.client_id))
            raise
        # Who came back may be there in another way.
        if _find_present(connection, channel) is None:
            await self.store.remove(channel, info.client_id)

    def begin_leave(self, info: ClientInfo, channel: str, subscription: Subscription) -> None:
        """Have `leave` done; an `enter` of the same client waits for it."""
        self.leaving[info.client_id, channel] = asyncio.Event()
        self.spawn(self.leave(info, channel, subscription))

    async def leave(self, info: ClientInfo, channel: str, subscription: Subscription) -> None:
        """Remove presence, and tell the others, as far as `enter` came.

        Raises:
            BrokerError: One of them cannot be done; the entry ends with its lease.
        """
        try:
            if subscription.is_present:
                await self.store.remove(channel, info.client_id)
            if subscription.is_announced:
                await self.broker.publish_membership(channel, Membership(info, joined=False))
        finally:
            self.leaving.pop((info.client_id, channel)).set()

    async def renew(self, connections: Iterable[Connection]) -> None:
        """Renew one lease after the other; who left meanwhile is passed over.

        Raises:
            BrokerError: The store does not answer; those that follow wait for the next time.
        """
        self.is_renewing = True
        count = 0
        try:
            for connection in connections:
                for channel in list(connection.channels):
                    subscription = connection.channels.get(channel)
                    if subscription is None or not subscription.is_present:
                        continue
                    await self.add(connection, channel, subscription)
                    count += 1
                    if count % LEASES_IN_A_TURN == 0:
                        await asyncio.sleep(0)
        finally:
            self.is_renewing = False


def _find_present(connection: Connection, channel: str) -> Subscription | None:
    """Return the subscription for which a connection is in a channel's presence, if any."""
    current = connection.channels.get(channel)
    return current if current is not None and current.has_presence else None
