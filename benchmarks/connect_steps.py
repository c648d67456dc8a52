"""Connection rate, step by step: what of a new connection costs how much?

Question: CPU time of the server for each connection, with one more step in every row: accepting and
closing, the handshake on Wirebell's classes, `attach`, Starlette, FastAPI, two dependencies. Beside
them the same endpoint on stock uvicorn, and a plain GET with the same dependencies.

Method: the load and the dependencies are those of `connect.py`, the endpoints `peers/steps_app.py`.
The CPU time of the server's process is divided by the connections of the round, so a step is the
difference between two rows. The GET comes on a new connection each, too. The rows take turns, round
by round.

Sketch: accepting and closing are 40 to 70 µs; a parser and an ASGI task 60; `attach` 60; Starlette
30, FastAPI another 50; two dependencies 100 to 150.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import rig
from loads import measure_opening
from servers import RAW, UVICORN, Peer, run_server, versions

__all__ = ("main",)

PACKAGES = ("wirebell", "fastapi", "starlette", "uvicorn", "uvloop", "websockets")
OURS = (
    *("--ws", "wirebell.uvicorn:WebSocketProtocol"),
    *("--http", "wirebell.uvicorn:HTTPProtocol"),
)


def make_step(name: str, title: str, application: str, options: tuple[str, ...] = OURS) -> Peer:
    """Describe one row."""
    return Peer(
        name,
        title,
        application=f"peers.steps_app:{application}",
        options=options,
        paths={"open": "/"},
        packages=PACKAGES,
    )


STEPS = (
    RAW,
    make_step("bare", "Wirebell's classes, bare ASGI application", "bare"),
    make_step("bare_attached", "+ `attach`", "bare_attached"),
    make_step("starlette", "+ Starlette's application and routing", "starlette_app"),
    make_step("fastapi", "+ FastAPI's", "routed"),
    make_step("dependencies", "+ two dependencies", "solved"),
    make_step("kept", "stock uvicorn, FastAPI, two dependencies, no `attach`", "solved_kept", ()),
    make_step("get", "stock uvicorn, FastAPI, two dependencies, GET", "page", ()),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        concurrency: Connections in connect or handshake at a time.
        rounds: Rounds per row, 1 or more; the median counts.
        measure_ms: Length of a round, in milliseconds, after a warm-up of 300.
    """

    concurrency: int = 64
    rounds: int = 3
    measure_ms: int = 2000


QUICK = Plan(rounds=1, measure_ms=200)


def measure(step: Peer, plan: Plan) -> dict[str, float]:
    """Run one round of one row."""
    with run_server(step) as server:
        found = measure_opening(
            server,
            "open",
            concurrency=plan.concurrency,
            measure_ms=plan.measure_ms,
            gets=step.name == "get",
        )
    return found | {"cpu_us": 1e6 * found["server_cpu"] / found["opened_per_second"]}


def summarise(step: Peer, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Make a row of its rounds."""
    costs = sorted(found["cpu_us"] for found in rounds)
    return {
        "peer": step.name,
        "title": step.title,
        "cpu_us": round(rig.median(rounds, "cpu_us"), 1),
        "cpu_us_range": [round(costs[0], 1), round(costs[-1], 1)],
        **{key: rig.median(rounds, key) for key in ("opened_per_second", "server_cpu", "load_cpu")},
    }


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the rows."""
    print(f"\n{'':<56} {'µs each':>8} {'least to most':>16} {'opened/s':>9}  server load")
    for cell in cells:
        least, most = cell["cpu_us_range"]
        print(
            f"{cell['title']:<56} {cell['cpu_us']:>8,.0f} {f'{least:,.0f} to {most:,.0f}':>16} "
            f"{cell['opened_per_second']:>9,.0f}  {cell['server_cpu']:>6.2f} {cell['load_cpu']:.2f}"
        )


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    wanted = [name for name in arguments.peers.split(",") if name]
    steps = [step for step in STEPS if not wanted or step.name in wanted]
    rounds: dict[str, list[dict[str, float]]] = {step.name: [] for step in steps}
    for number in range(arguments.rounds or plan.rounds):
        print(f"round {number + 1} ...", flush=True)
        for step in steps:
            rounds[step.name].append(measure(step, plan))
    cells = [summarise(step, rig.fed(rounds[step.name])) for step in steps]
    print_table(cells)
    rig.warn_starved(cells)
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in ("concurrency", "rounds", "measure_ms")}
        body = {"method": method, "uvicorn": UVICORN, "cells": cells}
        rig.write_results("connect_steps", versions(steps), body, arguments.out)


if __name__ == "__main__":
    main()
