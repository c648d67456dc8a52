"""What a client of the protocol may do: asked here, decided by whoever implements `Access`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from wirebell.model import ChannelOptions, Publication, ServerSubscribe
from wirebell.protocol.messages import (
    ConnectRequest,
    PublishRequest,
    SubRefreshRequest,
    SubscribeRequest,
)

if TYPE_CHECKING:
    from wirebell.client import Client

__all__ = ("Access", "ConnectGrant", "RefreshGrant", "ShownToken")


@dataclass(frozen=True, slots=True)
class ShownToken:
    """What is remembered of a connection's token, so that it can be revoked.

    Attributes:
        token_id: ``jti``; empty for none.
        issued_at: ``iat``, seconds since 1970; ``None`` when it does not say.
    """

    token_id: str = ""
    issued_at: float | None = None


@dataclass(frozen=True, slots=True)
class ConnectGrant:
    """Who connected, and what that gives.

    Attributes:
        user_id: Empty for somebody anonymous.
        expires_at: When the credentials end, seconds since 1970; ``None`` never.
        grace_seconds: Time after that in which the client may refresh them.
        info: What others see of the connection; one JSON value, empty for nothing.
        data: Handed to the client; likewise.
        channels: Server-side subscriptions: channel → how.
        is_refreshed_by_client: The client is told when they end, and shows new ones.
        token: What it showed; ``None`` where something else says who it is.
    """

    user_id: str = ""
    expires_at: float | None = None
    grace_seconds: float = 0.0
    info: bytes = b""
    data: bytes = b""
    channels: Mapping[str, ServerSubscribe] = field(default_factory=dict)
    is_refreshed_by_client: bool = False
    token: ShownToken | None = None


@dataclass(frozen=True, slots=True)
class RefreshGrant:
    """A connection's new life.

    Attributes:
        expires_at: As in `ConnectGrant`.
        channels: Server-side subscriptions that the new credentials name; ``None`` leaves them.
        token: The new one; ``None`` leaves the one before.
    """

    expires_at: float | None = None
    channels: frozenset[str] | None = None
    token: ShownToken | None = None


class Access(Protocol):
    """Decides what a client may do. Every method may raise what is answered or ends it.

    `ProtocolError` answers the command, `ClientDisconnected` ends the connection; another
    `CommandError` answers with its own code and message.
    """

    @property
    def tells_time(self) -> bool:
        """Whether the connect result tells the server's time."""

    async def connect(self, client: Client, request: ConnectRequest) -> ConnectGrant:
        """Say who connects."""

    async def refresh(self, client: Client, token: str) -> RefreshGrant:
        """Take new credentials."""

    async def subscribe(self, client: Client, request: SubscribeRequest) -> ServerSubscribe:
        """Let a client into a channel; its name is checked here too."""

    async def sub_refresh(
        self, client: Client, request: SubRefreshRequest
    ) -> tuple[str, float | None]:
        """Take a new token of a subscription: the channel, and when it expires now."""

    def options_for(self, channel: str) -> ChannelOptions:
        """Return a channel's options; ``UNKNOWN_CHANNEL`` where it has none."""

    def publish(
        self, client: Client, request: PublishRequest
    ) -> Publication | Awaitable[Publication | None] | None:
        """Check what a client publishes; ``None`` when it is handled already."""

    def check_presence(self, client: Client, channel: str) -> None:
        """Let a client see who is in a channel."""

    def may_see_presence(self, client: Client, channel: str, options: ChannelOptions) -> bool:
        """Tell whether a client that subscribes may see who is in the channel."""

    def may_recover(self, client: Client, options: ChannelOptions) -> bool:
        """Tell whether a client that subscribes may read the channel's history."""

    async def renew(self, client: Client) -> RefreshGrant | None:
        """Ask for a longer life of a connection that ends; ``None`` lets it end."""

    def check_history(self, client: Client, channel: str) -> None:
        """Let a client read a channel's history."""

    async def rpc(self, client: Client, method: str, data: bytes) -> bytes:
        """Answer a remote procedure call."""

    async def send(self, client: Client, data: bytes) -> None:
        """Take a message that has no answer."""

    def unsubscribed(self, client: Client, channel: str, code: int, reason: str) -> None:
        """Learn that a subscription has ended."""

    def disconnected(self, client: Client) -> None:
        """Learn that the client is gone; called once, if it had connected."""
