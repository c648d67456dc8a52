"""An ASGI app without a framework, which does to its server whatever a test asks for.

The query says what: ``?do=echo&id=x``. What the app learned is at ``GET /report/x``, and a POST
to ``/release/x`` lets it go on where it waits. ``lifespan`` leaves a word in the state.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

FLOOD_BYTES = 100 * 2**20
PIECE = bytes(65_536)
WAIT_SECONDS = 30.0

reports: dict[str, dict[str, Any]] = {}
"""What each connection noted, by its id; kept until the process ends."""

releases: dict[str, asyncio.Event] = {}
"""Who waits to be let go, by id."""


@dataclass
class Peer:
    """One WebSocket with its query and its report."""

    scope: dict[str, Any]
    receive: Receive
    send: Send
    query: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the query and open the report."""
        self.query = parse_qs(self.scope["query_string"].decode("latin-1"))
        self.report = reports.setdefault(self.ask("id"), {})

    def ask(self, name: str, default: str = "") -> str:
        """Return one value of the query."""
        return self.query.get(name, [default])[0]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that the query wants, each given as ``name:value``."""
        pairs = (item.encode("latin-1").split(b":", 1) for item in self.query.get("header", []))
        return [(name, value) for name, value in pairs]

    async def accept(self, **extra: Any) -> None:
        """Take the connect event and accept."""
        event = await self.receive()
        assert event == {"type": "websocket.connect"}, event
        await self.send({"type": "websocket.accept", **extra})

    async def text(self, text: str) -> None:
        """Send a text."""
        await self.send({"type": "websocket.send", "text": text})

    async def wait_release(self) -> None:
        """Wait until a test lets us go."""
        event = releases.setdefault(self.ask("id"), asyncio.Event())
        await asyncio.wait_for(event.wait(), WAIT_SECONDS)

    async def wait_disconnect(self) -> Message:
        """Receive until the peer has gone, and note what was said about it."""
        while (event := await self.receive())["type"] != "websocket.disconnect":
            pass
        self.report["disconnect"] = event
        return event


async def scope(peer: Peer) -> None:
    """Send the scope as JSON, bytes as Latin-1 and what JSON cannot say as its type's name."""
    await peer.accept()
    await peer.text(json.dumps(peer.scope, default=show))
    await peer.wait_disconnect()


def show(value: object) -> str:
    """Show what JSON has no word for."""
    return value.decode("latin-1") if isinstance(value, bytes) else type(value).__name__


async def echo(peer: Peer) -> None:
    """Send back every message as it came, until the peer goes."""
    await peer.accept()
    while (event := await peer.receive())["type"] == "websocket.receive":
        # Spec 2.4: at least one of both is there; the other is absent or None.
        if event.get("text") is not None:
            await peer.text(event["text"])
        else:
            await peer.send({"type": "websocket.send", "bytes": event["bytes"]})
    peer.report["disconnect"] = event


async def accept(peer: Peer) -> None:
    """Accept with the headers and the subprotocol of the query; note what that raised."""
    await peer.receive()
    message: dict[str, Any] = {"type": "websocket.accept", "headers": peer.headers()}
    if "subprotocol" in peer.query:
        message["subprotocol"] = peer.ask("subprotocol")
    try:
        await peer.send(message)
    except Exception as error:
        peer.report["raised"] = type(error).__name__
        raise
    await peer.wait_disconnect()


async def close(peer: Peer) -> None:
    """Accept and close; the code and the reason are left out where the query has none."""
    await peer.accept()
    message: dict[str, Any] = {"type": "websocket.close"}
    if "code" in peer.query:
        message["code"] = int(peer.ask("code"))
    if "reason" in peer.query:
        message["reason"] = peer.ask("reason")
    await peer.send(message)


async def send_after_close(peer: Peer) -> None:
    """Close, and try to send."""
    await peer.accept()
    await peer.send({"type": "websocket.close", "code": 3333})
    await note_send(peer)


async def note_send(peer: Peer) -> None:
    """Send a text, and note whether that raised an `OSError` or something else."""
    try:
        await peer.text("too late")
    except OSError:
        peer.report["raised"] = "OSError"
    except Exception as error:
        peer.report["raised"] = type(error).__name__
        raise
    else:
        peer.report["raised"] = ""


async def refuse(peer: Peer) -> None:
    """Close before accepting."""
    await peer.receive()
    await peer.send({"type": "websocket.close", "code": 4000, "reason": "never shown"})


async def deny(peer: Peer) -> None:
    """Answer the handshake by an HTTP response whose body comes in pieces."""
    await peer.receive()
    assert "websocket.http.response" in peer.scope["extensions"]
    start = {"status": int(peer.ask("status", "401")), "headers": peer.headers()}
    await peer.send({"type": "websocket.http.response.start", **start})
    for piece in (b"not ", b"", b"today"):
        part = {"type": "websocket.http.response.body", "body": piece, "more_body": True}
        await peer.send(part)
    await peer.send({"type": "websocket.http.response.body", "body": b"."})


async def raise_before(peer: Peer) -> None:
    """Break before the handshake is answered."""
    await peer.receive()
    raise ValueError("broke before")


async def raise_after(peer: Peer) -> None:
    """Break on an open socket."""
    await peer.accept()
    raise ValueError("broke after")


async def return_before(peer: Peer) -> None:
    """Return and say nothing."""
    await peer.receive()


async def return_after(peer: Peer) -> None:
    """Return and leave the socket open."""
    await peer.accept()
    await peer.text("bye")


async def send_first(peer: Peer) -> None:
    """Send a text on a socket that was never accepted."""
    await peer.receive()
    await note_send(peer)


async def disconnect(peer: Peer) -> None:
    """Note how the peer left, and what a late send raises."""
    await peer.accept()
    await peer.wait_disconnect()
    await note_send(peer)


async def receive_again(peer: Peer) -> None:
    """Ask for more once the peer has gone."""
    await peer.accept()
    await peer.wait_disconnect()
    try:
        event = await asyncio.wait_for(peer.receive(), 1)
    except TimeoutError:
        peer.report["again"] = "waits"
    except Exception as error:  # noqa: BLE001 - whatever it is, the test compares its name
        peer.report["again"] = type(error).__name__
    else:
        peer.report["again"] = event["type"]


async def flood(peer: Peer) -> None:
    """Send 100 MiB as fast as the server takes them, noting how far we are."""
    await peer.accept()
    peer.report["sent"] = 0
    try:
        while peer.report["sent"] < FLOOD_BYTES:
            await peer.send({"type": "websocket.send", "bytes": PIECE})
            peer.report["sent"] += len(PIECE)
        await peer.send({"type": "websocket.close", "code": 1000})
    except OSError:
        peer.report["ended"] = "OSError"
        raise


async def deaf(peer: Peer) -> None:
    """Receive nothing until let go; then say how many messages came, and whether in order."""
    await peer.accept()
    await peer.wait_release()
    count, in_order = 0, True
    while (event := await peer.receive())["type"] == "websocket.receive":
        if event.get("text") == "end":
            await peer.text(json.dumps({"count": count, "in_order": in_order}))
            continue
        in_order = in_order and int(event["bytes"][:8]) == count
        count += 1


async def count_up(peer: Peer) -> None:
    """Send 10,000 numbered texts without a pause, then close."""
    await peer.accept()
    for number in range(10_000):
        await peer.text(str(number))
    await peer.send({"type": "websocket.close", "code": 1000})


async def pid(peer: Peer) -> None:
    """Tell which process serves this socket."""
    await peer.accept()
    await peer.text(str(os.getpid()))
    await peer.wait_disconnect()


ACTS: dict[str, Callable[[Peer], Awaitable[None]]] = {
    act.__name__: act
    for act in (
        scope, echo, accept, close, send_after_close, refuse, deny, raise_before, raise_after,
        return_before, return_after, send_first, disconnect, receive_again, flood, deaf, count_up,
        pid,
    )
}  # fmt: skip


async def answer(scope: dict[str, Any], send: Send) -> None:
    """Serve what the tests read over HTTP."""
    _, kind, name = [*scope["path"].split("/"), "", ""][:3]
    if kind == "release":
        releases.setdefault(name, asyncio.Event()).set()
    body = json.dumps(reports.get(name, {})).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Serve any ASGI scope."""
    if scope["type"] == "lifespan":
        while (event := await receive())["type"] == "lifespan.startup":
            scope["state"]["word"] = "from lifespan"
            await send({"type": "lifespan.startup.complete"})
        assert event["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await answer(scope, send)
    else:
        peer = Peer(scope, receive, send)
        await ACTS[peer.ask("do")](peer)
