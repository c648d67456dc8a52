"""Tokens that are good by their signature and were revoked."""

from __future__ import annotations

import time

import pytest

from tests.unit.courts import connection_token, court, error_of, subscription_token
from wirebell.revocations import Revocation

pytestmark = pytest.mark.anyio

FOREVER = 1e12


async def test_connecting() -> None:
    """A revoked token opens nothing: 3500; one that was issued later does."""
    async with court() as law:
        now = time.time()
        law.authority.revocations.add([Revocation("ann", "", now, FOREVER)], now)
        undated, old, newer = law.peer(), law.peer(), law.peer()
        await undated.ask({"id": 1, "connect": {"token": connection_token()}})
        await old.ask({"id": 1, "connect": {"token": connection_token(iat=int(now))}})
        result = await newer.connect(token=connection_token(iat=int(now) + 1))

        assert [(3500, "invalid token")] == undated.closed == old.closed
        assert newer.client.client_id == result["client"]


async def test_what_is_remembered_of_a_token() -> None:
    """The connection knows which token opened it, and which refreshed it."""
    async with court() as law:
        ann = await law.ann(jti="t1", iat=100)
        first = ann.client.token
        await ann.ask({"id": 2, "refresh": {"token": connection_token(jti="t2", iat=200)}})
        second = ann.client.token

        assert first is not None
        assert second is not None
        assert [("t1", 100), ("t2", 200)] == [
            (token.token_id, token.issued_at) for token in (first, second)
        ]


async def test_refreshing() -> None:
    """A connection cannot live on by a revoked token."""
    async with court() as law:
        ann = await law.ann()
        law.authority.revocations.add([Revocation("", "t1", 0.0, FOREVER)], 0)
        code, closed = await error_of(ann, refresh={"token": connection_token(jti="t1")})

        assert (0, [3500]) == (code, closed)


async def test_subscribing() -> None:
    """A revoked subscription token gives no permission; refreshing by it ends the connection."""
    async with court() as law:
        ann = await law.ann()
        law.authority.revocations.add([Revocation("", "t1", 0.0, FOREVER)], 0)
        token = subscription_token("closed:1", jti="t1")
        refused = await error_of(ann, subscribe={"channel": "closed:1", "token": token})
        good = subscription_token("closed:1", jti="t2")
        await ann.ask({"id": 3, "subscribe": {"channel": "closed:1", "token": good}})
        ended = await error_of(ann, sub_refresh={"channel": "closed:1", "token": token})

        assert ((103, []), (0, [3500])) == (refused, ended)
