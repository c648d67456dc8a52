"""A small TCP balancer for `rolling_restart`: bytes pass to the node with the fewest links.

Strategy: one event loop in a process of its own. A node is asked for `/ready` many times a second,
as a balancer of production does every few seconds; one that is not ready gets nobody new, and one
that refuses a link is passed over at once. Who is connected stays where he is. It reads no HTTP.
"""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, cast

import uvloop

import rig
from crowd import HOST

__all__ = ("LOOK_SECONDS", "balance", "is_ready")

LOOK_SECONDS = 0.2
"""Between two questions to a node."""
ANSWER_SECONDS = 2.0
BACKLOG = 1024


class Node:
    """A node as the balancer sees it.

    Attributes:
        port: Where it listens.
        is_ready: Its last answer.
        link_count: Links to it.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_ready = False
        self.link_count = 0


class End(asyncio.Protocol):
    """One end of a link; what arrives at it leaves by the other.

    Args:
        other: The end that was there before; ``None`` for the client's.
    """

    transport: asyncio.Transport

    def __init__(self, other: "End | None" = None) -> None:
        self.other = other

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Uvloop's has no such base.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """Read no more at the other end than this one takes."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end, when it has what was for it; after a reset at once."""
        if self.other is not None:
            close = self.other.transport.close if exc is None else self.other.transport.abort
            close()


class NodeEnd(End):
    """The end towards a node."""

    def __init__(self, other: End, node: Node) -> None:
        super().__init__(other)
        self.node = node

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and let bytes through."""
        super().connection_made(transport)
        self.node.link_count += 1
        client = self.other
        assert isinstance(client, ClientEnd)
        client.other = self
        if client.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.write(bytes(client.early))

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self.node.link_count -= 1
        super().connection_lost(exc)


class ClientEnd(End):
    """The end towards a client, which waits for a node.

    Attributes:
        early: What it said before there was one: a handshake.
    """

    def __init__(self, balancer: "Balancer") -> None:
        super().__init__()
        self.balancer = balancer
        self.early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look for a node."""
        super().connection_made(transport)
        self.balancer.start(self.balancer.connect(self))

    def data_received(self, data: bytes) -> None:
        """Pass it on, or keep it."""
        if self.other is None:
            self.early += data
        else:
            self.other.transport.write(data)


class Balancer:
    """Chooses nodes. Its tasks run until the process ends.

    Mutable state: what it knows of the nodes, and its tasks.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.nodes = [Node(port) for port in ports]
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def watch(self, node: Node) -> None:
        """Ask a node again and again whether it is ready."""
        while True:
            node.is_ready = await is_ready(node.port)
            await asyncio.sleep(LOOK_SECONDS)

    async def connect(self, client: ClientEnd) -> None:
        """Lead a client to the ready node with the fewest links, or cut it where there is none."""
        loop = asyncio.get_running_loop()
        ready = [node for node in self.nodes if node.is_ready]
        for node in sorted(ready, key=lambda node: node.link_count):
            try:
                await loop.create_connection(partial(NodeEnd, client, node), HOST, node.port)
            except OSError:
                node.is_ready = False
            else:
                return
        client.transport.abort()


async def is_ready(port: int) -> bool:
    """Ask a server on this machine whether it takes connections."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False


async def serve(ports: Sequence[int], orders: Connection) -> None:
    """Listen, say where, and go on for ever."""
    balancer = Balancer(ports)
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    server = await asyncio.get_running_loop().create_server(
        lambda: ClientEnd(balancer), sock=listener, backlog=BACKLOG
    )
    orders.send(listener.getsockname()[1])
    async with server:
        await asyncio.gather(*(balancer.watch(node) for node in balancer.nodes))


def balance(ports: Sequence[int], orders: Connection) -> None:
    """Run a balancer until the process is killed; for `crowd.in_process`.

    The first thing it sends is its port.
    """
    rig.fits_descriptors(0)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(ports, orders))
