"""Public keys of somebody else's identity provider: fetched, remembered, fetched again.

A key set is a JSON document behind a URL (RFC 7517). Its keys change without notice, so a key that
is not in our copy may be in theirs; but a peer can name any key it likes, so asking is rationed.

Invariants: at most one request per URL is under way, and everybody who needs it waits for that
one; a set that could not be fetched again counts on, for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
import msgspec

from wirebell.errors import ConfigError, ErrorCode, ProtocolError, TokenInvalid
from wirebell.tokens import KeyLocation

if TYPE_CHECKING:
    import httpx2

__all__ = ("KeySets",)

logger = logging.getLogger(__name__)

# As the reference does: providers publish a new key long before they sign with it.
TTL_SECONDS = 3_600.0
# So often may strangers who name keys that do not exist make us ask for the set.
REFETCH_INTERVAL_SECONDS = 5.0
# A peer waits for this, and its own patience is 5 s (section 1.15).
FETCH_TIMEOUT_SECONDS = 1.0
ATTEMPTS_MAX = 2
RETRY_PAUSE_SECONDS = 0.1
# After failures in a row: 0.5 s, 1 s, 2 s and so on, so that a provider can get up again.
BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 30.0
# The largest providers publish about 10 KB with ten keys.
SET_BYTES_MAX = 256 * 1024
KEYS_MAX = 100
# Addresses with placeholders stand for a written list of names; more than this is an attack.
SETS_MAX = 64


@dataclass(slots=True, eq=False)
class _KeySet:
    """Our copy of one key set.

    Attributes:
        url: Where it comes from.
        keys: Key id → key.
        fetched_at: When we last had an answer; on our clock.
        next_fetch_at: Not to be asked for before.
        failure_count: Since the last answer.
        task: The request that is under way.
    """

    url: str
    keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    next_fetch_at: float = float("-inf")
    failure_count: int = 0
    task: asyncio.Task[None] | None = None


class KeySets:
    """Finds the keys of key sets. Belongs to one event loop.

    Mutable state: copies of at most 64 sets, of at most 100 keys each; one client for HTTP.

    Args:
        ttl_seconds: How long a copy counts without question. It counts as long again while the
            set cannot be fetched.
        timeout_seconds: For one attempt to fetch; there are two.
        allow_http: Fetch without TLS too. Whoever is on the way can then sign tokens.
        clock: Says the time, seconds.

    Raises:
        ConfigError: The extra ``server`` is not installed.
    """

    def __init__(
        self,
        *,
        ttl_seconds: float = TTL_SECONDS,
        timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
        allow_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise ConfigError(
                "jwks_public_endpoint needs httpx2: pip install 'wirebell[server]'"
            ) from error
        self.ttl_seconds = ttl_seconds
        self.timeout_seconds = timeout_seconds
        self.allow_http = allow_http
        self.clock = clock
        self.failures = (
            httpx2.HTTPError,
            httpx2.InvalidURL,
            TimeoutError,
            ValueError,
            RecursionError,
        )
        # No redirects: they would lead to an address that nobody has configured.
        self.client: httpx2.AsyncClient = httpx2.AsyncClient(timeout=timeout_seconds)
        self.sets: dict[str, _KeySet] = {}

    async def find(self, location: KeyLocation) -> jwt.PyJWK:
        """Find a key, in our copy or in the set itself.

        Waits at most for two attempts to fetch. A cancelled wait leaves the request to the
        others.

        Raises:
            TokenInvalid: The set has no such key.
            ProtocolError: 100, temporary: the set cannot be had, or was had so lately that we
                do not ask again yet. The client comes back.
        """
        key_set = self._key_set(location.url)
        key = key_set.keys.get(location.key_id)
        now = self.clock()
        if key is not None and now < key_set.fetched_at + self.ttl_seconds:
            return key
        if key_set.task is not None or now >= key_set.next_fetch_at:
            if key_set.task is None:
                key_set.task = asyncio.create_task(self._fetch(key_set))
            # Unlike awaiting the task, this does not cancel it when we are cancelled.
            await asyncio.wait((key_set.task,))
            key = key_set.keys.get(location.key_id)
        if key is not None and self.clock() < key_set.fetched_at + 2 * self.ttl_seconds:
            return key
        if key_set.fetched_at >= now:  # they have answered since we asked
            raise TokenInvalid(f"key set {location.url} has no key {location.key_id!r}")
        raise ProtocolError(ErrorCode.INTERNAL)

    async def aclose(self) -> None:
        """End requests that are under way, and the client; may be called twice."""
        tasks = [key_set.task for key_set in self.sets.values() if key_set.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.aclose()

    def _key_set(self, url: str) -> _KeySet:
        """Return our copy of a set, which may be empty yet; the oldest copy makes room for it.

        Raises:
            ProtocolError: 100: the address has no TLS, and must.
        """
        key_set = self.sets.get(url)
        if key_set is None:
            if not self.allow_http and not url.startswith("https://"):
                logger.error("key set is not fetched without TLS", extra={"url": url})
                raise ProtocolError(ErrorCode.INTERNAL)
            if len(self.sets) >= SETS_MAX:
                idle = (known for known in self.sets.values() if known.task is None)
                oldest = min(idle, key=lambda known: known.fetched_at, default=None)
                if oldest is None:
                    raise ProtocolError(ErrorCode.INTERNAL)
                del self.sets[oldest.url]
            key_set = self.sets[url] = _KeySet(url)
        return key_set

    async def _fetch(self, key_set: _KeySet) -> None:
        """Renew our copy, or plan when to try again; never raises for what the other side does."""
        try:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                try:
                    async with asyncio.timeout(self.timeout_seconds):
                        key_set.keys = _read_keys(await self._download(key_set.url))
                except self.failures as error:
                    if attempt < ATTEMPTS_MAX:
                        await asyncio.sleep(RETRY_PAUSE_SECONDS)
                        continue
                    self._note_failure(key_set, error)
                else:
                    key_set.fetched_at = self.clock()
                    key_set.next_fetch_at = key_set.fetched_at + REFETCH_INTERVAL_SECONDS
                    key_set.failure_count = 0
                    return
        finally:
            key_set.task = None

    def _note_failure(self, key_set: _KeySet, error: Exception) -> None:
        """Keep what we have, and leave the other side alone for a while."""
        pause = min(BACKOFF_SECONDS_MIN * 2**key_set.failure_count, BACKOFF_SECONDS_MAX)
        key_set.next_fetch_at = self.clock() + pause
        # Bounded, because the power is.
        key_set.failure_count = min(key_set.failure_count + 1, 16)
        logger.warning(
            "key set could not be fetched",
            extra={"url": key_set.url, "error": repr(error), "pause_seconds": pause},
        )

    async def _download(self, url: str) -> bytes:
        """Get a document.

        Raises:
            ValueError: It is too long, or the status is not 200.
        """
        body = bytearray()
        # Not compressed: a few bytes could become very many.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self.client.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > SET_BYTES_MAX:
                    raise ValueError(f"more than {SET_BYTES_MAX} bytes")
        return bytes(body)


def _read_keys(document: bytes) -> dict[str, jwt.PyJWK]:
    """Read the keys that tokens can be checked with: key id → key. Others are passed over.

    Raises:
        ValueError: It is no key set, or has no such key.
    """
    key_set = msgspec.json.decode(document, type=dict[str, Any])
    entries = key_set.get("keys")
    if not isinstance(entries, list):
        raise ValueError("no key set")  # noqa: TRY004  # it came from outside
    keys = {}
    for entry in entries[:KEYS_MAX]:
        if isinstance(entry, dict) and _is_for_tokens(entry):
            try:
                keys[entry["kid"]] = jwt.PyJWK(entry)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                logger.warning(
                    "key is passed over", extra={"kid": entry["kid"], "error": str(error)}
                )
    if not keys:
        raise ValueError("key set has no key for signatures")
    return keys


def _is_for_tokens(entry: dict[str, Any]) -> bool:
    """Say whether an entry is a public key for signatures with a name."""
    return (
        isinstance(entry.get("kid"), str)
        and entry.get("kty") in ("RSA", "EC", "OKP")
        and entry.get("use", "sig") == "sig"
        # A private key that was published is nobody's secret any more.
        and "d" not in entry
    )
