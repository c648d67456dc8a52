"""What is done and asked on all nodes: users' clients, channels, nodes, revocations.

Strategy: an order is done here first, which also checks it, then given to all other nodes, which
do the same and say what came of it. Who does not answer in time is named by `NodesSilent`: a count
or a list without that node would look whole. Every order may be given again. Where there are no
other nodes nobody is waited for.

It knows no HTTP, no framework and no transport. Source: protocol document, section 2.7.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from heapq import nsmallest
from typing import TypeVar

import msgspec

from wirebell.control import NodeInfo
from wirebell.errors import (
    UNSUBSCRIBE_REASONS,
    BadRequest,
    BrokerError,
    DisconnectCode,
    LimitExceeded,
    UnsubscribeCode,
)
from wirebell.model import ServerSubscribe
from wirebell.operations.orders import (
    CHANNELS,
    CONNECTIONS,
    DISCONNECT,
    END_SESSION,
    INFO,
    ONLINE,
    REFRESH,
    REVOKE,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Disconnect,
    Done,
    Method,
    Page,
    Refresh,
    Subscribe,
    Unsubscribe,
)
from wirebell.operations.users import CONNECTIONS_MAX, ConnectionDetails, UserOperations
from wirebell.revocations import Revocation

__all__ = ("ClusterOperations",)

AskedT = TypeVar("AskedT")
ResultT = TypeVar("ResultT")


class ClusterOperations(UserOperations):
    """What may be done on all nodes, from one that runs. To be used on its event loop.

    Each method may raise besides what it says: `NodesSilent`, when a node does not answer within
    ``survey_timeout_seconds`` (the others have done it), `BrokerUnavailable`, when nobody can be
    asked (it is done on this node), and `NotRunning` outside the lifespan.
    """

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
            client_id: Only this one; empty for all.
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
        """
        order = Subscribe(
            user_id=user_id,
            client_id=client_id,
            session_id=session_id,
            channel=channel,
            options=options,
        )
        return _sum(await self._everywhere(SUBSCRIBE, order))

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
        """
        order = Unsubscribe(
            user_id=user_id,
            client_id=client_id,
            session_id=session_id,
            channel=channel,
            code=code,
            reason=reason,
        )
        return _sum(await self._everywhere(UNSUBSCRIBE, order))

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
        """
        order = Disconnect(
            user_id=user_id,
            client_id=client_id,
            session_id=session_id,
            whitelist=tuple(whitelist),
            code=code,
            reason=reason,
        )
        return _sum(await self._everywhere(DISCONNECT, order))

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
        """
        order = Refresh(
            user_id=user_id,
            client_id=client_id,
            session_id=session_id,
            expired=expired,
            expires_at=expires_at,
            info=info,
        )
        return _sum(await self._everywhere(REFRESH, order))

    async def is_online(self, user_id: str) -> bool:
        """Tell whether a user is connected to any node."""
        return user_id in self.node().users or user_id in await self.online_users((user_id,))

    async def online_users(self, user_ids: Iterable[str]) -> dict[str, int]:
        """Count the connections of those of ``user_ids`` who are connected to any node."""
        total: dict[str, int] = {}
        for counts in await self._everywhere(ONLINE, tuple(user_ids)):
            _add(total, counts)
        return total

    async def connections(
        self, user_id: str | None = None, *, after: str = "", limit: int = CONNECTIONS_MAX
    ) -> list[ConnectionDetails]:
        """List connections of all nodes, in the order of their ids.

        Args:
            user_id: Only this user's; ``None`` is everybody's.
            after: Only those with a greater client id: the last one of the page before.
            limit: 1 to 1000.

        Raises:
            BadRequest: ``limit`` is out of bounds.
        """
        pages = await self._everywhere(CONNECTIONS, Page(user_id=user_id, after=after, limit=limit))
        found = (each for page in pages for each in page)
        return nsmallest(limit, found, key=lambda each: each.client_id)

    # Channels and nodes

    async def channels(self, pattern: str = "") -> dict[str, int]:
        """Count the subscribers of each channel that has some, on all nodes.

        Args:
            pattern: Of names: ``*`` stands for any characters, ``?`` for one, ``[ab]`` and
                ``[!ab]`` for one of these and of the others, ``{news,chat}`` for one of these
                words. Empty is every name; at most 1024 bytes.

        Returns:
            Channel → connections, in no order.

        Raises:
            BadRequest: The pattern is out of bounds.
            CommandError: ``LIMIT_EXCEEDED``, when the names of one node have more than 16 MiB.
        """
        total: dict[str, int] = {}
        for counts in await self._everywhere(CHANNELS, pattern):
            _add(total, counts)
        return total

    async def nodes(self) -> list[NodeInfo]:
        """Tell what each node has to do, by name.

        Returns:
            All nodes that live. One that does not answer, or cannot be asked, is marked as silent,
            with what it told last, at most ``node_forget_seconds`` ago; it raises nothing.
        """
        node = self.node()
        infos = {node.node_id: node.describe()}
        try:
            survey = await node.cluster.ask_all(INFO.name, msgspec.msgpack.encode(None))
        except BrokerError:
            bodies: Collection[bytes] = ()
        else:
            bodies = survey.bodies.values()
        for body in bodies:
            info = msgspec.msgpack.decode(body, type=NodeInfo)
            infos[info.node_id] = info
        for node_id, member in node.cluster.members.known.items():
            if node_id not in infos:
                infos[node_id] = msgspec.structs.replace(member.info, is_silent=True)
        return sorted(infos.values(), key=lambda info: (info.name, info.node_id))

    # Revocations

    async def revoke(
        self,
        user_id: str = "",
        *,
        token_id: str = "",
        session_id: str = "",
        issued_before: float | None = None,
        expires_at: float | None = None,
    ) -> int:
        """Refuse tokens that are good by their signature, and end the connections they opened.

        One of the first three says what is meant. Connections end with 3500, after which a client
        does not come back; plain sockets, and clients known by something else than a token, end
        where a user is meant. Every node remembers it in memory, and tells those that come later;
        when all nodes were down at once it is forgotten. Whoever issues tokens, or says who
        connects, must refuse new ones.

        Args:
            user_id: All of this user's.
            token_id: The token with this ``jti``, of a connection or of a subscription. A
                subscription that it began goes on until its end.
            session_id: The connection with this session or client id, and its token where that
                has a ``jti``.
            issued_before: Of a user, only tokens of this instant or before are meant; seconds
                since 1970, ``None`` is now. Tokens are dated in whole seconds: one that is issued
                within this second is refused too.
            expires_at: When the last such token has ended, likewise; ``None`` is after
                ``revocation_ttl_seconds``.

        Returns:
            How many connections were ended.

        Raises:
            BadRequest: None or several of the three are given, or the end has passed.
        """
        if sum(map(bool, (user_id, token_id, session_id))) != 1:
            raise BadRequest("revoke needs a user, a token or a session, and one of them only")
        now, settings = time.time(), self.node().settings
        until = now + settings.revocation_ttl_seconds if expires_at is None else expires_at
        if until <= now:
            raise BadRequest(f"expires_at has passed: {expires_at}")
        if session_id:
            ended = await self._everywhere(END_SESSION, session_id)
            token_ids = {each for end in ended for each in end.token_ids}
            revocations = [Revocation("", each, 0.0, until) for each in sorted(token_ids)]
            count = sum(end.count for end in ended)
            return count + (sum(await self._everywhere(REVOKE, revocations)) if token_ids else 0)
        before = now if issued_before is None else issued_before
        revocation = Revocation(user_id, token_id, before if user_id else 0.0, until)
        return sum(await self._everywhere(REVOKE, [revocation]))

    # Inside

    async def _everywhere(self, method: Method[AskedT, ResultT], order: AskedT) -> list[ResultT]:
        """Do something here, and have all other nodes do it; what they give, ours first."""
        results = [await method.do(self, order)]
        cluster = self.node().cluster
        survey = await cluster.ask_all(method.name, msgspec.msgpack.encode(order))
        for refusal in survey.refusals.values():
            raise refusal
        if survey.silent:
            raise cluster.complain(survey.silent)
        results += [
            msgspec.msgpack.decode(body, type=method.result) for body in survey.bodies.values()
        ]
        return results


def _sum(done: Sequence[Done]) -> int:
    """Say what came of an order on all nodes.

    Raises:
        LimitExceeded: A client met a limit.
        BadRequest: Nobody could be meant anywhere.
    """
    for each in done:
        if each.limit:
            raise LimitExceeded(each.limit)
    if all(each.unknown for each in done):
        raise BadRequest(done[0].unknown)
    return sum(each.count for each in done)


def _add(total: dict[str, int], counts: dict[str, int]) -> None:
    """Add counts to others."""
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count
