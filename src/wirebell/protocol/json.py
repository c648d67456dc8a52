"""The client protocol in JSON, as far as a unidirectional connection needs it.

Field names are those of the protocol's schema; zero values are left out; a payload is embedded
as it is, never encoded again. Source: protocol document, sections 1.1, 1.4, 1.5 and 1.11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from wirebell.errors import BadRequest, Disconnect
from wirebell.model import (
    ChannelItem,
    ClientInfo,
    Frames,
    Membership,
    PayloadFormat,
    Publication,
    StreamPosition,
)

__all__ = (
    "JSON",
    "PING",
    "ConnectRequest",
    "JSONEncoding",
    "SubscribeRequest",
    "SubscribeResult",
    "decode_connect",
    "encode_connect",
    "encode_disconnect",
)

PING = Frames(("{}",), 2)
"""An empty push: the server is alive."""


class SubscribeRequest(msgspec.Struct, frozen=True):
    """What a client says of a channel it wants.

    Attributes:
        recover: It was here before and gives the position it saw last.
        offset: That position's offset.
        epoch: That position's epoch; empty matches any.
    """

    recover: bool = False
    offset: int = 0
    epoch: str = ""


class ConnectRequest(msgspec.Struct, frozen=True):
    """The first message of a client.

    Attributes:
        token: Credentials; empty when the handshake carried them.
        subs: Channel → what it wants of it.
    """

    token: str = ""
    subs: dict[str, SubscribeRequest] = msgspec.field(default_factory=dict)


class SubscribeResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client learns of a channel. Field names are the wire's."""

    recoverable: bool = False
    epoch: str = ""
    publications: list[dict[str, Any]] = msgspec.field(default_factory=list)
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    was_recovering: bool = False

    @classmethod
    def create(
        cls,
        position: StreamPosition | None,
        publications: Sequence[Publication] = (),
        *,
        since: StreamPosition | None = None,
        recovered: bool = False,
    ) -> SubscribeResult:
        """Say where the client stands.

        Args:
            position: The channel's top; ``None`` without history.
            publications: What it missed, oldest first.
            since: Where it was, if it asked to recover.
            recovered: ``publications`` is everything it missed.

        Source:
            Section 1.8: after a recovery ``offset`` is the one of the request, since the client
            advances through the publications; otherwise it is the top.
        """
        if position is None:
            return cls(was_recovering=since is not None)
        start = since.offset if since is not None and recovered else position.offset
        return cls(
            recoverable=True,
            positioned=True,
            epoch=position.epoch,
            offset=start,
            publications=[_publication(item) for item in publications],
            recovered=recovered,
            was_recovering=since is not None,
        )


class JSONEncoding:
    """Pushes of the client protocol, one text message each."""

    def join(self, channel: str, items: Sequence[ChannelItem]) -> Frames:
        """Encode a tick's items, oldest first; one message per item."""
        encoded = [_ENCODER.encode(_push(channel, item)) for item in items]
        return Frames(tuple(message.decode() for message in encoded), sum(len(m) for m in encoded))


JSON = JSONEncoding()
"""The one object that all JSON subscribers share, so that they share frames."""

_ENCODER = msgspec.json.Encoder()
_CONNECT = msgspec.json.Decoder(ConnectRequest)


def decode_connect(text: str) -> ConnectRequest:
    """Read a client's first message.

    Raises:
        BadRequest: It is not a ConnectRequest.
    """
    try:
        return _CONNECT.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise BadRequest(f"the first message is no ConnectRequest: {error}") from error


def encode_connect(
    client_id: str, version: str, subs: Mapping[str, SubscribeResult], *, ping_seconds: int
) -> Frames:
    """Encode the push that answers a ConnectRequest.

    Args:
        client_id: The connection's.
        version: The server's.
        subs: Channel → what the client learns of it.
        ping_seconds: Time between two pings; the client counts the link as dead 10 s after one
            is missing.
    """
    body: dict[str, Any] = {"client": client_id, "version": version}
    if subs:
        body["subs"] = subs
    body["ping"] = ping_seconds
    return _frames({"connect": body})


def encode_disconnect(disconnect: Disconnect) -> str:
    """Encode the last push before a close frame."""
    body = {"disconnect": {"code": disconnect.code, "reason": disconnect.reason}}
    return _ENCODER.encode(body).decode()


def _frames(message: object) -> Frames:
    """Encode one message."""
    encoded = _ENCODER.encode(message)
    return Frames((encoded.decode(),), len(encoded))


def _push(channel: str, item: ChannelItem) -> dict[str, Any]:
    """Build a push of section 1.5."""
    if isinstance(item, Membership):
        return {"channel": channel, "join" if item.joined else "leave": {"info": _info(item.info)}}
    return {"channel": channel, "pub": _publication(item)}


def _publication(publication: Publication) -> dict[str, Any]:
    """Build a Publication of section 1.4."""
    data: object = (
        msgspec.Raw(publication.data)
        if publication.format is PayloadFormat.JSON
        else publication.data.decode(errors="replace")
    )
    body: dict[str, Any] = {"data": data}
    if publication.offset:
        body["offset"] = publication.offset
    return body


def _info(info: ClientInfo) -> dict[str, str]:
    """Build a ClientInfo; ``user`` and ``client`` are always present (section 1.1)."""
    return {"user": info.user_id, "client": info.client_id}
