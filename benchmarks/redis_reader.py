"""What does reading Redis' pub/sub cost a node: the broker's own reader beside redis-py's PubSub?

Question: CPU time of the reading process for each message, and messages per second, when 137 bytes
are published in each of 100 channels by turns.

Method: Redis and a publisher, which writes prepared commands as fast as Redis answers them, share
the last core; the reader has the first. Each reader subscribes, waits until the publisher
begins, and counts until everything is there; it does nothing with a message but count it, so the
numbers are of reading alone. `bare` is `wirebell.brokers.redis.subscriber`, `pubsub` is
`redis.asyncio`'s `PubSub.get_message`, both on uvloop and with hiredis' parser. Rounds alternate;
medians count, by CPU time, which other programs disturb least.

Sketch: hiredis needs half a microsecond for a message of three parts; a call of a function and a
dictionary's look-up as much again. PubSub takes a message at a time out of a stream through five
coroutines: 5 to 20 µs.
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import urlsplit

import hiredis
import redis.asyncio
import uvloop

import rig
from broker_servers import BrokerMissing, find_versions, run_broker
from wirebell.brokers.redis.addresses import Access, Address, Place
from wirebell.brokers.redis.servers import create_servers
from wirebell.brokers.redis.subscriber import Subscriber

__all__ = ("main",)

HOST = "127.0.0.1"
CHANNELS = [b"bench:%d" % number for number in range(100)]
PAYLOAD = b"x" * 137
IN_FLIGHT = 1000
"""Publications that Redis has not answered; more would only wait in a socket."""


def publish(port: int, count: int) -> None:
    """Publish so many messages; runs in a process of its own."""
    os.sched_setaffinity(0, {rig.cores()[1]})
    words: list[tuple[bytes, ...]] = [(b"PUBLISH", name, PAYLOAD) for name in CHANNELS]
    # Its types know a tuple of one word.
    commands = b"".join(map(hiredis.pack_command, words))  # type: ignore[arg-type]
    with socket.create_connection((HOST, port)) as link:
        sent = answered = 0
        while answered < count:
            if sent < count and sent - answered < IN_FLIGHT:
                link.sendall(commands)
                sent += len(CHANNELS)
            else:
                answered += link.recv(65536).count(b"\n")


class Counter:
    """Counts what arrives."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.done = asyncio.Event()

    def receive(self, name: bytes, data: bytes) -> None:
        """Count a message."""
        self.left -= 1
        if not self.left:
            self.done.set()

    def handle_lost(self, subscriber: Subscriber) -> None:
        """Give up."""
        raise SystemExit("the link was lost")

    async def handle_back(self, subscriber: Subscriber) -> None:
        """Nothing comes back here."""


async def read_bare(port: int, count: int, begin: Callable[[], None]) -> None:
    """Read with the broker's subscriber."""
    place = Place("single", (Address(HOST, port),), Access())
    counter, server = Counter(count), create_servers(place, "")
    subscriber = Subscriber(server, server.find, place.kind, place.access, counter)
    await subscriber.start()
    await asyncio.gather(*(subscriber.subscribe(name) for name in CHANNELS))
    begin()
    await counter.done.wait()
    await subscriber.aclose()


async def read_pubsub(port: int, count: int, begin: Callable[[], None]) -> None:
    """Read with the driver's PubSub."""
    client = redis.asyncio.Redis(host=HOST, port=port, socket_timeout=None, protocol=2)
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(*CHANNELS)
        begin()
        left = count
        while left:
            if await pubsub.get_message(timeout=None) is not None:
                left -= 1
    await client.aclose()


READERS = {"bare": read_bare, "pubsub": read_pubsub}


def measure(name: str, port: int, count: int) -> dict[str, float]:
    """Read everything once; returns the CPU time for a message, and the rate."""
    publisher = multiprocessing.get_context("spawn").Process(target=publish, args=(port, count))
    began: list[tuple[float, float]] = []

    def begin() -> None:
        publisher.start()
        began.append((time.monotonic(), time.process_time()))

    uvloop.run(READERS[name](port, count, begin))
    seconds, cpu = time.monotonic() - began[0][0], time.process_time() - began[0][1]
    publisher.join()
    return {"cpu_us": 1e6 * cpu / count, "per_second": count / seconds}


def main() -> None:
    """Measure, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    arguments = parser.parse_args()
    count, rounds = (20_000, 1) if arguments.quick else (200_000, arguments.rounds or 3)
    chosen = [name for name in arguments.peers.split(",") if name] or list(READERS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    os.sched_setaffinity(0, {rig.cores()[0]})
    try:
        with run_broker("redis") as server:
            port = urlsplit(server.url).port
            assert port is not None
            with redis.Redis(host=HOST, port=port) as client:
                # A reader that is behind is not cut.
                client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
            for _ in range(rounds):
                for name in chosen:
                    found[name].append(measure(name, port, count))
    except BrokerMissing as error:
        raise SystemExit(str(error)) from error
    print(f"\n{'reader':<8} {'CPU µs a message':>17} {'messages/s':>11}")
    cells = []
    for name, measured in found.items():
        cell = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        cells.append({"reader": name, **cell})
        print(f"{name:<8} {cell['cpu_us']:>17.2f} {cell['per_second']:>11,.0f}")
    if arguments.out or not arguments.quick:
        versions = {each: version(each) for each in ("hiredis", "redis", "uvloop")}
        versions |= find_versions(["redis"])
        method = {"messages": count, "rounds": rounds, "payload_bytes": len(PAYLOAD)}
        body = {"method": method, "cells": cells}
        rig.write_results("redis_reader", versions, body, arguments.out)


if __name__ == "__main__":
    main()
