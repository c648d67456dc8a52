"""Real server processes on loopback: started, waited for, and stopped with their log kept.

`demo` starts `wirebell demo`; `serve` starts any ASGI app under one of `SERVER_KINDS`. Both are
context managers without an event loop, so that sync and async tests (and the browser tests) can
share them. Every wait is bounded, and a failure raises `ServerError` with the log inside.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ("SERVER_KINDS", "Server", "ServerError", "demo", "free_port", "serve")

HOST = "127.0.0.1"
START_SECONDS = 60.0
"""A cold start with two busy cores: imports, migrations, argon2 hashes, four workers."""
STOP_SECONDS = 15.0
"""Longer than every graceful shutdown that Wirebell promises (``close_timeout_seconds`` is 5)."""

SERVER_KINDS: tuple[str, ...] = (
    "uvicorn-websockets-sansio",
    "uvicorn-websockets",
    "uvicorn-wsproto",
    "hypercorn",
    "granian",
)
"""ASGI servers that `serve` knows: uvicorn with each of its classes, and two others."""


class ServerError(RuntimeError):
    """A server did not start or did not stop in time; the message ends with its log."""


@dataclass
class Server:
    """One running server process and its children.

    Attributes:
        port: TCP port on 127.0.0.1.
        process: Leader of its own process group, so that workers die with it.
        log_path: Where stdout and stderr go.
    """

    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    _stopped: bool = field(default=False, repr=False)

    @property
    def url(self) -> str:
        """Base of HTTP addresses, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Base of WebSocket addresses, without a slash at the end."""
        return f"ws://{HOST}:{self.port}"

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
        return printed and _http_answers(port, "/realtime/health")

    with _run(command, port, env or {}, answers) as server:
        yield server


@contextlib.contextmanager
def serve(
    app: str, kind: str, *, env: Mapping[str, str] | None = None, path: str = "/"
) -> Iterator[Server]:
    """Run an ASGI app under one kind of server until the block ends.

    Args:
        app: As ``"package.module:attribute"``.
        kind: One of `SERVER_KINDS`.
        env: Added to this process' environment.
        path: Answers any HTTP status once the app is up.

    Yields:
        The server, once `path` is answered.

    Raises:
        ServerError: It did not start, or did not stop when told.
    """
    port = free_port()
    with _run(_command(app, kind, port), port, env or {}, lambda _: _http_answers(port, path)) as s:
        yield s


def _command(app: str, kind: str, port: int) -> list[str]:
    """Return the command line that serves `app` on `port` with `kind`."""
    if kind.startswith("uvicorn-"):
        ws = kind.removeprefix("uvicorn-")
        options = ["--host", HOST, "--port", str(port), "--ws", ws]
        return [sys.executable, "-m", "uvicorn", app, *options]
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
def _run(
    command: Sequence[str],
    port: int,
    env: Mapping[str, str],
    answers: Callable[[Server], bool],
) -> Iterator[Server]:
    """Start `command`, wait until it answers, and stop it at the end of the block."""
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
    server = Server(port, process, Path(name))
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


def _http_answers(port: int, path: str) -> bool:
    """Tell whether an HTTP request gets any status line."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            return connection.recv(64).startswith(b"HTTP/1.1 ")
    except OSError:
        return False
