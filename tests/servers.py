"""Real server processes on loopback: started, waited for, and stopped with their log kept.

`demo` starts `wirebell demo`; `serve` starts any ASGI app under one of `SERVER_KINDS`; `run` starts
any command. They are context managers without an event loop, so that sync and async tests (and the
browser tests) can share them. Every wait is bounded, and a failure raises `ServerError` with the
log inside.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = (
    "FOREIGN_KINDS",
    "OUR_KINDS",
    "SERVER_KINDS",
    "STOCK_KINDS",
    "Server",
    "ServerError",
    "answers_http",
    "demo",
    "free_port",
    "run",
    "serve",
)

HOST = "127.0.0.1"
START_SECONDS = 100.0
"""A cold start with two busy cores: imports, migrations, argon2 hashes, four workers."""
STOP_SECONDS = 15.0
"""Longer than every graceful shutdown that Wirebell promises (``close_timeout_seconds`` is 5)."""

OURS = "wirebell.uvicorn:WebSocketProtocol"
UVICORN: dict[str, tuple[str, ...]] = {
    "wirebell-uvloop-httptools": ("--ws", OURS, "--loop", "uvloop", "--http", "httptools"),
    "wirebell-uvloop-h11": ("--ws", OURS, "--loop", "uvloop", "--http", "h11"),
    "wirebell-asyncio-httptools": ("--ws", OURS, "--loop", "asyncio", "--http", "httptools"),
    "wirebell-asyncio-h11": ("--ws", OURS, "--loop", "asyncio", "--http", "h11"),
    "wirebell-http": ("--ws", OURS, "--loop", "uvloop", "--http", "wirebell.uvicorn:HTTPProtocol"),
    "uvicorn-websockets-sansio": ("--ws", "websockets-sansio"),
    "uvicorn-websockets": ("--ws", "websockets"),
    "uvicorn-wsproto": ("--ws", "wsproto"),
}
"""Kind → options: our class on each loop and HTTP implementation, and uvicorn's own classes."""

# Each loop and each HTTP implementation stands in another pair already.
REDUNDANT = ("wirebell-uvloop-h11", "wirebell-asyncio-httptools")
if not os.environ.get("WIREBELL_TEST_EVERYTHING"):
    for redundant in REDUNDANT:
        del UVICORN[redundant]

OUR_KINDS: tuple[str, ...] = tuple(kind for kind in UVICORN if kind.startswith("wirebell-"))
"""Servers on which our own engine moves the bytes."""

STOCK_KINDS: tuple[str, ...] = tuple(kind for kind in UVICORN if kind not in OUR_KINDS)
"""Uvicorn with the WebSocket classes that it brings."""

FOREIGN_KINDS: tuple[str, ...] = (*STOCK_KINDS, "hypercorn", "granian")
"""Servers on which sockets are served through plain ASGI."""

SERVER_KINDS: tuple[str, ...] = (*OUR_KINDS, *FOREIGN_KINDS)
"""ASGI servers that `serve` knows."""


class ServerError(RuntimeError):
    """A server did not start or did not stop in time; the message ends with its log."""


@dataclass
class Server:
    """One running server process and its children.

    Attributes:
        port: TCP port on 127.0.0.1.
        process: Leader of its own process group, so that workers die with it.
        log_path: Where stdout and stderr go.
        uds: Path of the Unix socket it listens on instead of the port, if it does.
        is_tls: Whether it speaks TLS only.
    """

    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    uds: str | None = None
    is_tls: bool = False
    _stopped: bool = field(default=False, repr=False)

    @property
    def url(self) -> str:
        """Base of HTTP addresses, without a slash at the end."""
        return f"http{'s' if self.is_tls else ''}://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Base of WebSocket addresses, without a slash at the end."""
        return f"ws{'s' if self.is_tls else ''}://{HOST}:{self.port}"

    def log(self) -> str:
        """Return everything the process has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def pids(self) -> list[int]:
        """Return the ids of the process and all its descendants, for memory checks."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in children.read_text().split()]
        return found

    def descriptors(self) -> int:
        """Count the open file descriptors of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident_bytes(self) -> int:
        """Return the memory that the process and its descendants hold now."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        return total

    def kill(self) -> None:
        """End the whole group at once, as a power cut would."""
        self._signal_group(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        self._stopped = True

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> float:
        """Ask to end by SIGTERM, as an operator does, and return the seconds it took.

        Raises:
            ServerError: The process had to be killed.
        """
        if self._stopped:
            return 0.0
        started = time.monotonic()
        # To the leader only: telling its workers is its own duty.
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(
                f"still running {timeout_seconds} s after SIGTERM\n{self.log()}"
            ) from None
        finally:
            self._stopped = True
            self._signal_group(signal.SIGKILL)  # orphans of a leader that forgot them
        return time.monotonic() - started

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def free_port() -> int:
    """Return a TCP port that nobody listens on.

    Below the range from which the kernel takes ports of outgoing connections, so that a client of
    another test cannot take it between this check and the server's ``bind``.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise ServerError("no free port found")


@contextlib.contextmanager
def demo(
    data_dir: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """Run `wirebell demo` until the block ends.

    Args:
        data_dir: Holds its database and secret; kept, so a second run finds them again.
        arguments: Further ones, as ``"--workers", "4"``.
        env: Added to this process' environment.
        port: ``None`` takes a free one.

    Yields:
        The server, once it has printed its address and answers there.

    Raises:
        ServerError: It did not start, or did not stop when told.
    """
    port = free_port() if port is None else port
    command = [sys.executable, "-m", "wirebell", "demo", "--host", HOST, "--port", str(port)]
    command += ["--data-dir", str(data_dir), *arguments]

    def answers(server: Server) -> bool:
        printed = f"Taskboard answers on http://{HOST}:{port}" in server.log()
        return printed and answers_http(server, "/realtime/health")

    with run(command, port, env or {}, answers) as server:
        yield server


@contextlib.contextmanager
def serve(
    app: str,
    kind: str,
    *,
    env: Mapping[str, str] | None = None,
    path: str = "/",
    arguments: Sequence[str] = (),
) -> Iterator[Server]:
    """Run an ASGI app under one kind of server until the block ends.

    Args:
        app: As ``"package.module:attribute"``.
        kind: One of `SERVER_KINDS`.
        env: Added to this process' environment.
        path: Answers any HTTP status once the app is up.
        arguments: Further ones of uvicorn's command line, as ``"--workers", "2"``; for the kinds
            that are uvicorn. ``--uds`` and ``--ssl-certfile`` tell how the server is reached.

    Yields:
        The server, once `path` is answered.

    Raises:
        ServerError: It did not start, or did not stop when told.
    """
    port = free_port()
    command = _command(app, kind, port, arguments)
    with run(command, port, env or {}, lambda server: answers_http(server, path)) as server:
        yield server


def _command(app: str, kind: str, port: int, arguments: Sequence[str]) -> list[str]:
    """Return the command line that serves `app` on `port` with `kind`."""
    if kind in UVICORN:
        options = ["--host", HOST, "--port", str(port), *UVICORN[kind], *arguments]
        return [sys.executable, "-m", "uvicorn", app, *options]
    if arguments:
        raise ValueError(f"arguments are uvicorn's, {kind!r} is not")
    if kind == "hypercorn":
        # `-k uvloop` is what its own documentation recommends for speed; asyncio is its default.
        return [sys.executable, "-m", "hypercorn", app, "--bind", f"{HOST}:{port}"]
    if kind == "granian":
        options = ["--host", HOST, "--port", str(port), "--interface", "asgi"]
        return [sys.executable, "-m", "granian", app, *options]
    raise ValueError(f"unknown server {kind!r}, known: {', '.join(SERVER_KINDS)}")


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: ours without our settings, and able to import what we do."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WIREBELL_")}
    # A child does not inherit what pytest or an editable install put on our path.
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    kept["PYTHONUNBUFFERED"] = "1"
    kept.update(extra)
    return kept


@contextlib.contextmanager
def run(
    command: Sequence[str],
    port: int,
    env: Mapping[str, str],
    answers: Callable[[Server], bool],
) -> Iterator[Server]:
    """Run a server's own command line until the block ends.

    Args:
        command: With the port in it.
        port: TCP port on 127.0.0.1.
        env: Added to this process' environment.
        answers: Tells whether it is ready; asked again and again.

    Yields:
        The server, once it is ready.

    Raises:
        ServerError: It did not start, or did not stop when told.
    """
    handle, name = tempfile.mkstemp(prefix="wirebell-server-", suffix=".log")
    with os.fdopen(handle, "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(env),
            start_new_session=True,
        )
    uds = command[command.index("--uds") + 1] if "--uds" in command else None
    server = Server(port, process, Path(name), uds, "--ssl-certfile" in command)
    try:
        _wait_until_answers(server, answers)
        yield server
        server.stop()
    except BaseException:
        server.kill()
        raise
    finally:
        server.log_path.unlink(missing_ok=True)


def _wait_until_answers(server: Server, answers: Callable[[Server], bool]) -> None:
    """Poll until the server answers, it died, or the time is over."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(server):
        if server.process.poll() is not None:
            raise ServerError(f"ended with {server.process.returncode}\n{server.log()}")
        if time.monotonic() > deadline:
            raise ServerError(f"no answer within {START_SECONDS} s\n{server.log()}")
        time.sleep(0.03)  # between two polls, not to make sure of anything


def answers_http(server: Server, path: str) -> bool:
    """Tell whether an HTTP request gets any status line."""
    try:
        with _open(server) as connection:
            request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            return connection.recv(64).startswith(b"HTTP/1.1 ")
    except OSError:
        return False


def _open(server: Server) -> socket.socket:
    """Connect to wherever `server` listens; its certificate is taken as it is."""
    if server.uds is not None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(2)
        try:
            connection.connect(server.uds)
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((HOST, server.port), timeout=2)
    if not server.is_tls:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)
