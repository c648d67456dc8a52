"""Tokens: what is signed is read as it was written, and nothing else is believed."""

from __future__ import annotations

import json
from typing import Any

import jwt
from hypothesis import assume, given, settings, strategies as st

from wirebell.errors import TokenError, TokenInvalid
from wirebell.tokens import (
    ChannelClaim,
    SubscriptionOverride,
    TokenKeys,
    TokenVerifier,
    create_connection_token,
)

SECRET = "secret-for-tests-0123456789abcdef0123"
NOW = 1_800_000_000.0
KEYS = TokenKeys(hmac_secret_key=SECRET)
VERIFIER = TokenVerifier(KEYS)
UNCHECKED = TokenVerifier(TokenKeys(skip_signature=True))

TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXTS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
    max_leaves=5,
)
TIMES = st.integers(int(NOW) + 1, 4_102_444_800)
FLAGS = st.sampled_from([None, True, False])
NAMES = SubscriptionOverride.__struct_fields__
CLAIMS = (
    "aud", "b64data", "b64info", "channel", "channels", "client", "data", "exp", "expire_at", "iat",
    "info", "iss", "jti", "meta", "nbf", "override", "sub", "subs",
)  # fmt: skip
OVERRIDES = st.fixed_dictionaries(dict.fromkeys(NAMES, FLAGS))


def write(value: object) -> bytes:
    """Write JSON as PyJWT does; null is nothing."""
    return b"" if value is None else json.dumps(value, separators=(",", ":")).encode()


@settings(max_examples=150)
@given(user=TEXTS, info=VALUES, meta=VALUES, exp=st.none() | TIMES, channels=st.lists(TEXTS))
def test_connection_round_trip(
    user: str, info: Any, meta: Any, exp: int | None, channels: list[str]
) -> None:
    """A token that PyJWT signed says what was put into it."""
    claims = {"sub": user, "info": info, "meta": meta, "channels": channels}
    if exp is not None:
        claims["exp"] = exp

    found = VERIFIER.verify_connection(jwt.encode(claims, SECRET, "HS256"), NOW)
    assert (user, exp, write(info), write(meta), tuple(dict.fromkeys(channels))) == (
        found.user_id, found.expires_at, found.info, found.meta, found.channels,
    )  # fmt: skip


@settings(max_examples=100)
@given(subs=st.dictionaries(TEXTS, st.tuples(VALUES, VALUES, OVERRIDES), max_size=3))
def test_subs_round_trip(subs: dict[str, tuple[Any, Any, dict[str, bool | None]]]) -> None:
    """Each channel of ``subs`` has its info, its data and its options."""
    claim = {
        name: {
            "info": info,
            "data": data,
            "override": {
                key: None if flag is None else {"value": flag} for key, flag in override.items()
            },
        }
        for name, (info, data, override) in subs.items()
    }

    found = VERIFIER.verify_connection(jwt.encode({"subs": claim}, SECRET, "HS256"), NOW)
    assert {
        name: ChannelClaim(write(info), write(data), SubscriptionOverride(**override))
        for name, (info, data, override) in subs.items()
    } == found.subs


@settings(max_examples=150)
@given(data=st.data(), user=TEXTS)
def test_changed_tokens_are_refused(data: st.DataObject, user: str) -> None:
    """A token of which a single character is another is not believed."""
    token = create_connection_token(KEYS, user, NOW, ttl_seconds=60)
    place = data.draw(st.integers(0, len(token) - 1))
    sign = data.draw(st.characters(codec="ascii"))
    assume(sign != token[place])
    changed = token[:place] + sign + token[place + 1 :]

    for verify in (VERIFIER.verify_connection, VERIFIER.verify_subscription):
        try:
            verify(changed, NOW)
        except TokenInvalid:
            continue
        raise AssertionError(changed)


@settings(max_examples=200)
@given(token=st.text(max_size=60) | st.lists(st.text("abceyJ019-_=+/", max_size=12)).map(".".join))
def test_rubbish_is_refused(token: str) -> None:
    """Text of any kind is a bad token, never another error."""
    for verifier in (VERIFIER, UNCHECKED):
        for verify in (verifier.verify_connection, verifier.verify_subscription):
            try:
                verify(token, NOW)
            except TokenError:
                continue
            raise AssertionError(token)


@settings(max_examples=200)
@given(
    claims=st.dictionaries(
        st.sampled_from(CLAIMS),
        VALUES,
    )
)
def test_claims_of_any_type(claims: dict[str, Any]) -> None:
    """Claims of any type are believed or refused, never another error."""
    signed = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, "HS256")

    for verify in (VERIFIER.verify_connection, VERIFIER.verify_subscription):
        try:
            found = verify(signed, NOW)
        except TokenError:
            continue
        assert b"\n" not in found.info or "b64info" in claims
