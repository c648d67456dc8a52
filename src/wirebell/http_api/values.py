"""Pieces of JSON that the server API reads and writes: requests, payloads, errors.

Source: protocol document, section 2.7, and the recordings ``http-api/*``.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

import msgspec

from wirebell.errors import CommandError, ErrorCode, ProtocolError
from wirebell.http_api import messages
from wirebell.model import ChannelOptions, ClientInfo, PayloadFormat, Publication
from wirebell.namespaces import check_publication, embed

__all__ = (
    "UNREADABLE",
    "decode_request",
    "describe_error",
    "encode_info",
    "encode_publication",
    "not_found",
    "read_base64",
    "read_value",
)

UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What reading a body may raise."""

_ENCODER = msgspec.json.Encoder()
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_ANY_JSON = ChannelOptions()


def not_found() -> CommandError:
    """Create the answer to a method or a procedure that there is not.

    Clients are told "method not found" (section 1.16, point 20).
    """
    error = ProtocolError(ErrorCode.METHOD_NOT_FOUND)
    error.message = "not found"
    return error


def describe_error(error: CommandError) -> messages.APIError:
    """Return what the wire says of an error."""
    return messages.APIError(int(error.code), error.message, temporary=error.temporary)


def decode_request(decoder: msgspec.json.Decoder[Any], empty: Any, body: bytes) -> Any:
    """Read a request; null is an empty one, and null in it is a member that was left out.

    Args:
        decoder: Of the request's type.
        empty: A request in which nothing is given.
        body: JSON.

    Raises:
        msgspec.DecodeError: It is no JSON of that shape.
        UnicodeError: It is no UTF-8.
        RecursionError: It is nested too deeply.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        members = _MEMBERS.decode(body)
        if members is None:
            return empty
        given = {
            name: value
            for name, value in members.items()
            if name in messages.PAYLOADS or bytes(value) != b"null"
        }
        if len(given) == len(members):
            raise
        return decoder.decode(_ENCODER.encode(given))


def read_base64(text: str) -> bytes:
    """Read base64 with its padding, and nothing besides."""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(ErrorCode.BAD_REQUEST) from error


def read_value(raw: msgspec.Raw, base64: str) -> bytes:
    """Return one JSON value that others are shown; empty for none."""
    data = read_base64(base64) if base64 else bytes(raw)
    if not data:
        return b""
    check_publication(_ANY_JSON, data)
    return embed(data)


def encode_info(info: ClientInfo) -> msgspec.Raw:
    """Write a ClientInfo; ``user`` and ``client`` are always there."""
    members: dict[str, object] = {"user": info.user_id, "client": info.client_id}
    if info.conn_info:
        members["conn_info"] = msgspec.Raw(info.conn_info)
    if info.chan_info:
        members["chan_info"] = msgspec.Raw(info.chan_info)
    return msgspec.Raw(_ENCODER.encode(members))


def encode_publication(publication: Publication) -> msgspec.Raw:
    """Write a publication of the history: without its epoch and version (``http-api/history``)."""
    data: object = publication.data
    if publication.format is PayloadFormat.JSON:
        data = msgspec.Raw(publication.data)
    elif publication.format is PayloadFormat.TEXT:
        data = publication.data.decode(errors="replace")
    members = {"data": data}
    if publication.info is not None:
        members["info"] = encode_info(publication.info)
    if publication.offset:
        members["offset"] = publication.offset
    if publication.tags:
        members["tags"] = publication.tags
    return msgspec.Raw(_ENCODER.encode(members))
