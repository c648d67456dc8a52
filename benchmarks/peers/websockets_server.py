"""The same room and an echo on the server of the library `websockets`, on its best settings.

Strategy: its asyncio server on uvloop, its `broadcast`, which neither waits nor makes a task, no
compression unless asked for, no `Server` header. Pings are its default, every 20 s. Messages are
taken as bytes, which spares decoding and encoding them.
"""

import logging
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

__all__ = ("main",)

room: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    """Serve the room, or the echo, by path."""
    assert connection.request is not None
    is_echo = connection.request.path == "/echo"
    if not is_echo:
        room.add(connection)
    try:
        while True:
            text = await connection.recv(decode=False)
            if is_echo:
                await connection.send(text, text=True)
            else:
                broadcast(room, text, text=True)
    except ConnectionClosed:
        return
    finally:
        room.discard(connection)


async def main() -> None:
    """Listen on the port that the command line names; `deflate` after it asks for compression."""
    compression = "deflate" if "deflate" in sys.argv[2:] else None
    port = int(sys.argv[1])
    async with serve(
        handle, "127.0.0.1", port, compression=compression, server_header=None, backlog=2048
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    # A connection that is reset during its handshake is not worth a traceback.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    uvloop.run(main())
