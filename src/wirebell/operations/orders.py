"""What nodes do for each other: orders and questions about users, channels, nodes and revocations.

Each is a `Method`: what it takes, what it gives, and what does it on this node.
`wirebell.operations.everywhere` gives them to all nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from wirebell.cluster import Handler
from wirebell.connection import Connection
from wirebell.control import NodeInfo
from wirebell.errors import (
    BadRequest,
    BrokerError,
    CommandError,
    DisconnectCode,
    LimitExceeded,
    create_disconnect,
)
from wirebell.globs import Glob
from wirebell.model import ServerSubscribe
from wirebell.node import Node
from wirebell.operations.users import (
    ConnectionDetails,
    UnknownClient,
    UserOperations,
    session_of,
    token_of,
)
from wirebell.revocations import Revocation

__all__ = (
    "CHANNELS",
    "CONNECTIONS",
    "DISCONNECT",
    "END_SESSION",
    "INFO",
    "METHODS",
    "ONLINE",
    "REFRESH",
    "REVOKE",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "Disconnect",
    "Done",
    "Ended",
    "Method",
    "Page",
    "Refresh",
    "Subscribe",
    "Unsubscribe",
    "answer_for",
    "end_predecessors",
)

logger = logging.getLogger(__name__)

# Of two that come within this time at two nodes the later one stays.
RACE_SECONDS = 10.0

AskedT = TypeVar("AskedT")
ResultT = TypeVar("ResultT")


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """Whose clients are meant; see `wirebell.operations.users.UserOperations.subscribe`."""

    user_id: str = ""
    client_id: str = ""
    session_id: str = ""


class Subscribe(Who, frozen=True, kw_only=True):
    """Subscribe them."""

    channel: str
    options: ServerSubscribe | None = None


class Unsubscribe(Who, frozen=True, kw_only=True):
    """End subscriptions."""

    channel: str
    code: int
    reason: str


class Disconnect(Who, frozen=True, kw_only=True):
    """End connections."""

    whitelist: tuple[str, ...] = ()
    code: int
    reason: str | None = None


class Refresh(Who, frozen=True, kw_only=True):
    """Change when they expire."""

    expired: bool = False
    expires_at: float | None = None
    info: bytes | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """List connections."""

    user_id: str | None = None
    after: str = ""
    limit: int


class Done(msgspec.Struct, frozen=True):
    """What came of an order on one node.

    Attributes:
        count: Clients that it was done to.
        unknown: Why nobody could be meant there; empty when somebody could.
        limit: A limit that one of them met; empty for none.
    """

    count: int = 0
    unknown: str = ""
    limit: str = ""


class Successor(msgspec.Struct, frozen=True):
    """A user's newest connection, where only one may be.

    Attributes:
        user_id: Whose.
        client_id: It.
        came_at: When, seconds since 1970.
    """

    user_id: str
    client_id: str
    came_at: float


class Ended(msgspec.Struct, frozen=True):
    """What came of the end of a session on one node: its token, where it showed one with an id."""

    count: int = 0
    token_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Method(Generic[AskedT, ResultT]):
    """One thing that nodes do for each other.

    Attributes:
        name: On the wire.
        order: What it takes.
        result: What it gives.
        do: Does it on this node.
    """

    name: str
    order: Any
    result: Any
    do: Callable[[UserOperations, AskedT], Awaitable[ResultT]]

    def bind(self, operations: UserOperations) -> Handler:
        """Return what answers another node."""

        async def answer(body: bytes) -> bytes:
            try:
                order = msgspec.msgpack.decode(body, type=self.order)
            except msgspec.MsgspecError as error:
                raise BadRequest(f"{self.name} of another node cannot be read: {error}") from error
            return msgspec.msgpack.encode(await self.do(operations, order))

        return answer


def answer_for(operations: UserOperations, node: Node) -> None:
    """Have a node answer others; to be called once, before it starts."""
    node.cluster.handlers |= {method.name: method.bind(operations) for method in METHODS}

    def end(revocations: Sequence[Revocation]) -> None:
        _end_revoked(node, revocations, is_order=False)

    node.cluster.handle_revoked = end


async def _subscribe(operations: UserOperations, order: Subscribe) -> Done:
    """Subscribe clients of this node."""
    return await _count(
        UserOperations.subscribe(
            operations,
            order.user_id,
            order.channel,
            client_id=order.client_id,
            session_id=order.session_id,
            options=order.options,
        )
    )


async def _unsubscribe(operations: UserOperations, order: Unsubscribe) -> Done:
    """End subscriptions of this node."""
    return await _count(
        UserOperations.unsubscribe(
            operations,
            order.user_id,
            order.channel,
            client_id=order.client_id,
            session_id=order.session_id,
            code=order.code,
            reason=order.reason,
        )
    )


async def _disconnect(operations: UserOperations, order: Disconnect) -> Done:
    """End connections of this node."""
    return await _count(
        UserOperations.disconnect(
            operations,
            order.user_id,
            client_id=order.client_id,
            session_id=order.session_id,
            whitelist=order.whitelist,
            code=order.code,
            reason=order.reason,
        )
    )


async def _refresh(operations: UserOperations, order: Refresh) -> Done:
    """Change when clients of this node expire."""
    return await _count(
        UserOperations.refresh(
            operations,
            order.user_id,
            client_id=order.client_id,
            session_id=order.session_id,
            expired=order.expired,
            expires_at=order.expires_at,
            info=order.info,
        )
    )


async def _online(operations: UserOperations, user_ids: Sequence[str]) -> dict[str, int]:
    """Count users' connections to this node."""
    return await UserOperations.online_users(operations, user_ids)


async def _connections(operations: UserOperations, page: Page) -> list[ConnectionDetails]:
    """List connections of this node."""
    return await UserOperations.connections(
        operations, page.user_id, after=page.after, limit=page.limit
    )


async def _channels(operations: UserOperations, pattern: str) -> dict[str, int]:
    """Count the subscribers of this node's channels."""
    glob, hub = Glob(pattern), operations.node().hub
    names = hub.live.keys() | hub.catching_up.keys()
    return {name: hub.subscriber_count(name) for name in names if glob.matches(name)}


async def _info(operations: UserOperations, _: None) -> NodeInfo:
    """Tell what this node has to do."""
    return operations.node().describe()


async def _revoke(operations: UserOperations, revocations: list[Revocation]) -> int:
    """Refuse tokens on this node, and end what they opened."""
    node = operations.node()
    count = _end_revoked(node, revocations, is_order=True)
    node.cluster.revoke(revocations)
    return count


async def _end_session(operations: UserOperations, session_id: str) -> Ended:
    """End a connection of this node."""
    node = operations.node()
    found = [
        connection
        for connection in node.connections.values()
        if session_id in {connection.client_id, session_of(connection)}
        and not connection.is_closing
    ]
    token_ids = tuple(
        token.token_id
        for connection in found
        if (token := token_of(connection)) is not None and token.token_id
    )
    for connection in found:
        node.end(connection, create_disconnect(DisconnectCode.INVALID_TOKEN))
    return Ended(len(found), token_ids)


async def _succeed(operations: UserOperations, successor: Successor) -> int:
    """End a user's connections to this node, but for one that came at the same time and later."""
    node, count = operations.node(), 0
    for connection in list(node.users.get(successor.user_id, {}).values()):
        came_at = connection.identified_at
        is_later = (came_at, connection.client_id) > (successor.came_at, successor.client_id)
        # Clocks differ: what is older than this came before, whatever they say.
        if is_later and time.time() - came_at < RACE_SECONDS:
            continue
        if connection.client_id != successor.client_id and connection.control is not None:
            connection.control.close(create_disconnect(DisconnectCode.CONNECTION_LIMIT))
            count += 1
    return count


async def end_predecessors(node: Node, user_id: str, client_id: str) -> None:
    """Have a user's connections to other nodes end, since only this one may be."""
    order = msgspec.msgpack.encode(Successor(user_id, client_id, time.time()))
    try:
        survey = await node.cluster.ask_all(SUCCEED.name, order)
        if survey.silent:
            raise node.cluster.complain(survey.silent)
    except (CommandError, BrokerError) as error:
        logger.warning("user %r may have several connections: %s", user_id, error)


SUBSCRIBE: Method[Subscribe, Done] = Method("subscribe", Subscribe, Done, _subscribe)
UNSUBSCRIBE: Method[Unsubscribe, Done] = Method("unsubscribe", Unsubscribe, Done, _unsubscribe)
DISCONNECT: Method[Disconnect, Done] = Method("disconnect", Disconnect, Done, _disconnect)
REFRESH: Method[Refresh, Done] = Method("refresh", Refresh, Done, _refresh)
ONLINE: Method[tuple[str, ...], dict[str, int]] = Method(
    "online", tuple[str, ...], dict[str, int], _online
)
CONNECTIONS: Method[Page, list[ConnectionDetails]] = Method(
    "connections", Page, list[ConnectionDetails], _connections
)
CHANNELS: Method[str, dict[str, int]] = Method("channels", str, dict[str, int], _channels)
INFO: Method[None, NodeInfo] = Method("info", None, NodeInfo, _info)
REVOKE: Method[list[Revocation], int] = Method("revoke", list[Revocation], int, _revoke)
END_SESSION: Method[str, Ended] = Method("end_session", str, Ended, _end_session)
SUCCEED: Method[Successor, int] = Method("succeed", Successor, int, _succeed)

METHODS: tuple[Method[Any, Any], ...] = (
    SUBSCRIBE,
    UNSUBSCRIBE,
    DISCONNECT,
    REFRESH,
    ONLINE,
    CONNECTIONS,
    CHANNELS,
    INFO,
    REVOKE,
    END_SESSION,
    SUCCEED,
)


async def _count(work: Awaitable[int]) -> Done:
    """Say what came of an order; what one node alone cannot judge is no error yet."""
    try:
        return Done(await work)
    except UnknownClient as error:
        return Done(unknown=error.message)
    except LimitExceeded as error:
        return Done(limit=error.message)


def _end_revoked(node: Node, revocations: Sequence[Revocation], *, is_order: bool) -> int:
    """End the connections of a node that live by what is revoked; returns how many.

    Args:
        node: This one.
        revocations: What is revoked.
        is_order: Just now: whoever is there without a token came before it.
    """
    found: list[Connection] = []
    token_ids = {each.token_id for each in revocations if each.token_id}
    if token_ids:
        found += [
            connection
            for connection in node.connections.values()
            if (token := token_of(connection)) is not None and token.token_id in token_ids
        ]
    for revocation in revocations:
        if revocation.user_id:
            found += [
                connection
                for connection in node.users.get(revocation.user_id, {}).values()
                if _is_revoked(connection, revocation, is_order=is_order)
            ]
    count = 0
    for connection in found:
        if not connection.is_closing:
            node.end(connection, create_disconnect(DisconnectCode.INVALID_TOKEN))
            count += 1
    return count


def _is_revoked(connection: Connection, revocation: Revocation, *, is_order: bool) -> bool:
    """Tell whether a user's connection lives by what is revoked."""
    token = token_of(connection)
    if token is None:
        return is_order or connection.identified_at <= revocation.issued_before
    return revocation.covers(connection.user_id, token.token_id, token.issued_at)
