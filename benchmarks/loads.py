"""The loads: the C programs that drive a server, each as a child process on the load's core.

Strategy: a load prints one JSON line per fact and exits with 1 when anything is not as expected,
after one line on stderr. It ends with this process and with its own alarm.
"""

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Self

from rig import HERE, LIFETIME_SECONDS_MAX, compile_program, cores
from servers import LIMIT, PROTOCOL, Server, run_server
from wirebell.tokens import TokenKeys, create_connection_token

__all__ = (
    "LoadFailed",
    "Swarm",
    "create_tokens",
    "measure_echoes",
    "measure_opening",
    "talk",
    "write_lines",
)

TOKEN_SECONDS = 3600.0
ROOM = "room:bench"

# What a browser would send, so that there are headers to read.
HEADERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br",
    "Cookie: session=ann; theme=dark",
    "Cache-Control: no-cache",
)


class LoadFailed(RuntimeError):
    """Something was not as expected, or took too long; the message is what the load said.

    Attributes:
        rounds: What was measured before.
    """

    def __init__(self, reason: str, rounds: Sequence[dict[str, float]] = ()) -> None:
        super().__init__(reason)
        self.rounds = list(rounds)


def start(
    name: str, options: Mapping[str, object], headers: Sequence[str]
) -> subprocess.Popen[str]:
    """Start a load on its core."""
    command = [str(compile_program(name))]
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    for header in headers:
        command += ["--header", header]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    os.sched_setaffinity(process.pid, {cores()[1]})
    return process


def run(name: str, options: Mapping[str, object]) -> dict[str, float]:
    """Run a load to its end, as a browser; returns its one line.

    Raises:
        LoadFailed: It failed.
    """
    process = start(name, options, HEADERS)
    try:
        output, errors = process.communicate()
    finally:
        process.kill()
    if process.returncode:
        raise LoadFailed(read_reason(errors))
    found: dict[str, float] = json.loads(output)
    return found


def read_reason(errors: str) -> str:
    """Take what a load said before it ended: one line, after its name."""
    lines = errors.splitlines() or ["it ended without a word"]
    return lines[-1].partition(": ")[2] or lines[-1]


def measure_opening(
    server: Server, question: str, *, concurrency: int, measure_ms: int, gets: bool = False
) -> dict[str, float]:
    """Measure one round of opening connections; keys as `opener.c` prints them.

    Args:
        server: Whom to load.
        question: Whose path to ask for.
        concurrency: Connections in connect or handshake at a time.
        measure_ms: Length of the round, in milliseconds.
        gets: Ask for a page instead of an upgrade.

    Raises:
        LoadFailed: A connection was refused.
    """
    options = {
        "port": server.port,
        "path": server.peer.paths[question],
        "concurrency": concurrency,
        "measure-ms": measure_ms,
        "get": int(gets),
        "server-pid": server.pid,
    }
    return run("opener", options)


def measure_echoes(
    server: Server, *, connections: int, measure_ms: int, rate: int = 0
) -> dict[str, float]:
    """Measure one round of echoes; keys as `echoes.c` prints them.

    Args:
        server: Whom to load.
        connections: How many, 1 or more.
        measure_ms: Length of the counted part, in milliseconds.
        rate: Messages per second, whatever the server does; 0: as many as it answers.

    Raises:
        LoadFailed: An echo was wrong or missing.
    """
    options = {
        "port": server.port,
        "path": server.peer.paths["echo"],
        "connections": connections,
        "rate": rate,
        "measure-ms": measure_ms,
        "server-pid": server.pid,
    }
    return run("echoes", options)


def create_tokens(count: int) -> list[str]:
    """Sign connection tokens for ``count`` users, as the peer of the client protocol takes them."""
    path = HERE / "peers" / PROTOCOL.configuration
    secret = json.loads(path.read_text())["client"]["token"]["hmac_secret_key"]
    keys = TokenKeys(hmac_secret_key=secret)
    now = time.time()
    return [
        create_connection_token(keys, f"user-{number}", now, ttl_seconds=TOKEN_SECONDS)
        for number in range(count)
    ]


@contextmanager
def write_lines(lines: Sequence[str]) -> Iterator[str]:
    """Write lines into a file that goes with the block; gives its path."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        yield file.name


def talk(
    server: Server,
    question: str,
    clients: int,
    options: Mapping[str, object],
    *,
    path: str = "protocol",
    seconds_max: float = LIFETIME_SECONDS_MAX,
) -> list[dict[str, float]]:
    """Run `talkers.c` to its end, each of its clients with a token of its own.

    Args:
        server: Whom to load.
        question: `publish`, `open` or `recover`.
        clients: How many tokens are needed.
        options: The program's others.
        path: What path of the peer is asked for.
        seconds_max: For everything; then it has failed.

    Returns:
        One dictionary for each round, with the keys that it prints.

    Raises:
        LoadFailed: Something was not as expected, for one a lost or doubled publication.
    """
    with write_lines(create_tokens(clients)) as tokens:
        given = {
            "question": question,
            "port": server.port,
            "path": server.peer.paths[path],
            "dialect": server.peer.dialect,
            "tokens": tokens,
            "server-pid": server.pid,
            **options,
        }
        process = start("talkers", given, HEADERS)
        try:
            output, errors = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"not done in {seconds_max:.0f} s") from None
        finally:
            process.kill()
    if process.returncode:
        raise LoadFailed(read_reason(errors))
    return [json.loads(line) for line in output.splitlines()]


class Swarm:
    """The load on a room: N connections, ready when the object is; see `swarm.c`.

    State: the child process. Use it as a context manager, from one thread; it ends with the block.

    Args:
        server: Whom to load; with a peer of the client protocol every connection shows a token and
            subscribes to one channel with presence.
        connections: How many, 1 or more.
        question: What path of the peer is asked for.
        windows: Publications in flight, one number per round, in the order of the rounds.
        measure_ms: Length of the counted part of a round, in milliseconds.
        hold_seconds: How long at most the connections stay open after the rounds; 0: not at all.
        payload_bytes: Length of a publication.
        has_rows: Whether a publication is rows of JSON instead of a filler.
        compresses: Whether to offer permessage-deflate.
        reader: Another node of the same peer, to which all connect but the publisher.
        broker_pid: What joins the two; 0 for nothing.
        seconds_max: For everything; then it has failed.

    Raises:
        LoadFailed: A connection could not be opened.
    """

    def __init__(
        self,
        server: Server,
        connections: int,
        *,
        question: str = "room",
        windows: Sequence[int] = (),
        measure_ms: int = 1000,
        hold_seconds: int = 0,
        payload_bytes: int = 116,
        has_rows: bool = False,
        compresses: bool = False,
        reader: Server | None = None,
        broker_pid: int = 0,
        seconds_max: float = LIFETIME_SECONDS_MAX,
    ) -> None:
        options: dict[str, object] = {
            "port": server.port,
            "path": server.peer.paths[question],
            "dialect": server.peer.dialect,
            "connections": connections,
            "measure-ms": measure_ms,
            "warm-ms": measure_ms * 3 // 10,
            "hold": hold_seconds,
            "payload-bytes": payload_bytes,
            "payload": "rows" if has_rows else "filler",
            "deflate": int(compresses),
            "server-pid": server.pid,
            "broker-pid": broker_pid,
        }
        if reader is not None:
            options |= {"reader-port": reader.port, "reader-pid": reader.pid}
        if windows:
            options["windows"] = ",".join(map(str, windows))
        is_protocol = server.peer.dialect == "protocol"
        with write_lines(create_tokens(connections if is_protocol else 0)) as tokens:
            if is_protocol:
                options |= {"channel": ROOM, "tokens": tokens}
            self._start(options, seconds_max)

    def _start(self, options: Mapping[str, object], seconds_max: float) -> None:
        """Start the process, and wait until its connections are open."""
        self._process = start("swarm", options, ())
        self._seconds_max = seconds_max
        self._is_late = False
        self._deadline = threading.Timer(seconds_max, self._give_up)
        self._deadline.daemon = True
        self._deadline.start()
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
            LoadFailed: Something was not as expected, for one a lost or doubled delivery.
        """
        output: IO[str] = self._process.stdout  # type: ignore[assignment]
        found = []
        for line in output:
            found.append(json.loads(line))  # noqa: PERF401 - what came before a failure counts
        if self._process.wait():
            raise LoadFailed(self._reason(), found)
        return found

    def check_open(self) -> None:
        """Check that the connections are still open.

        Raises:
            LoadFailed: The swarm has ended before its time.
        """
        if self._process.poll() is not None:
            raise LoadFailed(self._reason())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(self._reason())
        found: dict[str, Any] = json.loads(line)
        return found

    def _reason(self) -> str:
        """Say why the process has ended."""
        assert self._process.stderr is not None
        if self._is_late:
            return f"not done in {self._seconds_max:.0f} s"
        return read_reason(self._process.stderr.read())

    def _give_up(self) -> None:
        """End a process that takes too long; runs in the timer's thread."""
        self._is_late = True
        self._process.kill()

    def _end(self) -> None:
        """End the process; its connections close by its end."""
        self._deadline.cancel()
        self._process.kill()
        self._process.communicate()


def measure_send_limit(
    *, subscribers: int = 1000, rounds: int = 3, measure_ms: int = 1000
) -> float:
    """Measure what the kernel allows at this hour: deliveries/s of the C `send()` loop.

    One publication in flight; the median of the rounds. What other questions find is quoted as a
    share of it.
    """
    with (
        run_server(LIMIT) as server,
        Swarm(server, subscribers, windows=(1,) * rounds, measure_ms=measure_ms) as swarm,
    ):
        rates = [each["deliveries_per_second"] for each in swarm.rounds()]
    return statistics.median(rates)
