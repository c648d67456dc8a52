"""What tokens say, as they are written and as they are used.

Three parts in base64url make a token (RFC 7515, section 7.1); the second is a JSON object of
claims. `split` and `decode_claims` read them, the rest turns them into values of ours. Pure.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from wirebell.errors import TokenExpired, TokenInvalid

__all__ = (
    "ChannelClaim",
    "Claims",
    "ConnectionClaims",
    "Header",
    "SubscriptionClaims",
    "SubscriptionOverride",
    "TokenParts",
    "check_time",
    "decode_claims",
    "split",
    "to_connection_claims",
    "to_subscription_claims",
)

# 31 December 9999, the last day that dates can name; seconds since 1970.
TIME_MAX = 253_402_300_799

# base64url to base64; what only the latter knows becomes wrong (RFC 7515, section 2: no padding).
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
# By the length modulo 4; nothing encodes to a remainder of 1.
_PADDING = (b"", b"!", b"==", b"=")
_NONE = msgspec.Raw(b"")


class SubscriptionOverride(msgspec.Struct, frozen=True):
    """What a token says of a subscription; ``None`` leaves it to the channel's options.

    Attributes:
        presence: Keep the client in the channel's presence.
        join_leave: Tell of its joining and leaving.
        force_push_join_leave: Tell the client of joins and leaves.
        force_positioning: Watch for gaps.
        force_recovery: Let it come back.
    """

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_positioning: bool | None = None
    force_recovery: bool | None = None


NO_OVERRIDE = SubscriptionOverride()


class ChannelClaim(msgspec.Struct, frozen=True):
    """One channel of the claim ``subs``.

    Attributes:
        info: Becomes the client's ``chan_info``; empty for nothing. JSON, unless the token has
            something else as ``b64info``.
        data: Handed to the client with the subscription; likewise.
        override: Options of the subscription.
    """

    info: bytes = b""
    data: bytes = b""
    override: SubscriptionOverride = NO_OVERRIDE


class ConnectionClaims(msgspec.Struct, frozen=True):
    """What a connection token says.

    Attributes:
        user_id: Empty for somebody anonymous.
        expires_at: When the connection ends unless it is refreshed, seconds since 1970; ``None``
            never. It may be past where the token has ``expire_at``: error 110.
        info: Becomes ``conn_info``; empty for nothing. JSON, unless given as ``b64info``.
        meta: For the server only; JSON, empty for nothing.
        channels: To subscribe to; empty where ``subs`` is given, which wins.
        subs: Channel → how to subscribe to it.
        token_id: ``jti``; empty for none.
        issued_at: ``iat``, seconds since 1970.
    """

    user_id: str = ""
    expires_at: float | None = None
    info: bytes = b""
    meta: bytes = b""
    channels: tuple[str, ...] = ()
    subs: Mapping[str, ChannelClaim] = {}
    token_id: str = ""
    issued_at: float | None = None


class SubscriptionClaims(msgspec.Struct, frozen=True):
    """What a subscription token says.

    Attributes:
        user_id: Whom it is for; empty for anybody anonymous.
        channel: What it is for; never empty.
        client_id: The one connection that may use it; empty for any.
        info: Becomes ``chan_info``; empty for nothing. JSON, unless given as ``b64info``.
        data: Handed to the client with the reply; likewise.
        expires_at: When the subscription ends unless it is refreshed, seconds since 1970; ``None``
            never. It may be past where the token has ``expire_at``: error 110.
        override: Options of the subscription.
        token_id: ``jti``; empty for none.
        issued_at: ``iat``, seconds since 1970.
    """

    user_id: str
    channel: str
    client_id: str = ""
    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    override: SubscriptionOverride = NO_OVERRIDE
    token_id: str = ""
    issued_at: float | None = None


class Header(msgspec.Struct):
    """The first part of a token.

    Attributes:
        alg: How it is signed, as it says.
        kid: Which key signed it.
        crit: Extensions that must be understood; we know none (RFC 7515, section 4.1.11).
    """

    alg: str
    kid: str | None = None
    crit: msgspec.Raw = _NONE


class _Flag(msgspec.Struct):
    value: bool = False


class _Override(msgspec.Struct):
    presence: _Flag | None = None
    join_leave: _Flag | None = None
    force_push_join_leave: _Flag | None = None
    force_positioning: _Flag | None = None
    force_recovery: _Flag | None = None


class _ChannelClaim(msgspec.Struct):
    info: msgspec.Raw = _NONE
    b64info: str | None = None
    data: msgspec.Raw = _NONE
    b64data: str | None = None
    override: _Override | None = None


class Claims(_ChannelClaim):
    """The second part of a token, as it is written: any field may be missing or null."""

    sub: str | None = None
    exp: int | float | None = None
    nbf: int | float | None = None
    iat: int | float | None = None
    jti: str | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    expire_at: int | float | None = None
    meta: msgspec.Raw = _NONE
    channels: list[str] | None = None
    subs: dict[str, _ChannelClaim] | None = None
    channel: str | None = None
    client: str | None = None


class TokenParts(NamedTuple):
    """A token, taken apart.

    Attributes:
        header: Read.
        payload: The claims' JSON.
        signature: Raw.
        signed: What it signs.
    """

    header: Header
    payload: bytes
    signature: bytes
    signed: bytes


_header_decoder = msgspec.json.Decoder(Header)
_claims_decoder = msgspec.json.Decoder(Claims)


def split(token: str) -> TokenParts:
    """Take a token apart; nothing of it is believed yet.

    Raises:
        TokenInvalid: It is none.
    """
    try:
        raw = token.encode("ascii")
        header, payload, signature = raw.split(b".")
        parts = TokenParts(
            _header_decoder.decode(_decode(header)),
            _decode(payload),
            _decode(signature),
            raw[: len(header) + 1 + len(payload)],
        )
    except (ValueError, RecursionError) as error:
        raise TokenInvalid(f"token is malformed: {error}") from error
    if parts.header.crit:
        raise TokenInvalid("token has extensions that must be understood")
    return parts


def _decode(segment: bytes) -> bytes:
    """Read base64url without padding.

    Raises:
        ValueError: It is none, or bits that nothing needs are set: then a signature could be
            written in several ways (RFC 4648, section 3.5).
    """
    padded = segment.translate(_FROM_URL) + _PADDING[len(segment) & 3]
    decoded = binascii.a2b_base64(padded, strict_mode=True)
    if binascii.b2a_base64(decoded, newline=False) != padded:
        raise ValueError("base64 is not canonical")
    return decoded


def decode_claims(payload: bytes) -> Claims:
    """Read claims.

    Raises:
        TokenInvalid: A claim is of another type, or a time out of bounds.
    """
    try:
        claims = _claims_decoder.decode(payload)
    except (ValueError, RecursionError) as error:
        raise TokenInvalid(f"claims are malformed: {error}") from error
    for name in ("exp", "nbf", "iat", "expire_at"):
        value = getattr(claims, name)
        if value is not None and not -TIME_MAX <= value <= TIME_MAX:
            raise TokenInvalid(f"{name} is no time: {value}")
    return claims


def check_time(claims: Claims, now: float) -> None:
    """Check ``exp`` and ``nbf``.

    Raises:
        TokenExpired: The token is over, or not yet valid (recording
            ``connect_token_not_yet_valid``).
    """
    if claims.exp is not None and claims.exp <= now:
        raise TokenExpired(f"token ended at {claims.exp}")
    if claims.nbf is not None and claims.nbf > now:
        raise TokenExpired(f"token begins at {claims.nbf}")


def to_connection_claims(claims: Claims, user_id: str) -> ConnectionClaims:
    """Make of claims what a connection token says.

    Raises:
        TokenInvalid: Base64 in it is malformed.
    """
    subs = {name: _to_channel_claim(sub) for name, sub in (claims.subs or {}).items()}
    return ConnectionClaims(
        user_id,
        _find_expiry(claims),
        _choose(claims.info, claims.b64info, "b64info"),
        _to_json(claims.meta),
        () if subs else tuple(dict.fromkeys(claims.channels or ())),
        subs,
        claims.jti or "",
        claims.iat,
    )


def to_subscription_claims(claims: Claims, user_id: str) -> SubscriptionClaims:
    """Make of claims what a subscription token says.

    Raises:
        TokenInvalid: Base64 in it is malformed.
    """
    channel_claim = _to_channel_claim(claims)
    return SubscriptionClaims(
        user_id,
        claims.channel or "",
        claims.client or "",
        channel_claim.info,
        channel_claim.data,
        _find_expiry(claims),
        channel_claim.override,
        claims.jti or "",
        claims.iat,
    )


def _find_expiry(claims: Claims) -> float | None:
    """Say when what the token opens ends: ``expire_at`` before ``exp``, and 0 for never."""
    if claims.expire_at is not None:
        return claims.expire_at if claims.expire_at > 0 else None
    return claims.exp


def _to_channel_claim(claim: _ChannelClaim) -> ChannelClaim:
    """Decode what a token says of one channel.

    Raises:
        TokenInvalid: Base64 is malformed.
    """
    override = NO_OVERRIDE
    if claim.override is not None:
        override = SubscriptionOverride(
            *(
                None if flag is None else flag.value
                for flag in msgspec.structs.astuple(claim.override)
            )
        )
    return ChannelClaim(
        _choose(claim.info, claim.b64info, "b64info"),
        _choose(claim.data, claim.b64data, "b64data"),
        override,
    )


def _choose(raw: msgspec.Raw, encoded: str | None, name: str) -> bytes:
    """Take bytes from their base64 form, if given, or from their JSON form.

    Raises:
        TokenInvalid: Base64 is malformed.
    """
    if not encoded:
        return _to_json(raw)
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise TokenInvalid(f"{name} is malformed: {error}") from error


def _to_json(raw: msgspec.Raw) -> bytes:
    """Copy a JSON value out of a token, without line feeds (section 1.1); null is nothing."""
    value = bytes(raw)
    return b"" if value == b"null" else value.replace(b"\n", b"")
