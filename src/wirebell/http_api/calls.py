"""What each method of the server API does, between JSON and `wirebell.operations.Operations`.

Every method is one row of `METHODS`: what it takes and what answers it. Errors are exceptions
here; `wirebell.http_api.routes` writes them. Source: protocol document, section 2.7, and the
recordings ``http-api/*``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wirebell.errors import CommandError, DisconnectCode, ErrorCode, ProtocolError
from wirebell.http_api import messages
from wirebell.http_api.values import (
    describe_error,
    encode_info,
    encode_publication,
    not_found,
    read_base64,
    read_value,
)
from wirebell.model import (
    ChannelOptions,
    Publication,
    PublicationFormat,
    PublishOptions,
    ServerSubscribe,
    StreamPosition,
)
from wirebell.namespaces import check_publication
from wirebell.operations import Operations, breathe
from wirebell.operations.users import CONNECTIONS_MAX
from wirebell.publishing import (
    CHANNELS_MAX,
    check_count,
    check_tags,
    create_options,
)

__all__ = ("METHODS", "Method")


@dataclass(slots=True)
class _Draft:
    """A publication that goes to one channel or to many.

    Mutable state: what was made of it already, by what a channel takes and whether patches are
    made there; so it is checked once for all channels that are alike.
    """

    request: messages.PublishRequest | messages.BroadcastRequest | messages.PatternRequest
    data: bytes
    tags: Mapping[str, str] | None
    how: PublishOptions | None
    made: dict[tuple[PublicationFormat, bool], Publication] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        request: messages.PublishRequest | messages.BroadcastRequest | messages.PatternRequest,
    ) -> _Draft:
        """Read what is common to all channels."""
        how = create_options(
            request.idempotency_key,
            request.version,
            request.version_epoch,
            skip_history=request.skip_history,
        )
        data = read_base64(request.b64data) if request.b64data else bytes(request.data)
        return cls(request, data, check_tags(request.tags), how)

    def publication(self, options: ChannelOptions) -> Publication:
        """Return what a channel with such options gets."""
        has_delta = self.request.delta or options.delta_publish
        key = options.publication_format, has_delta
        made = self.made.get(key)
        if made is None:
            kind = check_publication(options, self.data)
            made = self.made[key] = Publication(
                self.data,
                kind,
                tags=self.tags,
                has_delta=has_delta,
                version=self.request.version,
                exclude=self.request.exclude,
            )
        return made

    async def send(self, operations: Operations, channel: str) -> messages.PublishResult:
        """Publish it to a channel."""
        publication = self.publication(operations.find_options(channel))
        position = await operations.publish_data(channel, publication, self.how)
        return messages.PublishResult(position.offset, position.epoch)

    async def send_to_each(
        self, operations: Operations, channels: list[str]
    ) -> list[messages.Response]:
        """Publish it to many channels."""
        responses: list[messages.Response] = []
        for number, channel in enumerate(channels, 1):
            try:
                result = await self.send(operations, channel)
                responses.append(messages.Response(result=result))
            except CommandError as error:
                responses.append(messages.Response(error=describe_error(error)))
            await breathe(number)
        return responses


# Publishing


async def publish(
    operations: Operations, request: messages.PublishRequest
) -> messages.PublishResult:
    """Publish to a channel."""
    operations.find_options(request.channel)
    return await _Draft.create(request).send(operations, request.channel)


async def broadcast(
    operations: Operations, request: messages.BroadcastRequest
) -> messages.BroadcastResult:
    """Publish the same to many channels."""
    if not request.channels:
        raise ProtocolError(ErrorCode.BAD_REQUEST)
    check_count("channels", len(request.channels), CHANNELS_MAX)
    draft = _Draft.create(request)
    return messages.BroadcastResult(await draft.send_to_each(operations, request.channels))


async def publish_to_pattern(
    operations: Operations, request: messages.PatternRequest
) -> messages.PatternResult:
    """Publish the same to each channel of a pattern that somebody is subscribed to."""
    if not request.pattern:
        raise ProtocolError(ErrorCode.BAD_REQUEST)
    draft = _Draft.create(request)
    names = list(await operations.channels(request.pattern))
    check_count("channels", len(names), CHANNELS_MAX)
    responses = await draft.send_to_each(operations, names)
    return messages.PatternResult(dict(zip(names, responses, strict=True)))


# Users


def _value(override: messages.Override | None) -> bool | None:
    """Return what counts instead of the channel's option; ``None`` leaves it."""
    return None if override is None else override.value


async def subscribe(operations: Operations, request: messages.SubscribeRequest) -> messages.Empty:
    """Subscribe a user's clients to a channel on the server's side."""
    operations.find_options(request.channel)
    override, since = request.override or messages.Overrides(), request.recover_since
    options = ServerSubscribe(
        info=read_value(request.info, request.b64info),
        data=read_value(request.data, request.b64data),
        expires_at=float(request.expire_at) if request.expire_at else None,
        since=StreamPosition(since.offset, since.epoch) if since is not None else None,
        presence=_value(override.presence),
        join_leave=_value(override.join_leave),
        force_push_join_leave=_value(override.force_push_join_leave),
        force_positioning=_value(override.force_positioning),
        force_recovery=_value(override.force_recovery),
    )
    await operations.subscribe(
        request.user,
        request.channel,
        client_id=request.client,
        session_id=request.session,
        options=options,
    )
    return messages.Empty()


async def unsubscribe(
    operations: Operations, request: messages.UnsubscribeRequest
) -> messages.Empty:
    """End a user's subscriptions to a channel."""
    await operations.unsubscribe(
        request.user, request.channel, client_id=request.client, session_id=request.session
    )
    return messages.Empty()


async def disconnect(operations: Operations, request: messages.DisconnectRequest) -> messages.Empty:
    """End a user's connections."""
    code: int = DisconnectCode.FORCE_DISCONNECT
    reason = None
    if request.disconnect is not None and request.disconnect.code:
        code, reason = request.disconnect.code, request.disconnect.reason
    await operations.disconnect(
        request.user,
        client_id=request.client,
        session_id=request.session,
        whitelist=request.whitelist,
        code=code,
        reason=reason,
    )
    return messages.Empty()


async def refresh(operations: Operations, request: messages.RefreshRequest) -> messages.Empty:
    """Change when a user's clients expire."""
    info = bytes(request.info)
    await operations.refresh(
        request.user,
        client_id=request.client,
        session_id=request.session,
        expired=request.expired,
        expires_at=float(request.expire_at) if request.expire_at else None,
        info=None if info in {b"", b"null"} else read_value(request.info, ""),
    )
    return messages.Empty()


async def revoke_token(
    operations: Operations, request: messages.RevokeTokenRequest
) -> messages.Empty:
    """Refuse a token, and end the connections that showed it."""
    await operations.revoke(
        token_id=request.uid, expires_at=float(request.expire_at) if request.expire_at else None
    )
    return messages.Empty()


async def revoke_session(
    operations: Operations, request: messages.RevokeSessionRequest
) -> messages.Empty:
    """End a connection, and refuse the token that it showed."""
    await operations.revoke(
        session_id=request.session or request.client,
        expires_at=float(request.expire_at) if request.expire_at else None,
    )
    return messages.Empty()


async def invalidate_user_tokens(
    operations: Operations, request: messages.InvalidateUserTokensRequest
) -> messages.Empty:
    """Refuse a user's tokens of before an instant, and end the connections that showed them."""
    await operations.revoke(
        request.user,
        issued_before=float(request.issued_before) if request.issued_before else None,
        expires_at=float(request.expire_at) if request.expire_at else None,
    )
    return messages.Empty()


async def connections(
    operations: Operations, request: messages.ConnectionsRequest
) -> messages.ConnectionsResult:
    """List connections, in the order of their ids."""
    if request.expression:
        raise ProtocolError(ErrorCode.NOT_AVAILABLE)
    found = await operations.connections(
        request.user or None, after=request.after, limit=request.limit or CONNECTIONS_MAX
    )
    return messages.ConnectionsResult(
        {
            each.client_id: messages.ConnectionInfo(
                transport=each.transport,
                protocol=each.protocol,
                app_name=each.name,
                app_version=each.version,
                user=each.user_id,
                state=messages.ChannelsOfConnection(dict.fromkeys(each.channels, messages.Empty())),
                connected_at=each.connected_at,
                session=each.session_id,
                address=each.address,
            )
            for each in found
        }
    )


async def get_user_status(
    operations: Operations, request: messages.UserStatusRequest
) -> messages.UserStatusResult:
    """Tell who is online."""
    check_count("users", len(request.users), CONNECTIONS_MAX)
    online, now = await operations.online_users(request.users), int(time.time())
    return messages.UserStatusResult(
        [
            messages.UserStatus(user, now if user in online else 0, online.get(user, 0))
            for user in request.users
        ]
    )


# Channels


async def presence(
    operations: Operations, request: messages.ChannelRequest
) -> messages.PresenceResult:
    """Tell who is in a channel."""
    _check_presence(operations, request.channel)
    members = await operations.presence(request.channel)
    return messages.PresenceResult({key: encode_info(info) for key, info in members.items()})


async def presence_stats(
    operations: Operations, request: messages.ChannelRequest
) -> messages.PresenceStatsResult:
    """Count who is in a channel."""
    _check_presence(operations, request.channel)
    counts = await operations.presence_stats(request.channel)
    return messages.PresenceStatsResult(counts.client_count, counts.user_count)


async def history(
    operations: Operations, request: messages.HistoryRequest
) -> messages.HistoryResult:
    """Read what a channel keeps."""
    _check_history(operations, request.channel)
    since = None
    if request.since is not None:
        since = StreamPosition(request.since.offset, request.since.epoch)
    part = await operations.history(
        request.channel, since=since, limit=request.limit, reverse=request.reverse
    )
    if since is not None and since.epoch not in {"", part.top.epoch}:
        raise ProtocolError(ErrorCode.UNRECOVERABLE_POSITION)
    publications = [encode_publication(each) for each in part.publications]
    return messages.HistoryResult(publications, part.top.epoch, part.top.offset)


async def history_remove(
    operations: Operations, request: messages.ChannelRequest
) -> messages.Empty:
    """Forget what a channel keeps."""
    _check_history(operations, request.channel)
    await operations.history_remove(request.channel)
    return messages.Empty()


async def channels(
    operations: Operations, request: messages.ChannelsRequest
) -> messages.ChannelsResult:
    """List channels that have subscribers."""
    found = await operations.channels(request.pattern)
    return messages.ChannelsResult(
        {name: messages.ChannelInfo(count) for name, count in found.items()}
    )


def _check_presence(operations: Operations, channel: str) -> None:
    """Refuse a channel that keeps no presence."""
    if not operations.find_options(channel).presence:
        raise ProtocolError(ErrorCode.NOT_AVAILABLE)


def _check_history(operations: Operations, channel: str) -> None:
    """Refuse a channel that keeps no history."""
    if operations.find_options(channel).history is None:
        raise ProtocolError(ErrorCode.NOT_AVAILABLE)


# The server


async def info(operations: Operations, request: messages.InfoRequest) -> messages.InfoResult:
    """Tell what the nodes have to do."""
    del request
    return messages.InfoResult(
        [
            messages.NodeResult(
                uid=node.node_id,
                name=node.name,
                version=node.version,
                num_clients=node.client_count,
                num_users=node.user_count,
                num_channels=node.channel_count,
                uptime=int(node.uptime_seconds),
                metrics=messages.Metrics(node.uptime_seconds, node.counters),
                process=messages.ProcessInfo(node.processor_percent, node.resident_bytes),
                num_subs=node.subscription_count,
                silent=node.is_silent,
            )
            for node in await operations.nodes()
        ]
    )


async def rpc(operations: Operations, request: messages.RPCRequest) -> messages.Empty:
    """Call a remote procedure of the server: there is none (recording ``http-api/rpc``)."""
    del operations
    if not request.method:
        raise ProtocolError(ErrorCode.BAD_REQUEST)
    raise not_found()


async def refuse_map(operations: Operations, request: messages.ChannelRequest) -> messages.Empty:
    """Refuse a method for a kind of channel that is not there yet.

    A channel of another kind is answered as recorded (``publish_wrong_kind_of_channel``).
    """
    operations.find_options(request.channel)
    raise ProtocolError(ErrorCode.BAD_REQUEST)


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        name: The last part of its path.
        request: What it takes.
        result: What it answers.
        call: What it does.
        example: A request for the documentation.
        decoder: Of ``request``.
        empty: A request in which nothing is given.
    """

    name: str
    request: type[msgspec.Struct]
    result: type[msgspec.Struct]
    call: Callable[[Operations, Any], Awaitable[msgspec.Struct]]
    example: Mapping[str, object]
    decoder: msgspec.json.Decoder[Any]
    empty: msgspec.Struct


def _method(
    call: Callable[[Operations, Any], Awaitable[msgspec.Struct]],
    request: type[msgspec.Struct],
    result: type[msgspec.Struct],
    example: Mapping[str, object],
    *,
    name: str = "",
) -> Method:
    """Create a method; its name is the function's unless another is given."""
    decoder = msgspec.json.Decoder(request)
    return Method(name or call.__name__, request, result, call, example, decoder, request())


_ANN = {"user": "ann"}
_ALL = (
    _method(
        publish,
        messages.PublishRequest,
        messages.PublishResult,
        {"channel": "news:1", "data": {"text": "hello"}, "idempotency_key": "7f3a"},
    ),
    _method(
        broadcast,
        messages.BroadcastRequest,
        messages.BroadcastResult,
        {"channels": ["news:1", "news:2"], "data": {"text": "hello"}},
    ),
    _method(
        publish_to_pattern,
        messages.PatternRequest,
        messages.PatternResult,
        {"pattern": "news:*", "data": {"text": "hello"}},
    ),
    _method(subscribe, messages.SubscribeRequest, messages.Empty, {**_ANN, "channel": "news:1"}),
    _method(
        unsubscribe, messages.UnsubscribeRequest, messages.Empty, {**_ANN, "channel": "news:1"}
    ),
    _method(
        disconnect,
        messages.DisconnectRequest,
        messages.Empty,
        {**_ANN, "disconnect": {"code": 4500, "reason": "signed out"}},
    ),
    _method(refresh, messages.RefreshRequest, messages.Empty, {**_ANN, "expire_at": 4102444800}),
    _method(presence, messages.ChannelRequest, messages.PresenceResult, {"channel": "news:1"}),
    _method(
        presence_stats,
        messages.ChannelRequest,
        messages.PresenceStatsResult,
        {"channel": "news:1"},
    ),
    _method(
        history,
        messages.HistoryRequest,
        messages.HistoryResult,
        {"channel": "news:1", "limit": 10, "reverse": True},
    ),
    _method(history_remove, messages.ChannelRequest, messages.Empty, {"channel": "news:1"}),
    _method(channels, messages.ChannelsRequest, messages.ChannelsResult, {"pattern": "news:*"}),
    _method(info, messages.InfoRequest, messages.InfoResult, {}),
    _method(connections, messages.ConnectionsRequest, messages.ConnectionsResult, _ANN),
    _method(
        get_user_status,
        messages.UserStatusRequest,
        messages.UserStatusResult,
        {"users": ["ann", "ben"]},
    ),
    _method(
        revoke_token,
        messages.RevokeTokenRequest,
        messages.Empty,
        {"uid": "7f3a", "expire_at": 4102444800},
    ),
    _method(
        revoke_session,
        messages.RevokeSessionRequest,
        messages.Empty,
        {"client": "2f9c1a7e-6a34-4b1f-9a51-0d0b6a3c9b11"},
    ),
    _method(invalidate_user_tokens, messages.InvalidateUserTokensRequest, messages.Empty, _ANN),
    _method(rpc, messages.RPCRequest, messages.Empty, {"method": "none"}),
    *(
        _method(refuse_map, messages.ChannelRequest, messages.Empty, {"channel": "x"}, name=name)
        for name in (
            "map_publish",
            "map_remove",
            "map_read_state",
            "map_read_stream",
            "map_stats",
            "map_clear",
            "shared_poll_publish",
        )
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
"""Name → method; ``batch`` is apart, because it calls the others."""
