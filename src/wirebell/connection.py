"""A connection: one open link from one client, as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wirebell.errors import Disconnect, DisconnectCode
from wirebell.interfaces import ClientControl, Encoding, Transport
from wirebell.model import ClientInfo, Frames

__all__ = ("MOVED", "Connection", "Subscription")

# What a node says that stops: come back, to another one.
MOVED = frozenset({DisconnectCode.SHUTDOWN, DisconnectCode.SERVICE_RESTART})


@dataclass(slots=True)
class Subscription:
    """A connection's interest in one channel.

    Attributes:
        encoding: How items are written for it; ``None`` as the connection's others.
        is_positioned: It counts on every publication: it is told of a gap.
        has_presence: It is kept in the channel's presence.
        has_join_leave: Others are told of its joining and leaving.
        is_server_side: The server began it, and not the client.
        chan_info: What others see of it in this channel; one JSON value, empty for nothing.
        expires_at: When it ends, seconds since 1970; ``None`` never.
        is_present: Presence holds it.
        is_announced: Others were told that it joined.
    """

    encoding: Encoding | None = None
    is_positioned: bool = False
    has_presence: bool = False
    has_join_leave: bool = False
    is_server_side: bool = False
    chan_info: bytes = b""
    expires_at: float | None = None
    is_present: bool = False
    is_announced: bool = False


class Connection:
    """One client's link, whatever carries it.

    Mutable state: the user, the channels and whether it has ended. Only `wirebell.node.Node`
    changes it. Compared by identity.

    Attributes:
        client_id: Unique for ever.
        user_id: Empty for somebody anonymous.
        address: The peer's address; empty when unknown.
        encoding: How publications are written for it.
        conn_info: What others see of it; one JSON value, empty for nothing.
        channels: What it is subscribed to, oldest first → how.
        identified_at: When it was known who it is, seconds since 1970; 0 while it is not.
        control: What the server may do to it; ``None`` where the client speaks no protocol.
        expected_until: Until when others see no leave of it, because it was sent to another node,
            on the loop's clock; 0 for whoever was not.
        is_closing: True once our side decided to end it.
        is_closed: True once the node forgot it.
        write: Hands frames to the transport; false when the peer is over its limit.
    """

    __slots__ = (
        "address",
        "channels",
        "client_id",
        "conn_info",
        "control",
        "encoding",
        "expected_until",
        "identified_at",
        "is_closed",
        "is_closing",
        "transport",
        "user_id",
        "write",
    )

    def __init__(
        self,
        client_id: str,
        address: str,
        encoding: Encoding,
        transport: Transport,
        control: ClientControl | None = None,
    ) -> None:
        self.client_id = client_id
        self.user_id = ""
        self.address = address
        self.encoding = encoding
        self.conn_info = b""
        self.identified_at = 0.0
        self.expected_until = 0.0
        self.transport = transport
        self.control = control
        # The hub calls it for every delivery: one call less in between.
        self.write: Callable[[Frames], bool] = transport.write
        self.channels: dict[str, Subscription] = {}
        self.is_closing = False
        self.is_closed = False

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up; see `wirebell.interfaces.Transport.is_writable`."""
        return self.transport.is_writable

    def info(self, channel: str = "") -> ClientInfo:
        """Return what others see of it, in a channel that it is subscribed to."""
        subscription = self.channels.get(channel)
        chan_info = subscription.chan_info if subscription is not None else b""
        return ClientInfo(self.client_id, self.user_id, self.conn_info, chan_info)

    def close(self, disconnect: Disconnect, *, notice: str | bytes | None = None) -> None:
        """Have the transport end the link; see `wirebell.interfaces.Transport.close`."""
        self.transport.close(disconnect, notice=notice)
