"""The servers under test: what each is, how it is started, what it costs.

Strategy: a peer is a value that says how to run one server and which questions it answers; a server
is a child process pinned to one core that ends with this process. Nothing listens but on
127.0.0.1, on ports that the kernel chose.
"""

import contextlib
import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rig import HERE, LIFETIME_SECONDS_MAX, compile_program, cores

__all__ = (
    "ASGI",
    "LIMIT",
    "PEERS",
    "PROTOCOL",
    "RAW",
    "UVICORN",
    "Peer",
    "Server",
    "chosen_peers",
    "end_with_parent",
    "process_cpu_seconds",
    "run_server",
    "versions",
)

# Everything that makes uvicorn faster: the fastest of its WebSocket classes, and no compression,
# which a payload of 116 bytes is not worth.
UVICORN = (
    "--loop uvloop --http httptools --ws websockets-sansio --ws-per-message-deflate false "
    "--no-access-log --log-level critical --backlog 2048"
)
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 1.0  # then killed: a peer may spend long on saying goodbye to closed sockets


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run a server; one of application, configuration, module and program is given.

    Attributes:
        name: Key in the JSON.
        title: What the tables say.
        application: Import string for uvicorn.
        options: For uvicorn, after `UVICORN`; what is said twice counts the second time.
        configuration: File in `peers/` for `wirebell serve`.
        module: Python module with a server of its own, started with the port.
        program: C program, started with the port and its lifetime.
        paths: What a client asks for, by question: `room`, `open`, `dependencies`, `echo`, and
            `protocol`, for what is asked of the client protocol. A question without a path is not
            put to this peer.
        dialect: What is spoken inside the frames: `text`, `socketio`, or `protocol`, the client
            protocol in JSON.
        packages: Distributions whose versions matter.
        can_compress: Whether the room can be run with permessage-deflate.
    """

    name: str
    title: str
    application: str = ""
    options: tuple[str, ...] = ()
    configuration: str = ""
    module: str = ""
    program: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)
    dialect: str = "text"
    packages: tuple[str, ...] = ()
    can_compress: bool = False


ASGI = ("uvicorn", "uvloop", "websockets")
WIREBELL_PATHS = {
    "room": "/bench",
    "open": "/bench",
    "dependencies": "/bench/dependencies",
    "echo": "/echo",
}
LIMIT = Peer("limit", "C send() loop", program="send_limit", paths={"room": "/", "protocol": "/"})
PROTOCOL = Peer(
    "wirebell_protocol",
    "Wirebell, client protocol",
    configuration="protocol.json",
    paths={"protocol": "/connection/websocket"},
    dialect="protocol",
    packages=("wirebell", "fastapi", *ASGI),
)
RAW = Peer(
    "raw",
    "raw asyncio.Protocol",
    module="peers.raw_echo",
    paths={"open": "/", "echo": "/"},
    packages=("uvloop", "websockets"),
)
PEERS = (
    LIMIT,
    PROTOCOL,
    RAW,
    Peer(
        "wirebell",
        "Wirebell",
        application="peers.wirebell_app:app",
        options=("--ws", "wirebell.uvicorn:WebSocketProtocol"),
        paths=WIREBELL_PATHS,
        packages=("wirebell", "fastapi", *ASGI),
        can_compress=True,
    ),
    Peer(
        "wirebell_http",
        "Wirebell, HTTP class too",
        application="peers.wirebell_app:app",
        options=(
            *("--ws", "wirebell.uvicorn:WebSocketProtocol"),
            *("--http", "wirebell.uvicorn:HTTPProtocol"),
        ),
        # What comes after the handshake is the same as for `wirebell`.
        paths={question: WIREBELL_PATHS[question] for question in ("open", "dependencies")},
        packages=("wirebell", "fastapi", *ASGI),
    ),
    Peer(
        "wirebell_asgi",
        "Wirebell, portable ASGI",
        application="peers.wirebell_app:app",
        paths=WIREBELL_PATHS,
        packages=("wirebell", "fastapi", *ASGI),
    ),
    Peer(
        "article",
        "article's manager",
        application="peers.article:app",
        paths={"room": "/ws/1", "protocol": "/ws/1"},
        packages=("fastapi", *ASGI),
        can_compress=True,
    ),
    Peer(
        "fastapi",
        "FastAPI, stock uvicorn",
        application="peers.fastapi_app:app",
        paths={"open": "/echo", "dependencies": "/echo/dependencies", "echo": "/echo"},
        packages=("fastapi", *ASGI),
    ),
    Peer(
        "picows",
        "picows",
        module="peers.picows_server",
        paths={"room": "/", "open": "/", "echo": "/echo"},
        packages=("picows", "aiofastnet", "uvloop"),
    ),
    Peer(
        "websockets",
        "websockets, broadcast()",
        module="peers.websockets_server",
        paths={"room": "/", "open": "/", "echo": "/echo"},
        packages=("websockets", "uvloop"),
        can_compress=True,
    ),
    Peer(
        "socketio",
        "python-socketio",
        application="peers.socketio_app:app",
        paths={"room": "/socket.io/?EIO=4&transport=websocket"},
        dialect="socketio",
        packages=("python-socketio", "python-engineio", *ASGI),
    ),
    Peer(
        "django_channels",
        "Django Channels",
        application="peers.channels_app:app",
        paths={"room": "/"},
        packages=("channels", "django", *ASGI),
    ),
)


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
        return process_cpu_seconds(self.pid)


def list_command(peer: Peer, port: int, *, compresses: bool) -> list[str]:
    """List the words of the command that runs a peer on a port."""
    if peer.program:
        return [str(compile_program(peer.program)), str(port), str(LIFETIME_SECONDS_MAX)]
    if peer.module:
        words = [sys.executable, "-m", peer.module, str(port)]
        return [*words, "deflate"] if compresses else words
    if peer.configuration:
        words = [sys.executable, "-m", "wirebell", "serve", "--port", str(port)]
        words += ["--config", str(HERE / "peers" / peer.configuration), "--log.level", "error"]
        return words
    words = [sys.executable, "-m", "uvicorn", *shlex.split(UVICORN), *peer.options]
    words += ["--ws-per-message-deflate", str(compresses).lower()]
    return [*words, "--port", str(port), peer.application]


@contextlib.contextmanager
def run_server(
    peer: Peer, *, compresses: bool = False, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a peer on the server's core until the block ends.

    Args:
        peer: What to run.
        compresses: Whether it is to agree on permessage-deflate.
        variables: Added to its environment.

    Raises:
        RuntimeError: It does not answer within `START_SECONDS_MAX`.
    """
    port = free_port()
    environment = {"PYTHONPATH": str(HERE), "WIREBELL_COMPRESSION": str(compresses).lower()}
    process = subprocess.Popen(
        list_command(peer, port, compresses=compresses),
        env={**os.environ, **environment, **(variables or {})},
        preexec_fn=end_with_parent,
        # `wirebell serve` says there where it answers.
        stdout=subprocess.DEVNULL,
    )
    try:
        os.sched_setaffinity(process.pid, {cores()[0]})
        wait_answering(process, port)
        if peer.configuration:
            wait_response(port)
        yield Server(peer, process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def process_cpu_seconds(pid: int) -> float:
    """Read the CPU time that a process used so far, in user and in kernel mode."""
    # The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Ask the kernel for a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


def wait_response(port: int) -> None:
    """Wait for an answer to a request: `wirebell serve` listens before it has loaded all it needs.

    Raises:
        RuntimeError: There is none.
    """
    with socket.create_connection(("127.0.0.1", port), START_SECONDS_MAX) as probe:
        probe.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        if not probe.recv(1):
            raise RuntimeError("the server closes without an answer")


def chosen_peers(names: str, question: str) -> list[Peer]:
    """Pick those that answer a question, in the order of `PEERS`.

    One that is not installed is left out, aloud.

    Args:
        names: Names of peers, separated by commas; empty: all.
        question: A key of `Peer.paths`.

    Raises:
        SystemExit: A name is unknown, or none is left.
    """
    wanted = [name for name in names.split(",") if name]
    able = [peer for peer in PEERS if question in peer.paths]
    unknown = set(wanted) - {peer.name for peer in able}
    if unknown:
        known = ", ".join(peer.name for peer in able)
        raise SystemExit(f"unknown peers here: {', '.join(sorted(unknown))}; there are: {known}")
    chosen = []
    for peer in able:
        missing = [name for name, found in versions([peer]).items() if not found]
        if wanted and peer.name not in wanted:
            continue
        if missing:
            print(f"left out: {peer.title}, not installed: {', '.join(missing)}", file=sys.stderr)
        else:
            chosen.append(peer)
    if not chosen:
        raise SystemExit("no peer is left; run scripts/environment bench")
    return chosen


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
