"""Connection rate: how many clients can come in per second?

Question: upgraded connections per second and p99 from connect() to the answer, through a bare
route, and through one that has FastAPI solve two dependencies.

Method: `opener.c` on one core keeps 64 connections in connect or handshake; each is answered with
101, is closed by a reset and is followed by the next, for three rounds of 3 s. The server on the
other core therefore pays for opening and for forgetting. The request has the headers of a browser.
The dependencies (`peers/dependencies.py`) are both `async`: one reads a cookie and a header, one is
a generator that gives something back at the end. A plain function would run in FastAPI's thread
pool and be measured instead of the rest. The raw protocol, which answers anything with a fixed
text, is what asyncio leaves to win; `websockets` and picows have no dependencies to solve.

Sketch: accept, two reads, one write and a close are 40 to 70 µs of kernel and uvloop: 15,000 to
25,000/s for the raw protocol. A request parser, an ASGI task and a routed FastAPI endpoint add 200
to 500 µs, dependencies 100 to 200 µs more.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import rig
from loads import measure_opening
from servers import RAW, UVICORN, Peer, chosen_peers, run_server, versions

__all__ = ("main",)

QUESTIONS = {"open": "bare route", "dependencies": "with dependencies"}
MEDIANS = ("opened_per_second", "p50_ms", "p99_ms", "server_cpu", "load_cpu")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        concurrency: Connections in connect or handshake at a time.
        rounds: Rounds per cell, 1 or more; the median counts.
        measure_ms: Length of a round, in milliseconds, after a warm-up of 300.
    """

    concurrency: int = 64
    rounds: int = 3
    measure_ms: int = 3000


QUICK = Plan(rounds=1, measure_ms=200)


def measure(peer: Peer, plan: Plan) -> list[dict[str, Any]]:
    """Measure one peer; returns one cell for each question that it answers."""
    cells: list[dict[str, Any]] = []
    for question in QUESTIONS:
        if question not in peer.paths:
            continue
        with run_server(peer) as server:
            rounds = rig.fed(
                [
                    measure_opening(
                        server, question, concurrency=plan.concurrency, measure_ms=plan.measure_ms
                    )
                    for _ in range(plan.rounds)
                ]
            )
        rates = sorted(found["opened_per_second"] for found in rounds)
        cells.append(
            {
                "peer": peer.name,
                "title": peer.title,
                "question": question,
                **{key: rig.median(rounds, key) for key in MEDIANS},
                "opened_per_second_range": [rates[0], rates[-1]],
            }
        )
    return cells


def add_ratios(cells: Sequence[dict[str, Any]]) -> None:
    """Give every cell its rate as a share of the raw protocol's, where that ran."""
    raw = next((cell["opened_per_second"] for cell in cells if cell["peer"] == RAW.name), None)
    for cell in cells:
        cell["ratio_to_raw"] = round(cell["opened_per_second"] / raw, 3) if raw else None


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, p99 first, grouped by question."""
    print(
        f"\n{'':<18} {'server':<24} {'p99 ms':>8} {'p50 ms':>8} {'opened/s':>9} {'of raw':>6}  "
        f"{'slowest to fastest':>19}  server load"
    )
    order = list(QUESTIONS)
    for cell in sorted(cells, key=lambda cell: order.index(cell["question"])):
        slowest, fastest = cell["opened_per_second_range"]
        ratio = "" if cell["ratio_to_raw"] is None else f"{cell['ratio_to_raw']:.2f}"
        print(
            f"{QUESTIONS[cell['question']]:<18} {cell['title']:<24} {cell['p99_ms']:>8,.2f} "
            f"{cell['p50_ms']:>8,.2f} {cell['opened_per_second']:>9,.0f} {ratio:>6}  "
            f"{f'{slowest:,.0f} to {fastest:,.0f}':>19}  "
            f"{cell['server_cpu']:>6.2f} {cell['load_cpu']:.2f}"
        )


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    peers = chosen_peers(arguments.peers, "open")
    cells: list[dict[str, Any]] = []
    for peer in peers:
        print(f"{peer.title} ...", flush=True)
        cells += measure(peer, plan)
    add_ratios(cells)
    print_table(cells)
    rig.warn_starved(cells)
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in ("concurrency", "rounds", "measure_ms")}
        body = {"method": method, "uvicorn": UVICORN, "cells": cells}
        rig.write_results("connect", versions(peers), body, arguments.out)


if __name__ == "__main__":
    main()
