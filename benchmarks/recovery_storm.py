"""Recovery storm: how fast do 10,000 clients come back and get what they missed?

Question: clients per second that connect with a token, subscribe, and recover 10 publications each,
all at once, as after a restart of what stood in between; and whether each gets all of them.

Method: one client subscribes to 100 channels with history, learns their epochs, and publishes 10
messages of 116 bytes to each. Then `talkers.c` on the other core lets 10,000 clients in, 64 of
them on their way at a time, each with a token of its own; client n recovers channel n modulo 100
from offset 0. The answer to its subscribe command must say "recovered" and hold the 10
publications, each once and in order. All stay connected until the last has recovered; presence is
kept. The clock runs from the first connect() to the last answer. `wirebell serve`, memory broker,
JSON over WebSocket. A cell is the median of the rounds, each on a server of its own; `of C` is its
share of the deliveries/s of the C `send()` loop, which runs in the same go.

Sketch: a client is a connection, a handshake, two commands and an HMAC, 120 to 170 µs, and 10
publications to write, 10 to 20 µs: 5,500 to 7,500 clients/s on a core.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from websockets.sync.client import ClientConnection, connect

import rig
from loads import create_tokens, measure_send_limit, talk, write_lines
from servers import PROTOCOL, Server, run_server, versions

__all__ = ("main",)

CHANNELS = 100
MEDIANS = ("per_second", "p50_ms", "p99_ms", "server_cpu", "load_cpu")
METHOD = ("clients", "missed", "concurrency", "rounds")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        clients: How many come back.
        missed: Publications that each of them missed.
        concurrency: Clients on their way in at a time.
        rounds: How often, 1 or more; the median counts.
    """

    clients: int = 10_000
    missed: int = 10
    concurrency: int = 64
    rounds: int = 3


QUICK = Plan(clients=200, rounds=1)


def read_replies(socket: ClientConnection) -> Iterator[dict[str, Any]]:
    """Read replies, whatever else comes with them."""
    while True:
        for line in str(socket.recv()).split("\n"):
            message = json.loads(line)
            if "id" in message:
                yield message


def prepare(server: Server, missed: int) -> list[str]:
    """Fill the channels; returns a line for each: its name and its epoch.

    Raises:
        RuntimeError: A command was refused.
    """
    [token] = create_tokens(1)
    names = [f"log:storm-{number}" for number in range(CHANNELS)]
    path = server.peer.paths["protocol"]
    with connect(f"ws://127.0.0.1:{server.port}{path}", compression=None) as socket:
        replies = read_replies(socket)

        def ask(command: dict[str, Any]) -> dict[str, Any]:
            socket.send(json.dumps(command, separators=(",", ":")))
            reply = next(replies)
            if "error" in reply or reply["id"] != command["id"]:
                raise RuntimeError(f"{command} was answered with {reply}")
            return reply

        ask({"id": 1, "connect": {"token": token}})
        lines = []
        for name in names:
            reply = ask({"id": 2, "subscribe": {"channel": name}})
            lines.append(f"{name} {reply['subscribe']['epoch']}")
            for number in range(missed):
                data = {"by": "ann", "text": "x" * 76, "seq": f"{number:08}"}
                ask({"id": 3, "publish": {"channel": name, "data": data}})
        return lines


def measure_round(plan: Plan) -> dict[str, float]:
    """Run one storm."""
    with (
        run_server(PROTOCOL) as server,
        write_lines(prepare(server, plan.missed)) as streams,
    ):
        options = {
            "streams": streams,
            "missed": plan.missed,
            "connections": plan.clients,
            "concurrency": plan.concurrency,
        }
        [found] = talk(server, "recover", plan.clients, options)
    if found["count"] != plan.clients:
        raise RuntimeError(f"{found['count']} of {plan.clients} clients recovered")
    return found


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells."""
    print(
        f"\n{'clients':>8} {'per second':>10} {'of C':>6} {'per CPU second':>14} {'p99 ms':>8}  "
        "server load"
    )
    for cell in cells:
        print(
            f"{cell['clients']:>8,} {cell['per_second']:>10,.0f} {cell['ratio_to_c']:>6.3f} "
            f"{cell['per_cpu_second']:>14,.0f} "
            f"{cell['p99_ms']:>8,.2f}  {cell['server_cpu']:>6.2f} {cell['load_cpu']:.2f}"
        )


def main() -> None:
    """Measure, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    parser.add_argument("--clients", type=int, default=0, help="how many come back")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    plan = replace(
        plan,
        clients=arguments.clients or plan.clients,
        rounds=arguments.rounds or plan.rounds,
    )
    if not rig.fits_descriptors(plan.clients):
        raise SystemExit(f"{plan.clients:,} clients are above the limit of open files")
    print("C send() loop ...", flush=True)
    limit = measure_send_limit()
    rounds = []
    for number in range(plan.rounds):
        print(f"storm {number + 1} of {plan.rounds} ...", flush=True)
        rounds.append(measure_round(plan))
    rounds = rig.fed(rounds)
    per_cpu = [{"rate": each["per_second"] / max(each["server_cpu"], 0.01)} for each in rounds]
    cell = {
        "clients": plan.clients,
        "missed": plan.missed,
        "lost": 0,
        **{key: rig.median(rounds, key) for key in MEDIANS},
        "per_cpu_second": round(rig.median(per_cpu, "rate")),
    }
    cell["ratio_to_c"] = round(cell["per_second"] / limit, 3)
    print_table([cell])
    rig.warn_starved([cell])
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in METHOD}
        body = {
            "method": {**method, "channels": CHANNELS},
            "send_limit_per_second": round(limit),
            "cells": [cell],
        }
        rig.write_results("recovery_storm", versions([PROTOCOL]), body, arguments.out)


if __name__ == "__main__":
    main()
