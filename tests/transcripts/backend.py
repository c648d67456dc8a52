"""The application backend that a server asks: it keeps requests until somebody answers them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Backend", "BackendRequest")


@dataclass(frozen=True, slots=True)
class BackendRequest:
    """A request of the server under test."""

    path: str
    body: bytes
    answered: asyncio.Future[tuple[int, bytes]]

    def answer(self, status: int, body: bytes) -> None:
        """Answer it, unless the server has gone."""
        if not self.answered.done():
            self.answered.set_result((status, body))


class Backend:
    """An HTTP server on a free port of this machine.

    Attributes:
        requests: In the order of arrival.
        url: Base of its addresses.
    """

    def __init__(self) -> None:
        self.requests: asyncio.Queue[BackendRequest] = asyncio.Queue()
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.lower().split("\r\n")
        length = next((int(x[15:]) for x in lines if x.startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.requests.put_nowait(BackendRequest(head.split(" ")[1], body, answered))
        status, answer = await answered
        writer.write(
            b"HTTP/1.1 %d Status\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (status, len(answer), answer)
        )
        await writer.drain()
        writer.close()
