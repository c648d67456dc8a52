"""What the terminal client makes of what a server says; no network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wirebell.errors import WirebellError
from wirebell.terminal import (
    GivenTokens,
    SignedTokens,
    Tail,
    Tokens,
    publish,
    to_websocket_url,
)
from wirebell.tokens import TokenKeys, TokenVerifier

KEYS = TokenKeys(hmac_secret_key="s" * 32)
OTHER_KEYS = TokenKeys(hmac_secret_key="t" * 32)


class Terminal:
    """A tail and what it wrote."""

    def __init__(self, tokens: Tokens | None = None) -> None:
        self.shown: list[str] = []
        self.told: list[str] = []
        self.tail = Tail(
            "ws://x", "news", tokens or GivenTokens(), self.shown.append, self.told.append
        )

    def receive(self, **reply: Any) -> str:
        """Hand over a reply or push."""
        return self.tail._receive(reply)

    def greet(self) -> list[dict[str, Any]]:
        """Return the first commands."""
        return list(self.tail._greet())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a:8000", "ws://a:8000/connection/websocket"),
        ("https://a/realtime/", "wss://a/realtime/connection/websocket"),
        ("ws://[::1]:1", "ws://[::1]:1/connection/websocket"),
        ("wss://a", "wss://a/connection/websocket"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    """A server's address becomes that of its WebSocket."""
    assert address == to_websocket_url(url, "/connection/websocket")


@pytest.mark.parametrize("url", ["", "a:8000", "ftp://a", "http:///x"])
def test_what_is_no_address(url: str) -> None:
    """What no server could have is refused before anything is sent."""
    with pytest.raises(WirebellError, match="an address is http://host:port"):
        to_websocket_url(url, "/x")


def test_publishing_to_what_is_no_address() -> None:
    """Files are no servers."""
    with pytest.raises(WirebellError, match="an address is http://host:port"):
        publish("file:///etc/passwd", "", "news", 1)


def test_tokens_that_were_given() -> None:
    """Tokens that somebody typed are used as they are, and not made anew."""
    tokens = GivenTokens("a", "b")

    assert ("a", "b", False) == (tokens.connection(), tokens.subscription(), tokens.is_renewing)


def test_tokens_that_are_signed() -> None:
    """With the server's secrets each token is for the user, and the channel."""
    tokens = SignedTokens(KEYS, OTHER_KEYS, "42", "news")

    now = 0.0
    connection = TokenVerifier(KEYS).verify_connection(tokens.connection(), now)
    subscription = TokenVerifier(OTHER_KEYS).verify_subscription(tokens.subscription(), now)
    assert ("42", "42", "news") == (
        connection.user_id,
        subscription.user_id,
        subscription.channel,
    )
    assert "" == SignedTokens(KEYS, TokenKeys(), "42", "news").subscription()


def test_first_commands() -> None:
    """Connect and subscribe go out together, with tokens where there are some."""
    bare, signed = Terminal().greet(), Terminal(GivenTokens("a", "b")).greet()

    assert [
        {"id": 1, "connect": {"name": "wirebell-cli"}},
        {"id": 2, "subscribe": {"channel": "news"}},
    ] == bare
    assert ("a", "b") == (signed[0]["connect"]["token"], signed[1]["subscribe"]["token"])


def test_the_interval_is_the_server_s() -> None:
    """How long a silent link is waited for follows what the server announced."""
    terminal = Terminal()

    assert "" == terminal.receive(id=1, connect={"ping": 3})
    assert terminal.tail.ping_seconds == 3


def test_publications_are_shown_one_a_line() -> None:
    """What is missed and what is live is shown as JSON; the position moves on."""
    terminal = Terminal()

    terminal.receive(
        id=2,
        subscribe={
            "recoverable": True,
            "epoch": "e",
            "offset": 1,
            "publications": [{"data": {"a": "é\n"}, "offset": 2}],
        },
    )
    terminal.receive(push={"channel": "news", "pub": {"data": [1, 2], "offset": 3}})
    terminal.receive(push={"channel": "other", "pub": {"data": 4}})
    terminal.receive(push={"channel": "news", "join": {}})

    assert ['{"a":"é\\n"}', "[1,2]"] == terminal.shown
    assert {"channel": "news", "recover": True, "offset": 3, "epoch": "e"} == (
        terminal.greet()[1]["subscribe"]
    )


def test_a_channel_without_positions() -> None:
    """Where nothing can be recovered, nothing is asked for."""
    terminal = Terminal()

    terminal.receive(id=2, subscribe={})
    terminal.receive(push={"channel": "news", "pub": {"data": 1}})

    assert {"channel": "news"} == terminal.greet()[1]["subscribe"]


def test_what_is_lost_is_told() -> None:
    """A gap that the server cannot fill is told, and not hidden."""
    terminal = Terminal()

    terminal.receive(id=2, subscribe={"was_recovering": True, "recoverable": True})
    terminal.receive(id=2, subscribe={"was_recovering": True, "recovered": True})

    assert ["publications were missed that the server no longer has"] == terminal.told


@pytest.mark.parametrize(
    ("error", "tokens", "is_final"),
    [
        ({"code": 103, "message": "permission denied"}, GivenTokens(), True),
        ({"code": 109, "message": "token expired"}, GivenTokens("a"), True),
        ({"code": 109, "message": "token expired"}, SignedTokens(KEYS, KEYS, "", "news"), False),
        ({"code": 100, "message": "internal", "temporary": True}, GivenTokens(), False),
    ],
)
def test_errors(error: dict[str, Any], tokens: Tokens, is_final: bool) -> None:
    """An error ends it, unless it is temporary or a new token helps."""
    terminal = Terminal(tokens)

    if is_final:
        with pytest.raises(WirebellError, match=error["message"]):
            terminal.receive(id=1, error=error)
    else:
        assert f"{error['message']} ({error['code']})" == terminal.receive(id=1, error=error)


def test_unsubscribe() -> None:
    """From 2500 on the server wants the subscriber back."""
    terminal = Terminal()
    end = {"code": 2500, "reason": "gone"}

    reason = terminal.receive(push={"channel": "news", "unsubscribe": end})
    other = terminal.receive(push={"channel": "other", "unsubscribe": end})
    with pytest.raises(WirebellError, match=r"unsubscribed: gone \(2000\)"):
        terminal.receive(push={"channel": "news", "unsubscribe": end | {"code": 2000}})

    assert ("unsubscribed: gone (2500)", "") == (reason, other)


def test_commands_are_json() -> None:
    """What goes out are lines of JSON."""
    lines = [json.dumps(command) for command in Terminal().greet()]

    assert not any("\n" in line for line in lines)
