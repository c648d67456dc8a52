"""The Origin check."""

from __future__ import annotations

import pytest

from wirebell.auth import is_origin_allowed


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
