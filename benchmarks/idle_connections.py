"""Idle connections: what does a connection cost that says nothing?

Question: bytes of server memory for each idle connection, with 2,000 and 19,000 of them, the CPU
time of the server that holds them, and how fast they were opened.

Method: the server runs on one core and first serves 20 connections that leave again, so that
what is loaded and allocated once is not counted. Then its resident set size is read with 0, 2,000
and 19,000 connections open, all in the room (with `--protocol` each connected with a token of its
own and subscribed to one channel with presence), and divided. Kernel memory (socket buffers) is not
in it and is the same for all. CPU is read over one ping interval of the slowest peer, in which
every connection is pinged once or more: uvicorn, `websockets` and picows ping every 20 s, Wirebell
and Engine.IO every 25 s.

Sketch: a socket, a transport and a protocol are about 2 KB. An ASGI task with its frames, a
queue, a parser and a scope are 15 to 30 KB more. 19,000 pings in 25 s at 30 to 100 µs each are 2
to 8 % of a core.
"""

import argparse
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import rig
from loads import Swarm
from servers import LIMIT, UVICORN, Peer, chosen_peers, run_server, versions

__all__ = ("main",)

# Enough to load what is loaded lazily; few, because what they free is used again by those counted.
WARM_UP_CONNECTIONS = 20
SETTLE_SECONDS = 1.0  # between the last handshake and the reading


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        connections: Steps, rising; CPU is read at the last.
        cpu_seconds: How long CPU is watched.
    """

    connections: tuple[int, ...] = (2000, 19_000)
    cpu_seconds: float = 26.0  # Wirebell's and Engine.IO's ping interval, the longest, and a turn


QUICK = Plan(connections=(50,), cpu_seconds=0.5)


def measure(peer: Peer, plan: Plan, question: str) -> list[dict[str, Any]]:
    """Measure one peer; returns one cell for each step of the plan, in its order."""
    cells: list[dict[str, Any]] = []
    swarms: list[Swarm] = []
    hold_seconds = rig.LIFETIME_SECONDS_MAX
    with run_server(peer) as server, contextlib.ExitStack() as stack:
        warm_up = min(WARM_UP_CONNECTIONS, plan.connections[0])
        with Swarm(server, warm_up, question=question, hold_seconds=60):
            pass
        time.sleep(SETTLE_SECONDS)
        before, held = server.memory_bytes(), 0
        for connections in plan.connections:
            added = connections - held
            swarm = stack.enter_context(
                Swarm(server, added, question=question, hold_seconds=hold_seconds)
            )
            swarms.append(swarm)
            held = connections
            time.sleep(SETTLE_SECONDS)
            each = (server.memory_bytes() - before) / connections
            cells.append(
                {
                    "peer": peer.name,
                    "title": peer.title,
                    "connections": connections,
                    "bytes_per_connection": round(each),
                    "connections_per_second": round(added / swarm.connect_seconds),
                    "idle_cpu_percent": None,
                }
            )
        cpu, start = server.cpu_seconds(), time.monotonic()
        time.sleep(plan.cpu_seconds)
        for swarm in swarms:
            swarm.check_open()
        share = (server.cpu_seconds() - cpu) / (time.monotonic() - start)
        cells[-1]["idle_cpu_percent"] = round(share * 100, 2)
    return cells


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, grouped by the number of connections."""
    print(
        f"\n{'connections':>11}  {'server':<24} {'bytes each':>10} {'idle CPU %':>10} "
        f"{'opened/s':>9}"
    )
    for cell in sorted(cells, key=lambda cell: int(cell["connections"])):
        cpu = "" if cell["idle_cpu_percent"] is None else f"{cell['idle_cpu_percent']:.2f}"
        print(
            f"{cell['connections']:>11,}  {cell['title']:<24} {cell['bytes_per_connection']:>10,} "
            f"{cpu:>10} {cell['connections_per_second']:>9,}"
        )


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    parser.add_argument("--connections", default="", help="steps, rising, e.g. 2000,19000")
    parser.add_argument("--seconds", type=float, default=0, help="how long CPU is watched")
    parser.add_argument(
        "--protocol",
        action="store_true",
        help="connections of the client protocol: a token each, one subscription with presence",
    )
    arguments = parser.parse_args()
    question = "protocol" if arguments.protocol else "room"
    plan = QUICK if arguments.quick else Plan()
    steps = rig.numbers(arguments.connections) or plan.connections
    plan = replace(
        plan,
        connections=tuple(step for step in steps if rig.fits_descriptors(step)),
        cpu_seconds=arguments.seconds or plan.cpu_seconds,
    )
    if plan.connections != steps:
        print("left out: steps above the limit of open files")
    # The C loop keeps nothing in memory for a connection: there is nothing to compare.
    peers = [peer for peer in chosen_peers(arguments.peers, question) if peer is not LIMIT]
    if arguments.protocol:
        # What the others cost stands in the other table.
        peers = [peer for peer in peers if peer.dialect == "protocol"]
    cells: list[dict[str, Any]] = []
    for peer in peers:
        print(f"{peer.title} ...", flush=True)
        cells += measure(peer, plan, question)
    print_table(cells)
    if arguments.out or not arguments.quick:
        method = {"cpu_seconds": plan.cpu_seconds, "warm_up_connections": WARM_UP_CONNECTIONS}
        body = {"method": method, "uvicorn": UVICORN, "cells": cells}
        name = "idle_protocol" if arguments.protocol else "idle_connections"
        rig.write_results(name, versions(peers), body, arguments.out)


if __name__ == "__main__":
    main()
