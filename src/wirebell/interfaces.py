"""What the parts promise each other; no part here does anything.

A broker moves publications between nodes and keeps history. A presence store keeps who is in a
channel. A transport carries text messages to one peer; a receiver is told what the peer sends.
The guarantees stand in the docstrings; `wirebell.testing` has one check for each of a broker's
and of a presence store's, but for outages, which need a server that can be taken away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from wirebell.errors import Disconnect
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    Frames,
    Membership,
    Publication,
    Published,
    PublishOptions,
    ServerSubscribe,
    StreamPosition,
)

__all__ = (
    "Broker",
    "BrokerListener",
    "ClientControl",
    "Encoding",
    "HistorySlice",
    "PresenceStore",
    "Receiver",
    "Transport",
)


class HistorySlice(Protocol):
    """What a broker answers when it is asked for history."""

    @property
    def publications(self) -> Sequence[Publication]:
        """Oldest first, and offsets rise by exactly 1; the other way round with ``reverse``."""

    @property
    def top(self) -> StreamPosition:
        """Position of the newest publication ever appended; offset 0 when there was none."""


class BrokerListener(Protocol):
    """Who a broker hands what arrives: the node. No method may block, or raise."""

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Take what was put into a channel that this node subscribed to."""

    def handle_control(self, data: bytes) -> None:
        """Take what a node, this one too, told all nodes or this one alone."""

    def handle_reconnect(self) -> None:
        """Learn that the link was cut and stands again, with all its subscriptions.

        What was published meanwhile did not arrive: channels with history are to be read from
        the last position that was seen; of the others it is lost.
        """


class Broker(Protocol):
    """Moves publications between nodes and keeps history.

    Guarantees:
        order: Publications of one channel reach every subscribed node in the order of their
            offsets; without history, one publisher's arrive in the order of its calls.
        offsets: With history, offsets are 1, 2, 3 … without a hole within one epoch, and the
            position that ``publish`` returns is the publication's own.
        epoch: It changes exactly when a stream was lost, or lost its end (a server that came back
            from an older copy), and then offsets start at 1 again.
        atomicity: A publication is in history before any node receives it, and a publish that
            raised `BrokerUnavailable` is in neither or in both.
        own publications: A node that subscribed receives what it published itself, once.
        subscription: After ``subscribe`` returned, nothing published later is missed while the
            link to the broker stands.
        control: What ``publish_control`` is given reaches every node that is connected, at most
            once, in the order of one sender's calls.
        outage: A broker that lost its link comes back by itself, waiting longer from try to try,
            subscribes again to everything, and then calls ``handle_reconnect``. Meanwhile
            ``publish`` waits within its bound or raises `BrokerUnavailable`; what is published
            twice because an answer was lost is published once.
        blocking: No method waits for a peer; all are bounded in time.
        history: At most ``size`` publications, none older than ``ttl_seconds`` after the newest
            one, always a contiguous run that ends at the newest.
        one process: A broker that reaches no other node may say so by an attribute
            ``is_shared = False``; then none is looked for.
        patterns: A broker that delivers by patterns of names says so by an attribute
            ``has_patterns = True``. What is kept nowhere is then delivered once more for each
            pattern that a node subscribed to and that matches its channel: under the pattern's
            name, with ``Publication.channel``. Other methods raise `BadRequest` for a pattern.
    """

    @property
    def is_connected(self) -> bool:
        """Whether what other nodes publish arrives at this moment; never raises."""

    @property
    def reconnect_count(self) -> int:
        """How often the link was lost and came back."""

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Begin to deliver to ``listener``.

        Args:
            listener: Who is told.
            node_id: Unique for ever; whose ``publish_control`` is for this node alone.

        Raises:
            BrokerUnavailable: The broker cannot be reached.
            ConfigError: It can be, and refuses: wrong credentials, too old a server, data of a
                newer schema. The message says what to do.
        """

    async def check(self) -> None:
        """Ask the broker whether it answers, and whether what others publish arrives.

        Raises:
            BrokerUnavailable: One of both is not so; the message says which.
            BrokerClosed: The broker is not running.
        """

    async def aclose(self) -> None:
        """Stop; idempotent. Nothing is delivered afterwards."""

    async def subscribe(self, channel: str) -> None:
        """Receive what is put into a channel from now on; idempotent.

        Raises:
            BrokerClosed: The broker is not running.
        """

    async def unsubscribe(self, channel: str) -> None:
        """Receive nothing of a channel any more; idempotent.

        Raises:
            BrokerClosed: The broker is not running.
        """

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published | Awaitable[Published]:
        """Append to the channel's history, where it has one, and deliver to all nodes.

        Args:
            channel: Any non-empty name.
            publication: Its ``offset`` and ``epoch`` are ignored and set by the broker.
            options: ``options.history`` says what to keep; ``None`` keeps nothing.
            how: What holds for this publication alone; ``None`` is the default of all of it.

        Returns:
            Where it went, at once or when the broker has answered: any awaitable, best a
            `wirebell.deferred.Deferred`, which needs no task of its own. When ``how`` made it be
            left out nothing was published: a repeated idempotency key gives the first one's
            position, an old version the stream's top.

        Raises:
            BrokerClosed: The broker is not running.
            BrokerUnavailable: It does not answer within its bound.
        """

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Deliver a join or a leave to all nodes that subscribed; nothing is kept.

        Raises:
            BrokerClosed: The broker is not running.
        """

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all nodes something, this one too, or one node alone; nothing is kept.

        Args:
            data: At most 1 MiB.
            node_id: Who is meant; empty for all. One that is gone hears nothing.

        Raises:
            BrokerClosed: The broker is not running.
            BrokerUnavailable: It does not answer within its bound.
        """

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> HistorySlice:
        """Read what is kept.

        Args:
            channel: Any name; one never published to has an empty history, and an epoch.
            options: As for ``publish``.
            since: Only publications after this offset; ``None`` starts at the oldest. The epoch
                is not compared: the caller does (`wirebell.history.recover`).
            limit: Most publications to return, oldest first; 0 asks for the position alone.
            reverse: The newest ones instead, before ``since`` where that is given, newest first.

        Raises:
            ValueError: ``limit`` is negative.
            BrokerClosed: The broker is not running.
        """

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept; offsets count on in the same epoch.

        Raises:
            BrokerClosed: The broker is not running.
        """


class PresenceStore(Protocol):
    """Keeps who is in a channel, on every node, by leases.

    A store may share connections with a broker; each is started and closed on its own, in any
    order.

    Guarantees:
        lease: An entry is seen until it is removed, or until ``ttl_seconds`` passed since it was
            last added; adding it again renews the lease.
        no ghosts: A node that died leaves nothing behind for longer than the lease.
    """

    async def start(self) -> None:
        """Begin.

        Raises:
            BrokerUnavailable: The store cannot be reached.
            ConfigError: It can be, and refuses; the message says what to do.
        """

    async def aclose(self) -> None:
        """Stop; idempotent. Entries stay until their leases end."""

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry, or renew its lease.

        Raises:
            BrokerUnavailable: The store does not answer, here as below; whether the entry was
                written is not known then.
        """

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there: client id → info. Empty when nobody is."""


class Transport(Protocol):
    """Carries messages to one peer. Held by the peer's connection."""

    @property
    def is_writable(self) -> bool:
        """Tell whether the peer keeps up: nothing that was written before waits."""

    def write(self, frames: Frames) -> bool:
        """Take messages for the peer, in order; never waits.

        Returns:
            False when more than the connection's limit of bytes would wait: nothing of
            ``frames`` was taken then, and the caller must close.
        """

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """End the link; idempotent, never waits.

        What waits is sent first, then ``notice`` as the last message, then the close frame. A
        peer that does not take them within ``close_timeout_seconds`` is aborted.
        """


class Receiver(Protocol):
    """Is told what a peer sends, one call at a time, in order.

    A call that returns an awaitable is not finished before that is done. Meanwhile the transport
    hands over nothing else that the peer said; a stream, whose peer speaks by other requests, may
    tell its end.
    """

    def receive_open(self) -> Awaitable[None] | None:
        """Learn that the peer can be written to; called once, first."""

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Take a text message."""

    def receive_bytes(self, data: bytes) -> Awaitable[None] | None:
        """Take a binary message."""

    def send_ping(self) -> bool:
        """Ping the peer in words of the receiver's own; false where the carrier has to."""

    def receive_writable(self) -> None:
        """Learn that the peer takes messages again, after `Transport.is_writable` was false."""

    def receive_shutdown(self) -> None:
        """Learn that the process stops: end the connection, so that the peer comes back."""

    def close(self, disconnect: Disconnect) -> None:
        """End the connection for what the transport found, in the receiver's own words."""

    def receive_leave(self) -> None:
        """Learn that the peer is gone while what it said before is still handled: leave now.

        Called at most `wirebell.liveness.LEAVE_SECONDS` after the peer left, once or twice. What
        else it said may follow, and then ``receive_eof``.
        """

    def receive_eof(self) -> Awaitable[None] | None:
        """Learn that the peer is gone; called once, last."""


class Encoding(Protocol):
    """Turns what happened in a channel into messages; one object serves all its subscribers.

    Equal objects are told apart by nobody: subscribers with equal encodings share frames.
    """

    @property
    def uses_base(self) -> bool:
        """Tell whether ``join`` makes patches against the publication before."""

    @property
    def settled(self) -> Encoding:
        """The encoding of a subscriber that has got a publication; mostly the same object."""

    @property
    def restarted(self) -> Encoding:
        """The encoding of a subscriber that lacks the newest publication; mostly the same."""

    def join(
        self, channel: str, items: Sequence[ChannelItem], base: Publication | None = None
    ) -> Frames:
        """Encode items of one tick, oldest first. May be empty where the wire has no words.

        Args:
            channel: Where they happened.
            items: A run without a hole.
            base: The publication before them, which every subscriber with this encoding has;
                ``None`` when there is none, or one of them has not.
        """


class ClientControl(Protocol):
    """What the server may do to a client of the protocol; held by its connection.

    Each is done at once, and told with the tick; on a client that is gone nothing happens.
    """

    async def subscribe(self, channel: str, options: ServerSubscribe) -> None:
        """Subscribe it on the server's side, and push that.

        Raises:
            ProtocolError: ``LIMIT_EXCEEDED``, ``UNKNOWN_CHANNEL`` or ``BAD_REQUEST``.
        """

    def unsubscribe(self, channel: str, code: int, reason: str) -> None:
        """End a subscription of either side, and push that; without one nothing happens."""

    def refresh(self, expires_at: float | None) -> None:
        """Change when it expires (seconds since 1970; ``None`` never), and push that."""

    def handle_gap(self, channel: str) -> None:
        """Learn that publications of a channel never came, or that its stream is another one.

        A client that counts on every publication comes back and recovers (section 1.8).
        """

    def close(self, disconnect: Disconnect) -> None:
        """End the connection."""
