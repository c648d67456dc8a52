"""Tokens that we make are tokens that we, and others, accept."""

from __future__ import annotations

import jwt
import pytest

from tests.unit.tokens.keys import NOW, SECRET
from wirebell.errors import ConfigError
from wirebell.tokens import (
    ConnectionClaims,
    SubscriptionClaims,
    TokenKeys,
    TokenVerifier,
    create_connection_token,
    create_subscription_token,
)

KEYS = TokenKeys(hmac_secret_key=SECRET, audience="app", issuer="backend", user_id_claim="uid")


def test_connection_token() -> None:
    """A connection token says what it was made with, to PyJWT too."""
    token = create_connection_token(
        KEYS, "42", NOW, ttl_seconds=60, info=b'{"a":1}', meta=b"[2]", channels=["x", "y"],
        token_id="t1",
    )  # fmt: skip

    assert (
        ConnectionClaims("42", NOW + 60, b'{"a":1}', b"[2]", ("x", "y"), {}, "t1", NOW)
        == TokenVerifier(KEYS).verify_connection(token, NOW)
    )  # fmt: skip
    options: jwt.types.Options = {"verify_exp": False, "verify_iat": False}
    assert {
        "uid": "42", "iat": NOW, "exp": NOW + 60, "aud": "app", "iss": "backend", "jti": "t1",
        "info": {"a": 1}, "meta": [2], "channels": ["x", "y"],
    } == jwt.decode(token, SECRET, ["HS256"], audience="app", options=options)  # fmt: skip


def test_shortest_connection_token() -> None:
    """What is not given is not in the token, and 0 seconds mean for ever."""
    keys = TokenKeys(hmac_secret_key=SECRET)
    token = create_connection_token(keys, "", NOW, ttl_seconds=0)

    assert {"sub": "", "iat": NOW} == jwt.decode(
        token, SECRET, ["HS256"], options={"verify_iat": False}
    )


def test_subscription_token() -> None:
    """A subscription token says what it was made with; the client is left out when not given."""
    verifier = TokenVerifier(KEYS)
    bound = create_subscription_token(
        KEYS, "42", "news:1", NOW, ttl_seconds=60, info=b"1", client_id="c1", token_id="t1"
    )
    free = create_subscription_token(KEYS, "42", "news:1", NOW, ttl_seconds=0)

    assert (
        SubscriptionClaims(
            "42", "news:1", "c1", b"1", b"", NOW + 60, token_id="t1", issued_at=NOW
        )
        == verifier.verify_subscription(bound, NOW)
    )  # fmt: skip
    assert SubscriptionClaims("42", "news:1", issued_at=NOW) == verifier.verify_subscription(
        free, NOW
    )


def test_no_secret() -> None:
    """Without a secret nothing can be signed."""
    with pytest.raises(ConfigError, match="hmac_secret_key"):
        create_connection_token(TokenKeys(), "42", NOW, ttl_seconds=60)
