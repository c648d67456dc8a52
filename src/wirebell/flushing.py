"""When a tick ends: with its turn of the event loop, or at once where it has too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wirebell.connection import Connection
from wirebell.hub import Hub
from wirebell.model import ChannelItem

__all__ = ("Flushing",)


class Flushing:
    """Has the hub write what it keeps. Used on the node's event loop.

    Mutable state: whether the end of this turn is planned.

    Args:
        hub: What it keeps, and for whom.
        bytes_max: Payload bytes of one tick, 1 or more; with more it ends at once.
        loop: Gives the loop; raises while the node does not run.
        cut: Ends a connection that is over its limit.

    Attributes:
        awaits_answers: The broker brings a publication, and the answer to who published it, in one
            turn: what waits for that answer has its say before the tick ends, so that both go out
            in one write.
    """

    def __init__(
        self,
        hub: Hub,
        bytes_max: int,
        loop: Callable[[], asyncio.AbstractEventLoop],
        cut: Callable[[Connection], None],
    ) -> None:
        self.hub = hub
        self.bytes_max = bytes_max
        self.loop = loop
        self.cut = cut
        self.awaits_answers = False
        self.is_planned = False

    def deliver(self, channel: str, item: ChannelItem) -> None:
        """Have an item sent at the end of the tick."""
        self.hub.enqueue(channel, item)
        if self.hub.pending_bytes > self.bytes_max:
            self.flush()
        elif self.hub.pending and not self.is_planned:
            self.plan()

    def plan(self) -> None:
        """Have the tick end with this turn of the loop; to be called once in a turn."""
        self.is_planned = True
        loop = self.loop()
        if self.awaits_answers:
            loop.call_soon(loop.call_soon, self.flush)
        else:
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send the tick, and cut who cannot keep up."""
        self.is_planned = False
        for subscriber in self.hub.flush():
            assert isinstance(subscriber, Connection)
            self.cut(subscriber)
