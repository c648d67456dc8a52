"""A TCP proxy that fails as networks do: cut with a reset, refusing, or silent.

It runs on threads of its own, so that tests written against Playwright's sync API need no loop.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Proxy",)

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes ``close()`` send a reset instead of a farewell."""


class Proxy:
    """Forward bytes between a browser and one port of this machine.

    Attributes:
        url: Base of HTTP addresses, without a slash at the end.
    """

    def __init__(self, upstream_port: int) -> None:
        """Listen on a free port.

        Args:
            upstream_port: Where connections are forwarded to.
        """
        self._upstream = (HOST, upstream_port)
        self._listener = socket.create_server((HOST, 0))
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._is_up = threading.Event()
        self._is_up.set()
        self._flowing = threading.Event()
        self._flowing.set()
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flowing.set()
        self.cut()

    def cut(self) -> None:
        """Reset every connection, and every new one until `restore`."""
        self._is_up.clear()
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._drop(pair)

    def silence(self) -> None:
        """Swallow nothing and forward nothing, as a network cable pulled out does."""
        self._flowing.clear()

    def restore(self) -> None:
        """Be a good network again."""
        self._flowing.set()
        self._is_up.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_up.is_set():
                self._reset(client)
                continue
            try:
                server = socket.create_connection(self._upstream, timeout=5)
            except OSError:
                self._reset(client)
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for source, target in (pair, pair[::-1]):
                arguments = (pair, source, target)
                threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        target: socket.socket,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                target.sendall(data)
        self._drop(pair)

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        for end in pair:
            self._reset(end)

    @staticmethod
    def _reset(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # Wakes a thread that waits in recv(); close() alone would leave it there.
            end.shutdown(socket.SHUT_RD)
        end.close()
