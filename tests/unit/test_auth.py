"""The Origin check."""

from __future__ import annotations

import pytest

from wirebell.auth import AllowedOrigins, is_origin_allowed
from wirebell.errors import ConfigError


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        (None, "app.example", "ws"),
        (None, None, "ws"),
        ("http://app.example", "app.example", "ws"),
        ("https://app.example", "app.example", "wss"),
        ("https://app.example", "app.example", "ws"),  # a proxy ends TLS
        ("https://APP.example", "app.EXAMPLE", "wss"),
        ("http://localhost:8000", "localhost:8000", "ws"),
        ("http://app.example", "app.example:80", "ws"),
        ("https://app.example", "app.example:443", "wss"),
        ("http://[::1]:8000", "[::1]:8000", "ws"),
    ],
)
def test_own_pages(origin: str | None, host: str | None, scheme: str) -> None:
    """Pages of the host itself, and everything that is no browser, may connect."""
    assert is_origin_allowed(origin, host, scheme, ())


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "app.example"),
        ("http://app.example.evil.example", "app.example"),
        ("http://app.example@evil.example", "app.example"),
        ("http://app.example:8001", "app.example:8000"),
        ("https://app.example:8443", "app.example"),
        ("http://app.example", "app.example:8000"),
        ("null", "app.example"),
        ("", "app.example"),
        ("http://", "app.example"),
        ("app.example", "app.example"),
        ("http://app.example:port", "app.example"),
        ("http://app.example:99999", "app.example:99999"),
        ("http://[::1", "app.example"),
        ("http://app.example", None),
        ("http://app.example", ""),
        ("http://app.example", "app.example:port"),
        ("ftp-unknown://app.example", "app.example"),
    ],
)
def test_foreign_pages(origin: str, host: str | None) -> None:
    """A page of another host or port, and what is no origin at all, may not connect."""
    assert not is_origin_allowed(origin, host, "ws", ())


@pytest.mark.parametrize("origin", ["https://other.example", "https://other.example:443"])
def test_allowed_by_name(origin: str) -> None:
    """An origin in the list may connect, with its default port said or not."""
    assert is_origin_allowed(origin, "app.example", "ws", ["https://other.example"])


@pytest.mark.parametrize("origin", ["http://other.example", "https://other.example:8443"])
def test_allowed_is_exact(origin: str) -> None:
    """A listed name allows no other scheme and no other port."""
    assert not is_origin_allowed(origin, "app.example", "ws", ["https://other.example"])


@pytest.mark.parametrize("origin", ["null", "http://anything", "rubbish"])
def test_any(origin: str) -> None:
    """A star allows everything."""
    assert is_origin_allowed(origin, None, "ws", ["*"])


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("http://*.example.com", "http://app.example.com"),
        ("http://*.example.com", "http://a.b.example.com"),
        ("HTTPS://App.example", "https://app.EXAMPLE"),
        ("https://app.example", "https://app.example:443"),
        ("https://app.example:443", "https://app.example"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("http://localhost:*", "http://localhost:3000"),
        ("*://localhost:3000", "https://localhost:3000"),
        ("*", "https://anything"),
        ("*", "null"),
        ("*", "rubbish"),
        ("null", "null"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://app?.example", "http://app1.example"),
        ("https://{a,b*}.example{,:8443}", "https://a.example"),
        ("https://{a,b*}.example{,:8443}", "https://bcd.example:8443"),
        ("https://*a*b*c.example", "https://xaxbbxac.example"),
        ("https://a**b", "https://ab"),
    ],
)
def test_listed_origins(pattern: str, origin: str) -> None:
    """A server of its own lets in the origins that its list describes, and whoever is no page."""
    origins = AllowedOrigins(["https://first.example", pattern])

    assert origins.allows(origin)
    assert origins.allows(None)


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("http://*.example.com", "http://evil.test"),
        ("http://*.example.com", "http://example.com"),
        ("http://*.example.com", "https://app.example.com"),
        ("http://*.example.com", "http://app.example.com:8080"),
        ("http://*.example.com", "http://app.example.com.evil.test"),
        ("http://*.example.com", "http://evil.test/.example.com"),
        ("http://*.example.com", "http://evil.test@app.example.com"),
        ("http://*.example.com", "http://app-example.com"),
        ("https://app.example", "https://app.example:8443"),
        ("https://*", "null"),
        ("https://*", ""),
        ("https://*", "https://"),
        ("https://*", "https://" + "a" * 300),
        ("http://app?.example", "http://app.example"),
        ("https://{a,b}.example", "https://c.example"),
        ("https://*a*b", "https://ba"),
        ("https://*a*", "https://" + "b" * 250),
    ],
)
def test_origins_not_listed(pattern: str, origin: str) -> None:
    """It refuses every other origin, and what is none."""
    assert not AllowedOrigins([pattern]).allows(origin)


def test_no_origins_listed() -> None:
    """With an empty list no page may connect, and programs that send no Origin may."""
    origins = AllowedOrigins([])

    assert origins.allows(None)
    for origin in ("http://example.com", "http://localhost", "null", ""):
        assert not origins.allows(origin)


@pytest.mark.parametrize(
    "pattern", ["https://{a", "https://a}", "https://{{a}}", "{a,b}" * 10, "{" + "a," * 1000 + "}"]
)
def test_impossible_origins(pattern: str) -> None:
    """A brace without the other one, and more alternatives than anybody means, are refused."""
    with pytest.raises(ConfigError, match="allowed origin"):
        AllowedOrigins([pattern])


def test_too_many_origins() -> None:
    """All patterns together stand for at most 1,000 without alternatives."""
    AllowedOrigins([f"https://{number}.example" for number in range(1_000)])
    with pytest.raises(ConfigError, match="1001 allowed origins, limit 1000"):
        AllowedOrigins([f"https://{number}.example" for number in range(1_001)])


def test_matching_takes_no_power() -> None:
    """Many stars do not make matching slow: peers choose the text."""
    origins = AllowedOrigins(["https://" + "*a" * 30 + "b"])

    assert not origins.allows("https://" + "a" * 250)
