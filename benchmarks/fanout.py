"""Fan-out: how soon, and how often, does a publication reach everybody in a room?

Question: p99 latency and deliveries/s with 100 and 1,000 (10,000) subscribers and W = 1, 8, 64
publications in flight.

Method: every peer runs the same room on one core; `swarm.c` on the other core holds the
subscribers, one of which publishes, checks every delivery, and sends the next publication when
one has reached everybody. All peers run in one go, the C `send()` loop among them, and the ratio
to it is what to compare: absolute figures change with the machine. Each cell is the median of
several rounds of one second, with the slowest and the fastest beside it.

Sketch: one `send()` costs the kernel 2 to 10 µs, so C stands at 100,000 to 450,000 deliveries/s
whatever W is. A framework that sends one message per call adds its own 5 to 20 µs: 0.2 to 0.5 of
C. Only a server that joins what goes to one connection in one turn can pass C, and it does so
when W is above 1.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import rig

__all__ = ("main",)

WINDOWS = (1, 8, 64)
LARGE_ROOM = 10_000
# Server and load together: even where they only wait for each other, one of the two is running.
BUSY_MIN = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        subscribers: Room sizes.
        windows: Publications in flight.
        rounds: Rounds per cell, 1 or more; the median counts.
        measure_ms: Length of a round, in milliseconds, after a warm-up of 3/10 of it.
    """

    subscribers: tuple[int, ...] = (100, 1000)
    windows: tuple[int, ...] = WINDOWS
    rounds: int = 3
    measure_ms: int = 1000


QUICK = Plan(subscribers=(20,), windows=(1, 8), rounds=1, measure_ms=200)


def measure(peer: rig.Peer, subscribers: int, plan: Plan) -> list[dict[str, Any]]:
    """Measure one peer with one size of room.

    Returns:
        One cell for each number of publications in flight, in the order of the plan.
    """
    # Rounds of one cell stand apart, so that a noisy second does not hit all of them.
    # A large room needs seconds for one publication: one round has enough deliveries.
    windows = plan.windows * (plan.rounds if subscribers < LARGE_ROOM else 1)
    with (
        rig.run_server(peer) as server,
        rig.Swarm(server, subscribers, windows=windows, measure_ms=plan.measure_ms) as swarm,
    ):
        rounds = swarm.rounds()
    cells = []
    for window in plan.windows:
        found = [each for each in rounds if each["in_flight"] == window]
        rates = sorted(each["deliveries_per_second"] for each in found)
        cells.append(
            {
                "peer": peer.name,
                "title": peer.title,
                "subscribers": subscribers,
                "in_flight": window,
                "p50_ms": rig.median(found, "p50_ms"),
                "p99_ms": rig.median(found, "p99_ms"),
                "deliveries_per_second": rig.median(found, "deliveries_per_second"),
                "deliveries_per_second_range": [rates[0], rates[-1]],
                "server_cpu": rig.median(found, "server_cpu"),
                "load_cpu": rig.median(found, "load_cpu"),
            }
        )
    return cells


def add_ratios(cells: Sequence[dict[str, Any]]) -> None:
    """Give every cell its rate as a share of the C loop's in the same cell, where that ran."""
    limits = {
        (cell["subscribers"], cell["in_flight"]): cell["deliveries_per_second"]
        for cell in cells
        if cell["peer"] == rig.LIMIT.name
    }
    for cell in cells:
        limit = limits.get((cell["subscribers"], cell["in_flight"]))
        cell["ratio_to_c"] = round(cell["deliveries_per_second"] / limit, 3) if limit else None


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, p99 first, grouped by room and publications in flight."""
    print(
        f"\n{'subscribers':>11} {'W':>3}  {'server':<24} {'p99 ms':>9} {'p50 ms':>9} "
        f"{'deliveries/s':>13} {'of C':>6}  {'slowest to fastest':>23}  server load"
    )
    for cell in sorted(cells, key=lambda cell: (cell["subscribers"], cell["in_flight"])):
        low, high = cell["deliveries_per_second_range"]
        ratio = "-" if cell["ratio_to_c"] is None else f"{cell['ratio_to_c']:.2f}"
        print(
            f"{cell['subscribers']:>11,} {cell['in_flight']:>3}  {cell['title']:<24} "
            f"{cell['p99_ms']:>9.2f} {cell['p50_ms']:>9.2f} "
            f"{cell['deliveries_per_second']:>13,.0f} {ratio:>6}  {low:>10,.0f} - {high:>10,.0f}  "
            f"{cell['server_cpu']:>6.2f} {cell['load_cpu']:.2f}"
        )
    starved = sum(cell["server_cpu"] + cell["load_cpu"] < BUSY_MIN for cell in cells)
    if starved:
        print(
            f"\n{starved} of {len(cells)} cells lacked CPU: something else used the machine, and "
            "these numbers should not be kept."
        )


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    parser.add_argument("--subscribers", default="", help="room sizes, e.g. 100,1000,10000")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    sizes = tuple(int(size) for size in arguments.subscribers.split(",") if size)
    peers = rig.chosen_peers(arguments.peers)
    cells: list[dict[str, Any]] = []
    for subscribers in sizes or plan.subscribers:
        if not rig.fits_descriptors(subscribers):
            print(f"left out: {subscribers:,} subscribers, above the limit of open files")
            continue
        for peer in peers:
            print(f"{peer.title}, {subscribers:,} subscribers ...", flush=True)
            cells += measure(peer, subscribers, plan)
    add_ratios(cells)
    print_table(cells)
    if arguments.out or not arguments.quick:
        method = {"rounds": plan.rounds, "measure_ms": plan.measure_ms, "payload_bytes": 116}
        rig.write_results("fanout", peers, {"method": method, "cells": cells}, arguments.out)


if __name__ == "__main__":
    main()
