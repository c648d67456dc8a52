"""Publish to a running server, and show what a channel carries, from a terminal.

A small client of the server API and of the client protocol: what ``wirebell publish`` and
``wirebell subscribe`` do.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from wirebell.errors import WirebellError
from wirebell.tokens import TokenKeys, create_connection_token, create_subscription_token

__all__ = (
    "GivenTokens",
    "SignedTokens",
    "Tail",
    "Tokens",
    "publish",
    "to_websocket_url",
)

# What an answer of the API may take, and a handshake.
ANSWER_SECONDS_MAX = 10.0
# An answer of `publish` has some 60 bytes; an error says a sentence.
ANSWER_BYTES_MAX = 65_536
# The server joins up to 16 publications into a message, and one may have megabytes.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# Full jitter between nothing and these, doubled each time, as the maintained clients do it
# (protocol document, section 1.15).
BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 20.0
# After these the bound has long been reached.
ATTEMPTS_COUNTED = 10
# Beyond the announced interval of pings (section 1.15); and until it is announced.
PING_GRACE_SECONDS = 10.0
CONNECT_SECONDS_MAX = 10.0
TOKEN_EXPIRED = 109
# A connection that outlives it is made anew, and recovers: once a day is seldom enough.
TOKEN_SECONDS = 24 * 3600.0


class Tokens(Protocol):
    """Gives tokens; an empty text is none."""

    @property
    def is_renewing(self) -> bool:
        """The next one may do better than one that is over."""

    def connection(self) -> str:
        """Return a connection token."""

    def subscription(self) -> str:
        """Return a subscription token for the channel."""


@dataclass(frozen=True, slots=True)
class GivenTokens:
    """Tokens that somebody typed."""

    connection_token: str = ""
    subscription_token: str = ""
    is_renewing: bool = False

    def connection(self) -> str:
        """Return the connection token."""
        return self.connection_token

    def subscription(self) -> str:
        """Return the subscription token."""
        return self.subscription_token


@dataclass(frozen=True, slots=True)
class SignedTokens:
    """Tokens that are signed with the server's own secrets.

    Attributes:
        connection_keys: For connections, with ``hmac_secret_key``.
        subscription_keys: For subscriptions, likewise.
        user_id: Whom they are for.
        channel: What the subscription is for.
    """

    connection_keys: TokenKeys
    subscription_keys: TokenKeys
    user_id: str
    channel: str
    is_renewing: bool = True

    def connection(self) -> str:
        """Sign a connection token."""
        return create_connection_token(
            self.connection_keys, self.user_id, time.time(), ttl_seconds=TOKEN_SECONDS
        )

    def subscription(self) -> str:
        """Sign a subscription token; none without a secret for them."""
        if not self.subscription_keys.hmac_secret_key:
            return ""
        return create_subscription_token(
            self.subscription_keys,
            self.user_id,
            self.channel,
            time.time(),
            ttl_seconds=TOKEN_SECONDS,
        )


def to_websocket_url(url: str, path: str) -> str:
    """Turn a server's address into that of its WebSocket.

    Raises:
        WirebellError: It is no address of a server.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise WirebellError(f"an address is http://host:port, got {url!r}")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, "", ""))


def publish(url: str, key: str, channel: str, data: Any) -> dict[str, Any]:
    """Publish through the server API.

    Args:
        url: Of the command: ``http://host:port/api/publish``.
        key: The API key; empty for a server that asks for none.
        channel: Where.
        data: A JSON value.

    Returns:
        The result: ``offset`` and ``epoch`` where the channel has a history.

    Raises:
        WirebellError: The server cannot be reached, or refused.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise WirebellError(f"an address is http://host:port, got {url!r}")
    body = json.dumps({"channel": channel, "data": data}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the scheme is checked
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as response:  # noqa: S310
            answer = json.loads(response.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        hint = ": the API key is missing or wrong" if error.code == 401 else _read_reason(error)
        raise WirebellError(f"{url} answered {error.code}{hint}") from error
    except (OSError, http.client.HTTPException) as error:
        raise WirebellError(f"{url} cannot be reached: {error}") from error
    except ValueError as error:
        raise WirebellError(f"{url} answered no JSON: is that a Wirebell?") from error
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        refusal = answer["error"]
        raise WirebellError(f"{refusal.get('message')} ({refusal.get('code')})")
    if not isinstance(answer, dict) or not isinstance(answer.get("result"), dict):
        raise WirebellError(f"{url} answered something else: is that a Wirebell?")
    result: dict[str, Any] = answer["result"]
    return result


def _read_reason(error: urllib.error.HTTPError) -> str:
    """Read why a server refused that tells errors by the status too (section 1.14)."""
    try:
        refusal = json.loads(error.read(ANSWER_BYTES_MAX))
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    if not isinstance(refusal, dict) or "message" not in refusal:
        return ""
    return f": {refusal['message']} ({refusal.get('code')})"


@dataclass(slots=True)
class _Position:
    """Where the channel was left."""

    offset: int = 0
    epoch: str = ""
    is_known: bool = False


class Tail:
    """Shows a channel's publications, over as many connections as it takes.

    Args:
        url: Of the server's WebSocket.
        channel: What is shown.
        tokens: Made anew for each connection.
        show: Takes the payload of each publication, as JSON in one line.
        tell: Takes what a person should know besides, one line each.
        grace_seconds: Beyond the announced interval of pings, until a silent link is given up.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        tokens: Tokens,
        show: Callable[[str], None],
        tell: Callable[[str], None],
        *,
        grace_seconds: float = PING_GRACE_SECONDS,
    ) -> None:
        self.grace_seconds = grace_seconds
        self.url = url
        self.channel = channel
        self.tokens = tokens
        self.show = show
        self.tell = tell
        self.position = _Position()
        self.attempt_count = 0
        self.ping_seconds = CONNECT_SECONDS_MAX

    async def run(self) -> None:
        """Show publications until the task is cancelled.

        Raises:
            WirebellError: The server will not let us, however often we ask.
        """
        while True:
            reason = await self._run_connection()
            limit = min(BACKOFF_SECONDS_MIN * 2**self.attempt_count, BACKOFF_SECONDS_MAX)
            self.attempt_count = min(self.attempt_count + 1, ATTEMPTS_COUNTED)
            seconds = random.uniform(0, limit)  # noqa: S311 - spreads clients, hides nothing
            self.tell(f"{reason}; connects again in {seconds:.1f} s")
            await asyncio.sleep(seconds)

    async def _run_connection(self) -> str:
        """Connect, subscribe, and show what comes until the link ends.

        Returns:
            Why it ended, where another may do better.

        Raises:
            WirebellError: None will.
        """
        try:
            async with connect(
                self.url,
                subprotocols=[Subprotocol("centrifuge-json")],
                max_size=MESSAGE_BYTES_MAX,
                open_timeout=CONNECT_SECONDS_MAX,
                ping_interval=None,  # the server pings
            ) as link:
                return await self._serve(link)
        except ConnectionClosed as error:
            close = error.rcvd
            if close is not None and _is_final(close.code):
                raise WirebellError(f"the server said: {close.reason} ({close.code})") from None
            return "connection lost" if close is None else f"{close.reason} ({close.code})"
        except InvalidURI as error:
            raise WirebellError(str(error)) from error
        except TimeoutError:
            return "the server is silent"
        except (OSError, InvalidHandshake) as error:
            return f"{self.url} cannot be reached: {error}"

    async def _serve(self, link: ClientConnection) -> str:
        """Take what comes over one link; returns why another is needed."""
        await link.send("\n".join(json.dumps(command) for command in self._greet()))
        self.ping_seconds = CONNECT_SECONDS_MAX
        while True:
            async with asyncio.timeout(self.ping_seconds + self.grace_seconds):
                message = await link.recv()
            for line in str(message).split("\n"):
                reply = _decode(line)
                if not reply:
                    await link.send("{}")
                    continue
                reason = self._receive(reply)
                if reason:
                    return reason

    def _greet(self) -> Iterator[dict[str, Any]]:
        """Build the first commands."""
        token = self.tokens.connection()
        yield {
            "id": 1,
            "connect": {"name": "wirebell-cli"} | ({"token": token} if token else {}),
        }
        request: dict[str, Any] = {"channel": self.channel}
        token = self.tokens.subscription()
        if token:
            request["token"] = token
        if self.position.is_known:
            request |= {
                "recover": True,
                "offset": self.position.offset,
                "epoch": self.position.epoch,
            }
        yield {"id": 2, "subscribe": request}

    def _receive(self, reply: dict[str, Any]) -> str:
        """Handle one reply or push.

        Returns:
            Why the server wants us to come back; empty to go on.

        Raises:
            WirebellError: The server refused for good.
        """
        if "error" in reply:
            return self._refuse(reply["error"])
        if "connect" in reply:
            self.ping_seconds = reply["connect"].get("ping", CONNECT_SECONDS_MAX)
        if "subscribe" in reply:
            self._subscribe(reply["subscribe"])
        push = reply.get("push", {})
        if push.get("channel") != self.channel:
            return ""
        if "pub" in push:
            self._publication(push["pub"])
        if "unsubscribe" not in push:
            return ""
        end = push["unsubscribe"]
        why = f"unsubscribed: {end.get('reason')} ({end.get('code')})"
        # From 2500 on a client is to subscribe again (section 1.14).
        if end.get("code", 0) < 2500:
            raise WirebellError(why)
        return why

    def _refuse(self, error: dict[str, Any]) -> str:
        """Decide what an error means for whoever waits."""
        why = f"{error.get('message')} ({error.get('code')})"
        may_renew = error.get("code") == TOKEN_EXPIRED and self.tokens.is_renewing
        if error.get("temporary") or may_renew:
            return why
        raise WirebellError(f"the server said: {why}")

    def _subscribe(self, result: dict[str, Any]) -> None:
        """Begin to show, with what was missed."""
        self.attempt_count = 0
        if result.get("was_recovering") and not result.get("recovered"):
            self.tell("publications were missed that the server no longer has")
        if result.get("recoverable") or result.get("positioned"):
            self.position = _Position(
                result.get("offset", 0), result.get("epoch", ""), is_known=True
            )
        for publication in result.get("publications", ()):
            self._publication(publication)

    def _publication(self, publication: dict[str, Any]) -> None:
        """Show one publication, and remember its place."""
        self.position.offset = publication.get("offset", self.position.offset)
        data = publication.get("data")
        self.show(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def _decode(line: str) -> dict[str, Any]:
    """Read one reply or push."""
    try:
        reply = json.loads(line)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise WirebellError(f"the server does not speak the protocol: {line!r:.80}")
    return reply


def _is_final(code: int) -> bool:
    """Tell whether a close code says not to come back (section 1.14)."""
    return 3500 <= code < 4000 or 4500 <= code < 5000
