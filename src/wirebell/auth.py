"""Decisions about who may speak: the Origin check.

Browsers send cookies with a WebSocket handshake of any page, and CORS does not apply to it, so a
server that reads cookies must look at Origin itself (RFC 6455, section 10.2). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from wirebell.errors import ConfigError

__all__ = ("AllowedOrigins", "is_origin_allowed")

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# A pattern with alternatives stands for so many without.
PATTERNS_MAX = 1_000
# A host name has at most 253 characters (RFC 1035); the rest is scheme and port.
ORIGIN_CHARACTERS_MAX = 300


def is_origin_allowed(
    origin: str | None, host: str | None, scheme: str, allowed_origins: Collection[str]
) -> bool:
    """Decide whether a page may connect.

    Args:
        origin: The Origin header; ``None`` when absent, as from anything but a browser.
        host: The Host header.
        scheme: The scheme of the handshake (``ws`` or ``wss``): says the port that a Host
            without one means.
        allowed_origins: ``scheme://host[:port]``, or ``*`` for any.

    Returns:
        True when the origin is absent, is allowed by name, or has the host and the port that
        the request was sent to. ``null`` (a sandboxed page or a file) is allowed by ``*`` only.
    """
    if origin is None or "*" in allowed_origins:
        return True
    ours = {_split(allowed) for allowed in allowed_origins}
    theirs = _split(origin)
    if theirs is None:
        return False
    if theirs in ours:
        return True
    addressed = _split(f"{scheme}://{host}") if host else None
    # The scheme is left out: a proxy that ends TLS makes of https://app a ws://app. Where Host
    # names no port, the origin's own default port is meant, for the same reason.
    if addressed is None or theirs[1] != addressed[1] or theirs[2] is None:
        return False
    host_has_port = urlsplit(f"//{host}").port is not None
    return theirs[2] == (addressed[2] if host_has_port else DEFAULT_PORTS.get(theirs[0]))


class AllowedOrigins:
    """The origins of a server of its own, which has no pages: only those that are listed.

    Args:
        patterns: ``scheme://host[:port]``; ``*`` stands for any characters but ``/``, ``?`` for
            one, ``{a,b}`` for one of several texts. ``*`` alone allows everything, and nothing
            listed allows no page at all.

    Raises:
        ConfigError: A brace stands alone, or there are more than 1,000 alternatives.

    Source:
        Recordings ``origin_rejected``, ``origin_allowed``.
    """

    def __init__(self, patterns: Collection[str]) -> None:
        self.allows_all = "*" in patterns
        plain = [text for pattern in patterns for text in _expand(pattern.lower())]
        if len(plain) > PATTERNS_MAX:
            raise ConfigError(f"{len(plain)} allowed origins, limit {PATTERNS_MAX}")
        self.expressions = tuple(_compile(pattern) for pattern in plain)

    def allows(self, origin: str | None) -> bool:
        """Decide whether a page may connect.

        Args:
            origin: The Origin header; ``None`` when absent, as from anything but a browser.

        Returns:
            True when the origin is absent or matches a pattern, with its default port said or
            not. ``null`` (a sandboxed page or a file) is allowed by ``*`` and ``null`` only.
        """
        if origin is None or self.allows_all:
            return True
        if not self.expressions or len(origin) > ORIGIN_CHARACTERS_MAX:
            return False
        theirs = _split(origin)
        if theirs is None:
            return origin == "null" and self._matches("null")
        scheme, host, port = theirs
        if ":" in host:
            host = f"[{host}]"
        if port is not None and self._matches(f"{scheme}://{host}:{port}"):
            return True
        return port == DEFAULT_PORTS.get(scheme) and self._matches(f"{scheme}://{host}")

    def _matches(self, origin: str) -> bool:
        """Say whether one of the patterns is the whole of an origin."""
        return any(expression.fullmatch(origin) for expression in self.expressions)


def _expand(pattern: str) -> list[str]:
    """Write a pattern without braces: one for each combination of the texts in them.

    Raises:
        ConfigError: A brace stands alone, or there are more than 1,000 combinations.
    """
    patterns = [""]
    for number, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        if "{" in part or "}" in part:
            raise ConfigError(f"allowed origin {pattern!r} has a brace without the other one")
        choices = part.split(",") if number % 2 else [part]
        if len(patterns) * len(choices) > PATTERNS_MAX:
            raise ConfigError(f"allowed origin {pattern!r} has too many alternatives")
        patterns = [known + choice for known in patterns for choice in choices]
    return patterns


def _compile(pattern: str) -> re.Pattern[str]:
    """Make a regular expression of a pattern without braces."""
    first, *others = (
        "[^/]".join(re.escape(text) for text in part.split("?")) for part in pattern.split("*")
    )
    if not others:
        return re.compile(first)
    # What stands between two stars is taken where it comes first and never looked for again
    # (an atomic group): peers choose the text, and going back would take a power of its length.
    middle = "".join(f"(?>[^/]*?{part})" for part in others[:-1])
    return re.compile(f"{first}{middle}[^/]*{others[-1]}")


def _split(origin: str) -> tuple[str, str, int | None] | None:
    """Split an origin into scheme, host and port; ``None`` when it is none."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    # An origin has nothing else (RFC 6454, section 6.1); "http://us@them" is a trick.
    if not parts.scheme or not parts.hostname or "@" in parts.netloc or parts.path:
        return None
    return parts.scheme, parts.hostname, port or DEFAULT_PORTS.get(parts.scheme)
