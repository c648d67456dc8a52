"""The client protocol in JSON.

Field names are those of the protocol's schema; zero values are left out, but for those that
section 1.1 names; a payload is embedded as it is, without its line feeds, since those separate
messages. Source: protocol document, sections 1.1 to 1.5, 1.9 and 1.16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import msgspec

from wirebell.errors import BadRequest
from wirebell.model import ClientInfo, Frames, Membership, PayloadFormat, Publication
from wirebell.protocol.codec import (
    ID_MAX,
    MESSAGES_MAX,
    PONG,
    BadFrame,
    check_command,
    check_connect,
)
from wirebell.protocol.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    EmulationRequest,
    Error,
    Reply,
    SubscribeResult,
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

__all__ = ("JSON", "JSONCodec", "mend_escapes")


class _Emulation(msgspec.Struct):
    """An EmulationRequest in JSON: ``data`` is a string that holds lines of JSON."""

    node: str = ""
    session: str = ""
    data: str = ""


_COMMAND = msgspec.json.Decoder(Command)
_CONNECT = msgspec.json.Decoder(ConnectRequest)
_EMULATION = msgspec.json.Decoder(_Emulation)
_ENCODER = msgspec.json.Encoder()
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
# 4,096 are remembered, also of clients that have gone: with their texts that is 8 MB.
KNOWN_INFO_BYTES_MAX = 1024
# Looking a member up costs more than writing a small publication.
_AS_JSON, _AS_TEXT = PayloadFormat.JSON, PayloadFormat.TEXT
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F].{2})|.)"
)
"""Any escape of a JSON string; the group is half a character that stands alone."""


class JSONCodec:
    """Commands, replies and pushes as JSON text."""

    name = "json"
    is_binary = False
    ping = Frames(("{}",), 2)

    def decode_commands(self, data: str | bytes) -> list[Command]:
        """Read one frame of a client: commands separated by line feeds.

        Raises:
            BadFrame: The frame is empty, has an empty line, or some of it cannot be read.
        """
        text = data if isinstance(data, str) else _decode_text(data)
        if text == "{}":
            return [PONG]
        if "\n" not in text:
            return [_decode_command(text)]
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        commands: list[Command] = []
        for line in lines:
            commands.append(_decode_command(line, commands))
        return commands

    def decode_connect(self, data: str | bytes) -> ConnectRequest:
        """Read the first message of a unidirectional connection.

        Raises:
            BadRequest: It is no ConnectRequest.
        """
        request = cast("ConnectRequest", _decode(_CONNECT, _decode_text(data)))
        check_connect(request)
        return request

    def decode_emulation(self, data: bytes) -> EmulationRequest:
        """Read commands that come in a request of their own (section 1.10).

        Raises:
            BadRequest: It is no EmulationRequest.
        """
        request = cast("_Emulation", _decode(_EMULATION, _decode_text(data)))
        return EmulationRequest(request.node, request.session, request.data.encode())

    def encode_reply(self, reply: Reply) -> str:
        """Write the answer to a command."""
        if reply.publish is not None:
            return f'{{"id":{reply.id},"publish":{{}}}}'
        if reply.error is not None:
            return _encode({"id": reply.id, "error": _build_error(reply.error)})
        for name, build in _RESULTS.items():
            result = getattr(reply, name)
            if result is not None:
                return _encode({"id": reply.id, name: build(result)})
        return _encode({"id": reply.id})

    def encode_push(self, push: Push, *, is_bare: bool = False) -> str:
        """Write what one client is told; bare on unidirectional connections (section 1.11)."""
        body = _PUSHES[type(push)](push)
        return _encode(body if is_bare else {"push": body})

    def encode_publication(
        self,
        channel: str,
        publication: Publication,
        *,
        is_bare: bool = False,
        is_delta: bool = False,
        patch: bytes | None = None,
    ) -> str:
        """Write a publication for the subscribers of its channel.

        Args:
            channel: Where it happened.
            publication: What.
            is_bare: For unidirectional connections.
            is_delta: For those who negotiated patches: data is a string, and the epoch is not
                told (section 1.16, point 10).
            patch: UTF-8 text that goes instead of the payload.
        """
        body = _encode_publication(publication, patch, is_delta=is_delta)
        if is_bare:
            return f'{{"channel":{_quote_channel(channel)},"pub":{body}}}'
        return f'{{"push":{{"channel":{_quote_channel(channel)},"pub":{body}}}}}'

    def encode_membership(
        self, channel: str, membership: Membership, *, is_bare: bool = False
    ) -> str:
        """Write a join or a leave for the subscribers of its channel."""
        name = "join" if membership.joined else "leave"
        info = _encode_info(membership.info)
        body = f'{{"channel":{_quote(channel)},"{name}":{{"info":{info}}}}}'
        return body if is_bare else f'{{"push":{body}}}'

    def get_document(self, publication: Publication) -> bytes:
        """Give the JSON document that a subscriber without patches sees; always UTF-8."""
        return _encode_document(publication).encode()

    def join(
        self, messages: Sequence[str | bytes], messages_max: int = MESSAGES_MAX
    ) -> tuple[str | bytes, ...]:
        """Join replies and pushes by line feeds, ``messages_max`` of them to a message."""
        if len(messages) <= 1:
            return tuple(messages)
        texts = cast("Sequence[str]", messages)
        return tuple(
            "\n".join(texts[start : start + messages_max])
            for start in range(0, len(texts), messages_max)
        )


JSON = JSONCodec()
"""The one object, so that subscribers who share it share frames."""


def _decode_text(data: str | bytes) -> str:
    """Take a binary frame for the text it holds, as the protocol's servers do."""
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadFrame(f"the frame is no UTF-8: {error}") from error


def _decode_command(line: str, before: Sequence[Command] = ()) -> Command:
    """Read one command; ``before`` are those of the same frame."""
    try:
        command = _COMMAND.decode(line)
    except _UNREADABLE:
        command = None  # read again below, mended or to say what is wrong
    if (
        command is not None
        and command.publish is not None
        and 0 < command.id <= ID_MAX
        and command.connect is None
        and command.subscribe is None
    ):
        # The most frequent one: there is nothing else to check.
        return command
    try:
        if command is None:
            command = cast("Command", _decode(_COMMAND, line))
        return check_command(command)
    except BadRequest as error:
        raise BadFrame(error.message, before) from error


def _decode(decoder: msgspec.json.Decoder[Any], text: str) -> object:
    """Read JSON of a known shape.

    Half a character as an escape, which browsers send of text that was cut inside an emoji, is
    read as U+FFFD.

    Raises:
        BadRequest: It is malformed, of another shape, or nested too deeply.
    """
    try:
        return decoder.decode(text)
    except _UNREADABLE as error:
        mended = mend_escapes(text)
        if mended == text:
            raise BadRequest(f"the frame cannot be read: {error}") from error
    return _decode(decoder, mended)


def mend_escapes(text: str) -> str:
    """Replace each half of a character that stands alone in JSON as an escape."""
    return _ESCAPE.sub(_mend_escape, text) if "\\u" in text else text


def _mend_escape(match: re.Match[str]) -> str:
    """Replace half a character."""
    return "\\ufffd" if match[1] else match[0]


def _encode(message: object) -> str:
    """Write one message."""
    return _ENCODER.encode(message).decode()


def _quote(text: str) -> str:
    """Write a JSON string."""
    return _ENCODER.encode(text).decode()


@lru_cache(maxsize=4096)
def _quote_channel(channel: str) -> str:
    """Write a channel's name, once for a channel that is busy."""
    return _quote(channel)


def _embed(payload: bytes) -> str:
    """Give a JSON payload as it is, without line feeds (section 1.16, point 14)."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = _decode_payload(payload)
    return text.replace("\n", "") if "\n" in text else text


def _decode_payload(payload: bytes) -> str:
    """Give a payload's text. One that is no UTF-8 must not take a tick from everybody."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload.decode(errors="replace")


def _raw(payload: bytes) -> msgspec.Raw | None:
    """Give a JSON payload for a message that is built of parts; ``None`` for none."""
    return msgspec.Raw(_embed(payload)) if payload else None


def _encode_document(publication: Publication) -> str:
    """Write a publication's payload as the JSON value that stands for it."""
    if publication.format is _AS_JSON:
        return _embed(publication.data) or "null"
    if publication.format is _AS_TEXT:
        return _quote(_decode_payload(publication.data))
    return _encode(publication.data)


def _encode_publication(
    publication: Publication, patch: bytes | None = None, *, is_delta: bool
) -> str:
    """Write a Publication of section 1.4."""
    if not is_delta:
        parts = f'{{"data":{_encode_document(publication)}'
    elif patch is None:
        parts = f'{{"data":{_quote(_encode_document(publication))}'
    else:
        parts = f'{{"data":{_quote(patch.decode())}'
    if publication.info is not None:
        parts += f',"info":{_encode_info(publication.info)}'
    if publication.offset:
        parts += f',"offset":{publication.offset}'
    if publication.tags:
        parts += f',"tags":{_encode(publication.tags)}'
    if patch is not None:
        parts += ',"delta":true'
    if publication.channel:
        parts += f',"channel":{_quote_channel(publication.channel)}'
    if publication.offset == 1 and publication.epoch and not is_delta:
        parts += f',"epoch":{_quote(publication.epoch)}'
    if publication.version:
        parts += f',"version":{publication.version}'
    return parts + "}"


def _encode_info(info: ClientInfo) -> str:
    """Write a ClientInfo, once for a client that is busy."""
    size = len(info.user_id) + len(info.conn_info) + len(info.chan_info)
    return _encode_short_info(info) if size <= KNOWN_INFO_BYTES_MAX else _write_info(info)


@lru_cache(maxsize=4096)
def _encode_short_info(info: ClientInfo) -> str:
    """Write a ClientInfo, and remember it."""
    return _write_info(info)


def _write_info(info: ClientInfo) -> str:
    """Write a ClientInfo; ``user`` and ``client`` are always there (section 1.1)."""
    parts = f'{{"user":{_quote(info.user_id)},"client":{_quote(info.client_id)}'
    if info.conn_info:
        parts += f',"conn_info":{_embed(info.conn_info)}'
    if info.chan_info:
        parts += f',"chan_info":{_embed(info.chan_info)}'
    return parts + "}"


def _omit_zeros(**values: object) -> dict[str, object]:
    """Keep what is not a zero value (section 1.1)."""
    return {name: value for name, value in values.items() if value}


def _build_error(error: Error) -> dict[str, object]:
    """Build an Error."""
    return _omit_zeros(code=error.code, message=error.message, temporary=error.temporary)


def _build_publications(
    publications: Sequence[Publication], patches: Sequence[bytes | None] = (), *, is_delta: bool
) -> list[msgspec.Raw]:
    """Write the publications of a result."""
    if not patches:
        patches = (None,) * len(publications)
    return [
        msgspec.Raw(_encode_publication(item, patch, is_delta=is_delta))
        for item, patch in zip(publications, patches, strict=True)
    ]


def _build_subscribe(result: SubscribeResult) -> dict[str, object]:
    """Build a SubscribeResult."""
    return _omit_zeros(
        expires=result.expires,
        ttl=result.ttl,
        recoverable=result.recoverable,
        epoch=result.epoch,
        publications=_build_publications(
            result.publications, result.patches, is_delta=result.delta
        ),
        recovered=result.recovered,
        offset=result.offset,
        positioned=result.positioned,
        data=_raw(result.data),
        was_recovering=result.was_recovering,
        delta=result.delta,
    )


def _build_connect(result: ConnectResult) -> dict[str, object]:
    """Build a ConnectResult."""
    return _omit_zeros(
        client=result.client,
        version=result.version,
        expires=result.expires,
        ttl=result.ttl,
        data=_raw(result.data),
        subs={channel: _build_subscribe(sub) for channel, sub in result.subs.items()},
        ping=result.ping,
        pong=result.pong,
        session=result.session,
        node=result.node,
        time=result.time,
    )


def _build_presence(result: Any) -> dict[str, object]:
    """Build a PresenceResult; the map is always there (section 1.1)."""
    members: Mapping[str, ClientInfo] = result.presence
    return {"presence": {key: msgspec.Raw(_encode_info(info)) for key, info in members.items()}}


def _build_history(result: Any) -> dict[str, object]:
    """Build a HistoryResult; all of it is always there (section 1.1)."""
    return {
        "publications": _build_publications(result.publications, is_delta=False),
        "epoch": result.epoch,
        "offset": result.offset,
    }


def _build_empty(result: Any) -> dict[str, object]:
    """Build a result that says no more than that it is done."""
    del result
    return {}


_RESULTS: Mapping[str, Any] = {
    "subscribe": _build_subscribe,
    "unsubscribe": _build_empty,
    "connect": _build_connect,
    "presence": _build_presence,
    "presence_stats": lambda result: {
        "num_clients": result.num_clients,
        "num_users": result.num_users,
    },
    "history": _build_history,
    "rpc": lambda result: _omit_zeros(data=_raw(result.data)),
    "refresh": lambda result: _omit_zeros(expires=result.expires, ttl=result.ttl),
    "sub_refresh": lambda result: _omit_zeros(expires=result.expires, ttl=result.ttl),
}
"""Field of a reply → how its result is built."""


def _build_subscribe_push(push: SubscribePush) -> dict[str, object]:
    """Build the push of a server-side subscription."""
    body = _omit_zeros(
        recoverable=push.recoverable,
        epoch=push.epoch,
        offset=push.offset,
        positioned=push.positioned,
        data=_raw(push.data),
    )
    return {"channel": push.channel, "subscribe": body}


def _build_unsubscribe_push(push: UnsubscribePush) -> dict[str, object]:
    """Build the push of a subscription's end."""
    body = _omit_zeros(code=push.code, reason=push.reason)
    return {"channel": push.channel, "unsubscribe": body}


_PUSHES: Mapping[type[Push], Any] = {
    ConnectPush: lambda push: {"connect": _build_connect(push.result)},
    SubscribePush: _build_subscribe_push,
    UnsubscribePush: _build_unsubscribe_push,
    MessagePush: lambda push: {"message": _omit_zeros(data=_raw(push.data))},
    DisconnectPush: lambda push: {"disconnect": _omit_zeros(code=push.code, reason=push.reason)},
    RefreshPush: lambda push: {"refresh": _omit_zeros(expires=push.expires, ttl=push.ttl)},
}
"""Kind of push → how it is built."""
