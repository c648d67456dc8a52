"""Echo latency: how late is an answer when the server has half of what it can do to do?

Question: p50 and p99 of an echo of 116 bytes, with 100 connections, at half of the server's own
peak; and that peak.

Method: `echoes.c` on one core first keeps one message in flight on each of 100 connections, which
finds the peak. Then messages are due at even distances, half as many per second, whether or not
the last echo is there, and a latency counts from the moment at which its message was due: a
server that stops for 10 ms is charged for everybody who waited. Peak and half load alternate for
three rounds of 1 and 3 s; medians count. The load does not sleep while it paces, and says how late
it was itself.
Each peer is loaded with half of its own peak, so p99 compares queues and pauses, and the peak
compares speed. The raw protocol (`peers/raw_echo.py`) is an asyncio.Protocol on uvloop that does
nothing it could leave out; the ratio of p99 to its p99 is what to compare.

Sketch: two send() and two recv() over loopback with two wake-ups are 30 to 60 µs; p99 at half load
is two to four times as much. The raw protocol reaches 80,000 to 120,000 echoes/s; a task for each
connection, which takes a turn of the loop for each message, a third to a half of that; FastAPI's
WebSocket on top of it a fifth.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import rig
from loads import measure_echoes
from servers import RAW, UVICORN, Peer, chosen_peers, run_server, versions

__all__ = ("main",)

LATE_SHARE_MAX = 0.5  # of p99: above it the load, not the server, made the latency
MEDIANS = ("p50_ms", "p99_ms", "late_p99_ms", "server_cpu", "load_cpu")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        connections: How many talk.
        rounds: Rounds per cell, 1 or more; the median counts.
        peak_ms: Length of a round that finds the peak, in milliseconds, after a warm-up of 300.
        measure_ms: Length of a round at half load.
    """

    connections: int = 100
    rounds: int = 3
    peak_ms: int = 1000
    measure_ms: int = 3000


QUICK = Plan(connections=10, rounds=1, peak_ms=200, measure_ms=200)


def measure(peer: Peer, plan: Plan) -> dict[str, Any]:
    """Measure one peer; returns its cell."""
    peaks, halves = [], []
    with run_server(peer) as server:
        for _ in range(plan.rounds):
            peak = measure_echoes(server, connections=plan.connections, measure_ms=plan.peak_ms)
            peaks.append(peak)
            rate = max(1, round(peak["echoes_per_second"] / 2))
            halves.append(
                measure_echoes(
                    server, connections=plan.connections, measure_ms=plan.measure_ms, rate=rate
                )
            )
    p99s = sorted(found["p99_ms"] for found in halves)
    return {
        "peer": peer.name,
        "title": peer.title,
        "peak_echoes_per_second": rig.median(peaks, "echoes_per_second"),
        "echoes_per_second": rig.median(halves, "echoes_per_second"),
        **{key: rig.median(halves, key) for key in MEDIANS},
        "p99_ms_range": [p99s[0], p99s[-1]],
    }


def add_ratios(cells: Sequence[dict[str, Any]]) -> None:
    """Give every cell its p99 as a multiple of the raw protocol's, where that ran."""
    raw = next((cell["p99_ms"] for cell in cells if cell["peer"] == RAW.name), None)
    for cell in cells:
        cell["ratio_to_raw"] = round(cell["p99_ms"] / raw, 2) if raw else None


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, p99 first."""
    print(
        f"\n{'server':<24} {'p99 ms':>8} {'p50 ms':>8} {'of raw p99':>10}  "
        f"{'p99 best to worst':>17} {'peak/s':>9} {'half/s':>9} {'load late':>9}  server"
    )
    for cell in cells:
        best, worst = cell["p99_ms_range"]
        ratio = "" if cell["ratio_to_raw"] is None else f"{cell['ratio_to_raw']:.2f}"
        print(
            f"{cell['title']:<24} {cell['p99_ms']:>8.3f} {cell['p50_ms']:>8.3f} {ratio:>10}  "
            f"{f'{best:.3f} to {worst:.3f}':>17} {cell['peak_echoes_per_second']:>9,.0f} "
            f"{cell['echoes_per_second']:>9,.0f} {cell['late_p99_ms']:>9.3f}  "
            f"{cell['server_cpu']:>6.2f}"
        )
    late = sum(cell["late_p99_ms"] > cell["p99_ms"] * LATE_SHARE_MAX for cell in cells)
    if late:
        print(
            f"\nin {late} of {len(cells)} cells the load itself was late: something else used the "
            "machine, and these numbers should not be kept."
        )


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    peers = chosen_peers(arguments.peers, "echo")
    cells: list[dict[str, Any]] = []
    for peer in peers:
        print(f"{peer.title} ...", flush=True)
        cells.append(measure(peer, plan))
    add_ratios(cells)
    print_table(cells)
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in ("connections", "rounds", "measure_ms")}
        body = {"method": {**method, "payload_bytes": 116}, "uvicorn": UVICORN, "cells": cells}
        rig.write_results("latency", versions(peers), body, arguments.out)


if __name__ == "__main__":
    main()
