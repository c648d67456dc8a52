"""This node's connections in the presence of their channels: entered, renewed, taken back.

Strategy: what is written counts as there from its first ``await`` on, so whoever leaves meanwhile
takes it back, also after a failure or a cancellation. Who leaves and comes back at once enters when
its leave is done: otherwise that would take the new entry. Whom a node that stops sends to another
one stays until it can be back there: nobody sees people leave who only change nodes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from wirebell.connection import Connection, Subscription
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import ClientInfo, Membership

__all__ = ("Leases",)

# So many are renewed at once: a store answers those of one turn of the loop together.
RENEWALS_AT_ONCE = 64
# Of each of them: a store of this process answers at once, and others must get their turn.
LEASES_IN_A_TURN = 8


class Leases:
    """Writes presence, and tells of joins and leaves. What is there stands in `Subscription`.

    Mutable state: the leaves that run, one for a client and a channel; those that are put off, and
    the task that waits for them; whether leases are being renewed.

    Args:
        store: Who is in which channel.
        broker: Tells of joins and leaves.
        ttl_seconds: How long an entry lives that is not renewed, above 0.
        spawn: Runs what need not be waited for.
    """

    def __init__(
        self,
        store: PresenceStore,
        broker: Broker,
        ttl_seconds: float,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.store = store
        self.broker = broker
        self.ttl_seconds = ttl_seconds
        self.spawn = spawn
        self.leaving: dict[tuple[str, str], asyncio.Task[None]] = {}
        # When each may begin, on the loop's clock, and whose leave it is.
        self.put_off: deque[tuple[float, ClientInfo, str, Subscription]] = deque()
        self.handing_over: asyncio.Task[None] | None = None
        self.is_renewing = False

    async def enter(self, connection: Connection, channel: str, subscription: Subscription) -> None:
        """Write presence, and tell the others, as far as a subscription has either.

        Nothing of it is done for a subscription that has ended meanwhile.

        Raises:
            BrokerError: One of them cannot be done; `leave` is owed all the same.
        """
        earlier = self.leaving.get((connection.client_id, channel))
        if earlier is not None:
            await asyncio.wait((earlier,))
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
                _ = self.spawn(self.store.remove(channel, info.client_id))
            raise
        # Who came back may be there in another way.
        if _find_present(connection, channel) is None:
            await self.store.remove(channel, info.client_id)

    def begin_leave(
        self, info: ClientInfo, channel: str, subscription: Subscription, until: float = 0.0
    ) -> None:
        """Have `leave` done; an `enter` of the same client waits for it.

        Args:
            info: Who leaves.
            channel: Where.
            subscription: How it was there.
            until: Not before this, on the loop's clock. The entry stays as long as its lease lasts,
                which is not renewed.
        """
        if until:
            self.put_off.append((until, info, channel, subscription))
            if self.handing_over is None or self.handing_over.done():
                self.handing_over = self.spawn(self._hand_over())
            return
        key = (info.client_id, channel)
        task = self.leaving[key] = self.spawn(self.leave(info, channel, subscription))
        task.add_done_callback(lambda _: self.leaving.pop(key, None))

    async def leave(self, info: ClientInfo, channel: str, subscription: Subscription) -> None:
        """Remove presence, and tell the others, as far as `enter` came; each at most once.

        Raises:
            BrokerError: One of them cannot be done; the entry ends with its lease.
        """
        try:
            if subscription.is_present:
                await self.store.remove(channel, info.client_id)
        finally:
            if subscription.is_announced:
                await self.broker.publish_membership(channel, Membership(info, joined=False))

    async def _hand_over(self) -> None:
        """Begin the leaves that were put off, each at its time, in the order they came in."""
        loop = asyncio.get_running_loop()
        while self.put_off:
            until, info, channel, subscription = self.put_off[0]
            await asyncio.sleep(max(until - loop.time(), 0))
            self.put_off.popleft()
            self.begin_leave(info, channel, subscription)

    async def wait_handed_over(self) -> None:
        """Wait until no leave is put off any more; they may still run."""
        if self.handing_over is not None:
            await asyncio.wait((self.handing_over,))

    async def renew(self, connections: Iterable[Connection]) -> None:
        """Renew leases, some at once; who left meanwhile is passed over.

        Raises:
            BrokerError: The store does not answer; those that follow keep the lease they have.
        """
        self.is_renewing = True
        entries = _list_present(connections)
        try:
            workers = [self._renew_some(entries) for _ in range(RENEWALS_AT_ONCE)]
            answers = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            self.is_renewing = False
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _renew_some(self, entries: Iterator[tuple[Connection, str, Subscription]]) -> None:
        """Renew one lease after the other, until there are none or the store fails."""
        for number, (connection, channel, subscription) in enumerate(entries, 1):
            try:
                await self.add(connection, channel, subscription)
            except BaseException:
                # The other workers stop too: each failure may take its whole time-out.
                for _ in entries:
                    pass
                raise
            if number % LEASES_IN_A_TURN == 0:
                await asyncio.sleep(0)


def _list_present(
    connections: Iterable[Connection],
) -> Iterator[tuple[Connection, str, Subscription]]:
    """Find what is in presence, at the moment at which each is asked for."""
    for connection in connections:
        for channel in list(connection.channels):
            subscription = connection.channels.get(channel)
            if subscription is not None and subscription.is_present:
                yield connection, channel, subscription


def _find_present(connection: Connection, channel: str) -> Subscription | None:
    """Return the subscription for which a connection is in a channel's presence, if any."""
    current = connection.channels.get(channel)
    return current if current is not None and current.has_presence else None
