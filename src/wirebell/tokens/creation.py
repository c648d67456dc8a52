"""Making tokens, as an application's backend does: for the command line and for tests. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from wirebell.errors import ConfigError
from wirebell.tokens.keys import ALGORITHMS, TokenKeys

__all__ = ("create_connection_token", "create_subscription_token")

_TO_URL = bytes.maketrans(b"+/", b"-_")
_HEADER = b'{"alg":"HS256","typ":"JWT"}'


def create_connection_token(
    keys: TokenKeys,
    user_id: str,
    now: float,
    *,
    ttl_seconds: float,
    info: bytes = b"",
    meta: bytes = b"",
    channels: Collection[str] = (),
    token_id: str = "",
) -> str:
    """Sign a connection token with the HMAC secret, as an application's backend would.

    Args:
        keys: With ``hmac_secret_key``; audience, issuer and ``user_id_claim`` are set if given.
        user_id: Empty for somebody anonymous.
        now: Seconds since 1970.
        ttl_seconds: How long it is good; 0 for ever.
        info: Becomes ``conn_info``; JSON, empty for nothing.
        meta: For the server; likewise.
        channels: To subscribe to.
        token_id: ``jti``; empty for none.

    Raises:
        ConfigError: There is no ``hmac_secret_key``.
    """
    claims = _create_claims(keys, user_id, now, ttl_seconds, info, token_id)
    if meta:
        claims["meta"] = msgspec.Raw(meta)
    if channels:
        claims["channels"] = list(channels)
    return _sign(keys, claims)


def create_subscription_token(
    keys: TokenKeys,
    user_id: str,
    channel: str,
    now: float,
    *,
    ttl_seconds: float,
    info: bytes = b"",
    client_id: str = "",
    token_id: str = "",
) -> str:
    """Sign a subscription token; arguments as of `create_connection_token`.

    Args:
        keys: As there.
        user_id: As there.
        channel: What it is for.
        now: As there.
        ttl_seconds: As there.
        info: Becomes ``chan_info``.
        client_id: The one connection that may use it; empty for any.
        token_id: As there.

    Raises:
        ConfigError: There is no ``hmac_secret_key``.
    """
    claims = _create_claims(keys, user_id, now, ttl_seconds, info, token_id)
    claims["channel"] = channel
    if client_id:
        claims["client"] = client_id
    return _sign(keys, claims)


def _create_claims(
    keys: TokenKeys, user_id: str, now: float, ttl_seconds: float, info: bytes, token_id: str
) -> dict[str, Any]:
    """Build the claims that both kinds share."""
    optional = {"aud": keys.audience, "iss": keys.issuer, "jti": token_id}
    claims: dict[str, Any] = {name: value for name, value in optional.items() if value}
    claims |= {keys.user_id_claim or "sub": user_id, "iat": int(now)}
    if ttl_seconds > 0:
        claims["exp"] = int(now + ttl_seconds)
    if info:
        claims["info"] = msgspec.Raw(info)
    return claims


def _sign(keys: TokenKeys, claims: Mapping[str, Any]) -> str:
    """Sign claims with HS256."""
    if not keys.hmac_secret_key:
        raise ConfigError("signing a token needs hmac_secret_key")
    signed = _encode(_HEADER) + b"." + _encode(msgspec.json.encode(claims))
    signature = ALGORITHMS["HS256"].sign(signed, keys.hmac_secret_key.encode())
    return (signed + b"." + _encode(signature)).decode()


def _encode(data: bytes) -> bytes:
    """Write base64url without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)
