"""What tokens say: reading the three parts."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from typing import Any

import msgspec
import pytest

from wirebell.errors import TokenInvalid
from wirebell.tokens.claims import (
    ChannelClaim,
    SubscriptionOverride,
    decode_claims,
    split,
    to_connection_claims,
    to_subscription_claims,
)


def encode(data: bytes) -> str:
    """Write base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


HEADER = encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}')


def read(**claims: Any) -> Any:
    """Decode claims."""
    return decode_claims(msgspec.json.encode(claims))


def test_split() -> None:
    """A token is a header, a payload, a signature, and what was signed."""
    parts = split(f"{HEADER}.{encode(b'{}')}.{encode(bytes([250, 251, 252, 253, 254, 255]))}")

    assert ("HS256", "k1") == (parts.header.alg, parts.header.kid)
    assert b"{}" == parts.payload
    assert bytes([250, 251, 252, 253, 254, 255]) == parts.signature
    assert f"{HEADER}.{encode(b'{}')}".encode() == parts.signed


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "not-a-token",
        f"{HEADER}.e30",
        f"{HEADER}.e30.e30.e30",
        f"{HEADER}.e30=.e30",  # padding
        f"{HEADER}.e3.e3a=",
        f"{HEADER}.e30.+/+/",  # the other alphabet
        f"{HEADER}.e30.____é",
        f"{HEADER}.e30.e30\n",
        f" {HEADER}.e30.e30",
        f"{HEADER}.e30.e31",  # bits that nothing needs
        f"{HEADER}.e.e30",  # nothing encodes to a remainder of 1
        *(
            f"{encode(header)}.e30.e30"
            for header in (
                b"[]",
                b"{}",
                b"rubbish",
                b'{"alg":5}',
                b'{"alg":"HS256","kid":5}',
                b'{"alg":"HS256","x":' + b"[" * 10_000,
                b'{"alg":"HS256","crit":["b64"],"b64":false}',
                b'{"alg":"HS256","crit":null}',
            )
        ),
    ],
)
def test_malformed(token: str) -> None:
    """What is not three parts in base64url with a header that we understand is no token."""
    with pytest.raises(TokenInvalid):
        split(token)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"sub":42}',
        b'{"exp":"1"}',
        b'{"exp":true}',
        b'{"exp":1e999}',
        b'{"exp":253402300800}',
        b'{"nbf":-253402300800}',
        b'{"expire_at":1e300}',
        b'{"iat":123456789012345678901234567890}',
        b'{"channels":"news"}',
        b'{"channels":[1]}',
        b'{"subs":[]}',
        b'{"subs":{"a":1}}',
        b'{"subs":{"a":{"override":{"presence":true}}}}',
        b'{"aud":[1]}',
        b'{"x":' + b"[" * 10_000,
    ],
)
def test_wrong_claims(payload: bytes) -> None:
    """Claims of another type, and times that no calendar has, are refused."""
    with pytest.raises(TokenInvalid):
        decode_claims(payload)


def test_nothing_said() -> None:
    """Claims that are missing, and those that are null, say nothing."""
    empty = to_connection_claims(decode_claims(b"{}"), "")
    names = (*decode_claims(b"{}").__struct_fields__, "unknown")

    assert empty == to_connection_claims(read(**dict.fromkeys(names)), "")
    assert (None, b"", b"", (), {}, "", None) == (
        empty.expires_at, empty.info, empty.meta, empty.channels, empty.subs, empty.token_id,
        empty.issued_at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "expires_at"),
    [
        ({"exp": 10}, 10),
        ({"exp": 10, "expire_at": 0}, None),
        ({"exp": 10, "expire_at": -1}, None),
        ({"exp": 10, "expire_at": 20}, 20),
        ({"expire_at": 20.5}, 20.5),
        ({}, None),
    ],
)
def test_expiry(claims: dict[str, float], expires_at: float | None) -> None:
    """``expire_at`` wins over ``exp``, and 0 means never, for both kinds of token."""
    assert expires_at == to_connection_claims(read(**claims), "").expires_at
    assert expires_at == to_subscription_claims(read(**claims), "").expires_at


def test_json_has_no_line_feeds() -> None:
    """JSON out of a token fits into one line of the wire."""
    claims = decode_claims(b'{"info":{\n "a":\r\n1},"meta":\n[\n]}')

    connection = to_connection_claims(claims, "")
    assert b'{ "a":\r1}' == connection.info
    assert b"[]" == connection.meta


def test_base64() -> None:
    """``b64info`` and ``b64data`` win over their JSON forms, and hold any bytes."""
    encoded = b64encode(b"\x00\xff\n").decode()
    claims = read(
        info=1, b64info=encoded, subs={"a": {"data": 2, "b64data": encoded, "b64info": ""}}
    )

    connection = to_connection_claims(claims, "")
    assert b"\x00\xff\n" == connection.info
    assert {"a": ChannelClaim(b"", b"\x00\xff\n")} == connection.subs


@pytest.mark.parametrize("text", ["%", "AA", "AA==\n", "é", "_w=="])
def test_wrong_base64(text: str) -> None:
    """Base64 that is malformed makes a token invalid."""
    for claims in (read(b64info=text), read(subs={"a": {"b64data": text}})):
        with pytest.raises(TokenInvalid):
            to_connection_claims(claims, "")


def test_channels() -> None:
    """Channels are told once each, in order, and not at all where ``subs`` says more."""
    several = read(channels=["b", "a", "b"])

    assert ("b", "a") == to_connection_claims(several, "").channels
    both = to_connection_claims(read(channels=["b"], subs={"a": {}}), "")
    assert ((), {"a": ChannelClaim()}) == (both.channels, both.subs)


def test_override() -> None:
    """An override says yes, no, or nothing; without a value it says no."""
    claims = read(
        channel="a",
        override={
            "presence": {"value": True},
            "join_leave": {"value": False},
            "force_push_join_leave": {},
            "force_positioning": None,
            "unknown": {"value": True},
        },
    )

    assert (
        SubscriptionOverride(presence=True, join_leave=False, force_push_join_leave=False)
        == to_subscription_claims(claims, "").override
    )
