"""The engine of one process: connect, subscribe, publish, presence, disconnect.

Strategy: every change of state is synchronous and complete before the first ``await``; what must
wait (the broker, the presence store) follows and finds whole state, also after a cancellation.
Publishing ends at the hub: no peer is ever waited for.

It knows brokers by their interface only, and no transport, no HTTP, no framework.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import msgspec

from wirebell.admission import Admission, Refusal
from wirebell.background import Background
from wirebell.cluster import Cluster
from wirebell.connection import MOVED, Connection, Subscription
from wirebell.control import NodeInfo
from wirebell.deadlines import Deadline
from wirebell.deferred import Deferred
from wirebell.describing import describe_node
from wirebell.errors import (
    BadRequest,
    BrokerError,
    ConnectionClosed,
    Disconnect,
    DisconnectCode,
    LimitExceeded,
    NotRunning,
    create_disconnect,
)
from wirebell.flushing import Flushing
from wirebell.hub import Hub
from wirebell.interfaces import (
    Broker,
    ClientControl,
    Encoding,
    HistorySlice,
    PresenceStore,
    Transport,
)
from wirebell.leases import Leases
from wirebell.liveness import PingRing
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    Frames,
    Publication,
    Published,
    PublishOptions,
    RecoveryMode,
    StreamPosition,
)
from wirebell.patterns import Patterns
from wirebell.publishing import check_channel
from wirebell.rates import CommandRates
from wirebell.receiving import Receiving, Subscribed
from wirebell.revocations import Revocations
from wirebell.settings import Settings
from wirebell.statistics import NodeStatistics
from wirebell.timers import Timers
from wirebell.upkeep import Upkeep

__all__ = ("Node", "Subscribed")


class Node:
    """One process of the cluster.

    Mutable state: connections, the hub, the channels subscribed at the broker, deadlines. To be
    used on the event loop that called `start`, from no other thread.

    Args:
        settings: Limits and intervals.
        broker: Not started yet.
        presence_store: Who is in which channel.
        options_for: Gives the options of a channel by its name; must be quick and pure.
        name: As `wirebell.Realtime.info` shows it; empty is the machine's and the process' id.
        revocations: What is revoked; ``None`` begins with nothing.
        hears: Tells whether a pattern may hear a channel; see `wirebell.patterns`.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        presence_store: PresenceStore,
        options_for: Callable[[str], ChannelOptions],
        *,
        name: str = "",
        revocations: Revocations | None = None,
        hears: Callable[[str, str], bool] = lambda _, __: True,
    ) -> None:
        self.node_id = str(uuid.uuid4())
        self.name = name or f"{platform.node()}_{os.getpid()}"
        self.settings = settings
        self.broker = broker
        self.presence_store = presence_store
        self.options_for = options_for
        self.patterns = Patterns(hears, are_on=getattr(broker, "has_patterns", False))
        self.hub = Hub(
            held_items_max=settings.recovery_publications_max,
            backlog_bytes_max=settings.send_queue_bytes_max,
            overflow_for=lambda channel: options_for(channel).overflow,
        )
        self.pings = PingRing(settings.ping_interval_seconds, settings.pong_timeout_seconds)
        self.admission = Admission(settings)
        self.rates = CommandRates(settings.commands_per_second_max)
        self.statistics = NodeStatistics()
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, dict[str, Connection]] = {}
        self.timers: Timers | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.background = Background(self._loop, self.statistics)
        self.spawn, self.note_failure = self.background.spawn, self.background.note_failure
        self.leases = Leases(
            presence_store, broker, settings.presence_ttl_seconds, self.background.begin
        )
        self.flushing = Flushing(self.hub, settings.tick_bytes_max, self._loop, self._close_slow)
        self.receiving = Receiving(
            self.hub,
            broker,
            options_for,
            self.flushing.deliver,
            self._tell_gap,
            self.background,
            settings.recovery_publications_max,
        )
        self.following = self.receiving.following
        # Called for every item: one call less.
        self.handle_item = self.patterns.guard(self.receiving.handle_item)
        known = revocations if revocations is not None else Revocations(settings.revocations_max)
        self.cluster = Cluster(
            self.node_id,
            self.name,
            broker,
            settings,
            known,
            self.describe,
            self.background,
            has_given_name=bool(name),
        )
        self.flushing.awaits_answers = self.cluster.is_shared
        self.upkeep = Upkeep(
            settings,
            self.connections,
            self.pings,
            self.leases,
            self.receiving.positions,
            self.schedule,
            self.background,
        )

    # Life

    async def start(self) -> None:
        """Start the broker, the presence store and the clock, and join the other nodes.

        Raises:
            BrokerUnavailable: The broker or the store cannot be reached; nothing runs then.
            ConfigError: One of them refuses; likewise.
        """
        self.loop = asyncio.get_running_loop()
        self.timers = Timers(self.loop)
        try:
            await self.broker.start(self, self.node_id)
            await self.presence_store.start()
            self.upkeep.start()
            await self.cluster.start()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close what is connected, finish what was begun, stop the broker; idempotent."""
        for connection in list(self.connections.values()):
            if connection.control is not None:
                connection.control.close(create_disconnect(DisconnectCode.SHUTDOWN))
            else:
                self.close(connection, Disconnect(DisconnectCode.SERVICE_RESTART, "shutting down"))
            self.disconnect(connection)
        changes = self.receiving.close()
        await self.leases.wait_handed_over()
        await self.background.aclose(changes, timeout_seconds=self.settings.close_timeout_seconds)
        # Last, so that nobody hears of it before the leaves.
        await self.cluster.aclose()
        if self.timers is not None:
            self.timers.close()
        self.loop = self.timers = None
        await self.broker.aclose()
        await self.presence_store.aclose()

    async def is_ready(self) -> bool:
        """Tell whether broker and presence store answer, and what other nodes publish arrives."""
        try:
            await self.broker.check()
            await self.presence_store.members("")  # it may be kept elsewhere; any channel will do
        except BrokerError:
            return False
        return True

    def describe(self) -> NodeInfo:
        """Tell what this node has to do."""
        return describe_node(self)

    # Connections

    def connect(
        self,
        transport: Transport,
        encoding: Encoding,
        address: str,
        control: ClientControl | None = None,
    ) -> Connection:
        """Admit a connection. `disconnect` is owed afterwards.

        Raises:
            LimitExceeded: A limit of how many was reached.
        """
        self._check_refusal(self.admission.admit(address, self._loop().time()))
        # Thousands of links may come from one proxy.
        address = sys.intern(address)
        connection = Connection(str(uuid.uuid4()), address, encoding, transport, control)
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
        connection.user_id, connection.identified_at = user_id, time.time()
        self.users.setdefault(user_id, {})[connection.client_id] = connection

    def close(
        self, connection: Connection, disconnect: Disconnect, *, notice: str | bytes | None = None
    ) -> None:
        """End a connection from our side, and count it. The transport then reports its end.

        Idempotent: the first reason counts.
        """
        if connection.is_closing:
            return
        connection.is_closing = True
        self.statistics.disconnect_counts[disconnect.code] += 1
        if disconnect.code in MOVED and self.cluster.members and self.loop is not None:
            connection.expected_until = self.loop.time() + self.settings.handover_seconds
        waiting = self.hub.take(connection)
        if waiting is not None and disconnect.code != DisconnectCode.SLOW:
            connection.write(waiting)
        connection.close(disconnect, notice=notice)

    def end(self, connection: Connection, disconnect: Disconnect) -> None:
        """End a connection of either kind, and tell it why in its own words."""
        if connection.control is not None:
            connection.control.close(disconnect)
        else:
            error = {"error": {"code": disconnect.code, "message": disconnect.reason}}
            self.close(connection, disconnect, notice=msgspec.json.encode(error).decode())

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
        if not self.flushing.is_planned:
            self.flushing.plan()

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
            of_user = self.users[connection.user_id]
            del of_user[connection.client_id]
            if not of_user:
                del self.users[connection.user_id]
        for channel in list(connection.channels):
            self.unsubscribe(connection, channel)

    # Channels

    def check_channel(self, channel: str) -> None:
        """Refuse a name that no channel can have.

        Raises:
            BadRequest: It is empty, longer than ``channel_bytes_max`` in UTF-8, or has a
                character that cannot be printed.
        """
        check_channel(channel, self.settings.channel_bytes_max)

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        *,
        subscription: Subscription | None = None,
        since: StreamPosition | None = None,
        mode: RecoveryMode = RecoveryMode.STREAM,
        must_recover: bool = False,
        hold: bool = False,
    ) -> Subscribed:
        """Subscribe a connection. What is published after this returned is delivered.

        Args:
            connection: Must not be subscribed to the channel.
            channel: Checked against the bounds of a name.
            subscription: How; ``None`` does all that the channel's options offer.
            since: The position that the client saw last; it then gets what it missed.
            mode: What it gets then.
            must_recover: Refuse it when ``since`` is given and it cannot get what it missed.
            hold: Deliver nothing before `release` is called, because an answer has to go first.
                A positioned subscription always waits for `release`.

        Raises:
            BadRequest: The name is out of bounds, or a pattern where the channel keeps something;
                or the connection is already subscribed.
            LimitExceeded: The connection has ``channels_per_connection_max`` channels.
            ProtocolError: ``UNRECOVERABLE_POSITION``, for ``must_recover``; nobody heard of it.
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
        if subscription is None:
            has_history = options.history is not None
            subscription = Subscription(None, has_history, options.presence, options.join_leave)
        kept = (options.history, options.presence, options.join_leave)
        self.patterns.check(channel, *kept, subscription.has_presence, subscription.has_join_leave)
        # Thousands may be in one channel, and each came with a copy of its name.
        channel = sys.intern(channel)
        connection.channels[channel] = subscription
        is_held = hold or subscription.is_positioned
        self.hub.subscribe(channel, connection, subscription.encoding, catch_up=is_held)
        try:
            if not self.following.is_settled(channel):
                await self.following.follow(channel)
            subscribed = Subscribed()
            if subscription.is_positioned:
                subscribed = await self.receiving.catching_up.read(
                    connection, channel, options, since, mode, must_recover=must_recover
                )
            if subscription.has_presence or subscription.has_join_leave:
                await self.leases.enter(connection, channel, subscription)
            if connection.is_closed:
                raise ConnectionClosed(Disconnect(DisconnectCode.GOING_AWAY, "connection ended"))
        except BaseException:
            # Another may have come in its place meanwhile.
            if connection.channels.get(channel) is subscription:
                self.unsubscribe(connection, channel)
            raise
        return subscribed

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
        if position is not None and self.hub.is_torn(channel, connection, position):
            self._tell_gap(connection, channel)
            return
        held = self.hub.release(channel, connection, position)
        if held.messages:
            self.write(connection, held, is_ahead=True)

    def unsubscribe(self, connection: Connection, channel: str) -> bool:
        """Take a connection out of a channel at once; the broker and presence follow.

        Returns:
            False when it was not subscribed.
        """
        if channel not in connection.channels:
            return False
        if channel in self.hub.pending and not connection.is_closed:
            # What was published before is still its own.
            self.flushing.flush()
        info = connection.info(channel)
        subscription = connection.channels.pop(channel, None)
        if subscription is None:  # That cut it: it left all its channels.
            return False
        if self.hub.unsubscribe(channel, connection):
            self.spawn(self.following.follow(channel))
        if subscription.is_present or subscription.is_announced:
            self.leases.begin_leave(info, channel, subscription, connection.expected_until)
        return True

    async def publish(
        self, channel: str, publication: Publication, how: PublishOptions | None = None
    ) -> StreamPosition:
        """Put a publication into a channel; as `begin_publish`, and waits for the position."""
        published = self.begin_publish(channel, publication, how)
        if not isinstance(published, Published):
            published = await published
        return published.position

    def begin_publish(
        self,
        channel: str,
        publication: Publication,
        how: PublishOptions | None = None,
        *,
        is_checked: bool = False,
    ) -> Published | Awaitable[Published]:
        """Put a publication into a channel. No peer is waited for.

        Args:
            channel: Where.
            publication: What.
            how: What holds for it alone.
            is_checked: The name was checked, against other bounds.

        Returns:
            What became of it, at once or when the broker has answered; offset 0 and an empty
            epoch where the channel keeps no history.

        Raises:
            BadRequest: The name or the payload is out of bounds.
            BrokerUnavailable: The broker does not answer.
            NotRunning: The node was not started, or is closed.
        """
        if self.loop is None:
            raise NotRunning
        if channel not in self.following.channels and not is_checked:
            # Others were checked when somebody subscribed.
            self.check_channel(channel)
        if len(publication.data) > self.settings.publication_bytes_max:
            raise BadRequest(
                f"a publication has at most {self.settings.publication_bytes_max} bytes, "
                f"got {len(publication.data)}"
            )
        try:
            published = self.broker.publish(channel, publication, self.options_for(channel), how)
        except BrokerError:
            self.statistics.publish_error_count += 1
            raise
        if isinstance(published, Deferred):
            # One call back costs less than a coroutine around it, and it goes to whoever waits.
            published.add_done_callback(self._count_published)
            return published
        if not isinstance(published, Published):
            return self._finish_publish(published)
        self.statistics.published_count += 1
        return published

    async def history(
        self, channel: str, *, since: StreamPosition | None, limit: int, reverse: bool = False
    ) -> HistorySlice:
        """Read a channel's kept publications, oldest first; newest first with ``reverse``.

        Raises:
            BadRequest: The name is out of bounds, or the channel keeps no history.
        """
        self.check_channel(channel)
        options = self.options_for(channel)
        if options.history is None:
            raise BadRequest(f"channel {channel!r} keeps no history")
        return await self.broker.history(
            channel, options, since=since, limit=limit, reverse=reverse
        )

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is in a channel: client id → info.

        Raises:
            BadRequest: The name is out of bounds or a pattern, or the channel keeps no presence.
        """
        self.check_channel(channel)
        self.patterns.check(channel, "presence")
        if not self.options_for(channel).presence:
            raise BadRequest(f"channel {channel!r} keeps no presence")
        return await self.presence_store.members(channel)

    # What the broker tells

    def handle_control(self, data: bytes) -> None:
        """Take what another node says; see `wirebell.interfaces.BrokerListener`."""
        if self.loop is not None:
            self.cluster.handle_control(data)

    def handle_reconnect(self) -> None:
        """Catch up after the link to the broker was cut, and say that this node is back."""
        if self.loop is None:
            return
        self.receiving.handle_reconnect()
        self.upkeep.renew_presence()
        self.cluster.handle_reconnect()

    # Time

    def schedule(self, delay_seconds: float, callback: Callable[[], None]) -> Deadline:
        """Have ``callback`` called once, ``delay_seconds`` from now or slightly later."""
        self._loop()
        assert self.timers is not None
        return self.timers.schedule(delay_seconds, callback)

    def cancel(self, deadline: Deadline) -> None:
        """Forget a deadline; idempotent."""
        if self.timers is not None:
            self.timers.cancel(deadline)

    # Inside

    def _count_published(self, published: Deferred[Published]) -> None:
        """Count what became of a publication."""
        if published.cancelled():
            return
        if published.exception() is None:
            self.statistics.published_count += 1
        elif isinstance(published.exception(), BrokerError):
            self.statistics.publish_error_count += 1

    async def _finish_publish(self, published: Awaitable[Published]) -> Published:
        """Wait for the broker, and count what it took."""
        try:
            result = await published
        except BrokerError:
            self.statistics.publish_error_count += 1
            raise
        self.statistics.published_count += 1
        return result

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

    def _tell_gap(self, connection: Connection, channel: str) -> None:
        """Have whoever counts on every publication of a channel read its state anew."""
        if connection.control is not None:
            connection.control.handle_gap(channel)
        else:
            self.end(connection, create_disconnect(DisconnectCode.INSUFFICIENT_STATE))

    def _close_slow(self, connection: Connection) -> None:
        """Cut a slow consumer; it recovers from the log."""
        if connection.is_closed:
            return
        self.close(connection, create_disconnect(DisconnectCode.SLOW))
        # It leaves its channels now: its buffer must not be offered any more.
        self.disconnect(connection)
