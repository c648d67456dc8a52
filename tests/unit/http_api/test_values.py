"""Pieces of JSON of the server API."""

from __future__ import annotations

import json

import msgspec
import pytest

from wirebell.errors import ErrorCode, LimitExceeded, ProtocolError
from wirebell.http_api import messages
from wirebell.http_api.values import (
    UNREADABLE,
    decode_request,
    describe_error,
    encode_info,
    encode_publication,
    not_found,
    read_base64,
    read_value,
)
from wirebell.model import ClientInfo, PayloadFormat, Publication

DECODER = msgspec.json.Decoder(messages.PublishRequest)
EMPTY = messages.PublishRequest()


def test_errors() -> None:
    """An error has a code and a message; only a temporary one says so."""
    described = [
        msgspec.to_builtins(describe_error(error))
        for error in (not_found(), LimitExceeded("too many"), ProtocolError(ErrorCode.INTERNAL))
    ]

    assert [
        {"code": 104, "message": "not found"},
        {"code": 106, "message": "too many"},
        {"code": 100, "message": "internal server error", "temporary": True},
    ] == described


def test_null_in_requests() -> None:
    """Null stands for a member that is not there, and for a whole request; not for a payload."""
    body = b'{"channel":"a","data":null,"tags":null,"version":null}'
    request = decode_request(DECODER, EMPTY, body)

    assert ("a", b"null", 0) == (request.channel, bytes(request.data), request.version)
    assert decode_request(DECODER, EMPTY, b"null") is EMPTY


@pytest.mark.parametrize(
    "body", [b"", b"1", b'{"channel":1}', b'{"channel":1,"tags":null}', b'"\xff"', b"[" * 10_000]
)
def test_unreadable(body: bytes) -> None:
    """Whatever comes, reading raises one of a few exceptions."""
    with pytest.raises(UNREADABLE):
        decode_request(DECODER, EMPTY, body)


def test_payloads() -> None:
    """A value is given as JSON or as base64 of JSON, without line feeds; none is empty."""
    assert b"[1, 2]" == read_value(msgspec.Raw(b"[1,\n 2]"), "")
    assert b"3" == read_value(msgspec.Raw(b"1"), "Mw==")
    assert b"" == read_value(messages.nothing(), "")
    assert b"\xff" == read_base64("/w==")
    for text in ("%", "Mw", "M w==", "é"):
        with pytest.raises(ProtocolError, match="bad request"):
            read_base64(text)


def test_publications() -> None:
    """Text and bytes become strings; what is not there is left out."""
    info = ClientInfo("c", conn_info=b"1", chan_info=b'{"a":2}')
    publications = [
        Publication(b"hi"),
        Publication(b"hi", PayloadFormat.BINARY, offset=1, epoch="e", version=3),
        Publication(b"[1]", PayloadFormat.JSON, offset=2, info=info, tags={"a": "b"}),
    ]

    written = {"user": "", "client": "c", "conn_info": 1, "chan_info": {"a": 2}}
    assert written == json.loads(bytes(encode_info(info)))
    assert [
        {"data": "hi"},
        {"data": "aGk=", "offset": 1},
        {"data": [1], "info": written, "offset": 2, "tags": {"a": "b"}},
    ] == [json.loads(bytes(encode_publication(each))) for each in publications]
