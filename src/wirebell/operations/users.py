"""What may be done to users of this node: who is connected, what the server does to their clients.

`everywhere` does the same on all nodes. A *user* is found among the connections of this
process; what is done to a client is done by its `wirebell.client.Client`. Plain sockets of
`wirebell.Realtime.attach` belong to users too, but all that can be done to them is to end them.

It knows no HTTP, no framework and no transport. Source: protocol document, section 2.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from heapq import nsmallest
from typing import TYPE_CHECKING, Protocol

import msgspec

from wirebell.access import ShownToken
from wirebell.client import Client
from wirebell.connection import Connection
from wirebell.control import NodeInfo
from wirebell.errors import (
    DISCONNECT_REASONS,
    UNSUBSCRIBE_REASONS,
    BadRequest,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    LimitExceeded,
    NotRunning,
    ProtocolError,
    UnsubscribeCode,
)
from wirebell.model import ChannelOptions, ServerSubscribe, StreamPosition
from wirebell.node import Node
from wirebell.publishing import check_size

__all__ = (
    "CONNECTIONS_MAX",
    "ChannelPolicy",
    "ConnectionDetails",
    "NodeInfo",
    "UnknownClient",
    "UserOperations",
    "create_close",
    "session_of",
    "token_of",
)

CONNECTIONS_MAX = 1000
"""Connections that one answer lists: about 300 KB."""

# Names of channels that clients cannot use: sixteen times as long as theirs.
CHANNEL_BYTES_MAX = 4096
# RFC 6455, section 5.5: a control frame has 125 bytes, and two are the code.
REASON_BYTES_MAX = 123


class ChannelPolicy(Protocol):
    """Says what channels there are."""

    def options_for(self, channel: str) -> ChannelOptions:
        """Return a channel's options.

        Raises:
            ProtocolError: ``UNKNOWN_CHANNEL``, or ``NOT_AVAILABLE``.
        """


class ConnectionDetails(msgspec.Struct, frozen=True):
    """A connection.

    Attributes:
        client_id: Unique for ever.
        user_id: Empty for somebody anonymous.
        address: The peer's; empty when unknown.
        transport: ``websocket``, ``sse``, ``http_stream``, ``uni_sse`` …; ``plain`` for a socket of
            `wirebell.Realtime.attach`.
        protocol: ``json``, ``protobuf``, or ``text`` for a plain socket.
        channels: What it is subscribed to, oldest first.
        name: What the client calls itself; empty when it does not.
        version: Of what it calls itself.
        session_id: Of an emulated transport; empty elsewhere.
        connected_at: Seconds since 1970; 0 for a plain socket.
    """

    client_id: str
    user_id: str
    address: str
    transport: str
    protocol: str
    channels: tuple[str, ...]
    name: str = ""
    version: str = ""
    session_id: str = ""
    connected_at: float = 0.0


class UnknownClient(BadRequest):
    """A client or a session was named without a user, and no anonymous one of this node is it."""


class UserOperations:
    """What may be done to users of a node that runs. To be used on its event loop.

    Whoever is one gives `node`, and ``authority``, which says what channels there are.
    """

    if TYPE_CHECKING:

        @property
        def authority(self) -> ChannelPolicy:
            """Says what channels there are."""

    def node(self) -> Node:
        """Return the running node.

        Raises:
            NotRunning: There is none.
        """
        raise NotRunning

    def find_options(self, channel: str) -> ChannelOptions:
        """Return the options of a channel that the server API names.

        Args:
            channel: 1 or more printable characters, at most 4096 bytes: a server may use names
                that clients may not (transcript ``http-api/publish``).

        Raises:
            ProtocolError: ``BAD_REQUEST`` without a name; ``UNKNOWN_CHANNEL`` or
                ``NOT_AVAILABLE``, as `ChannelPolicy.options_for`.
            BadRequest: The name is out of bounds.
        """
        if not channel:
            raise ProtocolError(ErrorCode.BAD_REQUEST)
        if not channel.isprintable():
            raise BadRequest(f"a channel's name is printable characters, got {channel!r:.80}")
        check_size("a channel's name", channel, CHANNEL_BYTES_MAX)
        return self.authority.options_for(channel)

    # Users

    async def subscribe(
        self,
        user_id: str,
        channel: str,
        *,
        client_id: str = "",
        session_id: str = "",
        options: ServerSubscribe | None = None,
    ) -> int:
        """Subscribe a user's clients to a channel on the server's side; each is told.

        Args:
            user_id: Whose. Empty with ``client_id`` or ``session_id`` finds an anonymous client,
                and nobody without.
            channel: Its name. Permissions are not asked.
            client_id: Only this one; empty for all that are connected to this node.
            session_id: Only the one with this session; likewise.
            options: How.

        Returns:
            How many clients are subscribed now; 0 where the user is not connected.

        Raises:
            ProtocolError: ``UNKNOWN_CHANNEL``, ``NOT_AVAILABLE`` or ``BAD_REQUEST``, and
                ``UNRECOVERABLE_POSITION`` for an ``options.since`` of another epoch.
            LimitExceeded: A client has ``channels_per_connection_max`` channels; it stays
                connected, and the others are subscribed.
            BadRequest: A client was named without its user.
            NotRunning: Outside the lifespan.
        """
        self.find_options(channel)
        options = options or ServerSubscribe()
        clients = self._clients(user_id, client_id, session_id)
        if clients and options.since is not None:
            await self._check_position(channel, options.since)
        answers = await asyncio.gather(
            *(client.subscribe(channel, options) for client in clients), return_exceptions=True
        )
        for client, answer in zip(clients, answers, strict=True):
            if isinstance(answer, ProtocolError) and answer.code == ErrorCode.LIMIT_EXCEEDED:
                most = self.node().settings.channels_per_connection_max
                raise LimitExceeded(
                    f"client {client.client_id!r} has {most} channels, which is the limit"
                ) from answer
            if isinstance(answer, BaseException):
                raise answer
        # Some may have left meanwhile.
        return sum(client.is_subscribed(channel) for client in clients)

    async def unsubscribe(
        self,
        user_id: str,
        channel: str,
        *,
        client_id: str = "",
        session_id: str = "",
        code: int = UnsubscribeCode.SERVER,
        reason: str = UNSUBSCRIBE_REASONS[UnsubscribeCode.SERVER],
    ) -> int:
        """End a user's subscriptions to a channel, whoever began them; each client is told.

        Args:
            user_id: As for `subscribe`.
            channel: Its name.
            client_id: As for `subscribe`.
            session_id: Likewise.
            code: 2000 to 2499 ends it; with 2500 to 2999 a client subscribes again.
            reason: For a person.

        Returns:
            How many were subscribed.

        Raises:
            ProtocolError: As `find_options`.
            BadRequest: ``code`` is out of bounds, or a client was named without its user.
            NotRunning: Outside the lifespan.
        """
        if not channel:
            raise BadRequest("unsubscribe needs a channel")
        self.find_options(channel)
        if not 2000 <= code <= 2999:
            raise BadRequest(f"an unsubscribe code is 2000 to 2999, got {code}")
        clients = [
            client
            for client in self._clients(user_id, client_id, session_id)
            if client.is_subscribed(channel)
        ]
        for client in clients:
            client.unsubscribe(channel, code, reason)
        return len(clients)

    async def disconnect(
        self,
        user_id: str,
        *,
        client_id: str = "",
        session_id: str = "",
        whitelist: Collection[str] = (),
        code: int = DisconnectCode.FORCE_DISCONNECT,
        reason: str | None = None,
    ) -> int:
        """End a user's connections, plain sockets too.

        Args:
            user_id: As for `subscribe`.
            client_id: As for `subscribe`.
            session_id: Likewise.
            whitelist: Client ids that stay.
            code: Of the close: 1000 to 1014 but for 1004 to 1006, or 3000 to 4999. Clients do not
                come back after 3500 to 3999 and 4500 to 4999 (section 1.14).
            reason: For a person; cut at 123 bytes. ``None`` is the protocol's own, or none.

        Returns:
            How many were ended.

        Raises:
            BadRequest: ``code`` is out of bounds, or a client was named without its user.
            NotRunning: Outside the lifespan.
        """
        disconnect = create_close(code, reason)
        kept, node = frozenset(whitelist), self.node()
        found = [
            connection
            for connection in self._connections(user_id, client_id, session_id)
            if connection.client_id not in kept
        ]
        for connection in found:
            node.end(connection, disconnect)
        return len(found)

    async def refresh(
        self,
        user_id: str,
        *,
        client_id: str = "",
        session_id: str = "",
        expired: bool = False,
        expires_at: float | None = None,
        info: bytes | None = None,
    ) -> int:
        """Change when a user's clients expire; each is told.

        Args:
            user_id: As for `subscribe`.
            client_id: As for `subscribe`.
            session_id: Likewise.
            expired: They expire now, and come back with new credentials (3005).
            expires_at: Seconds since 1970; ``None`` never.
            info: What others see of them from now on, one JSON value; ``None`` leaves it. Presence
                shows it within ``presence_refresh_seconds``.

        Returns:
            How many were changed.

        Raises:
            BadRequest: A client was named without its user.
            NotRunning: Outside the lifespan.
        """
        clients = self._clients(user_id, client_id, session_id)
        for client in clients:
            if expired:
                client.close(create_close(DisconnectCode.EXPIRED, None))
                continue
            if info is not None:
                client.connection.conn_info = info
            client.refresh(expires_at)
        return len(clients)

    async def is_online(self, user_id: str) -> bool:
        """Tell whether a user is connected to this node."""
        return user_id in self.node().users

    async def online_users(self, user_ids: Iterable[str]) -> dict[str, int]:
        """Count the connections of those of ``user_ids`` who are connected to this node."""
        users = self.node().users
        return {user_id: len(users[user_id]) for user_id in user_ids if user_id in users}

    async def connections(
        self, user_id: str | None = None, *, after: str = "", limit: int = CONNECTIONS_MAX
    ) -> list[ConnectionDetails]:
        """List connections of this node, in the order of their ids.

        Args:
            user_id: Only this user's; ``None`` is everybody's.
            after: Only those with a greater client id: the last one of the page before.
            limit: 1 to 1000.

        Raises:
            BadRequest: ``limit`` is out of bounds.
            NotRunning: Outside the lifespan.
        """
        if not 1 <= limit <= CONNECTIONS_MAX:
            raise BadRequest(f"limit is 1 to {CONNECTIONS_MAX}, got {limit}")
        node = self.node()
        found = node.connections if user_id is None else node.users.get(user_id, {})
        client_ids = nsmallest(limit, (client_id for client_id in found if client_id > after))
        return [_describe(found[client_id]) for client_id in client_ids]

    async def info(self) -> NodeInfo:
        """Tell what this node has to do.

        Raises:
            NotRunning: Outside the lifespan.
        """
        return self.node().describe()

    def _connections(self, user_id: str, client_id: str, session_id: str) -> list[Connection]:
        """Find who is meant.

        A client id alone finds an anonymous client. That of somebody else finds nobody, and the
        caller is told so (section 1.16, point 21).
        """
        node = self.node()
        if not user_id and not client_id and not session_id:
            return []
        if user_id:
            known = node.users.get(user_id, {})
        else:
            known = {key: each for key, each in node.connections.items() if not each.user_id}
        found = [
            connection
            for connection in known.values()
            if client_id in {"", connection.client_id}
            and session_id in {"", session_of(connection)}
            and not connection.is_closing
        ]
        if not user_id and not found:
            who = f"client {client_id!r:.80}" if client_id else f"session {session_id!r:.80}"
            raise UnknownClient(f"{who} is no anonymous client: name its user")
        return found

    def _clients(self, user_id: str, client_id: str, session_id: str) -> list[Client]:
        """Find the clients of the protocol that are meant and have connected."""
        return [
            connection.control
            for connection in self._connections(user_id, client_id, session_id)
            if isinstance(connection.control, Client) and connection.control.is_connected
        ]

    async def _check_position(self, channel: str, since: StreamPosition) -> None:
        """Refuse a position of another epoch."""
        node = self.node()
        options = node.options_for(channel)
        if options.history is None:
            raise ProtocolError(ErrorCode.UNRECOVERABLE_POSITION)
        top = (await node.broker.history(channel, options, since=None, limit=0)).top
        if since.epoch not in {"", top.epoch} or since.offset > top.offset:
            raise ProtocolError(ErrorCode.UNRECOVERABLE_POSITION)


def create_close(code: int, reason: str | None) -> Disconnect:
    """Create what ends a connection by order.

    Args:
        code: As `UserOperations.disconnect` takes it.
        reason: Cut at 123 bytes, between two characters; ``None`` is the protocol's own, or none.

    Raises:
        BadRequest: No close frame can carry the code.
    """
    if not (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) and not 3000 <= code <= 4999:
        raise BadRequest(f"a disconnect code is 1000 to 1014 or 3000 to 4999, got {code}")
    if reason is None:
        reason = DISCONNECT_REASONS.get(code, "")
    short = reason.encode("utf-8", "replace")[:REASON_BYTES_MAX].decode(errors="ignore")
    return Disconnect(code, short)


def token_of(connection: Connection) -> ShownToken | None:
    """Return what a connection's client showed; ``None`` for nothing."""
    return connection.control.token if isinstance(connection.control, Client) else None


def session_of(connection: Connection) -> str:
    """Return a connection's session; empty where it has none."""
    return connection.control.session_id if isinstance(connection.control, Client) else ""


def _describe(connection: Connection) -> ConnectionDetails:
    """Tell about a connection."""
    client = connection.control
    if not isinstance(client, Client):
        return ConnectionDetails(
            connection.client_id,
            connection.user_id,
            connection.address,
            transport="plain",
            protocol="text",
            channels=tuple(connection.channels),
        )
    return ConnectionDetails(
        connection.client_id,
        connection.user_id,
        connection.address,
        transport=client.transport_name,
        protocol=client.codec.name,
        channels=tuple(connection.channels),
        name=client.name,
        version=client.version,
        session_id=client.session_id,
        connected_at=client.connected_at,
    )
