"""Real PostgreSQL: started on a free port in a folder of its own, and gone at the block's end."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import free_port
from tests.services import find_program

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("PgBouncer", "PostgreSQLServer", "pgbouncer", "server", "standby_of")

HOST = "127.0.0.1"
START_SECONDS = 60.0
USER = "wirebell"
PROGRAMS = "/usr/lib/postgresql/*/bin"

# What was acknowledged does not have to survive the machine, except where a test is about that.
FAST = ("fsync=off", "full_page_writes=off")
ALWAYS = ("shared_buffers=16MB", "max_connections=60", "max_wal_senders=4", "logging_collector=off")


def program(name: str) -> str:
    """Return the path of a program; Debian keeps the server's out of PATH."""
    return find_program(name, "postgresql", PROGRAMS)


def as_user() -> dict[str, object]:
    """Return how a program is started as somebody whom PostgreSQL accepts: never as root."""
    if os.getuid() != 0:
        return {}
    # Debian's package made that user.
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


@dataclass
class PostgreSQLServer:
    """One server, and how to reach it.

    Attributes:
        folder: With its data and its log.
        settings: ``name=value`` each.
    """

    folder: Path
    settings: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    host: str = HOST
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, for its owner, who needs no password."""
        return f"postgresql://{USER}@{self.host}:{self.port}/postgres"

    def url_of(self, user: str, password: str = "", database: str = "postgres") -> str:
        """Where it is, for somebody else."""
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{database}"

    @property
    def data(self) -> Path:
        """Its data."""
        return self.folder / "data"

    def create(self) -> None:
        """Make its data: nobody but the owner is in, and others need a password."""
        self.run("cp", "-a", template(), self.data)
        rules = self.data / "pg_hba.conf"
        rules.write_text(
            f"local all {USER} trust\n"
            f"host all {USER} samenet trust\n"
            f"host replication {USER} {HOST}/32 trust\n"
            f"host all all {HOST}/32 scram-sha-256\n"
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [f"-c{each}" for each in (*ALWAYS, *self.settings)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(program("postgres"), "-D", str(self.data), "-p", str(self.port)),
                    *(f"-clisten_addresses={self.host}", "-k", str(self.folder), *words),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **as_user(),  # type: ignore[call-overload]  # who it is
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers():
                return
            time.sleep(0.02)
        raise AssertionError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        assert self.process is not None
        with contextlib.suppress(OSError, IndexError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            # One that was killed left such a file too.
            return lines[0] == str(self.process.pid) and lines[7].strip() in {"ready", "standby"}
        return False

    def run(self, name: str, *arguments: str | Path) -> str:
        """Run one of its programs, and return what it says."""
        done = subprocess.run(
            [name if name == "cp" else program(name), *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
            **as_user(),  # type: ignore[call-overload]  # who it is
        )
        assert done.returncode == 0, f"{name} failed: {done.stderr}"
        return str(done.stdout)

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Run SQL as the owner, and return what it says."""
        url = f"postgresql://{USER}@{HOST}:{self.port}/{database}"
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statements)

    def put(self, source: str, name: str) -> None:
        """Copy a file to beside its data, where nobody else may read it."""
        target = self.folder / name
        shutil.copy(source, target)
        target.chmod(0o600)
        if os.getuid() == 0:
            shutil.chown(target, "postgres", "postgres")

    def processes(self) -> list[int]:
        """Return the server's process and those of its connections and helpers."""
        assert self.process is not None
        main = self.process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
            return [main, *map(int, children)]
        return [main]

    def pause(self) -> None:
        """Stop every one of its processes where it is."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill every one of its processes at once, as a machine that goes down would."""
        if self.process is None:
            return
        # First the one that would start others.
        self._signal(signal.SIGKILL)
        self.process.wait(timeout=30)
        self.process = None

    def stop(self) -> None:
        """Shut it down as an administrator does: connections are ended, data are kept."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30)
            self.process = None

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@functools.cache
def template() -> Path:
    """Return data of a server that nobody used; made once for each process, which is slow."""
    context = folder()
    path = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    made = PostgreSQLServer(path)
    made.run("initdb", "-D", made.data, "-U", USER, "-A", "trust", "-N", "--no-instructions")
    return made.data


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that the server's user can write into."""
    path = Path(tempfile.mkdtemp(prefix="wirebell-postgresql-"))
    if os.getuid() == 0:
        shutil.chown(path, "postgres", "postgres")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def server(
    *settings: str, keeps_data: bool = False, host: str = HOST
) -> Iterator[PostgreSQLServer]:
    """Run a server until the block ends.

    Args:
        settings: ``name=value`` each.
        keeps_data: What it acknowledged is on the disk, as it is in production.
        host: Where it listens.
    """
    with folder() as path:
        made = PostgreSQLServer(path, (*(() if keeps_data else FAST), *settings), host=host)
        made.create()
        made.start()
        try:
            yield made
        finally:
            made.kill()


@contextmanager
def standby_of(primary: PostgreSQLServer) -> Iterator[PostgreSQLServer]:
    """Run a hot standby of a server until the block ends."""
    with folder() as path:
        made = PostgreSQLServer(path, primary.settings)
        made.run(
            "pg_basebackup", "-D", made.data, "-R", "-X", "stream", "-c", "fast", "-N",
            "-h", HOST, "-p", str(primary.port), "-U", USER,
        )  # fmt: skip
        made.start()
        try:
            yield made
        finally:
            made.kill()


@dataclass
class PgBouncer:
    """A pooler in front of a server: each transaction gets any connection."""

    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"


@contextmanager
def pgbouncer(target: PostgreSQLServer) -> Iterator[PgBouncer]:
    """Run PgBouncer in its transaction mode until the block ends."""
    with folder() as path:
        made = PgBouncer(free_port())
        (path / "users.txt").write_text(f'"{USER}" ""\n')
        configuration = path / "pgbouncer.ini"
        configuration.write_text(
            "[databases]\n"
            f"postgres = host={HOST} port={target.port} user={USER}\n"
            "[pgbouncer]\n"
            f"listen_addr = {HOST}\nlisten_port = {made.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {path}/users.txt\n"
            "pool_mode = transaction\ndefault_pool_size = 3\n"
        )
        for each in path.iterdir():
            each.chmod(0o644)
        process = subprocess.Popen(
            [find_program("pgbouncer", "pgbouncer", "/usr/sbin"), "-q", str(configuration)],
            cwd=path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_user(),  # type: ignore[call-overload]  # who it is
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection((HOST, made.port), 1):
                    break
                time.sleep(0.02)
            yield made
        finally:
            process.kill()
            process.wait(timeout=30)
