"""Faults: do healthy clients notice what broken ones do?

Question: p99 latency of healthy subscribers without and with each fault, deliveries lost and
doubled, what became of the faulty ones, and how long it took.

Method: one child process serves `peers/wirebell_app.py` on Wirebell's classes, pinned to the first
core; this process, on the last one, holds the healthy subscribers, one of which publishes at a
steady rate. Every delivery carries a number, and each subscriber's numbers must rise by one;
latency counts from the moment a publication was due. Faults: (1) subscribers that never read; (2)
a flood of garbage, as fast as one niced process sends it; (3) clients until the server has no more
descriptors, and more that wait; (4) SIGTERM under load; (5) peers in a network namespace whose
link is cut, with and without publications to them. For 3 and 4 the server is run as Wirebell's own
commands run it, and not by uvicorn's command line.

Sketch: nothing is done for a peer that blocks, so 1, 3 and 5 cost a few microseconds per turn.
Each piece of garbage costs what a connection costs, 100 to 300 µs, and the flood keeps the server
busy: p99 grows by some milliseconds, and nobody waits longer than for one turn of the loop.
"""

import argparse
import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rig
from crowd import (
    HOST,
    PATH,
    WAIT_SECONDS,
    Crowd,
    Waiting,
    fill,
    flood,
    in_process,
    open_sockets,
    receive,
    reset,
)
from servers import (
    PEERS,
    Server,
    end_with_parent,
    free_port,
    list_command,
    versions,
    wait_answering,
)

__all__ = ("create_app", "main", "serve_as_commands_do")

GONE_SECONDS_MAX = 60.0
"""Bound of the wait until a fault is over."""
FILL_SECONDS_MAX = 120.0
"""Bound of opening 20,000 connections."""
CLASSES = ("--ws", "wirebell.uvicorn:WebSocketProtocol", "--http", "wirebell.uvicorn:HTTPProtocol")
OPTIONS = (*CLASSES, "--log-level", "warning", "--factory")
PEER = replace(
    next(peer for peer in PEERS if peer.name == "wirebell"),
    application="faults:create_app",
    options=OPTIONS,
)
SLOW = 3008
CLONE_NEWNET = 0x40000000
SERVER_ADDRESS, PEER_ADDRESS = "10.113.0.1", "10.113.0.2"
Row = dict[str, Any]


def create_app() -> Any:
    """Make the application of all benchmarks, with its metrics; for ``uvicorn --factory``."""
    from peers.wirebell_app import app, rt

    rt.mount(app, "/realtime")
    return app


def serve_as_commands_do(port: int) -> None:
    """Serve until a signal comes, as Wirebell's own commands do."""
    import uvicorn

    from wirebell.logs import log_config
    from wirebell.server import compute_drain_seconds, create_listener, raise_file_limit, serve
    from wirebell.settings import Settings

    settings = Settings()
    config = uvicorn.Config(
        "faults:create_app",
        factory=True,
        loop="uvloop",
        lifespan="on",
        http="wirebell.uvicorn:HTTPProtocol",
        ws="wirebell.uvicorn:WebSocketProtocol",
        ws_ping_interval=None,
        access_log=False,
        log_config=log_config(),
        timeout_graceful_shutdown=compute_drain_seconds(settings),
    )
    raise_file_limit(settings.connections_max, settings.descriptors_spare)
    timeout = settings.tcp_user_timeout_seconds
    listener = create_listener(HOST, port, backlog=2048, tcp_user_timeout_seconds=timeout)
    serve(config, listener, descriptors_spare=settings.descriptors_spare)


@dataclass(frozen=True, slots=True)
class Subject(Server):
    """The server under test, with its process and its log."""

    process: subprocess.Popen[bytes]
    log_path: Path

    def log_lines(self, text: str = "") -> int:
        """Count the lines of the log that hold a text."""
        return sum(text in line for line in self.log_path.read_text().splitlines())

    def descriptors(self) -> int:
        """Count what the process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def metric(self, name: str) -> int:
        """Read a metric; 0 when there is none of that name."""
        url = f"http://{HOST}:{self.port}/realtime/metrics"
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            text = answer.read().decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0


@contextlib.contextmanager
def run_subject(
    env: Mapping[str, str] | None = None,
    *,
    is_own: bool = False,
    descriptors: int = 0,
    host: str = HOST,
) -> Iterator[Subject]:
    """Run the server until the block ends.

    Args:
        env: Settings, without the prefix ``WIREBELL_``.
        is_own: As Wirebell's own commands do, instead of uvicorn's command line.
        descriptors: How many it may open; 0: as many as this process.
        host: Where it listens; 127.0.0.1 must be among it.

    Raises:
        RuntimeError: It does not answer in time.
    """
    port = free_port()
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(port)]
    if not is_own:
        command = list_command(
            replace(PEER, options=(*OPTIONS, "--host", host)), port, compresses=False
        )
    settings = {f"WIREBELL_{key}": value for key, value in (env or {}).items()}

    def prepare() -> None:
        end_with_parent()
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with tempfile.NamedTemporaryFile(prefix="wirebell-faults-") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(rig.HERE)} | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
        )
        try:
            os.sched_setaffinity(process.pid, {rig.cores()[0]})
            wait_answering(process, port)
            yield Subject(PEER, process.pid, port, process, Path(log.name))
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the faults are, and how long each phase is, in seconds."""

    scale: int = 1
    seconds: float = 8.0


def finish(
    name: str, crowd: Crowd, p99s: tuple[float, float], faulty: str, seconds: float, **more: object
) -> Row:
    """Make a row of the table."""
    return {
        "fault": name,
        "healthy": len(crowd.readers),
        "p99_without_ms": p99s[0],
        "p99_with_ms": p99s[1],
        "lost": crowd.count_lost(),
        "doubled": crowd.doubled,
        "faulty": faulty,
        "seconds": round(seconds, 2),
        "publications": len(crowd.published_at),
        **more,
    }


def stall(plan: Plan) -> list[Row]:
    """Have every tenth of 1,000 subscribers read nothing."""
    count = 100 // plan.scale
    env = {"SEND_QUEUE_BYTES_MAX": str(1_048_576 // plan.scale)}
    with run_subject(env) as subject, Crowd(subject.port, 9 * count, 20, 16_384) as crowd:
        without = crowd.run(plan.seconds)
        before = subject.descriptors()
        start = time.perf_counter()
        stalled = open_sockets((HOST, subject.port), count, receive_buffer_bytes=4096)
        with_fault = crowd.run(GONE_SECONDS_MAX, lambda: subject.descriptors() <= before)
        seconds = time.perf_counter() - start
        crowd.settle()
        left = subject.descriptors() - before
        cut = subject.metric(f'wirebell_disconnects_total{{code="{SLOW}"}}')
        reset(stalled)
        faulty = f"{cut} cut with {SLOW}, {count - cut - left} dropped by the kernel, {left} left"
        return [
            finish(
                f"{count} of {10 * count:,} never read",
                crowd,
                (without, with_fault),
                faulty,
                seconds,
            )
        ]


def garbage(plan: Plan) -> list[Row]:
    """Have 200 connections at a time send random bytes."""
    count = 200 // plan.scale
    with (
        run_subject({"REQUEST_TIMEOUT_SECONDS": "1"}) as subject,
        Crowd(subject.port, count, 50) as crowd,
    ):
        without = crowd.run(plan.seconds)
        memory, before = subject.memory_bytes(), subject.descriptors()
        with in_process(flood, subject.port, count) as orders:
            cpu, start = subject.cpu_seconds(), time.perf_counter()
            with_fault = crowd.run(plan.seconds * 2)
            seconds = time.perf_counter() - start
            cpu = subject.cpu_seconds() - cpu
            orders.send("stop")
            tally: Counter[str] = receive(orders)
        crowd.settle()
        crowd.run(WAIT_SECONDS, lambda: subject.descriptors() <= before, publishes=False)
        left = subject.descriptors() - before
        counts = ", ".join(f"{key} {value:,}" for key, value in sorted(tally.items()))
        return [
            finish(
                f"garbage, {count} at a time",
                crowd,
                (without, with_fault),
                f"{counts}; {left} left",
                seconds,
                garbage_per_second=round(sum(tally.values()) / seconds),
                server_cpu=round(cpu / seconds, 2),
                memory_growth_bytes=subject.memory_bytes() - memory,
                log_lines=subject.log_lines(),
                tracebacks=subject.log_lines("Traceback"),
            )
        ]


def exhaust(plan: Plan) -> list[Row]:
    """Fill all descriptors of the server but ten."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = min(20_000, hard) // plan.scale
    if limit * plan.scale < 20_000:
        print(f"descriptors: {limit:,} instead of 20,000, because ulimit -Hn is {hard:,}")
    spare, extra = 10, 500 // plan.scale
    env = {"DESCRIPTORS_SPARE": str(spare), "PING_INTERVAL_SECONDS": "3600"}
    with (
        run_subject(env, is_own=True, descriptors=limit) as subject,
        Crowd(subject.port, 200 // plan.scale, 50) as crowd,
    ):
        without = crowd.run(plan.seconds)
        # The last forty are among those who wait: what the server has open is its own affair.
        count = limit - spare - subject.descriptors() - 40
        with in_process(fill, subject.port, count) as orders:
            crowd.run(FILL_SECONDS_MAX, orders.poll)
            receive(orders)
            waiting = Waiting(subject.port, extra + 40)
            with_fault = crowd.run(plan.seconds, waiting.is_over)
            used, queued = subject.descriptors(), len(waiting.waiting)
            cpu = subject.cpu_seconds()
            time.sleep(2.0)
            cpu = subject.cpu_seconds() - cpu
            start = time.perf_counter()
            orders.send(extra + 200 // plan.scale)
            crowd.run(GONE_SECONDS_MAX, waiting.is_over)
            seconds = time.perf_counter() - start
            crowd.settle()
            served = queued - len(waiting.waiting) - waiting.refused
            reset(waiting.sockets)
        return [
            finish(
                f"{used:,} of {limit:,} descriptors",
                crowd,
                (without, with_fault),
                f"{queued} waited, {served} of them got in when others left, "
                f"{waiting.refused} were refused",
                seconds,
                cpu_percent_while_full=round(cpu / 2.0 * 100, 1),
                log_lines_of_shortage=subject.log_lines("file descriptors that the system"),
                log_lines_of_end=subject.log_lines("file descriptors are free again"),
            )
        ]


def terminate(plan: Plan) -> list[Row]:
    """Send SIGTERM while publications flow to 10,000."""
    count = 10_000 // plan.scale
    window = 5.0 if plan.scale == 1 else 2.0
    with (
        run_subject({"DRAIN_WINDOW_SECONDS": str(window)}, is_own=True) as subject,
        Crowd(subject.port, count, 2) as crowd,
    ):
        without = crowd.run(plan.seconds)
        subject.process.send_signal(signal.SIGTERM)
        start = time.perf_counter()
        with_fault = crowd.run(GONE_SECONDS_MAX, lambda: crowd.open_count == 0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            subject.process.wait(WAIT_SECONDS)
        seconds, status = time.perf_counter() - start, subject.process.poll()
        codes = Counter(reader.code for reader in crowd.readers.values())
        times = [int(r.closed_at - start) for r in crowd.readers.values() if r.closed_at]
        histogram = [times.count(second) for second in range(max(times, default=0) + 1)]
        told = ", ".join(
            f"{number:,} closed {code or 'without a word'}" for code, number in codes.items()
        )
        spread = ", ".join(f"{number:,}" for number in histogram)
        return [
            finish(
                f"SIGTERM with {count:,} open",
                crowd,
                (without, with_fault),
                f"{told}; by second: {spread}; {crowd.open_count} left; exit status {status}",
                seconds,
                closes_by_second=histogram,
                exit_status=status,
                left=crowd.open_count,
                window_seconds=window,
            )
        ]


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Make two network namespaces with a link between them; both are gone when the block ends."""
    mine = f"wirebell-{os.getpid()}"
    names = near, far = f"{mine}-server", f"{mine}-peer"
    with contextlib.ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", near, "link", "add", "ws0", "type", "veth", "peer", "name", "ws1", "netns", far)
        for name, end, address in ((near, "ws0", SERVER_ADDRESS), (far, "ws1", PEER_ADDRESS)):
            ip("-n", name, "addr", "add", f"{address}/30", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield names


def ip(*words: str) -> None:
    """Run the program that configures networks."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=WAIT_SECONDS)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have sockets and processes of this thread begin in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


VANISHINGS = (
    (
        "while publications flow",
        PATH,
        {"TCP_USER_TIMEOUT_SECONDS": "3", "PING_INTERVAL_SECONDS": "60"},
    ),
    (
        "idle",
        "/echo",
        {
            "TCP_USER_TIMEOUT_SECONDS": "60",
            "PING_INTERVAL_SECONDS": "4",
            "PONG_TIMEOUT_SECONDS": "2",
        },
    ),
)


def vanish(plan: Plan) -> list[Row]:
    """Cut the link to 50 peers."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("left out: peers that vanish; network namespaces need root and ip(8)")
        return []
    rows = []
    for title, path, env in VANISHINGS:
        try:
            rows.append(vanish_once(plan, title, path, env))
        except subprocess.CalledProcessError as error:
            print(f"left out: peers that vanish {title}: {error.stderr.decode().strip()}")
    return rows


def vanish_once(plan: Plan, title: str, path: str, env: Mapping[str, str]) -> Row:
    """Cut the link in one situation."""
    count, healthy = 50 // plan.scale, 200 // plan.scale
    with (
        two_namespaces() as (near, far),
        inside(near),
        run_subject(env, host="0.0.0.0") as subject,
        Crowd(subject.port, healthy, 50) as crowd,
    ):
        without = crowd.run(plan.seconds)
        with inside(far):
            peers = open_sockets((SERVER_ADDRESS, subject.port), count, path)
        crowd.run(0.5)
        before = subject.descriptors() - count
        ip("-n", far, "link", "set", "ws1", "down")
        start = time.perf_counter()
        with_fault = crowd.run(GONE_SECONDS_MAX, lambda: subject.descriptors() <= before)
        seconds = time.perf_counter() - start
        crowd.settle()
        left = subject.metric("wirebell_connections_count") - crowd.open_count
        reset(peers)
        settings = ", ".join(f"WIREBELL_{key}={value}" for key, value in env.items())
        return finish(
            f"{count} vanish, {title}",
            crowd,
            (without, with_fault),
            f"{count - left} forgotten, {left} left",
            seconds,
            settings=settings,
        )


FAULTS: dict[str, Callable[[Plan], list[Row]]] = {
    "stall": stall,
    "garbage": garbage,
    "descriptors": exhaust,
    "sigterm": terminate,
    "vanish": vanish,
}


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, and what else was found beneath each."""
    print(
        f"\n{'fault':<34} {'healthy':>7} {'p99 ms':>7} {'with it':>7} {'lost':>5} {'doubled':>7} "
        f"{'time s':>7}"
    )
    shown = {"fault", "healthy", "p99_without_ms", "p99_with_ms", "lost", "doubled", "seconds"}
    for row in rows:
        print(
            f"{row['fault']:<34} {row['healthy']:>7,} {row['p99_without_ms']:>7.1f} "
            f"{row['p99_with_ms']:>7.1f} {row['lost']:>5} {row['doubled']:>7} "
            f"{row['seconds']:>7.1f}"
        )
        for key, value in row.items():
            if key not in shown:
                print(f"    {key}: {value}")


def main() -> None:
    """Run the faults that the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("faults", nargs="*", help=f"which (default: all): {', '.join(FAULTS)}")
    parser.add_argument("--quick", action="store_true", help="a smoke run at a tenth of the size")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/faults.json)")
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_as_commands_do(arguments.serve)
        return
    if unknown := set(arguments.faults) - set(FAULTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(FAULTS)}")
    # So that namespaces and servers are cleared away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rig.fits_descriptors(0)
    os.sched_setaffinity(0, {rig.cores()[1]})
    plan = Plan(scale=10, seconds=1.0) if arguments.quick else Plan()
    rows: list[Row] = []
    for name, run in FAULTS.items():
        if not arguments.faults or name in arguments.faults:
            print(f"{name} ...", flush=True)
            rows += run(plan)
    print_table(rows)
    if arguments.out or not arguments.quick:
        method = {"scale": plan.scale, "seconds": plan.seconds}
        body = {"method": method, "uvicorn": " ".join(OPTIONS), "cells": rows}
        rig.write_results("faults", versions([PEER]), body, arguments.out)
    if any(row["lost"] or row["doubled"] for row in rows):
        sys.exit("healthy clients were harmed")


if __name__ == "__main__":
    main()
