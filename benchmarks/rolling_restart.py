"""Rolling restart: who notices that one node after the other is replaced?

Question: of thousands of clients, how many are back within 5 s, how long is each away, what did
they lose or get twice, how many come back in the busiest second, and who seemed to have left.

Method: three nodes of `wirebell serve` behind a TCP balancer (`balancer.py`; it asks `/ready` and
chooses the node with the fewest links), or one `wirebell serve --workers 3`; a broker between them.
Each client (`returning.py`) has a token, is subscribed to one of 100 channels with history and
presence, recovers from its position, and waits 0.5 to 1 s before it comes back, as SDKs do. Numbers
are published over the server API the whole time, by the same balancer; what is not acknowledged is
published again with its idempotency key. Each node in turn gets SIGTERM, drains over its window,
ends, is started again, and the next follows when it answers `/ready`; workers are replaced by
SIGHUP to their parent. Every client must hold every acknowledged number once, in order. Meanwhile
one channel's presence is asked for again and again: the least number of users that it ever had.
The nodes have all cores but the last, which is the broker's, the balancer's and the clients'.

Sketch: 1,000 clients of a node close over 5 s, and each is away for its delay, 0.5 to 1 s, and the
milliseconds of a recovery: all are back within 5 s, about 200 a second at the peak.
"""

import argparse
import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

import rig
from balancer import LOOK_SECONDS, balance, is_ready
from broker_servers import BrokerMissing, run_broker
from crowd import in_process, receive
from loads import create_tokens
from returning import API_KEY, Client, Publisher, Tally, ask
from servers import PROTOCOL, end_with_parent, free_port, versions

__all__ = ("main",)

NODES = 3
CHANNELS = 100
PUBLISHERS = 4
BACK_SECONDS = 5.0
OPENING_AT_ONCE = 64
START_SECONDS_MAX = END_SECONDS_MAX = 60.0
SETTLE_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
BALANCED = "behind a balancer"
WORKERS = f"--workers {NODES}"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        clients: At least one for each channel.
        per_second: Publications in all channels together.
        calm_seconds: Time before the first restart, and after the last.
        window_seconds: Over which a node closes its clients.
    """

    clients: int = 3_000
    per_second: int = 200
    calm_seconds: float = 2.0
    window_seconds: float = 5.0


QUICK = Plan(clients=200, per_second=100, calm_seconds=0.5, window_seconds=0.5)


def server_cores() -> set[int]:
    """Name the cores of everything but the load."""
    return set(rig.USABLE_CORES) - {rig.cores()[1]} or {rig.cores()[0]}


class Served:
    """One `wirebell serve`, which can be started again on its port.

    Mutable state: the process.
    """

    def __init__(self, url: str, plan: Plan, *options: str) -> None:
        self.port = free_port()
        self.command = [sys.executable, "-m", "wirebell", "serve", "--port", str(self.port)]
        self.command += ["--config", str(rig.HERE / "peers" / PROTOCOL.configuration)]
        self.command += ["--log.level", "error", "--health.enabled", f"--broker_url={url}"]
        self.command += [f"--drain_window_seconds={plan.window_seconds}", *options]
        self.start()

    def start(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            self.command,
            env=os.environ | {"WIREBELL_HTTP_API_KEY": API_KEY},
            stdout=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        os.sched_setaffinity(self.process.pid, server_cores())

    async def wait_ready(self) -> None:
        """Wait until it takes connections."""

        async def answers() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"a node ended with status {self.process.returncode}")
            return await is_ready(self.port)

        deadline = time.monotonic() + START_SECONDS_MAX
        while not await answers():
            if time.monotonic() > deadline:
                raise RuntimeError("a node is not ready in time")
            await asyncio.sleep(POLL_SECONDS)

    async def restart(self) -> None:
        """End it, start it, and wait until it takes connections."""
        self.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: self.process.poll() is not None, END_SECONDS_MAX, "a node ends")
        if self.process.returncode:
            raise RuntimeError(f"a node ended with status {self.process.returncode}")
        self.start()
        await self.wait_ready()

    def workers(self) -> set[int]:
        """Name the processes of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {
            int(child)
            for child in path.read_text().split()
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
        }

    async def replace_workers(self) -> None:
        """Have its workers replaced, and wait until none of the old ones is left."""
        old = self.workers()
        self.process.send_signal(signal.SIGHUP)
        most = NODES * END_SECONDS_MAX
        await wait_until(lambda: not old & self.workers(), most, "old workers end")

    def kill(self) -> None:
        """End it at once; workers end with their parent."""
        with contextlib.suppress(ProcessLookupError):
            for child in self.workers() if self.process.poll() is None else ():
                os.kill(child, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


async def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    """Look again and again.

    Raises:
        RuntimeError: It is not so in time.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(POLL_SECONDS)


class Presence:
    """Watches who is in a channel.

    Attributes:
        least: Fewest users that it ever had.
    """

    def __init__(self, port: int, channel: str) -> None:
        self.port, self.channel = port, channel
        self.least = sys.maxsize

    async def run(self) -> None:
        """Ask until cancelled; a question that is not answered is asked again."""
        while True:
            with contextlib.suppress(OSError):
                found = await ask(self.port, "presence_stats", {"channel": self.channel})
                self.least = min(self.least, found.get("num_users", 0))
            await asyncio.sleep(POLL_SECONDS)


async def open_all(clients: Sequence[Client]) -> None:
    """Let everybody in, some at a time."""
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(client: Client) -> None:
        async with gate:
            client.start()
            await client.is_there.wait()

    async with asyncio.timeout(START_SECONDS_MAX):
        await asyncio.gather(*map(open_one, clients))


def name_channel(number: int) -> str:
    """Name the channel of a client."""
    return f"log:rolling-{number % CHANNELS}"


async def load(port: int, nodes: Sequence[Served], plan: Plan) -> Row:
    """Restart the nodes under load; returns what was found."""
    tally = Tally()
    clients = [
        Client(port, token, name_channel(number), tally)
        for number, token in enumerate(create_tokens(plan.clients))
    ]
    channels = [name_channel(number) for number in range(CHANNELS)]
    publishers = [
        Publisher(port, channels[first::PUBLISHERS], PUBLISHERS / plan.per_second)
        for first in range(PUBLISHERS)
    ]
    presence = Presence(port, channels[0])
    for node in nodes:
        await node.wait_ready()
    if len(nodes) > 1:
        # The balancer has heard of it then, too.
        await asyncio.sleep(2 * LOOK_SECONDS)
    await open_all(clients)
    watching = asyncio.create_task(presence.run())
    publishing = [asyncio.create_task(publisher.run()) for publisher in publishers]
    try:
        await asyncio.sleep(plan.calm_seconds)
        began = time.perf_counter()
        if len(nodes) == 1:
            await nodes[0].replace_workers()
        for node in nodes if len(nodes) > 1 else ():
            await node.restart()
            print(f"  {time.perf_counter() - began:4.1f} s: a node is back", flush=True)
        seconds = time.perf_counter() - began
        everybody = [client.is_there for client in clients]
        await wait_until(
            lambda: all(each.is_set() for each in everybody), SETTLE_SECONDS_MAX, "all are back"
        )
        await asyncio.sleep(plan.calm_seconds)
        for publisher in publishers:
            publisher.is_stopped = True
        await asyncio.gather(*publishing)
        lost = await count_lost(clients, publishers)
    finally:
        watching.cancel()
        for task in publishing:
            task.cancel()
        for client in clients:
            client.stop()
    return {
        "lost": lost,
        "acknowledged": sum(sum(each.acknowledged.values()) for each in publishers),
        "repeated": sum(each.repeated for each in publishers),
        "seconds": round(seconds, 1),
        "least_present": presence.least,
        "present": len(clients[::CHANNELS]),
        **describe(tally),
    }


async def count_lost(clients: Sequence[Client], publishers: Sequence[Publisher]) -> int:
    """Count acknowledged publications that somebody does not have, when all had time to come."""
    counts = {name: count for each in publishers for name, count in each.acknowledged.items()}

    def count() -> int:
        return sum(max(counts[client.channel] - client.received, 0) for client in clients)

    with contextlib.suppress(RuntimeError):
        await wait_until(lambda: count() == 0, SETTLE_SECONDS_MAX, "everything has come")
    return count()


def describe(tally: Tally) -> Row:
    """Say what the clients found."""
    absences = sorted(away for _, away in tally.returns)
    times = sorted(at for at, _ in tally.returns)
    first, peak = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        peak = max(peak, last - first + 1)
    within = sum(away <= BACK_SECONDS for away in absences)
    return {
        "returns": len(absences),
        "back_within_5_s": math.floor(1e4 * within / max(len(absences), 1)) / 1e4,
        "away_p50_seconds": round(absences[len(absences) // 2], 2) if absences else 0.0,
        "away_max_seconds": round(absences[-1], 2) if absences else 0.0,
        "returns_per_second_peak": peak,
        "duplicates": tally.duplicates,
        "hidden_gaps": tally.hidden,
        "unrecovered": tally.unrecovered,
        "refused": tally.refused,
        "delivered": tally.delivered,
        "codes": {str(code): count for code, count in sorted(tally.codes.items())},
    }


def measure(broker: str, way: str, plan: Plan) -> Row:
    """Measure one broker, with nodes of their own or with workers."""
    with run_broker(broker) as server, contextlib.ExitStack() as stack:
        if way == WORKERS:
            nodes = [Served(server.url, plan, "--workers", str(NODES))]
        else:
            nodes = [Served(server.url, plan) for _ in range(NODES)]
        for node in nodes:
            stack.callback(node.kill)
        port = nodes[0].port
        if way == BALANCED:
            ports = [node.port for node in nodes]
            port = receive(stack.enter_context(in_process(balance, ports)))
        found = uvloop.run(load(port, nodes, plan))
    return {"broker": broker, "way": way, "nodes": NODES, "clients": plan.clients, **found}


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows."""
    print(
        f"\n{'broker':<8} {'nodes':<18} {'returns':>7} {'in 5 s':>7} {'p50 s':>6} {'max s':>6} "
        f"{'peak/s':>6} {'lost':>4} {'twice':>5} {'hidden':>6} {'least present':>13} {'time s':>6}"
    )
    for row in rows:
        present = f"{row['least_present']} of {row['present']}"
        print(
            f"{row['broker']:<8} {row['way']:<18} {row['returns']:>7,} "
            f"{row['back_within_5_s']:>7.2%} {row['away_p50_seconds']:>6.2f} "
            f"{row['away_max_seconds']:>6.2f} {row['returns_per_second_peak']:>6,} "
            f"{row['lost']:>4} {row['duplicates']:>5} {row['hidden_gaps']:>6} {present:>13} "
            f"{row['seconds']:>6.1f}"
        )
        print(
            f"    codes {row['codes']}, {row['unrecovered']} told of a gap, {row['refused']} "
            f"refused, {row['acknowledged']:,} published, {row['repeated']} of them repeated"
        )


BROKERS = ("sqlite", "redis", "nats", "postgresql")
CELLS = (("sqlite", WORKERS), *((broker, BALANCED) for broker in BROKERS))


def main() -> None:
    """Measure, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, short, not kept")
    parser.add_argument(
        "--broker", nargs="+", choices=BROKERS, default=list(BROKERS), help="which (default: all)"
    )
    parser.add_argument("--clients", type=int, default=0, help=f"default: {Plan().clients:,}")
    parser.add_argument(
        "--out", type=Path, help="JSON file (default: results/rolling_restart.json)"
    )
    arguments = parser.parse_args()
    # So that servers are cleared away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {rig.cores()[1]})
    plan = QUICK if arguments.quick else Plan()
    plan = replace(plan, clients=max(arguments.clients or plan.clients, CHANNELS))
    if not rig.fits_descriptors(2 * plan.clients):
        raise SystemExit(f"{plan.clients:,} clients are above the limit of open files")
    rows = []
    for broker, way in CELLS:
        if broker in arguments.broker:
            print(f"{broker}, {way} ...", flush=True)
            try:
                rows.append(measure(broker, way, plan))
            except BrokerMissing as error:
                print(f"left out: {broker}: {error}")
    print_table(rows)
    if arguments.out or not arguments.quick:
        method = {name: getattr(plan, name) for name in Plan.__slots__}
        body = {"method": {**method, "channels": CHANNELS}, "cells": rows}
        drivers = {name: version(name) for name in ("asyncpg", "nats-py", "redis")}
        rig.write_results("rolling_restart", versions([PROTOCOL]) | drivers, body, arguments.out)
    if any(row["lost"] or row["duplicates"] or row["hidden_gaps"] for row in rows):
        sys.exit("clients were harmed")


if __name__ == "__main__":
    main()
