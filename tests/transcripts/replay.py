"""A server that answers exactly what was recorded; it shows that the player sees deviations.

It follows the events of one recording as the other side: where a client sent, it waits for that
message and compares it; where a client received, it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.server import ServerProtocol

from tests.transcripts.links import READ_BYTES
from tests.transcripts.tokens import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tests.transcripts.recordings import Event, Recording

__all__ = ("ReplayServer", "recorded_names")

WAIT_SECONDS = 5.0


@dataclass
class Peer:
    """One TCP connection from the player."""

    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: ServerProtocol | None = None
    frames: list[Frame] = field(default_factory=list)

    async def flush(self) -> None:
        assert self.protocol is not None
        for data in self.protocol.data_to_send():
            if data:
                self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def next_frame(self) -> Frame | None:
        """Return the next data or close frame; ``None`` at the end of the connection."""
        assert self.protocol is not None
        while not self.frames:
            data = await self.reader.read(READ_BYTES)
            if not data:
                return None
            self.protocol.receive_data(data)
            self.frames += [f for f in self.protocol.events_received() if isinstance(f, Frame)]
            self.frames = [f for f in self.frames if f.opcode is not Opcode.PONG]
            await self.flush()
        return self.frames.pop(0)


class ReplayServer:
    """Replays one recording on a free port.

    Attributes:
        url: Base of its HTTP addresses.
        problems: What the player sent that was not recorded.
    """

    def __init__(self, recording: Recording, rename: Callable[[str], str] = str) -> None:
        """Take the script.

        Args:
            recording: What is replayed.
            rename: Gives other names to what varies, in both directions.
        """
        self.url = ""
        self.problems: list[str] = []
        self._events = recording.events
        self._rename = rename
        self._arrivals: asyncio.Queue[Peer] = asyncio.Queue()
        self._peers: dict[str, Peer] = {}
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._script = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self._script.cancel()
        await asyncio.wait([self._script])
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        with contextlib.suppress(asyncio.CancelledError):
            self._script.result()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return
        lines = head.lower().split("\r\n")
        length = next((int(x[15:]) for x in lines if x.startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        self._arrivals.put_nowait(Peer(head, body, reader, writer))

    async def _follow(self) -> None:
        for event in self._events:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._play(event)
            except TimeoutError:
                self.problems.append(f"line {event.line}: nothing came")
                return
            except ConnectionError as error:
                self.problems.append(f"line {event.line}: {error!r}")
                return

    async def _play(self, event: Event) -> None:
        if event.kind == "http" and event.client != "backend":
            await self._answer(event)
        elif event.kind == "send" and not event.frame:
            await self._take(event)
        elif event.kind == "receive":
            await self._give(event)
        elif event.kind == "close":
            await self._end(event)

    def _expect(self, event: Event, recorded: object, ours: object) -> None:
        if TOKEN.sub("", str(recorded)) != TOKEN.sub("", str(ours)):
            self.problems.append(f"line {event.line}: {recorded!r} was recorded, sent {ours!r}")

    async def _answer(self, event: Event) -> None:
        peer = await self._arrivals.get()
        method, path, _ = peer.head.split("\r\n")[0].split(" ")
        self._expect(event, (event.fields["method"], event.fields["path"]), (method, path))
        if event.is_upgrade and event.fields["status"] == 101:
            await self._upgrade(event, peer)
            return
        if "request_body" in event.fields:
            self._expect(event, self._rename(event.fields["request_body"]), peer.body.decode())
        body = self._rename(event.fields.get("response_body", "")).encode()
        headers = dict(event.fields.get("response_headers", {}))
        is_streaming = bool(event.fields.get("streaming"))
        if not is_streaming:
            headers.pop("transfer-encoding", None)
            headers["content-length"] = str(len(body))
        headers["connection"] = "close"
        lines = [f"HTTP/1.1 {event.fields['status']} Status"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        peer.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await peer.writer.drain()
        if is_streaming:
            self._peers[event.client] = peer
        else:
            peer.writer.close()

    async def _upgrade(self, event: Event, peer: Peer) -> None:
        offered = event.fields.get("request_headers", {}).get("Sec-WebSocket-Protocol")
        peer.protocol = ServerProtocol(subprotocols=[offered] if offered else None)
        peer.protocol.receive_data(peer.head.encode("latin-1"))
        (handshake,) = peer.protocol.events_received()
        assert isinstance(handshake, Handshake)
        peer.protocol.send_response(peer.protocol.accept(handshake))
        await peer.flush()
        self._peers[event.client] = peer

    async def _take(self, event: Event) -> None:
        frame = await self._peers[event.client].next_frame()
        if frame is None or frame.opcode is Opcode.CLOSE:
            raise ConnectionError("the connection ended")
        payload = event.payload
        data = bytes(frame.data)
        if isinstance(payload, str):
            self._expect(event, self._rename(payload), data.decode())
        elif not event.fields.get("tokens") and self._rename is str:
            # Map entries of protobuf may change places: their length cannot.
            self._expect(event, sorted(payload), sorted(data))

    async def _give(self, event: Event) -> None:
        peer, payload = self._peers[event.client], event.payload
        if isinstance(payload, str):
            payload = self._rename(payload)
        data = payload.encode() if isinstance(payload, str) else payload
        if peer.protocol is None:
            peer.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await peer.writer.drain()
            return
        if event.frame == "ping":
            peer.protocol.send_ping(data)
        elif isinstance(payload, str):
            peer.protocol.send_text(data)
        else:
            peer.protocol.send_binary(data)
        await peer.flush()

    async def _end(self, event: Event) -> None:
        peer = self._peers[event.client]
        if event.fields["by"] == "client":
            if peer.protocol is not None:
                frame = await peer.next_frame()
                if frame is not None and frame.opcode is not Opcode.CLOSE:
                    self.problems.append(f"line {event.line}: {frame} instead of a close")
        elif peer.protocol is None:
            peer.writer.write(b"0\r\n\r\n")
        elif event.fields["code"] != 1006:
            peer.protocol.send_close(event.fields["code"], event.fields["reason"])
            await peer.flush()
            await peer.next_frame()
        peer.writer.close()


def recorded_names(recording: Recording) -> set[str]:
    """Return the ids, sessions, nodes and epochs that occur in the messages of a recording."""
    names: set[str] = set()

    def visit(value: object, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                visit(inner, name)
        elif isinstance(value, list):
            for inner in value:
                visit(inner, key)
        elif isinstance(value, str) and key in {"client", "epoch", "node", "session"}:
            names.add(value)

    for event in recording.events:
        for text in (event.fields.get("text"), event.fields.get("response_body")):
            with contextlib.suppress(ValueError):
                visit(json.loads((text or "").removeprefix("data: ")), "")
    return names
