"""Commands of the client protocol: how many round trips, and how many clients, per second?

Question: p99 and round trips per second of a publication to a channel of one's own, from its sender
back to it, with W = 1, 100, 1,000 clients that each have one in flight, without and with history;
and how many clients per second connect with a token, subscribe to one channel, and leave.

Method: `wirebell serve` on one core, the memory broker, and `talkers.c` on the other; JSON over
WebSocket. Every client has a token of its own, which is checked; the channel keeps presence; the
permission to publish is asked with every publication. What comes back is checked: the publication
by its number and the reply by its id, each exactly once. Clients that come in are 64 at a time;
they show the headers of a browser, and leave with a reset: forgetting them is in the rate. A cell
is the median of the rounds. The C `send()` loop runs in the same go, and `of C` is the share of
its deliveries/s: compare that between machines. `per CPU second` divides by the CPU time of the
server: what it would reach with a core of its own, where others use the machine.

Sketch: a recv() and a send() are 4 to 5 µs of kernel and loop, decoding, permission, delivery and
encoding another 5 to 7 in Python: near 90,000 round trips/s. History adds 1 to 2 µs. A new client
is a connection, a handshake, two commands, an HMAC and two entries in maps: 120 to 170 µs.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rig
from loads import measure_send_limit, talk
from servers import PROTOCOL, run_server, versions

__all__ = ("main",)

QUESTIONS: Mapping[str, tuple[str, str]] = {
    "publish": ("publish", "room:own-"),
    "publish_history": ("publish", "log:own-"),
    "open": ("open", "room:door"),
}
"""What is asked → the question of `talkers.c`, and the name of its channel, or how names begin."""
TITLES = {
    "publish": "round trip",
    "publish_history": "round trip, history",
    "open": "connect, subscribe, leave",
}
MEDIANS = ("per_second", "p50_ms", "p99_ms", "server_cpu", "load_cpu")
METHOD = ("rounds", "measure_ms", "concurrency", "payload_bytes")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        windows: Clients with a publication in flight.
        concurrency: Clients on their way in at a time.
        rounds: Rounds per cell, 1 or more; the median counts.
        measure_ms: Length of a round, in milliseconds, after a warm-up of 3/10 of it.
        payload_bytes: Length of a publication.
    """

    windows: tuple[int, ...] = (1, 100, 1000)
    concurrency: int = 64
    rounds: int = 3
    measure_ms: int = 2000
    payload_bytes: int = 116


QUICK = Plan(windows=(1, 8), rounds=1, measure_ms=200)


def measure(name: str, plan: Plan) -> list[dict[str, Any]]:
    """Ask one question; returns a cell for each number of clients."""
    question, channel = QUESTIONS[name]
    windows = plan.windows if question == "publish" else (plan.concurrency,)
    options: dict[str, object] = {
        "channel": channel,
        "measure-ms": plan.measure_ms,
        "warm-ms": plan.measure_ms * 3 // 10,
        "payload-bytes": plan.payload_bytes,
    }
    found: list[dict[str, float]] = []
    with run_server(PROTOCOL) as server:
        if question == "publish":
            # Rounds of one cell stand apart, so that a noisy second does not hit all of them.
            options["windows"] = ",".join(map(str, windows * plan.rounds))
            found = talk(server, question, max(windows), options)
        else:
            options["concurrency"] = plan.concurrency
            for _ in range(plan.rounds):
                [each] = talk(server, question, plan.concurrency, options)
                found.append(each | {"in_flight": plan.concurrency})
    return [summarise(name, window, found) for window in windows]


def summarise(name: str, window: int, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Make a cell of the rounds with so many clients."""
    rounds = rig.fed([each for each in found if each["in_flight"] == window])
    rates = sorted(each["per_second"] for each in rounds)
    per_cpu = [{"rate": each["per_second"] / max(each["server_cpu"], 0.01)} for each in rounds]
    return {
        "question": name,
        "in_flight": window,
        **{key: rig.median(rounds, key) for key in MEDIANS},
        "per_second_range": [rates[0], rates[-1]],
        "per_cpu_second": round(rig.median(per_cpu, "rate")),
    }


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells, p99 first."""
    print(
        f"\n{'':<26} {'clients':>7} {'p99 ms':>8} {'p50 ms':>8} {'per second':>10} "
        f"{'of C':>6} {'per CPU second':>14}  {'slowest to fastest':>19}  server load"
    )
    for cell in cells:
        slowest, fastest = cell["per_second_range"]
        print(
            f"{TITLES[cell['question']]:<26} {cell['in_flight']:>7,} {cell['p99_ms']:>8,.2f} "
            f"{cell['p50_ms']:>8,.2f} {cell['per_second']:>10,.0f} "
            f"{cell['ratio_to_c']:>6.3f} {cell['per_cpu_second']:>14,.0f}  "
            f"{f'{slowest:,.0f} to {fastest:,.0f}':>19}  "
            f"{cell['server_cpu']:>6.2f} {cell['load_cpu']:.2f}"
        )


def main() -> None:
    """Measure, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    parser.add_argument("--questions", default="", help=f"of {', '.join(QUESTIONS)}")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    chosen = [name for name in arguments.questions.split(",") if name] or list(QUESTIONS)
    rig.fits_descriptors(max(plan.windows))
    print("C send() loop ...", flush=True)
    limit = measure_send_limit()
    cells: list[dict[str, Any]] = []
    for name in chosen:
        print(f"{TITLES[name]} ...", flush=True)
        cells += measure(name, plan)
    for cell in cells:
        cell["ratio_to_c"] = round(cell["per_second"] / limit, 3)
    print_table(cells)
    rig.warn_starved(cells)
    if arguments.out or not arguments.quick:
        method = {key: getattr(plan, key) for key in METHOD}
        body = {"method": method, "send_limit_per_second": round(limit), "cells": cells}
        rig.write_results("commands", versions([PROTOCOL]), body, arguments.out)


if __name__ == "__main__":
    main()
