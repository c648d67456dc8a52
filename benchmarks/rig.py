"""What every benchmark here needs: C programs compiled on the spot, peers as processes, the swarm.

Strategy: a server under test is a child process pinned to one core, the load is another pinned to
the other; both end with this process and with their own alarm. Nothing listens but on 127.0.0.1.
Ports are chosen by the kernel. This module measures nothing itself; the benchmarks read its
processes.
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Self

__all__ = (
    "LIFETIME_SECONDS_MAX",
    "LIMIT",
    "PEERS",
    "Peer",
    "Server",
    "Swarm",
    "add_arguments",
    "chosen_peers",
    "cores",
    "fits_descriptors",
    "machine",
    "median",
    "run_server",
    "versions",
    "write_results",
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

# Everything that makes uvicorn faster: the fastest of its WebSocket classes, and no compression,
# which a payload of 116 bytes is not worth.
UVICORN = (
    "--loop uvloop --http httptools --ws websockets-sansio --ws-per-message-deflate false "
    "--no-access-log --log-level critical --backlog 2048"
)
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 1.0  # then killed: a peer may spend long on saying goodbye to closed sockets
LIFETIME_SECONDS_MAX = 600
DESCRIPTORS_SPARE = 200  # of a process, beside its connections: loop, libraries, listener


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run the room.

    Attributes:
        name: Key in the JSON.
        title: What the tables say.
        application: Import string for uvicorn, or `None` for the C program.
        path: What a client asks for.
        dialect: What is spoken inside the frames: `text` or `socketio`.
        packages: Distributions whose versions matter.
    """

    name: str
    title: str
    application: str | None
    path: str = "/"
    dialect: str = "text"
    packages: tuple[str, ...] = ("uvicorn", "uvloop", "websockets")


LIMIT = Peer("limit", "C send() loop", None, packages=())
PEERS = (
    LIMIT,
    Peer(
        "wirebell_asgi",
        "Wirebell, portable ASGI",
        "wirebell_asgi:app",
        "/bench",
        packages=("wirebell", "fastapi", "uvicorn", "uvloop", "websockets"),
    ),
    Peer(
        "article",
        "article's manager",
        "article:app",
        "/ws/1",
        packages=("fastapi", "uvicorn", "uvloop", "websockets"),
    ),
    Peer(
        "socketio",
        "python-socketio",
        "socketio_app:app",
        "/socket.io/?EIO=4&transport=websocket",
        "socketio",
        packages=("python-socketio", "python-engineio", "uvicorn", "uvloop", "websockets"),
    ),
)


def cores() -> tuple[int, int]:
    """Name the core of the server and the core of the load; the same one when there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def compile_program(name: str) -> Path:
    """Compile `<name>.c` unless the same text was compiled before.

    Returns:
        The program, in the user's cache folder.

    Raises:
        SystemExit: There is no C compiler, or it refused the text.
    """
    source = HERE / f"{name}.c"
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise SystemExit("benchmarks need a C compiler (cc, gcc or clang)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wirebell-benchmarks"
    program = cache / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder, name)
            command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(built), str(source)]
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(f"{compiler} refused {source.name}")
            built.replace(program)
    return program


def free_port() -> int:
    """Ask the kernel for a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that answers.

    Attributes:
        peer: What runs.
        pid: Its process; there is one per server.
        port: Where it listens, on 127.0.0.1.
    """

    peer: Peer
    pid: int
    port: int

    def memory_bytes(self) -> int:
        """Read the resident set size."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def cpu_seconds(self) -> float:
        """Read the CPU time used so far, in user and in kernel mode."""
        # The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def run_server(peer: Peer) -> Iterator[Server]:
    """Run a peer on the server's core until the block ends.

    Raises:
        RuntimeError: It does not answer within `START_SECONDS_MAX`.
    """
    port = free_port()
    if peer.application is None:
        command = [str(compile_program("send_limit")), str(port), str(LIFETIME_SECONDS_MAX)]
    else:
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE / "peers")]
        command += [*shlex.split(UVICORN), "--port", str(port), peer.application]
    process = subprocess.Popen(command, preexec_fn=end_with_parent)
    try:
        os.sched_setaffinity(process.pid, {cores()[0]})
        wait_answering(process, port)
        yield Server(peer, process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent does, however that ends (prctl(2))."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def wait_answering(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until something accepts on `port`.

    Raises:
        RuntimeError: The process ended, or did not answer within `START_SECONDS_MAX`.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{shlex.join(map(str, process.args))} does not answer")  # type: ignore[arg-type]


class Swarm:
    """The load on a server: N connections, ready when the object is; see `swarm.c`.

    State: the child process. Use it as a context manager, from one thread; it ends with the block.

    Args:
        server: Whom to load.
        connections: How many, 1 or more.
        windows: Publications in flight, one number per round, in the order of the rounds.
        measure_ms: Length of the counted part of a round, in milliseconds.
        hold_seconds: How long at most the connections stay open after the rounds; 0: not at all.

    Raises:
        RuntimeError: A connection could not be opened.
    """

    def __init__(
        self,
        server: Server,
        connections: int,
        *,
        windows: Sequence[int] = (),
        measure_ms: int = 1000,
        hold_seconds: int = 0,
    ) -> None:
        command: list[str] = [str(compile_program("swarm"))]
        options: dict[str, object] = {
            "port": server.port,
            "path": server.peer.path,
            "dialect": server.peer.dialect,
            "connections": connections,
            "measure-ms": measure_ms,
            "warm-ms": measure_ms * 3 // 10,
            "hold": hold_seconds,
            "server-pid": server.pid,
        }
        if windows:
            options["windows"] = ",".join(map(str, windows))
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(self._process.pid, {cores()[1]})
        try:
            self.connect_seconds: float = self._read()["connect_seconds"]
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end()

    def rounds(self) -> list[dict[str, float]]:
        """Wait for all rounds.

        Returns:
            One dictionary for each round, in order, with the keys that `swarm.c` prints.

        Raises:
            RuntimeError: Something was not as expected, for one a lost or doubled delivery.
        """
        output: IO[str] = self._process.stdout  # type: ignore[assignment]
        found = [json.loads(line) for line in output]
        if self._process.wait():
            raise RuntimeError("the swarm failed; it says why above")
        return found

    def check_open(self) -> None:
        """Check that the connections are still open.

        Raises:
            RuntimeError: The swarm has ended before its time.
        """
        if self._process.poll() is not None:
            raise RuntimeError("the swarm has ended early; it says why above")

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the swarm failed; it says why above")
        found: dict[str, Any] = json.loads(line)
        return found

    def _end(self) -> None:
        """End the process; its connections close by its end."""
        self._process.kill()
        self._process.communicate()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every benchmark understands."""
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, short, not kept")
    parser.add_argument("--peers", default="", help="names separated by commas (default: all)")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/<name>.json)")


def chosen_peers(names: str) -> list[Peer]:
    """Pick peers by name, in the order of `PEERS`; one that is not installed is left out, aloud.

    Raises:
        SystemExit: A name is unknown.
    """
    wanted = [name for name in names.split(",") if name]
    unknown = set(wanted) - {peer.name for peer in PEERS}
    if unknown:
        raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}")
    chosen = []
    for peer in PEERS:
        missing = [name for name, found in versions([peer]).items() if not found]
        if wanted and peer.name not in wanted:
            continue
        if missing:
            print(f"left out: {peer.title}, not installed: {', '.join(missing)}", file=sys.stderr)
        else:
            chosen.append(peer)
    return chosen


def fits_descriptors(connections: int) -> bool:
    """Say whether one process may hold so many connections; raises the soft limit when it can."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return connections + DESCRIPTORS_SPARE <= hard


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """Map each distribution the peers need to its version; empty when it is not installed."""
    found = {}
    for name in sorted({name for peer in peers for name in peer.packages}):
        try:
            # Ours comes from the tree when that is on the path, whatever else is installed.
            ours = name == "wirebell"
            found[name] = import_module("wirebell.version").__version__ if ours else version(name)
        except (ImportError, PackageNotFoundError):
            found[name] = ""
    return found


def machine() -> dict[str, object]:
    """Describe the machine as far as it explains the numbers."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_shared": len(set(cores())) == 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "tcp_congestion_control": congestion.read_text().strip(),
        "python": platform.python_version(),
    }


def write_results(
    name: str, peers: Sequence[Peer], body: Mapping[str, object], out: Path | None
) -> None:
    """Write a benchmark's JSON, with date, machine and versions.

    Args:
        name: The benchmark; also the file's name.
        peers: Who took part; their versions are written.
        body: The numbers and the method, plain JSON values.
        out: Where to write; `None`: the results folder.
    """
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(peers),
        "uvicorn": UVICORN,
        **body,
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nwritten: {path}")


def median(rounds: Sequence[Mapping[str, float]], key: str) -> float:
    """Take the median of one key over several rounds."""
    return statistics.median(found[key] for found in rounds)
