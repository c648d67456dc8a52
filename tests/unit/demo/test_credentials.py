"""Tokens of the reference app, and how a first message is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from wirebell import Denied
from wirebell.demo.credentials import ALGORITHM, ISSUER, Signer, read_first_message

SECRET = "s" * 64


def claims(**changes: Any) -> dict[str, Any]:
    """Make the claims of a good token, with changes; ``None`` leaves one out."""
    now = datetime.now(UTC)
    good = {
        "sub": "ann",
        "iat": now,
        "exp": now + timedelta(hours=1),
        "jti": "1",
        "iss": ISSUER,
        "aud": ISSUER,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def test_round_trip() -> None:
    """A signed token names its user and its end."""
    signer = Signer(SECRET, 60)
    before = datetime.now(UTC).replace(microsecond=0)

    identity = signer.check(signer.sign("ann"))

    assert "ann" == identity.user_id
    assert identity.expires_at is not None
    assert timedelta(seconds=60) <= identity.expires_at - before <= timedelta(seconds=90)


def test_tokens_differ() -> None:
    """Two tokens of one user and one second are different."""
    signer = Signer(SECRET, 60)

    assert signer.sign("ann") != signer.sign("ann")


def test_expired() -> None:
    """A token that has ended is refused by that word."""
    with pytest.raises(Denied, match="token expired"):
        Signer(SECRET, 60).check(Signer(SECRET, -60).sign("ann"))


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": None},
        {"sub": 7},
        {"exp": None},
        {"exp": 10**30},
        {"exp": "soon"},
        {"iat": None},
        {"jti": None},
        {"iss": "other"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"iat": datetime(2999, 1, 1, tzinfo=UTC)},
    ],
)
def test_wrong_claims(changes: dict[str, Any]) -> None:
    """A token that lacks a claim, or was made for somebody else, is refused."""
    token = jwt.encode(claims(**changes), SECRET, ALGORITHM)

    with pytest.raises(Denied, match="token is not valid"):
        Signer(SECRET, 60).check(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "rubbish",
        "a.b.c",
        "späť",
        "\ud800",
        jwt.encode(claims(), "o" * 64, ALGORITHM),
        jwt.encode(claims(), SECRET, "HS512"),
        jwt.encode(claims(), "", "none"),
    ],
)
def test_no_token(token: str) -> None:
    """What was signed otherwise, by others or not at all is refused."""
    with pytest.raises(Denied, match="token is not valid"):
        Signer(SECRET, 60).check(token)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("abc", "abc"),
        (" abc\n", "abc"),
        ('{"token": "abc"}', "abc"),
        ('{"token": 7}', ""),
        ('{"other": "abc"}', ""),
        ("[]", ""),
        ("7", ""),
        ("", ""),
    ],
    ids=lambda value: value[:12],
)
def test_first_message(text: str, token: str) -> None:
    """A token comes alone or in an object; in anything else there is none, and no error."""
    assert token == read_first_message(text)


def test_deeply_nested_first_message() -> None:
    """A message that is nested deeper than anybody reads is no token, and no error of ours."""
    text = "[" * 60_000

    assert read_first_message(text) in ("", text)
