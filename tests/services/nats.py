"""Real NATS with JetStream: single, with a password, with TLS, as a cluster.

Each is started on free ports in a folder of its own, and gone at the end of its block.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import free_port
from tests.services import find_program
from tests.services.redis import Certificates, certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Cluster", "NATSServer", "cluster", "single", "tls", "wait")

HOST = "127.0.0.1"
START_SECONDS = 20.0


@dataclass
class NATSServer:
    """One process, and how to reach it."""

    folder: Path
    arguments: tuple[str, ...] = ()
    user: str = ""
    has_jetstream: bool = True
    program: str = "nats-server"
    port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    host: str = HOST
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"nats://{f'{self.user}@' if self.user else ''}{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.spawn()
        self.wait_started()

    def spawn(self) -> None:
        """Start it."""
        self.folder.mkdir(exist_ok=True)
        jetstream = ("-js", "-sd", str(self.folder)) if self.has_jetstream else ()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    find_program(self.program, "nats-server", "/usr/sbin"),
                    *("-a", self.host, "-p", str(self.port), "-m", str(self.monitor_port)),
                    *jetstream,
                    *self.arguments,
                ],
                stdout=log,
                stderr=log,
            )

    def wait_started(self) -> None:
        """Wait until it takes clients, and its JetStream has a leader."""

        def has_started() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"nats-server ended:\n{self.log()}")
            return self.greets() and self.is_healthy()

        wait(has_started, "nats-server did not start")

    def greets(self) -> bool:
        """Tell whether it takes clients."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, self.port), timeout=5) as link,
        ):
            return link.recv(4) == b"INFO"
        return False

    def is_healthy(self) -> bool:
        """Tell whether all of it runs."""
        with contextlib.suppress(OSError, ValueError):
            return bool(self.ask("healthz")["status"] == "ok")
        return False

    def ask(self, page: str) -> dict[str, Any]:
        """Read a page of its monitoring."""
        with urllib.request.urlopen(
            f"http://{self.host}:{self.monitor_port}/{page}", timeout=5
        ) as answer:
            read: dict[str, Any] = json.load(answer)
            return read

    def log(self) -> str:
        """Return what it said lately."""
        path = self.folder / "log"
        return path.read_text()[-3000:] if path.exists() else ""

    def pause(self) -> None:
        """Stop it in the middle of what it does; it has stopped then."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; idempotent."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(timeout=10)

    def save(self, folder: Path) -> None:
        """Copy its data as they are."""
        shutil.copytree(self.folder / "jetstream", folder)

    def restart(self, *, keeps_data: bool, data: Path | None = None) -> None:
        """Kill it and start it again, with its files, with a copy of them, or without."""
        self.kill()
        if not keeps_data:
            shutil.rmtree(self.folder / "jetstream", ignore_errors=True)
        if data is not None:
            shutil.copytree(data, self.folder / "jetstream")
        self.start()


def wait(is_so: Callable[[], bool], message: str, seconds: float = START_SECONDS) -> None:
    """Wait until something is so, at most so long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(message)
        time.sleep(0.01)


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="wirebell-nats-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def single(
    *arguments: str,
    password: str = "",
    token: str = "",
    has_jetstream: bool = True,
    config: str = "",
    host: str = HOST,
) -> Iterator[NATSServer]:
    """Run one server.

    Args:
        arguments: More of its options.
        password: Of the user ``ann``; empty lets everybody in.
        token: In place of user and password.
        has_jetstream: Keep anything.
        config: More of them, in its own language.
        host: Where it listens.
    """
    user = token
    if password:
        arguments = (*arguments, "--user", "ann", "--pass", password)
        user = f"ann:{password}"
    if token:
        arguments = (*arguments, "--auth", token)
    with _folder() as folder:
        if config:
            (folder / "conf").write_text(config)
            arguments = (*arguments, "-c", str(folder / "conf"))
        server = NATSServer(folder, arguments, user, has_jetstream, host=host)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def tls() -> Iterator[tuple[NATSServer, Certificates]]:
    """Run a server that speaks TLS and asks for certificates."""
    with _folder() as folder:
        made = certificates(folder)
        options = (
            *("--tls", "--tlscert", made.certificate, "--tlskey", made.key),
            *("--tlsverify", "--tlscacert", made.authority),
        )
        server = NATSServer(folder / "data", options)
        try:
            server.start()
            yield server, made
        finally:
            server.kill()


@dataclass
class Cluster:
    """Three servers that keep everything three times."""

    servers: list[NATSServer]

    @property
    def url(self) -> str:
        """Where it is."""
        return "nats://" + ",".join(f"{HOST}:{each.port}" for each in self.servers)

    def wait_whole(self) -> None:
        """Wait until there is a leader, and all are in step with it."""

        def is_whole() -> bool:
            with contextlib.suppress(OSError, ValueError):
                whole = [each.ask("jsz").get("meta_cluster", {}) for each in self.servers]
                return all(
                    each.get("leader") and each.get("cluster_size") == len(self.servers)
                    for each in whole
                ) and all(each.is_healthy() for each in self.servers)
            return False

        wait(is_whole, "the cluster is not whole")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster of three servers."""
    with _folder() as folder:
        ports = [free_port() for _ in range(3)]
        routes = ",".join(f"nats://{HOST}:{port}" for port in ports)
        made = Cluster(
            [
                NATSServer(
                    folder / f"node{number}",
                    (
                        *("-n", f"node{number}", "--cluster_name", "test", "--routes", routes),
                        *("--cluster", f"nats://{HOST}:{port}"),
                    ),
                )
                for number, port in enumerate(ports)
            ]
        )
        try:
            for server in made.servers:
                server.spawn()
            made.wait_whole()
            yield made
        finally:
            for server in made.servers:
                server.kill()
