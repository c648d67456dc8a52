"""The client protocol in protobuf; needs the package ``protobuf`` (extra ``server``).

Each command, reply and push stands behind its length, a varint. Payloads are bytes as they are.
Source: protocol document, sections 1.1 to 1.5, 1.9 and 1.16; the schema is
``protocol/client.proto``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
from google.protobuf.message import DecodeError, Message

from wirebell.errors import BadRequest
from wirebell.model import ClientInfo, Frames, Membership, Publication, StreamPosition
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import MESSAGES_MAX, PONG, BadFrame, check_command
from wirebell.protocol.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    EmulationRequest,
    FilterNode,
    HistoryRequest,
    PingRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    Reply,
    RPCRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribeRequest,
)
from wirebell.protocol.pushes import (
    ConnectPush,
    DisconnectPush,
    MessagePush,
    Push,
    RefreshPush,
    SubscribePush,
    UnsubscribePush,
)

__all__ = ("PROTOBUF", "ProtobufCodec")

_Message = TypeVar("_Message", bound=Message)
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class ProtobufCodec:
    """Commands, replies and pushes as bytes, each behind its length."""

    name = "protobuf"
    is_binary = True
    ping = Frames((b"\x00",), 1)

    def decode_commands(self, data: str | bytes) -> list[Command]:
        """Read one frame of a client: commands behind their lengths.

        Raises:
            BadFrame: The frame is empty or text, or some of it cannot be read.
        """
        if isinstance(data, str):
            raise BadFrame("a text frame, expected a binary one")
        commands: list[Command] = []
        place = 0
        try:
            if not data:
                raise BadRequest("the frame is empty")
            while place < len(data):
                if not data[place]:
                    # A frame may hold as many pongs as bytes.
                    commands.append(PONG)
                    place += 1
                    continue
                size, start = _read_varint(data, place)
                place = start + size
                if place > len(data):
                    raise BadRequest(f"a command of {size} bytes is cut off")
                # A length of no bytes can be written in more than one.
                command = check_command(_read_command(data[start:place])) if size else PONG
                commands.append(command)
        except BadRequest as error:
            raise BadFrame(error.message, commands) from error
        return commands

    def decode_connect(self, data: str | bytes) -> ConnectRequest:
        """Read the first message of a unidirectional connection, without a length.

        Raises:
            BadRequest: It is no ConnectRequest.
        """
        if isinstance(data, str):
            raise BadRequest("a text frame, expected a binary one")
        return _read(ConnectRequest, _parse(pb.ConnectRequest, data))

    def decode_emulation(self, data: bytes) -> EmulationRequest:
        """Read commands that come in a request of their own (section 1.10).

        Raises:
            BadRequest: It is no EmulationRequest.
        """
        request = _parse(pb.EmulationRequest, data)
        return EmulationRequest(request.node, request.session, request.data)

    def encode_reply(self, reply: Reply) -> bytes:
        """Write the answer to a command."""
        if reply.publish is not None:
            return _delimit(b"\x08" + _write_varint(reply.id) + _PUBLISHED)
        for name, build in _RESULTS.items():
            result = getattr(reply, name)
            if result is not None:
                fields: dict[str, Any] = {"id": reply.id, name: build(result)}
                return _delimit(pb.Reply(**fields).SerializeToString())
        return _delimit(pb.Reply(id=reply.id).SerializeToString())

    def encode_push(self, push: Push, *, is_bare: bool = False) -> bytes:
        """Write what one client is told; bare on unidirectional connections (section 1.11)."""
        return _write_push(_PUSHES[type(push)](push), is_bare=is_bare)

    def encode_publication(
        self,
        channel: str,
        publication: Publication,
        *,
        is_bare: bool = False,
        is_delta: bool = False,
        patch: bytes | None = None,
    ) -> bytes:
        """Write a publication for the subscribers of its channel.

        Args:
            channel: Where it happened.
            publication: What.
            is_bare: For unidirectional connections.
            is_delta: Makes no difference here.
            patch: Goes instead of the payload.
        """
        del is_delta
        body = _build_publication(publication, patch).SerializeToString()
        name = channel.encode()
        # A Push by hand, since one holds the other's bytes: channel is field 2, pub is field 4.
        push = b"\x12%b%b\x22%b%b" % (
            _write_varint(len(name)),
            name,
            _write_varint(len(body)),
            body,
        )
        return _delimit(push) if is_bare else _wrap(push)

    def encode_membership(
        self, channel: str, membership: Membership, *, is_bare: bool = False
    ) -> bytes:
        """Write a join or a leave for the subscribers of its channel."""
        info = _build_info(membership.info)
        if membership.joined:
            push = pb.Push(channel=channel, join=pb.Join(info=info))
        else:
            push = pb.Push(channel=channel, leave=pb.Leave(info=info))
        return _write_push(push, is_bare=is_bare)

    def get_document(self, publication: Publication) -> bytes:
        """Give the payload."""
        return publication.data

    def join(
        self, messages: Sequence[str | bytes], messages_max: int = MESSAGES_MAX
    ) -> tuple[str | bytes, ...]:
        """Put replies and pushes one behind the other, ``messages_max`` of them to a message."""
        if len(messages) <= 1:
            return tuple(messages)
        parts = cast("Sequence[bytes]", messages)
        return tuple(
            b"".join(parts[start : start + messages_max])
            for start in range(0, len(parts), messages_max)
        )


PROTOBUF = ProtobufCodec()
"""The one object, so that subscribers who share it share frames."""


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Read the length before a command; returns it, and where the command starts.

    Raises:
        BadRequest: It is cut off, or longer than a length can be (5 bytes hold 32 bits).
    """
    value = 0
    for shift in range(0, 35, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise BadRequest("a length is cut off or too long")


def _write_varint(value: int) -> bytes:
    """Write a length."""
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _delimit(body: bytes) -> bytes:
    """Put a message's length before it."""
    return _write_varint(len(body)) + body


def _wrap(push: bytes) -> bytes:
    """Put a Reply around a push, which is its field 4."""
    return _delimit(b"\x22" + _delimit(push))


def _write_push(push: pb.Push, *, is_bare: bool) -> bytes:
    """Write a push, bare or within a Reply."""
    body = push.SerializeToString()
    return _delimit(body) if is_bare else _wrap(body)


def _parse(kind: type[_Message], data: bytes) -> _Message:
    """Read a message of a known kind.

    Raises:
        BadRequest: It is malformed, or nested more than 100 deep.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"{kind.DESCRIPTOR.name} cannot be read: {error}") from error


def _read_command(data: bytes) -> Command:
    """Read one command, without its length.

    Raises:
        BadRequest: It is malformed.
    """
    message = _parse(pb.Command, data)
    # The most frequent request without a walk over fields; the ones that go before it are none.
    if message.HasField("publish") and not any(map(message.HasField, _BEFORE_PUBLISH)):
        request = message.publish
        return Command(
            id=message.id,
            publish=PublishRequest(
                request.channel,
                msgspec.Raw(request.data),
                request.type,
                request.key,
                request.removed,
            ),
        )
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        kind = _REQUESTS.get(field.name)
        values[field.name] = value if kind is None else _read(kind, value)
    return Command(**values)


def _read(kind: type[_Struct], message: Message) -> _Struct:
    """Read the fields that our model has; those that are not set keep their zero value."""
    values = {}
    for field, value in message.ListFields():
        name = field.name
        if name in kind.__struct_fields__:
            read = _READERS.get(name)
            values[name] = value if read is None else read(value)
    return kind(**values)


_REQUESTS: Mapping[str, type[msgspec.Struct]] = {
    "connect": ConnectRequest,
    "subscribe": SubscribeRequest,
    "unsubscribe": UnsubscribeRequest,
    "publish": PublishRequest,
    "presence": PresenceRequest,
    "presence_stats": PresenceStatsRequest,
    "history": HistoryRequest,
    "ping": PingRequest,
    "send": SendRequest,
    "rpc": RPCRequest,
    "refresh": RefreshRequest,
    "sub_refresh": SubRefreshRequest,
}
"""Field of a command → our model of the request."""

_BEFORE_PUBLISH = ("connect", "subscribe", "unsubscribe")
"""Requests that are done instead, where a command has several."""

_READERS: Mapping[str, Callable[[Any], object]] = {
    "data": msgspec.Raw,
    "headers": dict,
    "nodes": lambda nodes: tuple(_read(FilterNode, node) for node in nodes),
    "since": lambda position: _read(StreamPosition, position),
    "subs": lambda subs: {name: _read(SubscribeRequest, sub) for name, sub in subs.items()},
    "tf": lambda node: _read(FilterNode, node),
    "vals": tuple,
}
"""Field of a request → how it is read, where that is not its own value."""


def _build_publication(publication: Publication, patch: bytes | None = None) -> pb.Publication:
    """Build a Publication of section 1.4; its epoch is told with offset 1 only (section 1.16)."""
    message = pb.Publication(
        data=publication.data if patch is None else patch,
        offset=publication.offset,
        delta=patch is not None,
        version=publication.version,
        channel=publication.channel,
    )
    if publication.info is not None:
        message.info.CopyFrom(_build_info(publication.info))
    if publication.tags:
        message.tags.update(publication.tags)
    if publication.offset == 1:
        message.epoch = publication.epoch
    return message


def _build_publications(
    publications: Iterable[Publication], patches: Sequence[bytes | None]
) -> list[pb.Publication]:
    """Build the publications of a result."""
    if not patches:
        return [_build_publication(item) for item in publications]
    return [
        _build_publication(item, patch) for item, patch in zip(publications, patches, strict=True)
    ]


def _build_info(info: ClientInfo) -> pb.ClientInfo:
    """Build a ClientInfo."""
    return pb.ClientInfo(
        user=info.user_id,
        client=info.client_id,
        conn_info=info.conn_info,
        chan_info=info.chan_info,
    )


def _build_subscribe(result: SubscribeResult) -> pb.SubscribeResult:
    """Build a SubscribeResult."""
    return pb.SubscribeResult(
        expires=result.expires,
        ttl=result.ttl,
        recoverable=result.recoverable,
        epoch=result.epoch,
        publications=_build_publications(result.publications, result.patches),
        recovered=result.recovered,
        offset=result.offset,
        positioned=result.positioned,
        data=result.data,
        was_recovering=result.was_recovering,
        delta=result.delta,
    )


def _list_connect(result: ConnectResult) -> dict[str, Any]:
    """List what the connect result and the connect push have both."""
    return {
        "client": result.client,
        "version": result.version,
        "expires": result.expires,
        "ttl": result.ttl,
        "data": result.data,
        "subs": {channel: _build_subscribe(sub) for channel, sub in result.subs.items()},
        "ping": result.ping,
        "pong": result.pong,
        "session": result.session,
        "node": result.node,
        "time": result.time,
    }


_PUBLISHED = b"\x42\x00"
"""An empty PublishResult as field 8 of a Reply."""

_RESULTS: Mapping[str, Callable[[Any], Message]] = {
    "error": lambda error: pb.Error(
        code=error.code, message=error.message, temporary=error.temporary
    ),
    "connect": lambda result: pb.ConnectResult(**_list_connect(result)),
    "subscribe": _build_subscribe,
    "unsubscribe": lambda _: pb.UnsubscribeResult(),
    "presence": lambda result: pb.PresenceResult(
        presence={client: _build_info(info) for client, info in result.presence.items()}
    ),
    "presence_stats": lambda result: pb.PresenceStatsResult(
        num_clients=result.num_clients, num_users=result.num_users
    ),
    "history": lambda result: pb.HistoryResult(
        publications=_build_publications(result.publications, ()),
        epoch=result.epoch,
        offset=result.offset,
    ),
    "rpc": lambda result: pb.RPCResult(data=result.data),
    "refresh": lambda result: pb.RefreshResult(expires=result.expires, ttl=result.ttl),
    "sub_refresh": lambda result: pb.SubRefreshResult(expires=result.expires, ttl=result.ttl),
}
"""Field of a reply → how its result is built."""


def _build_subscribe_push(push: SubscribePush) -> pb.Push:
    """Build the push of a server-side subscription."""
    body = pb.Subscribe(
        recoverable=push.recoverable,
        epoch=push.epoch,
        offset=push.offset,
        positioned=push.positioned,
        data=push.data,
    )
    return pb.Push(channel=push.channel, subscribe=body)


_PUSHES: Mapping[type[Push], Callable[[Any], pb.Push]] = {
    ConnectPush: lambda push: pb.Push(connect=pb.Connect(**_list_connect(push.result))),
    SubscribePush: _build_subscribe_push,
    UnsubscribePush: lambda push: pb.Push(
        channel=push.channel, unsubscribe=pb.Unsubscribe(code=push.code, reason=push.reason)
    ),
    MessagePush: lambda push: pb.Push(message=pb.Message(data=push.data)),
    DisconnectPush: lambda push: pb.Push(
        disconnect=pb.Disconnect(code=push.code, reason=push.reason)
    ),
    RefreshPush: lambda push: pb.Push(refresh=pb.Refresh(expires=push.expires, ttl=push.ttl)),
}
"""Kind of push → how it is built."""
