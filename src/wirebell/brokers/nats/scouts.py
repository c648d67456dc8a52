"""How it is made sure that the other servers of a cluster know what this node receives.

Strategy: a server that took a subscription tells the others later, and what somebody publishes
there in between would not arrive. So a node has a second connection to each of the others, a
*scout*. After it subscribed, it subscribes to a word that nobody else knows, too, and has each
scout publish there until that arrives: servers tell each other in order, so that one then knows
everything before it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Collection

from wirebell.brokers.nats.addresses import Address, Place
from wirebell.brokers.nats.entering import open_wire
from wirebell.brokers.nats.wire import Wire

__all__ = ("Scouts",)

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.002
LONGEST_WAIT_SECONDS = 0.05
# A server that a scout reaches, and from which nothing arrives, is cut off from ours.
CUT_SECONDS = 1.0
LOG_SECONDS = 60.0


class Scouts:
    """Connections to all servers of a cluster.

    Mutable state: the scouts by their servers' ids, and the ids of addresses.

    Args:
        place: How to connect.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.wires: dict[str, Wire] = {}
        self.addresses: dict[Address, str] = {}
        self.ahead = f"{place.prefix}.s.{secrets.token_hex(8)}.".encode()
        self.numbers = itertools.count(1)
        self.logged_at = -LOG_SECONDS

    async def refresh(self, addresses: Collection[Address]) -> None:
        """Connect to servers that have no scout; who cannot be reached is left out."""
        self.addresses = {each: self.addresses.get(each, "") for each in addresses}
        missing = [each for each, name in self.addresses.items() if name not in self.wires]
        await asyncio.gather(*(self._send(address) for address in missing))

    def close(self) -> None:
        """Let go of all."""
        wires, self.wires = self.wires, {}
        for wire in wires.values():
            wire.close()

    async def confirm(self, wire: Wire) -> None:
        """Wait until every server knows what was subscribed to on a wire before.

        Raises:
            WireLost: The wire ended.
        """
        if not any(name != wire.info.server_id for name in self.wires):
            await asyncio.shield(wire.sync())
            return
        word = self.ahead + b"%d" % next(self.numbers)
        arrived: set[str] = set()
        news = asyncio.Event()

        def receive(_: bytes, __: bytes, ___: bytes, data: bytes) -> None:
            arrived.add(data.decode())
            news.set()

        sid = wire.subscribe(word, receive)
        try:
            taken = wire.sync()
            await self._knock(wire, word, arrived, news)
            await asyncio.shield(taken)
        finally:
            wire.unsubscribe(sid)

    async def _knock(self, wire: Wire, word: bytes, arrived: set[str], news: asyncio.Event) -> None:
        """Publish from everywhere until it arrives."""
        loop = asyncio.get_running_loop()
        cut_at = loop.time() + CUT_SECONDS
        pause = FIRST_WAIT_SECONDS
        while True:
            missing = [
                (name, scout)
                for name, scout in self.wires.items()
                if name not in arrived and name != wire.info.server_id
            ]
            if not missing or wire.is_lost:
                return
            if loop.time() > cut_at:
                self._note([name for name, _ in missing])
                for _, scout in missing:
                    # It is tried again later; until then nobody waits for it.
                    scout.abort()
                return
            for name, scout in missing:
                scout.publish(word, name.encode())
            news.clear()
            try:
                async with asyncio.timeout(pause):
                    while not all(name in arrived for name, _ in missing):
                        await news.wait()
                        news.clear()
            except TimeoutError:
                pause = min(2 * pause, LONGEST_WAIT_SECONDS)

    async def _send(self, address: Address) -> None:
        """Connect to a server, unless there is a scout already."""
        try:
            async with asyncio.timeout(self.place.connect_seconds):
                wire = await open_wire(address, self.place.connect_seconds, self.place.io_seconds)
        except Exception:  # noqa: BLE001 - whatever it is, it is tried again
            return
        name = wire.info.server_id
        self.addresses[address] = name
        if name in self.wires:
            wire.abort()
            return
        self.wires[name] = wire

        def handle_lost() -> None:
            if self.wires.get(name) is wire:
                del self.wires[name]

        wire.handle_lost = handle_lost
        if wire.is_lost:
            handle_lost()

    def _note(self, names: list[str]) -> None:
        """Log that servers are cut off from each other, at most once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self.logged_at >= LOG_SECONDS:
            self.logged_at = now
            logger.warning(
                "servers of NATS at %s are cut off from each other: %s", self.place, names
            )
