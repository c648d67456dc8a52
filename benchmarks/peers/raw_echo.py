"""The raw protocol: what an echo costs with nothing but asyncio, uvloop and a few lines.

Strategy: one `asyncio.Protocol` that answers the upgrade with a fixed text (the load sends the
sample key of RFC 6455 section 1.3), unmasks with websockets' C routine, and writes the answers to
one `data_received` at once. It checks nothing and is no server: it is the measure for those that
are.
"""

import asyncio
import sys
from typing import cast

import uvloop
from websockets.speedups import apply_mask

__all__ = ("Echo",)

SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


class Echo(asyncio.Protocol):
    """One connection; called by the event loop only."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_upgraded = False
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Answer the upgrade, then every frame."""
        if self.rest:
            data = self.rest + data
        if not self.is_upgraded:
            if data.endswith(b"\r\n\r\n"):
                self.is_upgraded, self.rest = True, b""
                self.transport.write(SWITCHING)
            else:
                self.rest = data
            return
        answers = []
        start, size = 0, len(data)
        while size - start >= 6:
            length, head = data[start + 1] & 0x7F, start + 6
            if length == 126:
                length, head = int.from_bytes(data[start + 2 : start + 4]), start + 8
            end = head + length
            if end > size:
                break
            payload = apply_mask(data[head:end], data[head - 4 : head])
            if length < 126:
                answers.append(b"\x81%c%b" % (length, payload))
            else:
                answers.append(b"\x81\x7e%b%b" % (length.to_bytes(2), payload))
            start = end
        self.rest = data[start:]
        if answers:
            self.transport.write(b"".join(answers))


async def main() -> None:
    """Listen on the port that the command line names."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
