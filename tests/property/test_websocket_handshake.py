"""The handshake, judged by an independent client; and headers that nobody can break out of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from wirebell.websocket.deflate import negotiate
from wirebell.websocket.handshake import (
    HandshakeError,
    Request,
    RequestReader,
    Upgrade,
    check_upgrade,
    encode_accept,
    encode_response,
)

TOKENS = st.text(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    min_size=1,
    max_size=12,
)
BITS = st.none() | st.integers(9, 15)
FACTORIES = st.builds(
    ClientPerMessageDeflateFactory,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=BITS,
    client_max_window_bits=st.none() | st.just(True) | st.integers(9, 15),
)
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


@settings(max_examples=150)
@given(
    subprotocols=st.lists(TOKENS, max_size=4, unique=True),
    factory=st.none() | FACTORIES,
    size=st.integers(1, 400),
    data=st.data(),
)
def test_a_client_opens(
    subprotocols: list[str],
    factory: ClientPerMessageDeflateFactory | None,
    size: int,
    data: st.DataObject,
) -> None:
    """An independent client accepts our answer, and both sides agree on what was chosen."""
    client = ClientProtocol(
        parse_uri("ws://example.com/chat?a=b"),
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        extensions=None if factory is None else [factory],
    )
    client.send_request(client.connect())
    head = b"".join(client.data_to_send())
    reader = RequestReader()
    requests = [reader.receive_data(head[at : at + size]) for at in range(0, len(head), size)]
    request = requests[-1]
    assert request is not None

    upgrade = check_upgrade(request)
    agreed = negotiate(upgrade.extensions)
    chosen = data.draw(st.sampled_from(subprotocols)) if subprotocols else None
    answer = encode_accept(
        upgrade,
        headers=[(b"x-a", b"b")],
        subprotocol=chosen,
        extension=None if agreed is None else agreed[1],
    )
    client.receive_data(answer)

    assert [None] * (len(requests) - 1) == requests[:-1]
    assert (b"GET", b"/chat?a=b") == (request.method, request.target)
    assert subprotocols == upgrade.subprotocols
    assert client.handshake_exc is None
    assert State.OPEN is client.state
    assert chosen == client.subprotocol
    assert (factory is None) == (agreed is None)
    if agreed is not None:
        (theirs,) = client.extensions
        assert isinstance(theirs, PerMessageDeflate)
        assert agreed[0].client_window_bits >= theirs.local_max_window_bits or (
            # The client asked to be told, and we let it use all.
            factory is not None and factory.client_max_window_bits is True
        )
        assert agreed[0].server_window_bits == theirs.remote_max_window_bits
        assert theirs.remote_no_context_takeover
        assert theirs.local_no_context_takeover


@settings(max_examples=300)
@given(
    name=st.binary(max_size=8) | st.just(b"x-a"),
    value=st.binary(max_size=20),
    status=st.integers(200, 599),
)
def test_headers_cannot_break_out(name: bytes, value: bytes, status: int) -> None:
    """A header is refused, or is exactly one line of the answer."""
    upgrade = Upgrade(KEY, [], [])
    answers = []
    given_, known = [(name, value)], [(b"x-known", b"")]
    try:
        answers.append(
            (encode_accept(upgrade, headers=given_), encode_accept(upgrade, headers=known))
        )
        answers.append((encode_response(status, given_, b""), encode_response(status, known, b"")))
    except ValueError:
        assert set(b"\r\n\x00") & set(value) or not name.isalnum()

    for with_header, without in answers:
        lines = with_header.split(b"\r\n")
        assert name + b": " + value in lines
        # A header that we add where it is absent may be the one that was given.
        assert len(lines) - len(without.split(b"\r\n")) in (0, -1)
        assert 2 == with_header.count(b"\r\n\r\n") + 1
        assert with_header.count(b"\n") == with_header.count(b"\r") == len(lines) - 1


@settings(max_examples=300)
@given(data=st.binary(max_size=200), size=st.integers(1, 50))
def test_any_bytes(data: bytes, size: int) -> None:
    """Any bytes are a request, more is needed, or they are refused with a status; as in pieces."""
    prefix = b"GET / HTTP/1.1\r\n" if size % 2 else b""
    data = prefix + data + b"\r\n\r\n"

    def read(pieces: list[bytes]) -> Request | int | None:
        reader = RequestReader()
        for piece in pieces:
            try:
                request = reader.receive_data(piece)
            except HandshakeError as error:
                return error.status
            if request is not None:
                return request
        return None

    whole = read([data])
    assert whole == read([data[at : at + size] for at in range(0, len(data), size)])
    if isinstance(whole, Request):
        with pytest.raises(HandshakeError) as caught:
            check_upgrade(whole)
        assert caught.value.status in (400, 405, 426)


@settings(max_examples=300)
@given(
    value=st.lists(
        st.sampled_from(
            [b"permessage-deflate", b";", b",", b"=", b'"', b" ", b"\\", b"server_max_window_bits",
             b"client_max_window_bits", b"10", b"8", b"server_no_context_takeover", b"x", b"\xff"]
        ),
        max_size=14,
    ).map(b"".join)
)  # fmt: skip
def test_any_offer(value: bytes) -> None:
    """Whatever is offered, what we agree on is possible and answered completely."""
    agreed = negotiate([value])

    if agreed is not None:
        deflate, answer = agreed
        assert 9 <= deflate.server_window_bits <= 15
        assert 9 <= deflate.client_window_bits <= 15
        assert b"server_no_context_takeover; client_no_context_takeover" in answer
        assert (deflate.server_window_bits != 15) <= (b"server_max_window_bits" in answer)
        assert value.count(b"permessage-deflate")
