"""What a server that lets sockets go, and a carrier that takes them, promise each other.

The server puts a `Takeover` into the scope as the ASGI extension ``wirebell.takeover``; the carrier
is a `Successor`. Neither knows more of the other than stands here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from wirebell.websocket.deflate import Deflate
from wirebell.websocket.frames import Event, FrameReader

__all__ = ("LINGER_SECONDS", "QUIET", "Host", "Successor", "TakenSocket", "Takeover")

# How long a peer that broke the protocol must be quiet before its socket is closed.
LINGER_SECONDS = 0.1
QUIET = -1


class Host(Protocol):
    """The server of a socket, as far as one that was taken over needs it."""

    tasks: set[asyncio.Task[None]]
    """What the server waits for when it stops."""
    connections: set[Any]
    """Whose ``shutdown`` the server calls when it stops."""
    drain_timeout_seconds: float
    """Time for a peer to answer the close frame when the server stops."""

    def plan_drain(self, close: Callable[[], None]) -> None:
        """Have ``close`` called within the drain's window, spread over it."""


@dataclass(slots=True)
class TakenSocket:
    """What a server hands over.

    Attributes:
        transport: The loop's; its protocol is the carrier already.
        reader: With the bytes of an incomplete frame, if there is one.
        deflate: What was negotiated; ``None`` without compression.
        events: What the peer sent and the endpoint did not receive, oldest first.
        is_paused: The loop has more bytes to write than it wants.
    """

    transport: asyncio.Transport
    reader: FrameReader
    deflate: Deflate | None
    events: list[Event]
    is_paused: bool


class Successor(asyncio.Protocol):
    """What a socket's protocol may be exchanged for: the server can tell it to stop."""

    __slots__ = ()

    def shutdown(self) -> None:
        """Close within the drain's window; called by the server when it stops."""
        raise NotImplementedError


class Takeover(Protocol):
    """The ASGI extension ``wirebell.takeover``: a server that lets sockets go."""

    host: Host

    def offer_compression(self, *, is_offered: bool) -> None:
        """Say whether permessage-deflate may be negotiated; before the socket is accepted."""

    def take_over(self, successor: Successor) -> TakenSocket | None:
        """Make ``successor`` the protocol of an accepted socket; ``None`` when it has closed."""
