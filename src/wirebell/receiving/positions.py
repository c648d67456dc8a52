"""Gaps: who is told of them, and those that no publication shows.

A broker may lose a publication on its way here, and then nothing follows that would show the gap.
`wirebell.receiving.resuming` fills what is found. Source: protocol document, section 1.8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from wirebell.connection import Connection
from wirebell.errors import BrokerError
from wirebell.hub import Hub
from wirebell.interfaces import Broker
from wirebell.model import ChannelOptions, StreamPosition

__all__ = ("Positions",)

# A broker of this process answers at once: others must get their turn in between.
CHANNELS_IN_A_TURN = 50
# A broker that fails so often fails for the others, too; each failure may take its whole time-out.
FAILURES_MAX = 3


class Positions:
    """Tells clients of gaps that cannot be filled, and finds those that no publication shows.

    What is on its way is no loss, so being behind counts when two checks in a row see it and
    nothing came in between. A stream that has less than was seen lost its end, and counts at once.

    Mutable state: channel → the node's position, of those that were behind at the last check.

    Args:
        hub: Knows the positions of this node's channels.
        broker: Knows their newest ones.
        options_for: Gives a channel's options by its name.
        note_failure: Is called when the broker did not answer.
        resume: Has a channel that is behind filled, or its gap told.
        tell: Tells one connection of a gap.
    """

    def __init__(
        self,
        hub: Hub,
        broker: Broker,
        options_for: Callable[[str], ChannelOptions],
        note_failure: Callable[[BaseException], None],
        resume: Callable[[str], None],
        tell: Callable[[Connection, str], None],
    ) -> None:
        self.hub = hub
        self.broker = broker
        self.options_for = options_for
        self.note_failure = note_failure
        self.resume = resume
        self.tell = tell
        self.suspects: dict[str, StreamPosition] = {}
        self.is_checking = False

    def tell_gap(self, channel: str) -> None:
        """Tell those who count on every publication that some never came.

        Those who read history at this moment are told when they have: it may end before the gap.
        """
        for entry in self.hub.catching_up.get(channel, {}).values():
            entry.is_torn = True
        for connection in self._find_positioned(channel):
            self.tell(connection, channel)

    async def check(self) -> None:
        """Check one channel after the other, with one question at a time."""
        self.is_checking = True
        suspects, self.suspects = self.suspects, {}
        failure_count = 0
        try:
            for number, channel in enumerate(list(self.hub.tops), 1):
                try:
                    await self._check(channel, suspects.get(channel))
                except BrokerError as error:
                    self.note_failure(error)
                    failure_count += 1
                    if failure_count == FAILURES_MAX:
                        return
                if number % CHANNELS_IN_A_TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self.is_checking = False

    async def _check(self, channel: str, suspected: StreamPosition | None) -> None:
        """Check one channel; ``suspected`` is its position if it was behind the last time."""
        options = self.options_for(channel)
        if options.history is None or next(self._find_positioned(channel), None) is None:
            return
        before = self.hub.tops.get(channel)
        part = await self.broker.history(channel, options, since=None, limit=0)
        seen = self.hub.tops.get(channel)
        if seen is None:
            return
        if before is not None and part.top.precedes(before):
            # It has less than was seen before it was asked: it lost its end.
            self.resume(channel)
        elif _is_behind(seen, part.top):
            if seen == suspected:
                self.resume(channel)
            else:
                self.suspects[channel] = seen

    def _find_positioned(self, channel: str) -> Iterator[Connection]:
        """Find those who count on every publication of a channel."""
        for subscriber in self.hub.subscribers(channel):
            assert isinstance(subscriber, Connection)
            # Telling one may end others: who is over its limit.
            subscription = subscriber.channels.get(channel)
            if subscription is not None and subscription.is_positioned:
                yield subscriber


def _is_behind(seen: StreamPosition, top: StreamPosition) -> bool:
    """Tell whether a stream has something that was not seen."""
    if seen.epoch != top.epoch:
        # Of a stream that never had a publication nothing was lost.
        return seen.offset > 0 or top.offset > 0
    return top.offset > seen.offset
