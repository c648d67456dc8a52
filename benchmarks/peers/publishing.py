"""Publishing from inside a process: how many a second, with so many at once.

Usage: `python -m peers.publishing MODULE AT_ONCE ROUNDS MEASURE_MS PAYLOAD_BYTES`. The module is
one beside this whose `publishing(text)` gives a coroutine function: it publishes a text of JSON to
the room of a number. A line of JSON for each round, after one that says that it begins.

Strategy: each of AT_ONCE tasks publishes to a room of its own, again and again, each time when the
last publication was taken. Nobody listens.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module

import uvloop

__all__ = ("Publish", "list_rooms")

Publish = Callable[[int], Awaitable[None]]

ROOMS_MAX = 1000
WARM_SHARE = 0.3


def list_rooms() -> list[str]:
    """Name the room of each number: none that clients use."""
    return [f"inside-{number}" for number in range(ROOMS_MAX)]


async def run_round(publish: Publish, at_once: int, seconds: float) -> dict[str, float]:
    """Publish for so long; returns the rate, and how busy this process was."""
    counts = [0] * at_once
    ends_at = time.monotonic() + seconds * (1 + WARM_SHARE)

    async def work(number: int) -> None:
        while time.monotonic() < ends_at:
            await publish(number)
            counts[number] += 1
            # The memory broker never waits, and the others shall have their turn.
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(work(number))
        await asyncio.sleep(seconds * WARM_SHARE)
        count, began_at, cpu = sum(counts), time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        elapsed = time.monotonic() - began_at
        return {
            "in_flight": at_once,
            "per_second": (sum(counts) - count) / elapsed,
            "server_cpu": (time.process_time() - cpu) / elapsed,
        }


async def main() -> None:
    """Do what the command line says."""
    module, at_once, rounds, measure_ms, payload_bytes = sys.argv[1:]
    text = json.dumps({"by": "ann", "text": "", "seq": "00000000"}, separators=(",", ":"))
    text = text.replace('""', '"' + "x" * (int(payload_bytes) - len(text)) + '"')
    async with import_module(module).publishing(text) as publish:
        await publish(0)
        for _ in range(int(rounds)):
            print(json.dumps({"begins": True}), flush=True)
            found = await run_round(publish, int(at_once), int(measure_ms) / 1000)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
