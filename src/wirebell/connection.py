"""A connection: one open link from one client, as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable

from wirebell.errors import Disconnect
from wirebell.interfaces import Encoding, Transport
from wirebell.model import ClientInfo, Frames

__all__ = ("Connection",)


class Connection:
    """One client's link, whatever carries it.

    Mutable state: the user, the channels and whether it has ended. Only `wirebell.node.Node`
    changes it. Compared by identity.

    Attributes:
        client_id: Unique for ever.
        user_id: Empty for somebody anonymous.
        address: The peer's address; empty when unknown.
        encoding: How publications are written for it.
        channels: What it is subscribed to, oldest first → whether presence tells of it there.
        is_closing: True once our side decided to end it.
        is_closed: True once the node forgot it.
        write: Hands frames to the transport; false when the peer is over its limit.
    """

    __slots__ = (
        "address",
        "channels",
        "client_id",
        "encoding",
        "is_closed",
        "is_closing",
        "transport",
        "user_id",
        "write",
    )

    def __init__(
        self, client_id: str, address: str, encoding: Encoding, transport: Transport
    ) -> None:
        self.client_id = client_id
        self.user_id = ""
        self.address = address
        self.encoding = encoding
        self.transport = transport
        # The hub calls it for every delivery: one call less in between.
        self.write: Callable[[Frames], bool] = transport.write
        self.channels: dict[str, bool] = {}
        self.is_closing = False
        self.is_closed = False

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up; see `wirebell.interfaces.Transport.is_writable`."""
        return self.transport.is_writable

    @property
    def info(self) -> ClientInfo:
        """What other members of a channel see."""
        return ClientInfo(client_id=self.client_id, user_id=self.user_id)

    def close(self, disconnect: Disconnect, *, notice: str | None = None) -> None:
        """Have the transport end the link; see `wirebell.interfaces.Transport.close`."""
        self.transport.close(disconnect, notice=notice)
