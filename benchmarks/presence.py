"""Presence: what does it cost to keep somebody in a channel's presence?

Question: CPU time of node and broker for 1,000 renewals of leases, and renewals per second.

Method: one process, on the first core, enters 20,000 clients into 2,000 channels, then renews each
of them, as many at once as a node does (`wirebell.leases.RENEWALS_AT_ONCE`); the broker has the
last core. A node of 50,000 connections with presence does 2,000 of these a second. Medians of the
rounds count; CPU time is what other programs disturb least.

Sketch: a call of a script for each turn of the loop, 64 entries in it: 10 to 20 µs of Redis and as
much of the node for an entry.
"""

import argparse
import asyncio
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

import uvloop

import rig
from broker_servers import (
    BROKERS,
    BrokerMissing,
    BrokerServer,
    family_cpu_seconds,
    find_versions,
    run_broker,
)
from wirebell.brokers import create_broker
from wirebell.interfaces import PresenceStore
from wirebell.leases import RENEWALS_AT_ONCE
from wirebell.model import ChannelItem, ClientInfo
from wirebell.settings import Settings

__all__ = ("main",)

CLIENTS, CHANNEL_CLIENTS = 20_000, 10
MEDIANS = ("per_second", "node_ms_per_1000", "broker_ms_per_1000")
Entry = tuple[str, ClientInfo]


class Nobody:
    """A listener that is told nothing."""

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Nothing was subscribed to."""

    def handle_control(self, data: bytes) -> None:
        """Nobody says anything."""

    def handle_reconnect(self) -> None:
        """There is nothing to catch up with."""


async def renew(store: PresenceStore, entries: Sequence[Entry], ttl_seconds: float) -> None:
    """Write all entries."""
    left = iter(entries)

    async def renew_some() -> None:
        for channel, info in left:
            await store.add(channel, info, ttl_seconds=ttl_seconds)

    await asyncio.gather(*(renew_some() for _ in range(RENEWALS_AT_ONCE)))


async def measure(server: BrokerServer, count: int, rounds: int) -> list[dict[str, float]]:
    """Enter so many clients, and renew them so often."""
    settings = Settings(broker_url=server.url)
    broker, store = create_broker(settings)
    await broker.start(Nobody(), str(uuid.uuid4()))
    await store.start()
    entries = [
        (f"here-{number // CHANNEL_CLIENTS}", ClientInfo(str(uuid.uuid4()), f"user-{number}"))
        for number in range(count)
    ]
    found = []
    try:
        await renew(store, entries, settings.presence_ttl_seconds)
        for _ in range(rounds):
            began, node = time.monotonic(), time.process_time()
            cpu = family_cpu_seconds(server.pid)
            await renew(store, entries, settings.presence_ttl_seconds)
            found.append(
                {
                    "per_second": round(count / (time.monotonic() - began)),
                    "node_ms_per_1000": round(1e6 * (time.process_time() - node) / count, 1),
                    "broker_ms_per_1000": round(
                        1e6 * (family_cpu_seconds(server.pid) - cpu) / count, 1
                    ),
                }
            )
    finally:
        await store.aclose()
        await broker.aclose()
    return found


def print_table(cells: Sequence[dict[str, Any]]) -> None:
    """Print the cells."""
    print(f"\n{'':<12} {'renewals/s':>10}  {'CPU ms per 1,000: node':>22} {'broker':>7}")
    for cell in cells:
        print(
            f"{cell['broker']:<12} {cell['per_second']:>10,.0f}  "
            f"{cell['node_ms_per_1000']:>22.1f} {cell['broker_ms_per_1000']:>7.1f}"
        )


def main() -> None:
    """Measure, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    arguments = parser.parse_args()
    chosen = [name for name in arguments.peers.split(",") if name] or list(BROKERS)
    if unknown := set(chosen) - set(BROKERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(BROKERS)}")
    count = CLIENTS // 10 if arguments.quick else CLIENTS
    rounds = 1 if arguments.quick else arguments.rounds or 3
    os.sched_setaffinity(0, {rig.cores()[0]})
    cells = []
    for name in chosen:
        print(f"{name} ...", flush=True)
        try:
            with run_broker(name) as server:
                found = uvloop.run(measure(server, count, rounds))
        except BrokerMissing as error:
            print(f"left out: {name}: {error}")
            continue
        cells.append({"broker": name} | {key: rig.median(found, key) for key in MEDIANS})
    print_table(cells)
    if arguments.out or not arguments.quick:
        method = {"clients": count, "rounds": rounds, "at_once": RENEWALS_AT_ONCE}
        body = {"method": method, "cells": cells}
        rig.write_results("presence", find_versions(set(chosen)), body, arguments.out)


if __name__ == "__main__":
    main()
