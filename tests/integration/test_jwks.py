"""Key sets, from a provider on loopback that does what each test wants."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from wirebell import jwks
from wirebell.errors import ConfigError, ErrorCode, ProtocolError, TokenInvalid
from wirebell.jwks import KeySets
from wirebell.tokens import KeyLocation, TokenKeys, TokenVerifier

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000.0
TTL = 100.0


def create_entry(key_id: str, **more: object) -> dict[str, Any]:
    """Create a public key as key sets have it."""
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return {**jwt.algorithms.OKPAlgorithm.to_jwk(key, as_dict=True), "kid": key_id, **more}


class Provider:
    """An HTTP server with one document.

    Attributes:
        keys: Entries of its key set.
        answer: Makes the whole response, if set.
        request_count: How often it was asked.
        gate: Closed, it lets requests wait.
    """

    def __init__(self) -> None:
        self.keys: list[object] = [create_entry("k1")]
        self.answer: Callable[[], bytes] | None = None
        self.request_count = 0
        self.requested = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.now = 0.0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.request_count += 1
            self.requested.set()
            await self.gate.wait()
            body = json.dumps({"keys": self.keys}).encode()
            writer.write(self.answer() if self.answer else respond(body))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side gave up
        finally:
            writer.close()

    def locate(self, key_id: str) -> KeyLocation:
        """Say where a key is."""
        return KeyLocation(self.url, key_id)


def respond(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Write a response."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + body


@asynccontextmanager
async def serve() -> AsyncIterator[Provider]:
    """Run a provider."""
    provider = Provider()
    server = await asyncio.start_server(provider.handle, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield provider
    finally:
        provider.gate.set()
        server.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """Give a provider that has the key ``k1``."""
    async with serve() as running:
        yield running


@pytest.fixture
async def key_sets(provider: Provider) -> AsyncIterator[KeySets]:
    """Give key sets whose clock the provider holds."""
    created = KeySets(
        ttl_seconds=TTL, timeout_seconds=5, allow_http=True, clock=lambda: provider.now
    )
    yield created
    await created.aclose()


async def find_code(key_sets: KeySets, location: KeyLocation) -> int:
    """Look for a key that cannot be had, and return the error's code."""
    with pytest.raises(ProtocolError) as caught:
        await key_sets.find(location)
    assert caught.value.temporary
    return caught.value.code


async def test_verifies_a_token(provider: Provider, key_sets: KeySets) -> None:
    """A token is checked with the key that its ``kid`` names."""
    private = ed25519.Ed25519PrivateKey.generate()
    entry = jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    provider.keys = [create_entry("k1"), {**entry, "kid": "k2"}]
    verifier = TokenVerifier(TokenKeys(jwks_public_endpoint=provider.url))
    token = jwt.encode({"sub": "42"}, private, "EdDSA", headers={"kid": "k2"})

    location = verifier.key_location(token)
    assert location is not None
    key = await key_sets.find(location)
    assert "42" == verifier.verify_connection(token, NOW, key).user_id


async def test_remembers(provider: Provider, key_sets: KeySets) -> None:
    """A copy counts for its time, and is then renewed."""
    provider.keys.append(create_entry("k2"))

    first = await key_sets.find(provider.locate("k1"))
    assert "k2" == (await key_sets.find(provider.locate("k2"))).key_id
    provider.now = TTL - 1
    assert first is await key_sets.find(provider.locate("k1"))
    assert 1 == provider.request_count

    provider.now = TTL
    assert "k1" == (await key_sets.find(provider.locate("k1"))).key_id
    assert 2 == provider.request_count


async def test_one_request_for_all(provider: Provider, key_sets: KeySets) -> None:
    """Everybody who needs the same set waits for one request, also when some are cancelled."""
    provider.gate.clear()
    waits = [asyncio.create_task(key_sets.find(provider.locate("k1"))) for _ in range(10)]
    await provider.requested.wait()
    waits[0].cancel()
    waits[1].cancel()
    provider.gate.set()

    results = await asyncio.gather(*waits, return_exceptions=True)
    assert [asyncio.CancelledError] * 2 == [type(result) for result in results[:2]]
    assert ["k1"] * 8 == [result.key_id for result in results[2:] if isinstance(result, jwt.PyJWK)]
    assert 1 == provider.request_count


async def test_rotation(provider: Provider, key_sets: KeySets) -> None:
    """A key that is new to us is asked for at once, and one that is gone does not count."""
    await key_sets.find(provider.locate("k1"))
    provider.keys = [create_entry("k2")]
    provider.now = jwks.REFETCH_INTERVAL_SECONDS

    assert "k2" == (await key_sets.find(provider.locate("k2"))).key_id
    assert 2 == provider.request_count
    provider.now *= 2
    with pytest.raises(TokenInvalid):
        await key_sets.find(provider.locate("k1"))


async def test_unknown_keys_are_rationed(provider: Provider, key_sets: KeySets) -> None:
    """Strangers who name keys that do not exist cause one request per interval, not more."""
    with pytest.raises(TokenInvalid):
        await key_sets.find(provider.locate("x0"))
    provider.now = jwks.REFETCH_INTERVAL_SECONDS - 1
    for number in range(20):
        # Perhaps it is brand-new: the client may come back.
        assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate(f"x{number}"))
    assert "k1" == (await key_sets.find(provider.locate("k1"))).key_id
    assert 1 == provider.request_count

    provider.now = jwks.REFETCH_INTERVAL_SECONDS
    with pytest.raises(TokenInvalid):
        await key_sets.find(provider.locate("x0"))
    assert 2 == provider.request_count


BAD_ANSWERS: dict[str, Callable[[], bytes]] = {
    "status": lambda: respond(b"{}", "503 Service Unavailable"),
    "redirect": lambda: respond(b"", "302 Found", "Location: https://evil.example/\r\n"),
    "rubbish": lambda: respond(b"<html>"),
    "list": lambda: respond(b"[]"),
    "no keys": lambda: respond(b"{}"),
    "empty": lambda: respond(b'{"keys":[]}'),
    "deep": lambda: respond(b'{"keys":' + b"[" * 100_000),
    "too long": lambda: respond(b" " * (jwks.SET_BYTES_MAX + 1)),
    "compressed": lambda: respond(gzip.compress(b"{}"), headers="Content-Encoding: gzip\r\n"),
    "cut": lambda: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "no HTTP": lambda: b"220 mail.example ESMTP\r\n",
    "nothing": lambda: b"",
    "keys of no use": lambda: respond(json.dumps({"keys": [
        5,
        {},
        create_entry("k1", use="enc"),
        create_entry("k1", d="AAAA"),  # private
        create_entry("k1", x="AA"),
        create_entry("k1", alg=["EdDSA"]),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"},
        {"kty": "RSA", "kid": "k1"},
        {"kty": "EC", "crv": "P-256", "x": 5, "kid": "k1"},
        create_entry("k1") | {"kid": 5},
    ]}).encode()),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ANSWERS)
async def test_bad_answers(provider: Provider, key_sets: KeySets, kind: str) -> None:
    """What is no key set, or has no key that we could use, is a failure that may pass."""
    provider.answer = BAD_ANSWERS[kind]

    assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))
    assert jwks.ATTEMPTS_MAX == provider.request_count


async def test_second_attempt(provider: Provider, key_sets: KeySets) -> None:
    """One failure is nothing: the set is asked for again at once."""
    answers = [respond(b"", "500 Oops"), respond(json.dumps({"keys": provider.keys}).encode())]
    provider.answer = lambda: answers.pop(0)

    assert "k1" == (await key_sets.find(provider.locate("k1"))).key_id
    assert 2 == provider.request_count


async def test_back_off(provider: Provider, key_sets: KeySets) -> None:
    """A provider that fails is left alone, twice as long each time, up to 30 s."""
    provider.answer = BAD_ANSWERS["status"]
    key_set_times = []
    for _ in range(9):
        assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))
        count = provider.request_count
        assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))
        assert count == provider.request_count  # not asked
        next_fetch_at = key_sets.sets[provider.url].next_fetch_at
        key_set_times.append(next_fetch_at - provider.now)
        provider.now = next_fetch_at

    assert [0.5, 1, 2, 4, 8, 16, 30, 30, 30] == key_set_times
    provider.answer = None
    assert "k1" == (await key_sets.find(provider.locate("k1"))).key_id


async def test_old_copy_while_provider_is_away(provider: Provider, key_sets: KeySets) -> None:
    """A copy counts twice its time while the provider fails, and no longer."""
    first = await key_sets.find(provider.locate("k1"))
    provider.answer = BAD_ANSWERS["status"]

    provider.now = 2 * TTL - 1
    assert first is await key_sets.find(provider.locate("k1"))
    assert first is await key_sets.find(provider.locate("k1"))  # without asking
    assert 1 + jwks.ATTEMPTS_MAX == provider.request_count
    provider.now = 2 * TTL
    assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))


async def test_silent_provider(provider: Provider) -> None:
    """A provider that says nothing costs the time of two attempts."""
    provider.gate.clear()
    key_sets = KeySets(timeout_seconds=0.05, allow_http=True)

    assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))
    assert jwks.ATTEMPTS_MAX >= provider.request_count
    await key_sets.aclose()


async def test_nobody_there(key_sets: KeySets) -> None:
    """A port that nobody listens on is a failure that may pass."""
    async with serve() as gone:
        location = gone.locate("k1")

    assert ErrorCode.INTERNAL == await find_code(key_sets, location)


async def test_no_tls(provider: Provider) -> None:
    """Without leave no set is fetched in the clear."""
    key_sets = KeySets()

    assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))
    assert 0 == provider.request_count
    await key_sets.aclose()


async def test_many_sets(provider: Provider, key_sets: KeySets) -> None:
    """At most 64 sets are kept: the one that was fetched first makes room."""
    for number in range(jwks.SETS_MAX):
        provider.now = number
        await key_sets.find(KeyLocation(f"{provider.url}/{number}", "k1"))
    provider.now = 0
    await key_sets.find(KeyLocation(f"{provider.url}/1", "k1"))
    await key_sets.find(KeyLocation(f"{provider.url}/x", "k1"))

    assert jwks.SETS_MAX == len(key_sets.sets)
    assert f"{provider.url}/0" not in key_sets.sets
    assert f"{provider.url}/x" in key_sets.sets


async def test_too_many_sets_at_once(provider: Provider, key_sets: KeySets) -> None:
    """While 64 sets are being fetched, another one has to wait for its turn."""
    provider.gate.clear()
    waits = [
        asyncio.create_task(key_sets.find(KeyLocation(f"{provider.url}/{number}", "k1")))
        for number in range(jwks.SETS_MAX)
    ]
    await provider.requested.wait()

    assert ErrorCode.INTERNAL == await find_code(key_sets, provider.locate("k1"))
    provider.gate.set()
    assert ["k1"] * jwks.SETS_MAX == [key.key_id for key in await asyncio.gather(*waits)]


async def test_close(provider: Provider, key_sets: KeySets) -> None:
    """Closing ends the request that is under way; who waits for it is told to come back."""
    provider.gate.clear()
    wait = asyncio.create_task(find_code(key_sets, provider.locate("k1")))
    await provider.requested.wait()

    await key_sets.aclose()
    await key_sets.aclose()
    assert ErrorCode.INTERNAL == await wait


async def test_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the HTTP client the message names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "httpx2", None)

    with pytest.raises(ConfigError, match=r"wirebell\[server\]"):
        KeySets()
