"""Faults of brokers: is anything lost, doubled or hidden, and how soon is everybody back?

Question: acknowledged publications lost, publications doubled, gaps that clients were not told of,
and false "recovered", while nodes are killed and paused, and while the broker is stopped, killed,
restarted with and without its data, paused, and cut off from one node; and the time until every
client receives again. The first four must be zero.

Method: for each broker and fault three nodes (`wirebell serve`, processes) and the broker are
started anew. 300 clients come over WebSocket, each into 2 of 20 channels with history; when a link
ends they come back to the next node within 2 s, and ask for what they missed. 100 numbered
publications a second go to the server API of the nodes by turns, each with an idempotency key; one
that fails or is not answered is tried again at the next node until it is acknowledged. Clients keep
a log of everything they were told, and `tests/outages/verdict.py` compares the logs with each other
and with what was acknowledged. A client is owed each acknowledged publication since it began, or
the word that it did not recover. For the cut each node is in a network namespace of its own, with
one bridge to the clients and another to the broker; nothing tells the node or the broker of it.

"With its data" is with what the broker has on its disk: Redis writes with `appendonly yes` and
`appendfsync always`, NATS and PostgreSQL as they come. SQLite has no server: its file is locked by
somebody else, or removed.

Sketch: nobody needs to come back but the clients of a killed node, 0.1 to 2 s. Otherwise a node
tries again within 5 s, and reads what it missed with one question for a channel: 0.1 to 5 s.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import rig
from broker_servers import find_versions

sys.path.append(str(rig.HERE.parent))  # for `tests`

from tests.outages.brokers import BROKERS
from tests.outages.cells import FAULTS, Cell, Plan, list_faults, run_cell
from wirebell.version import __version__

__all__ = ("main",)

QUICK = Plan(
    clients=30,
    channels=6,
    per_second=50.0,
    steady_seconds=0.5,
    pause_seconds=5.0,
    freeze_seconds=5.0,
)
TITLES = {
    "node": "a node is killed, and started again",
    "freeze": "a node is paused for {freeze:.0f} s",
    "stop": "stopped for {away:.0f} s",
    "kill": "killed, and started with its data",
    "wipe": "killed, and started without its data",
    "pause": "paused for {pause:.0f} s",
    "cut": "cut off from one node for {pause:.0f} s",
}
SQLITE_TITLES = {
    "wipe": "its file is removed",
    "pause": "its file is locked by another program for {pause:.0f} s",
}


def describe(cell: Cell, plan: Plan, seconds: float) -> dict[str, Any]:
    """Make a cell of the JSON."""
    titles = TITLES | (SQLITE_TITLES if cell.broker == "sqlite" else {})
    title = titles[cell.fault].format(
        freeze=plan.freeze_seconds, away=plan.away_seconds, pause=plan.pause_seconds
    )
    found = asdict(cell)
    verdict = found.pop("verdict")
    return {"title": title, **found, **verdict, "seconds": round(seconds, 1)}


def find_obstacle(fault: str) -> str:
    """Say why a fault cannot be played here; empty when it can."""
    if fault == "cut" and (os.geteuid() != 0 or shutil.which("ip") is None):
        return "network namespaces need root and ip(8)"
    return ""


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print a row for each cell."""
    print(
        f"\n{'broker':<11} {'fault':<7} {'ack.':>6} {'lost':>5} {'doubled':>8} {'hidden':>7} "
        f"{'false rec.':>11} {'told':>6} {'refused':>8} {'unanswered':>11} {'back s':>7}"
    )
    for cell in cells:
        back = cell["recovery_seconds"]
        print(
            f"{cell['broker']:<11} {cell['fault']:<7} {cell['acknowledged']:>6,} {cell['lost']:>5} "
            f"{cell['doubled']:>8} {cell['hidden']:>7} {cell['false_recoveries']:>11} "
            f"{cell['told']:>6} {sum(cell['failed'].values()):>8,} {cell['unknown']:>11,} "
            f"{'never' if back is None else f'{back:.2f}':>7}"
        )
        for complaint in cell["complaints"]:
            print(f"    {complaint}")


def main() -> None:
    """Play the faults that the arguments ask for, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--broker", nargs="+", choices=BROKERS, default=list(BROKERS), help="which (default: all)"
    )
    parser.add_argument(
        "--fault", nargs="+", choices=FAULTS, default=list(FAULTS), help="which (default: all)"
    )
    parser.add_argument("--clients", type=int, default=0, help="how many (default: 300)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 30 clients, not kept")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/broker_faults.json)")
    arguments = parser.parse_args()
    # So that servers are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rig.fits_descriptors(0)
    plan = QUICK if arguments.quick else Plan()
    if arguments.clients:
        plan = replace(plan, clients=arguments.clients)
    cells, is_clean = [], True
    for broker in arguments.broker:
        for fault in list_faults(broker):
            if fault not in arguments.fault:
                continue
            if obstacle := find_obstacle(fault):
                print(f"left out: {broker}, {fault}: {obstacle}", flush=True)
                continue
            print(f"{broker}, {fault} ...", end=" ", flush=True)
            begun = time.monotonic()
            try:
                cell = run_cell(broker, fault, plan)
            except pytest.fail.Exception as error:
                sys.exit(str(error))
            is_clean &= cell.is_clean
            cells.append(describe(cell, plan, time.monotonic() - begun))
            print(f"{cells[-1]['seconds']:.0f} s{'' if cell.is_clean else ': violations'}")
    print_table(cells)
    if arguments.out or not arguments.quick:
        body = {"method": asdict(plan), "pinned": "nothing pinned", "cells": cells}
        packages = {name: version(name) for name in ("uvicorn", "uvloop", "websockets")}
        versions = {"wirebell": __version__, **packages, **find_versions(arguments.broker)}
        rig.write_results("broker_faults", versions, body, arguments.out)
    if not is_clean:
        sys.exit("something was lost, doubled or hidden")


if __name__ == "__main__":
    main()
