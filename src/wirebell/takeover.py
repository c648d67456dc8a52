"""What a server that lets sockets go, and a carrier that takes them, promise each other.

The server puts a `Takeover` into the scope as the ASGI extension ``wirebell.takeover``; the carrier
is a `Successor`. Neither knows more of the other than stands here. Both are protocols of the same
socket, one after the other: how it is kept alive and how it ends is `LiveSocket`, of both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from wirebell.deferred import Deferred
from wirebell.liveness import PingRing
from wirebell.websocket.deflate import Deflate
from wirebell.websocket.frames import Event, FrameReader, Opcode, encode_frame

__all__ = ("Host", "LiveSocket", "Successor", "TakenSocket", "Takeover", "Work")

logger = logging.getLogger(__name__)

# How long a peer that broke the protocol must be quiet before its socket is closed.
LINGER_SECONDS = 0.1
# Stands in `LiveSocket.unheard_since` of a peer from which nothing came since it was last asked;
# the ring, which counts from 1, does not see it: who is being closed is not in the ring.
QUIET = -1

PING_FRAME = encode_frame(Opcode.PING, b"")

Work: TypeAlias = "asyncio.Task[None] | Deferred[None]"
"""What a socket waits for before it goes on."""


class Host(Protocol):
    """The server of a socket, as far as one that was taken over needs it."""

    tasks: set[Work]
    """What the server waits for when it stops."""
    connections: set[Any]
    """Whose ``shutdown`` the server calls when it stops."""
    drain_timeout_seconds: float
    """Time for a peer to answer the close frame when the server stops."""

    def plan_drain(self, close: Callable[[], None]) -> None:
        """Have ``close`` called within the drain's window, spread over it."""

    def abort(self, transport: asyncio.Transport) -> None:
        """Cut a link that did not end in time, and count it."""


HostT = TypeVar("HostT", bound=Host)


class LiveSocket(asyncio.Protocol, Generic[HostT]):
    """A WebSocket as the protocol of its own socket: pings, silence, pause and end.

    A `wirebell.liveness.Peer`. Whoever serves the socket derives from it, and says when messages
    flow (`is_open`) and what becomes of a silent peer (`drop_silent`).

    Mutable state: whether the loop has more bytes than it wants, the pong that is owed then, and
    the deadline of a link that is being closed. Used on one event loop.

    Args:
        host: The server.
        pings: The ring that pings it, from `start_pings` on; ``None`` where nobody is pinged.
    """

    __slots__ = (
        "give_up",
        "host",
        "is_paused",
        "late_pong",
        "ping_slot",
        "pings",
        "transport",
        "unheard_since",
    )

    # Known when the socket is: later than the object.
    transport: asyncio.Transport

    def __init__(self, host: HostT, pings: PingRing | None) -> None:
        self.host = host
        self.pings = pings
        self.ping_slot = -1
        self.unheard_since: int | None = None
        self.is_paused = False
        self.late_pong: bytes | None = None
        self.give_up: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether frames may be sent."""
        raise NotImplementedError

    def drop_silent(self) -> None:
        """Give up a peer that did not answer a ping in time."""
        raise NotImplementedError

    # The loop's side

    def eof_received(self) -> bool:
        """Have the loop close a link whose peer sends nothing more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the peer."""
        self.host.connections.discard(self)
        self.stop_pings()
        if self.give_up is not None:
            self.give_up.cancel()
            self.give_up = None

    def pause_writing(self) -> None:
        """Note that the peer does not read."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """Send the pong that is owed."""
        self.is_paused = False
        if self.late_pong is not None and self.is_open:
            self.transport.write(encode_frame(Opcode.PONG, self.late_pong))
        self.late_pong = None

    # The peer's pings, and ours

    def start_pings(self) -> None:
        """Have the peer pinged; it must not be yet."""
        if self.pings is not None:
            self.pings.add(self)

    def stop_pings(self) -> None:
        """Leave the ring; idempotent."""
        if self.pings is not None:
            self.pings.remove(self)

    def receive_ping(self, data: bytes) -> None:
        """Answer a ping; to a peer that does not read the pong would only add to what waits."""
        if self.is_paused:
            # RFC 6455 5.5.3: of several pings only the newest must be answered.
            self.late_pong = data
        elif self.is_open:
            self.transport.write(encode_frame(Opcode.PONG, data))

    def send_ping(self) -> None:
        """Ping the peer, unless more waits for it than it takes: who is not asked owes nothing."""
        if self.is_open and not self.is_paused:
            self.transport.write(PING_FRAME)
        else:
            self.unheard_since = None

    def handle_silence(self) -> None:
        """Drop a peer that did not answer, unless it is we who do not read."""
        if not self.transport.is_reading() and not self.transport.is_closing():
            # Its pong may lie behind the messages that wait for the application.
            self.unheard_since = None
        else:
            self.drop_silent()

    # The end

    def plan_abort(self, timeout_seconds: float) -> None:
        """Give the peer so long to end the link, from now on; it is not pinged any more."""
        self.stop_pings()
        if self.give_up is not None:
            self.give_up.cancel()
        loop = asyncio.get_running_loop()
        self.give_up = loop.call_later(timeout_seconds, self._give_up)

    def _give_up(self) -> None:
        """Drop a peer that did not end the link in time."""
        logger.info("a peer did not close in time, aborting the link")
        self.host.abort(self.transport)

    def linger(self) -> None:
        """Close a link that `plan_abort` bounds once nothing came for a moment.

        Closing the socket at once would reset it while the peer still sends, and take the close
        frame from it. So what comes is read and dropped until the peer is quiet.
        """
        if self.give_up is None or self.transport.is_closing():
            return
        if self.unheard_since == QUIET:
            self.transport.close()
        else:
            self.unheard_since = QUIET
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self.linger)


@dataclass(slots=True)
class TakenSocket:
    """What a server hands over.

    Attributes:
        transport: The loop's; its protocol is the carrier already.
        reader: With the bytes of an incomplete frame, if there is one.
        deflate: What was negotiated; ``None`` without compression.
        events: What the peer sent and the endpoint did not receive, oldest first.
        is_paused: The loop has more bytes to write than it wants.
        late_pong: Data of the pong that is owed to a peer that did not read; ``None`` without.
    """

    transport: asyncio.Transport
    reader: FrameReader
    deflate: Deflate | None
    events: list[Event]
    is_paused: bool
    late_pong: bytes | None = None


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
