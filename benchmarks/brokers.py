"""Brokers: what does it cost that a publication passes through one, on one node and on two?

Question: through each broker, and through other libraries with Redis: round trips per second of
100 clients that each publish to a channel of their own and wait for what they published, without
and with history; the same when they hear it on a second node, which is also the latency that a
broker adds, one publication at a time; deliveries per second to a room of 1,000 on another node;
publications per second of one process; and the CPU time of nodes and broker for it.

Method: the nodes are on the first core, also where they are two; load and broker share the last.
`talkers.c` is the load of `commands`: each client has a token, the permission is asked with every
publication, the channel keeps presence, and everything must come back once. Over two nodes it
publishes on the first one and hears on the second; `swarm.c` holds the room, its publisher on the
first node. `peers/publishing.py` publishes from inside a process, so many at once, where nobody
listens. A library without history or tokens is asked without; none of them sends a reply besides
the publication. A cell is the median of the rounds. The C `send()` loop runs before each broker,
and `of C` is the share of the median of its deliveries/s: compare that between machines.

Sketch: beside the round trip of `commands`, 10 to 12 µs of the node's core, Redis takes a record
to write and one to read (3 µs), and its share of a script call (2 µs): two thirds of the rate.
The call itself, 100 µs, is shared by all that gathered. Over two nodes, one at a time, it is
that call, one message of pub/sub, and the wake-ups of four processes: 0.3 to 0.5 ms. What waits
for a disk waits once for each batch.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rig
from broker_servers import (
    BrokerMissing,
    BrokerServer,
    family_cpu_seconds,
    find_versions,
    run_broker,
)
from loads import LoadFailed, Swarm, measure_send_limit, talk
from servers import ASGI, PROTOCOL, Peer, Server, end_with_parent, run_server, versions

__all__ = ("main",)

TITLES = {
    "own": "own channel",
    "own_history": "own channel, history",
    "across": "own channel, two nodes",
    "room": "room on another node",
    "publish": "publish from inside",
}
"""What is asked → what the table says."""

SECONDS_MAX = 45.0
"""What a question may take; the longest has eight seconds of rounds, the rest is for slow peers."""

MEDIANS = ("per_second", "p50_ms", "p99_ms", "server_cpu", "reader_cpu", "broker_cpu", "load_cpu")
METHOD = ("windows", "rounds", "measure_ms", "payload_bytes", "room", "room_window")


@dataclass(frozen=True, slots=True)
class Subject:
    """A broker of ours, or another library with its own.

    Attributes:
        name: Key in the JSON.
        title: What the tables say.
        peer: What runs on each node; its paths are `own`, `publisher` (which hears nothing) and
            `room`.
        broker: What joins them; a name of `broker_servers`.
        variable: Of the environment, that says where that is.
        module: Publishes from inside a process.
        has_history: Whether its channels can keep what is published.
        waits: Whether its broker waits for a disk, and nobody is busy meanwhile.
    """

    name: str
    title: str
    peer: Peer
    broker: str = "redis"
    variable: str = "REDIS_URL"
    module: str = ""
    has_history: bool = False
    waits: bool = False


def create_own(name: str, title: str, *packages: str, waits: bool = False) -> Subject:
    """Describe one of Wirebell's brokers."""
    path = PROTOCOL.paths["protocol"]
    peer = replace(
        PROTOCOL,
        paths={"own": path, "publisher": path, "room": path},
        packages=(*PROTOCOL.packages, *packages),
    )
    module = "peers.wirebell_publisher"
    variable = "WIREBELL_BROKER_URL"
    return Subject(name, title, peer, name, variable, module, has_history=True, waits=waits)


def create_peer(
    name: str, title: str, module: str, *packages: str, path: str = "/?", dialect: str = "text"
) -> Subject:
    """Describe another library, which runs as an application of uvicorn."""
    paths = {
        "own": f"{path}room=own-{{}}&joins=1",
        "publisher": f"{path}room=own-{{}}&joins=0",
        "room": f"{path}room=bench&joins=1",
    }
    application = f"{module}:app"
    packages = (*packages, "redis", "hiredis", *ASGI)
    peer = Peer(
        name, title, application=application, paths=paths, dialect=dialect, packages=packages
    )
    return Subject(name, title, peer, module=module)


SUBJECTS = (
    create_own("memory", "Wirebell, memory"),
    create_own("sqlite", "Wirebell, SQLite"),
    create_own("redis", "Wirebell, Redis", "redis", "hiredis"),
    create_own("nats", "Wirebell, NATS"),
    create_own("postgresql", "Wirebell, PostgreSQL", "asyncpg", waits=True),
    create_peer(
        "socketio",
        "python-socketio, Redis",
        "peers.socketio_redis_app",
        *("python-socketio", "python-engineio"),
        path="/socket.io/?EIO=4&transport=websocket&",
        dialect="socketio",
    ),
    create_peer(
        "django_channels",
        "Channels, channels_redis",
        "peers.channels_redis_app",
        *("channels", "channels-redis", "django"),
    ),
    create_peer(
        "broadcaster",
        "broadcaster, Redis",
        "peers.broadcaster_app",
        *("broadcaster", "starlette"),
    ),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        windows: Clients with a publication in flight; the last also publishes from inside.
        rounds: Rounds per cell, 1 or more; the median counts.
        measure_ms: Length of a round, in milliseconds, after a warm-up of 3/10 of it.
        payload_bytes: Length of a publication.
        room: Subscribers of a room.
        room_window: Its publications in flight.
    """

    windows: tuple[int, ...] = (1, 100)
    rounds: int = 3
    measure_ms: int = 1500
    payload_bytes: int = 116
    room: int = 1000
    room_window: int = 8


QUICK = Plan(windows=(1, 8), rounds=1, measure_ms=100, room=20)
# Starting the processes of all subjects alone takes a minute.
QUICK_SUBJECTS = "memory,redis,socketio"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a question is put to: one node of a subject or two, and the broker between them."""

    subject: Subject
    plan: Plan
    broker: BrokerServer
    node: Server
    reader: Server | None = None

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment of a process that joins them."""
        return {self.subject.variable: self.broker.url}

    def ask(self, channel: str, windows: Sequence[int]) -> list[dict[str, float]]:
        """Run the rounds of clients that each publish to their own channel.

        Raises:
            LoadFailed: A publication was lost, doubled, changed or late.
        """
        plan = self.plan
        options: dict[str, object] = {
            "channel": channel,
            "measure-ms": plan.measure_ms,
            "warm-ms": plan.measure_ms * 3 // 10,
            "payload-bytes": plan.payload_bytes,
            # Rounds of one cell stand apart, so that a noisy second does not hit all of them.
            "windows": ",".join(map(str, [*windows] * plan.rounds)),
            "broker-pid": self.broker.pid,
        }
        path = "own"
        if self.reader is not None:
            path = "publisher"
            options |= {
                "reader-port": self.reader.port,
                "reader-path": self.reader.peer.paths["own"],
                "reader-pid": self.reader.pid,
            }
        return talk(self.node, "publish", max(windows), options, path=path, seconds_max=SECONDS_MAX)


def ask_own(stage: Stage) -> list[dict[str, float]]:
    """One node, without history."""
    windows = stage.plan.windows[-1:] if stage.subject.has_history else stage.plan.windows
    return stage.ask("room:own-", windows)


def ask_own_history(stage: Stage) -> list[dict[str, float]]:
    """One node, with history."""
    return stage.ask("log:own-", stage.plan.windows)


def ask_across(stage: Stage) -> list[dict[str, float]]:
    """Two nodes, with history where there is one."""
    return stage.ask("far:own-", stage.plan.windows)


def ask_room(stage: Stage) -> list[dict[str, float]]:
    """A room on the second node, published to on the first."""
    plan = stage.plan
    with Swarm(
        stage.node,
        plan.room,
        question="room",
        windows=(plan.room_window,) * plan.rounds,
        measure_ms=plan.measure_ms,
        payload_bytes=plan.payload_bytes,
        reader=stage.reader,
        broker_pid=stage.broker.pid,
        seconds_max=SECONDS_MAX,
    ) as swarm:
        return [each | {"per_second": each["deliveries_per_second"]} for each in swarm.rounds()]


def publish_inside(subject: Subject, plan: Plan, broker: BrokerServer) -> list[dict[str, float]]:
    """Publish from inside a process.

    Raises:
        LoadFailed: It failed.
    """
    words = [sys.executable, "-m", "peers.publishing", subject.module]
    numbers = (plan.windows[-1], plan.rounds, plan.measure_ms, plan.payload_bytes)
    process = subprocess.Popen(
        [*words, *map(str, numbers)],
        env=os.environ | {"PYTHONPATH": str(rig.HERE), subject.variable: broker.url},
        preexec_fn=end_with_parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(process.pid, {rig.cores()[0]})
    assert process.stdout is not None
    found: list[dict[str, float]] = []
    began_at = cpu = 0.0
    try:
        for line in process.stdout:
            values: dict[str, float] = json.loads(line)
            if "begins" in values:
                began_at, cpu = time.monotonic(), family_cpu_seconds(broker.pid)
                continue
            seconds = time.monotonic() - began_at
            share = (family_cpu_seconds(broker.pid) - cpu) / seconds
            nothing = {"p50_ms": 0.0, "p99_ms": 0.0, "reader_cpu": 0.0, "load_cpu": 0.0}
            found.append(values | nothing | {"broker_cpu": share})
    finally:
        process.kill()
        _, errors = process.communicate()
    if len(found) < plan.rounds:
        # The last of a group of errors, which are drawn as a tree.
        told = [line.strip(" |+-") for line in errors.splitlines() if ": " in line]
        raise LoadFailed((told or ["it ended without a word"])[-1])
    return found


Ask = Callable[[Stage], list[dict[str, float]]]
ON_ONE: Mapping[str, Ask] = {"own": ask_own, "own_history": ask_own_history}
ON_TWO: Mapping[str, Ask] = {"across": ask_across, "room": ask_room}


class Run:
    """One subject's cells, gathered question by question.

    State: the cells so far.
    """

    def __init__(self, subject: Subject, plan: Plan, questions: Sequence[str]) -> None:
        self.subject = subject
        self.plan = plan
        self.questions = questions
        self.cells: list[dict[str, Any]] = []

    def measure(self) -> list[dict[str, Any]]:
        """Ask everything.

        Raises:
            BrokerMissing: Its broker is not installed.
        """
        subject, plan = self.subject, self.plan
        with run_broker(subject.broker) as broker:
            if any(map(self._is_asked, [*ON_ONE, *ON_TWO])):
                with self._noting("own"):
                    self._measure_nodes(broker)
            if self._is_asked("publish"):
                self._ask("publish", lambda: publish_inside(subject, plan, broker))
        return self.cells

    def _measure_nodes(self, broker: BrokerServer) -> None:
        """Ask one node, and then two."""
        variables = {self.subject.variable: broker.url}
        with run_server(self.subject.peer, variables=variables) as node:
            stage = Stage(self.subject, self.plan, broker, node)
            self._ask_all(ON_ONE, stage)
            if any(map(self._is_asked, ON_TWO)):
                with run_server(self.subject.peer, variables=variables) as reader:
                    self._ask_all(ON_TWO, replace(stage, reader=reader))

    def _ask_all(self, asked: Mapping[str, Ask], stage: Stage) -> None:
        """Ask what is wanted of it."""
        for question, ask in asked.items():
            if self._is_asked(question):
                self._ask(question, lambda ask=ask: ask(stage))  # type: ignore[misc]

    def _is_asked(self, question: str) -> bool:
        """Say whether a question is wanted, and makes sense here."""
        subject = self.subject
        if question == "own_history" and not subject.has_history:
            return False
        return question in self.questions and not (
            question in ON_TWO and subject.broker == "memory"
        )

    def _ask(self, question: str, ask: Callable[[], list[dict[str, float]]]) -> None:
        """Ask one question, and keep its cells."""
        print(f"{self.subject.title}, {TITLES[question]} ...", flush=True)
        with self._noting(question):
            found = ask()
            for window in dict.fromkeys(each["in_flight"] for each in found):
                rounds = [each for each in found if each["in_flight"] == window]
                self.cells.append(self._summarise(question, rounds))

    @contextlib.contextmanager
    def _noting(self, question: str) -> Iterator[None]:
        """Make a cell of what goes wrong, and go on."""
        try:
            yield
        except RuntimeError as error:
            print(f"  {error}", flush=True)
            self.cells.append(self._create_cell(question) | {"failure": str(error)})

    def _create_cell(self, question: str) -> dict[str, Any]:
        """Create a cell without numbers."""
        return {"peer": self.subject.name, "title": self.subject.title, "question": question}

    def _summarise(self, question: str, found: Sequence[dict[str, float]]) -> dict[str, Any]:
        """Make a cell of the rounds with so many in flight."""
        rounds = found if self.subject.waits else rig.fed(found)
        rates = sorted(each["per_second"] for each in rounds)
        cell = self._create_cell(question) | {key: rig.median(rounds, key) for key in MEDIANS}
        nodes_cpu = cell["server_cpu"] + cell["reader_cpu"]
        return cell | {
            "in_flight": round(found[0]["in_flight"]),
            "per_second_range": [rates[0], rates[-1]],
            "nodes_ms_per_1000": round(1e6 * nodes_cpu / cell["per_second"], 1),
            "broker_ms_per_1000": round(1e6 * cell["broker_cpu"] / cell["per_second"], 1),
        }


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, p99 first."""
    print(
        f"\n{'':<25} {'':<23} {'W':>4} {'p99 ms':>8} {'p50 ms':>8} {'per second':>10} {'of C':>6} "
        f" {'slowest to fastest':>19}  {'CPU ms per 1,000':>16}  node  two  broker load"
    )
    for cell in cells:
        start = f"{cell['title']:<25} {TITLES[cell['question']]:<23}"
        if "failure" in cell:
            print(f"{start} {cell['failure']}")
            continue
        slowest, fastest = cell["per_second_range"]
        per_1000 = f"{cell['nodes_ms_per_1000']:,.0f} + {cell['broker_ms_per_1000']:,.0f}"
        print(
            f"{start} {cell['in_flight']:>4} {cell['p99_ms']:>8,.2f} {cell['p50_ms']:>8,.2f} "
            f"{cell['per_second']:>10,.0f} {cell['ratio_to_c']:>6.3f} "
            f" {f'{slowest:,.0f} to {fastest:,.0f}':>19}  {per_1000:>16}  "
            f"{cell['server_cpu']:.2f} {cell['reader_cpu']:.2f} {cell['broker_cpu']:>6.2f} "
            f"{cell['load_cpu']:.2f}"
        )


def choose(names: str) -> list[Subject]:
    """Pick subjects by their names, separated by commas; those that are not installed are left out.

    Raises:
        SystemExit: A name is unknown, or nobody is left.
    """
    wanted = [name for name in names.split(",") if name]
    known = [subject.name for subject in SUBJECTS]
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    chosen = []
    for subject in SUBJECTS:
        if wanted and subject.name not in wanted:
            continue
        missing = [name for name, number in versions([subject.peer]).items() if not number]
        if missing:
            print(f"left out: {subject.title}, not installed: {', '.join(missing)}")
        else:
            chosen.append(subject)
    if not chosen:
        raise SystemExit("nobody is left; run scripts/environment bench")
    return chosen


def measure_all(
    subjects: Sequence[Subject], plan: Plan, questions: Sequence[str]
) -> tuple[float, list[dict[str, Any]]]:
    """Measure subject after subject; returns the rate of the C loop, and their cells."""
    cells: list[dict[str, Any]] = []
    limits: list[dict[str, float]] = []
    for number, subject in enumerate(subjects, 1):
        print(f"[{number}/{len(subjects)}] C send() loop ...", flush=True)
        limit = measure_send_limit(subscribers=plan.room, rounds=1, measure_ms=plan.measure_ms)
        limits.append({"rate": limit})
        try:
            cells += Run(subject, plan, questions).measure()
        except BrokerMissing as error:
            print(f"left out: {subject.title}: {error}")
    limit = rig.median(limits, "rate")  # of an hour that changes
    for cell in cells:
        if "failure" not in cell:
            cell["ratio_to_c"] = round(cell["per_second"] / limit, 3)
    return limit, cells


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    parser.add_argument("--questions", default="", help=f"of {', '.join(TITLES)}")
    arguments = parser.parse_args()
    # So that brokers are stopped and their folders removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = QUICK if arguments.quick else Plan()
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    questions = [name for name in arguments.questions.split(",") if name] or list(TITLES)
    if unknown := set(questions) - set(TITLES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    subjects = choose(arguments.peers or (QUICK_SUBJECTS if arguments.quick else ""))
    rig.fits_descriptors(plan.room)
    limit, cells = measure_all(subjects, plan, questions)
    print_table(cells)
    waiting = {subject.name for subject in subjects if subject.waits}
    rig.warn_starved([cell for cell in cells if cell["peer"] not in waiting])
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in METHOD}
        found = versions([subject.peer for subject in subjects])
        measured = {cell["peer"] for cell in cells}
        found |= find_versions({each.broker for each in subjects if each.name in measured})
        body = {"method": method, "send_limit_per_second": round(limit), "cells": cells}
        rig.write_results("brokers", found, body, arguments.out)


if __name__ == "__main__":
    main()
