"""Decisions about who may speak: the Origin check.

Browsers send cookies with a WebSocket handshake of any page, and CORS does not apply to it, so a
server that reads cookies must look at Origin itself (RFC 6455, section 10.2). Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

__all__ = ("is_origin_allowed",)

DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


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
