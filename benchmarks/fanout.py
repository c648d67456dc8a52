"""Fan-out: how soon, and how often, does a publication reach everybody in a room?

Question: p99 latency and deliveries/s with 100, 1,000 and 10,000 subscribers and W = 1, 8, 64
publications in flight; with `--compression`, what permessage-deflate makes of it; with
`--protocol`, what it is through the client protocol of `wirebell serve`, everybody with a token and
the publisher's permission checked with every publication.

Method: every peer runs the same room on one core; `swarm.c` on the other core holds the
subscribers, one of which publishes, checks every delivery, and sends the next publication when
one has reached everybody. All peers run in one go, the C `send()` loop among them, and the ratio
to it is what to compare: absolute figures change with the machine. Each cell is the median of
several rounds of one second, with the slowest and the fastest beside it. A peer has a time for each
room; what it did not do until then, or what went wrong, stands in its cells, and the run goes on.
With `--compression` a publication is 1 KiB of
JSON rows, every subscriber offers permessage-deflate as a browser does, and the load inflates what
comes; the C loop does not compress and shows what the same bytes cost plain.

Sketch: one `send()` costs the kernel 2 to 10 µs, so C stands at 100,000 to 450,000 deliveries/s
whatever W is. A framework that sends one message per call adds its own 5 to 20 µs: 0.2 to 0.5 of
C. Only a server that joins what goes to one connection in one turn can pass C, and it does so
when W is above 1. Deflating 1 KiB takes 20 to 60 µs: a server that does it for each connection
stays near 30,000 deliveries/s, one that does it once for all hardly notices.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import rig
from loads import LoadFailed, Swarm
from servers import LIMIT, UVICORN, Peer, chosen_peers, run_server, versions

__all__ = ("main",)

WINDOWS = (1, 8, 64)
LARGE_ROOM = 10_000
# Of a plan, into the JSON.
METHOD = ("rounds", "large_room_rounds", "measure_ms", "payload_bytes", "room_seconds_max")
MEDIANS = (
    "p50_ms",
    "p99_ms",
    "deliveries_per_second",
    "bytes_per_delivery",
    "compressed_share",
    "server_cpu",
    "load_cpu",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        subscribers: Room sizes.
        windows: Publications in flight.
        rounds: Rounds per cell, 1 or more; the median counts.
        large_room_rounds: The same from `LARGE_ROOM` on, where one publication takes long and one
            round has enough deliveries.
        measure_ms: Length of a round, in milliseconds, after a warm-up of 3/10 of it.
        payload_bytes: Length of a publication.
        room_seconds_max: What a peer may take for one room.
        compresses: Whether permessage-deflate is negotiated, and publications are rows of JSON.
        question: `room`, or `protocol` for the room through the client protocol.
    """

    subscribers: tuple[int, ...] = (100, 1000, 10_000)
    windows: tuple[int, ...] = WINDOWS
    rounds: int = 3
    large_room_rounds: int = 1
    measure_ms: int = 1000
    payload_bytes: int = 116
    room_seconds_max: float = 75.0
    compresses: bool = False
    question: str = "room"


QUICK = Plan(subscribers=(20,), windows=(1, 8), rounds=1, measure_ms=200)
# Compression is about CPU, which a room of 1,000 shows as well as one of 10,000.
COMPRESSION_SUBSCRIBERS = (100, 1000)
COMPRESSION_BYTES = 1024
PROTOCOL_SUBSCRIBERS = (1000, 10_000)


def measure(peer: Peer, subscribers: int, plan: Plan) -> list[dict[str, Any]]:
    """Measure one peer with one size of room.

    Returns:
        One cell for each number of publications in flight, in the order of the plan; one without a
        single whole round has the key `failure`, and no numbers.
    """
    failure = ""
    try:
        measured = measure_rounds(peer, subscribers, plan)
    except LoadFailed as error:
        measured, failure = error.rounds, str(error)
        print(f"  {failure}", flush=True)
    cells = []
    for window in plan.windows:
        found = rig.fed([each for each in measured if each["in_flight"] == window])
        cell: dict[str, Any] = {
            "peer": peer.name,
            "title": peer.title,
            "subscribers": subscribers,
            "in_flight": window,
        }
        if found:
            rates = sorted(each["deliveries_per_second"] for each in found)
            cell |= {key: rig.median(found, key) for key in MEDIANS}
            cell["deliveries_per_second_range"] = [rates[0], rates[-1]]
            # What the server's core would do: steadier than the rate where others use the machine.
            cell["deliveries_per_cpu_second"] = round(
                statistics.median(
                    each["deliveries_per_second"] / max(each["server_cpu"], 0.01) for each in found
                )
            )
        else:
            cell["failure"] = failure
        cells.append(cell)
    return cells


def measure_rounds(peer: Peer, subscribers: int, plan: Plan) -> list[dict[str, float]]:
    """Run all rounds of one peer with one size of room.

    Raises:
        LoadFailed: Not all of them could be run.
    """
    rounds = plan.rounds if subscribers < LARGE_ROOM else plan.large_room_rounds
    with (
        run_server(peer, compresses=plan.compresses and peer.can_compress) as server,
        Swarm(
            server,
            subscribers,
            question=plan.question,
            # Rounds of one cell stand apart, so that a noisy second does not hit all of them.
            windows=plan.windows * rounds,
            measure_ms=plan.measure_ms,
            payload_bytes=plan.payload_bytes,
            has_rows=plan.compresses,
            compresses=plan.compresses,
            seconds_max=plan.room_seconds_max,
        ) as swarm,
    ):
        return swarm.rounds()


def add_ratios(cells: Sequence[dict[str, Any]]) -> None:
    """Give every cell its rate as a share of the C loop's in the same cell, where that ran."""
    limits = {
        (cell["subscribers"], cell["in_flight"]): cell["deliveries_per_second"]
        for cell in cells
        if cell["peer"] == LIMIT.name and "failure" not in cell
    }
    for cell in cells:
        if "failure" in cell:
            continue
        limit = limits.get((cell["subscribers"], cell["in_flight"]))
        cell["ratio_to_c"] = round(cell["deliveries_per_second"] / limit, 3) if limit else None


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, p99 first, grouped by room and publications in flight."""
    print(
        f"\n{'subscribers':>11} {'W':>3}  {'server':<24} {'p99 ms':>9} {'p50 ms':>9} "
        f"{'deliveries/s':>13} {'of C':>6}  {'slowest to fastest':>23}  {'bytes':>6}  server load"
    )
    for cell in sorted(cells, key=lambda cell: (cell["subscribers"], cell["in_flight"])):
        if "failure" in cell:
            print(
                f"{cell['subscribers']:>11,} {cell['in_flight']:>3}  {cell['title']:<24} "
                f"{cell['failure']}"
            )
            continue
        slowest, fastest = cell["deliveries_per_second_range"]
        ratio = "" if cell["ratio_to_c"] is None else f"{cell['ratio_to_c']:.2f}"
        print(
            f"{cell['subscribers']:>11,} {cell['in_flight']:>3}  {cell['title']:<24} "
            f"{cell['p99_ms']:>9,.2f} {cell['p50_ms']:>9,.2f} "
            f"{cell['deliveries_per_second']:>13,.0f} {ratio:>6}  "
            f"{f'{slowest:,.0f} to {fastest:,.0f}':>23}  {cell['bytes_per_delivery']:>6,.0f}  "
            f"{cell['server_cpu']:>6.2f} {cell['load_cpu']:.2f}"
        )


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    parser.add_argument("--subscribers", default="", help="room sizes, e.g. 100,1000,10000")
    parser.add_argument("--windows", default="", help="publications in flight, e.g. 1,8,64")
    parser.add_argument("--payload-bytes", type=int, default=0, help="length of a publication")
    parser.add_argument(
        "--compression", action="store_true", help="rows of JSON, permessage-deflate negotiated"
    )
    parser.add_argument(
        "--protocol",
        action="store_true",
        help="through the client protocol: with a token each, permissions and presence",
    )
    return parser.parse_args()


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Turn the command line into a plan."""
    plan = QUICK if arguments.quick else Plan()
    if arguments.compression:
        plan = replace(plan, compresses=True, payload_bytes=COMPRESSION_BYTES)
        if not arguments.quick:
            plan = replace(plan, subscribers=COMPRESSION_SUBSCRIBERS)
    if arguments.protocol:
        plan = replace(plan, question="protocol")
        if not arguments.quick:
            plan = replace(plan, subscribers=PROTOCOL_SUBSCRIBERS)
    return replace(
        plan,
        subscribers=rig.numbers(arguments.subscribers) or plan.subscribers,
        windows=rig.numbers(arguments.windows) or plan.windows,
        rounds=arguments.rounds or plan.rounds,
        large_room_rounds=arguments.rounds or plan.large_room_rounds,
        payload_bytes=arguments.payload_bytes or plan.payload_bytes,
    )


def main() -> None:
    """Measure what the arguments ask for, print a table, and write the JSON."""
    arguments = read_arguments()
    plan = make_plan(arguments)
    peers = chosen_peers(arguments.peers, plan.question)
    if plan.compresses:
        peers = [peer for peer in peers if peer.can_compress or peer is LIMIT]
    cells: list[dict[str, Any]] = []
    for subscribers in plan.subscribers:
        if not rig.fits_descriptors(subscribers):
            print(f"left out: {subscribers:,} subscribers, above the limit of open files")
            continue
        for peer in peers:
            print(f"{peer.title}, {subscribers:,} subscribers ...", flush=True)
            cells += measure(peer, subscribers, plan)
    add_ratios(cells)
    print_table(cells)
    rig.warn_starved(cells)
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in METHOD}
        body = {"method": method, "uvicorn": UVICORN, "cells": cells}
        name = "fanout_compression" if plan.compresses else "fanout"
        name = "fanout_protocol" if plan.question == "protocol" else name
        rig.write_results(name, versions(peers), body, arguments.out)


if __name__ == "__main__":
    main()
