"""The engine of one process: connect, subscribe, publish, presence, disconnect.

Strategy: every change of state is synchronous and complete before the first ``await``; what must
wait (the broker, the presence store) follows and finds whole state, also after a cancellation.
Publishing ends at the hub: no peer is ever waited for.

It knows brokers by their interface only, and no transport, no HTTP, no framework.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from wirebell.admission import Admission, Limit, Refusal
from wirebell.connection import Connection
from wirebell.deadlines import Deadline, DeadlineWheel
from wirebell.errors import (
    BadRequest,
    ConnectionClosed,
    Disconnect,
    DisconnectCode,
    LimitExceeded,
    NotRunning,
)
from wirebell.history import Recovery, recover
from wirebell.hub import Hub
from wirebell.interfaces import Broker, Encoding, HistorySlice, PresenceStore, Transport
from wirebell.liveness import PingRing
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    Frames,
    Membership,
    Publication,
    StreamPosition,
)
from wirebell.settings import Settings

__all__ = ("Node", "NodeStatistics", "Subscription")

logger = logging.getLogger(__name__)

# Deadlines are seconds long, so a twentieth of one is early enough and saves wake-ups.
WHEEL_RESOLUTION_SECONDS = 0.05


@dataclass(slots=True)
class NodeStatistics:
    """What a node counted since it started.

    Attributes:
        connected_count: Connections admitted.
        refused_counts: Limit → connections that it refused.
        disconnect_counts: Close code → connections that we closed with it.
        published_count: Publications that this node's callers published.
        received_count: Items that the broker handed to this node.
        broker_error_count: Calls of the broker that failed while nobody waited for the answer.
    """

    connected_count: int = 0
    refused_counts: Counter[Limit] = field(default_factory=Counter)
    disconnect_counts: Counter[int] = field(default_factory=Counter)
    published_count: int = 0
    received_count: int = 0
    broker_error_count: int = 0


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a connection learns when it subscribed.

    Attributes:
        position: The channel's newest position; ``None`` without history.
        recovery: What it missed; ``None`` when it did not ask.
    """

    position: StreamPosition | None = None
    recovery: Recovery | None = None


class Node:
    """One process of the cluster.

    Mutable state: connections, the hub, the channels subscribed at the broker, deadlines. To be
    used on the event loop that called `start`, from no other thread.

    Args:
        settings: Limits and intervals.
        broker: Not started yet.
        presence_store: Who is in which channel.
        options_for: Gives the options of a channel by its name; must be quick and pure.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        presence_store: PresenceStore,
        options_for: Callable[[str], ChannelOptions],
    ) -> None:
        self.settings = settings
        self.broker = broker
        self.presence_store = presence_store
        self.options_for = options_for
        self.hub = Hub(
            held_items_max=settings.recovery_publications_max,
            backlog_bytes_max=settings.send_queue_bytes_max,
            overflow_for=lambda channel: options_for(channel).overflow,
        )
        self.pings = PingRing(settings.ping_interval_seconds, settings.pong_timeout_seconds)
        self.admission = Admission(settings)
        self.statistics = NodeStatistics()
        self.connections: dict[str, Connection] = {}
        self.wheel = DeadlineWheel(WHEEL_RESOLUTION_SECONDS)
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at: float | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.broker_channels: set[str] = set()
        self.broker_changes: dict[str, asyncio.Task[None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_flush_planned = False

    # Life

    async def start(self) -> None:
        """Start the broker and the clock.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
        """
        self.loop = asyncio.get_running_loop()
        await self.broker.start(self)
        self.schedule(self.settings.presence_refresh_seconds, self._refresh_presence)
        now = self.loop.time()
        self.schedule(self.pings.start(now) - now, self._ping)

    async def aclose(self) -> None:
        """Close what is connected, finish what was begun, stop the broker; idempotent."""
        for connection in list(self.connections.values()):
            self.close(connection, Disconnect(DisconnectCode.SERVICE_RESTART, "shutting down"))
            self.disconnect(connection)
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=self.settings.close_timeout_seconds)
        late = self.tasks | set(self.broker_changes.values())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.loop = None
        await self.broker.aclose()

    # Connections

    def connect(self, transport: Transport, encoding: Encoding, address: str) -> Connection:
        """Admit a connection. `disconnect` is owed afterwards.

        Raises:
            LimitExceeded: A limit of how many was reached.
        """
        self._check_refusal(self.admission.admit(address, self._loop().time()))
        connection = Connection(str(uuid.uuid4()), address, encoding, transport)
        self.connections[connection.client_id] = connection
        self.statistics.connected_count += 1
        return connection

    def identify(self, connection: Connection, user_id: str) -> None:
        """Say who is behind a connection; once, before it subscribes.

        Raises:
            LimitExceeded: The user has as many connections as the limit allows.
        """
        assert not connection.user_id
        if not user_id or connection.is_closed:
            return
        self._check_refusal(self.admission.admit_user(user_id))
        connection.user_id = user_id

    def close(
        self, connection: Connection, disconnect: Disconnect, *, notice: str | None = None
    ) -> None:
        """End a connection from our side, and count it. The transport then reports its end.

        Idempotent: the first reason counts.
        """
        if connection.is_closing:
            return
        connection.is_closing = True
        self.statistics.disconnect_counts[disconnect.code] += 1
        waiting = self.hub.take(connection)
        if waiting is not None and disconnect.code != DisconnectCode.SLOW:
            connection.write(waiting)
        connection.close(disconnect, notice=notice)

    def write(self, connection: Connection, frames: Frames, *, is_ahead: bool = False) -> None:
        """Send frames to one connection with the tick: in order with what its channels get.

        Args:
            connection: One that ends meanwhile gets nothing; one over its limit is cut.
            frames: What to send.
            is_ahead: Put them ahead of what this tick's channels have for it.
        """
        if connection.is_closing or connection.is_closed:
            return
        self.hub.reply(connection, frames, is_ahead=is_ahead)
        self._plan_flush()

    def resume(self, connection: Connection) -> None:
        """Go on with a connection that reads again; see `wirebell.interfaces.Receiver`."""
        if not connection.is_closing and not self.hub.resume(connection):
            self._close_slow(connection)

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection that has ended; idempotent. It leaves its channels at once."""
        if connection.is_closed:
            return
        connection.is_closed = True
        del self.connections[connection.client_id]
        self.hub.forget(connection)
        self.admission.release(connection.address)
        if connection.user_id:
            self.admission.release_user(connection.user_id)
        for channel in list(connection.channels):
            self._leave(connection, channel)

    # Channels

    def check_channel(self, channel: str) -> None:
        """Refuse a name that no channel can have.

        Raises:
            BadRequest: It is empty, longer than ``channel_bytes_max`` in UTF-8, or has a
                character that cannot be printed.
        """
        if not channel or not channel.isprintable():
            raise BadRequest(f"a channel's name is 1 or more printable characters, got {channel!r}")
        size = len(channel.encode())
        if size > self.settings.channel_bytes_max:
            raise BadRequest(
                f"a channel's name has at most {self.settings.channel_bytes_max} bytes, got {size}"
            )

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        *,
        since: StreamPosition | None = None,
        hold: bool = False,
    ) -> Subscription:
        """Subscribe a connection. What is published after this returned is delivered.

        Args:
            connection: Must not be subscribed to the channel.
            channel: Checked against the bounds of a name.
            since: The position that the client saw last; it then gets what it missed.
            hold: Deliver nothing before `release` is called, because an answer has to go first.
                A channel with history always waits for `release`.

        Raises:
            BadRequest: The name is out of bounds, or the connection is already subscribed.
            LimitExceeded: The connection has ``channels_per_connection_max`` channels.
            ConnectionClosed: The connection ended meanwhile.
            BrokerUnavailable: The broker does not answer; the connection is not subscribed.
        """
        self.check_channel(channel)
        if channel in connection.channels:
            raise BadRequest(f"already subscribed to {channel!r}")
        if len(connection.channels) >= self.settings.channels_per_connection_max:
            raise LimitExceeded(
                f"a connection has at most {self.settings.channels_per_connection_max} channels"
            )
        options = self.options_for(channel)
        connection.channels[channel] = False
        self.hub.subscribe(channel, connection, catch_up=hold or options.history is not None)
        try:
            await self._follow(channel)
            subscription = await self._catch_up(channel, options, since)
            if options.presence:
                await self._enter(connection, channel)
            if connection.is_closed:
                raise ConnectionClosed(Disconnect(DisconnectCode.GOING_AWAY, "connection ended"))
        except BaseException:
            self._leave(connection, channel)
            raise
        return subscription

    def release(
        self, connection: Connection, channel: str, position: StreamPosition | None
    ) -> None:
        """Let live items follow what a subscriber got from history up to ``position``.

        Args:
            connection: Subscribed, and held.
            channel: Where.
            position: As `subscribe` returned it; ``None`` without history.
        """
        if connection.is_closed or channel not in connection.channels:
            return
        held = self.hub.release(channel, connection, position)
        if held:
            self.write(connection, connection.encoding.join(channel, held), is_ahead=True)

    async def publish(self, channel: str, publication: Publication) -> StreamPosition:
        """Put a publication into a channel. No peer is waited for.

        Returns:
            Its position; offset 0 and an empty epoch where the channel keeps no history.

        Raises:
            BadRequest: The name or the payload is out of bounds.
            BrokerUnavailable: The broker does not answer.
            NotRunning: The node was not started, or is closed.
        """
        self._loop()
        self.check_channel(channel)
        if len(publication.data) > self.settings.publication_bytes_max:
            raise BadRequest(
                f"a publication has at most {self.settings.publication_bytes_max} bytes, "
                f"got {len(publication.data)}"
            )
        position = await self.broker.publish(channel, publication, self.options_for(channel))
        self.statistics.published_count += 1
        return position

    async def history(
        self, channel: str, *, since: StreamPosition | None, limit: int
    ) -> HistorySlice:
        """Read a channel's kept publications, oldest first.

        Raises:
            BadRequest: The name is out of bounds, or the channel keeps no history.
        """
        self.check_channel(channel)
        options = self.options_for(channel)
        if options.history is None:
            raise BadRequest(f"channel {channel!r} keeps no history")
        return await self.broker.history(channel, options, since=since, limit=limit)

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is in a channel: client id → info.

        Raises:
            BadRequest: The name is out of bounds, or the channel keeps no presence.
        """
        self.check_channel(channel)
        if not self.options_for(channel).presence:
            raise BadRequest(f"channel {channel!r} keeps no presence")
        return await self.presence_store.members(channel)

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Take what the broker delivers; the tick's end sends it."""
        self.statistics.received_count += 1
        self.hub.enqueue(channel, item)
        if self.hub.pending_bytes > self.settings.tick_bytes_max:
            self._flush()
        elif self.hub.pending:
            self._plan_flush()

    # Time

    def schedule(self, delay_seconds: float, callback: Callable[[], None]) -> Deadline:
        """Have ``callback`` called once, ``delay_seconds`` from now or slightly later."""
        deadline = self.wheel.schedule(self._loop().time() + max(0.0, delay_seconds), callback)
        self._set_timer()
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Forget a deadline; idempotent."""
        self.wheel.cancel(deadline)

    def _set_timer(self) -> None:
        """Keep one timer of the loop, at the wheel's next bucket."""
        at = self.wheel.next_at()
        if at == self.timer_at and self.timer is not None:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer_at = at
        self.timer = None if at is None else self._loop().call_at(at, self._run_deadlines)

    def _run_deadlines(self) -> None:
        """Call what is due. One callback's failure is no other's."""
        self.timer = None
        for callback in self.wheel.due(self._loop().time()):
            try:
                callback()
            except Exception:
                logger.exception("a deadline's callback failed")
        self._set_timer()

    # Inside

    def _check_refusal(self, refusal: Refusal | None) -> None:
        """Count a refusal, and tell it."""
        if refusal is not None:
            self.statistics.refused_counts[refusal.limit] += 1
            raise LimitExceeded(refusal.reason)

    def _loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, or say that the node does not run."""
        if self.loop is None:
            raise NotRunning
        return self.loop

    def _plan_flush(self) -> None:
        """Have the tick end with this turn of the loop."""
        if not self.is_flush_planned:
            self.is_flush_planned = True
            self._loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send the tick, and cut who cannot keep up."""
        self.is_flush_planned = False
        for subscriber in self.hub.flush():
            assert isinstance(subscriber, Connection)
            self._close_slow(subscriber)

    def _close_slow(self, connection: Connection) -> None:
        """Cut a slow consumer; it recovers from the log."""
        if connection.is_closed:
            return
        self.close(connection, Disconnect(DisconnectCode.SLOW, "slow consumer"))
        # It leaves its channels now: its buffer must not be offered any more.
        self.disconnect(connection)

    async def _catch_up(
        self, channel: str, options: ChannelOptions, since: StreamPosition | None
    ) -> Subscription:
        """Read the position, and what a client that was away has missed."""
        if options.history is None:
            return Subscription()
        limit = self.settings.recovery_publications_max
        part = await self.broker.history(
            channel, options, since=since, limit=limit if since is not None else 0
        )
        if since is None:
            return Subscription(position=part.top)
        return Subscription(
            position=part.top,
            recovery=recover(part.publications, part.top, since, limit=limit),
        )

    async def _follow(self, channel: str) -> None:
        """Make the broker's subscription equal the hub's, one change at a time per channel."""
        while True:
            # A change that runs may have been begun for somebody who left since.
            change = self.broker_changes.get(channel)
            if change is None:
                if self.hub.has_subscribers(channel) == (channel in self.broker_channels):
                    return
                change = self._loop().create_task(self._change_subscription(channel))
                self.broker_changes[channel] = change
            # Others wait for the same change: one of them being cancelled must not stop it.
            await asyncio.shield(change)

    async def _change_subscription(self, channel: str) -> None:
        """Subscribe or unsubscribe at the broker. Nobody counts on a channel being let go."""
        try:
            if self.hub.has_subscribers(channel):
                await self.broker.subscribe(channel)
                self.broker_channels.add(channel)
            else:
                self.broker_channels.discard(channel)
                await self.broker.unsubscribe(channel)
        finally:
            del self.broker_changes[channel]

    async def _enter(self, connection: Connection, channel: str) -> None:
        """Write presence, and tell the others."""
        if channel not in connection.channels:
            return
        info = connection.info
        await self._add_presence(connection, channel)
        if channel not in connection.channels:
            return
        connection.channels[channel] = True
        await self.broker.publish_membership(channel, Membership(info, joined=True))

    async def _add_presence(self, connection: Connection, channel: str) -> None:
        """Write presence, or renew it; take it back from a peer that left meanwhile."""
        info, ttl = connection.info, self.settings.presence_ttl_seconds
        try:
            await self.presence_store.add(channel, info, ttl_seconds=ttl)
        except BaseException:
            # Whether it was written is not known.
            self._spawn(self.presence_store.remove(channel, info.client_id))
            raise
        if channel not in connection.channels:
            await self.presence_store.remove(channel, info.client_id)

    def _leave(self, connection: Connection, channel: str) -> None:
        """Take a connection out of a channel at once; the broker and presence follow."""
        was_announced = connection.channels.pop(channel, False)
        was_last = self.hub.unsubscribe(channel, connection)
        if was_last:
            self._spawn(self._follow(channel))
        if was_announced:
            self._spawn(self._remove_presence(connection.info, channel))

    async def _remove_presence(self, info: ClientInfo, channel: str) -> None:
        """Remove presence, and tell the others."""
        await self.presence_store.remove(channel, info.client_id)
        await self.broker.publish_membership(channel, Membership(info, joined=False))

    def _ping(self) -> None:
        """Ping those whose turn it is."""
        now = self._loop().time()
        self.schedule(self.pings.plan(now) - now, self._ping)
        self.pings.step()

    def _refresh_presence(self) -> None:
        """Renew the leases of everybody who is connected here."""
        self.schedule(self.settings.presence_refresh_seconds, self._refresh_presence)
        self._spawn(self._renew_leases())

    async def _renew_leases(self) -> None:
        """Renew one lease after the other; who left meanwhile is passed over."""
        for connection in list(self.connections.values()):
            for channel in list(connection.channels):
                if connection.channels.get(channel):
                    await self._add_presence(connection, channel)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what nobody waits for; `aclose` does, and a failure is logged and counted."""
        task = self._loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Account for a task of `_spawn`."""
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.statistics.broker_error_count += 1
            logger.error("the broker failed while nobody waited for it", exc_info=error)
