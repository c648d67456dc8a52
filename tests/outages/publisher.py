"""Steady publishing with numbers, over the server API of all nodes by turns, and what came of it.

A publication that fails, or whose answer is lost, is tried again at the next node, with the same
idempotency key: so it is published once, or nobody says that it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.outages.api import API, Address, Declined, NotReached, Unanswered
from tests.outages.clients import backoff
from tests.outages.verdict import Acknowledged, Position

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Publisher",)

GIVE_UP_SECONDS = 20.0
"""Longer than any fault, and far below the life of an idempotency key (five minutes)."""


@dataclass
class Publisher:
    """Publishes at even distances, whatever becomes of what it published before.

    Attributes:
        api: To publish by.
        addresses: Of the nodes.
        channels: To which it publishes by turns.
        per_second: How often.
        acknowledged: What somebody said is published.
        failed: Tries that were refused, or reached nobody: reason → how many.
        unknown: Tries without an answer.
        given_up: Publications that nobody acknowledged.
    """

    api: API
    addresses: Sequence[Address]
    channels: Sequence[str]
    per_second: float
    acknowledged: list[Acknowledged] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    given_up: int = 0
    is_stopped: bool = False

    async def run(self) -> None:
        """Publish until `is_stopped`, and then until everything has come to its end."""
        begun, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self.is_stopped:
                number += 1
                group.create_task(self._publish(number))
                await asyncio.sleep(begun + number / self.per_second - time.monotonic())

    async def _publish(self, number: int) -> None:
        """Publish once, however many tries it takes."""
        channel = self.channels[number % len(self.channels)]
        begun = time.monotonic()
        body = {
            "channel": channel,
            "data": {"number": number, "begun": begun},
            "idempotency_key": str(number),
        }
        tries = 0
        while time.monotonic() < begun + GIVE_UP_SECONDS:
            address = self.addresses[(number + tries) % len(self.addresses)]
            position = await self._try(address, body)
            if position is not None:
                self.acknowledged.append(Acknowledged(channel, position, number))
                return
            await asyncio.sleep(backoff(tries))
            tries += 1
        self.given_up += 1

    async def _try(self, address: Address, body: dict[str, Any]) -> Position | None:
        """Try once; the position when it is acknowledged."""
        try:
            result = await self.api.call(address, "publish", body)
        except NotReached:
            self.failed["not reached"] += 1
        except Declined as error:
            self.failed[str(error)] += 1
        except Unanswered:
            self.unknown += 1
        else:
            return Position(result["epoch"], result["offset"])
        return None
