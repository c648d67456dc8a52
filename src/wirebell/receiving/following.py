"""Which channels this node receives from its broker: those that somebody here is subscribed to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wirebell.hub import Hub
from wirebell.interfaces import Broker

__all__ = ("Following",)


class Following:
    """Makes the broker's subscriptions equal the hub's.

    Mutable state: the channels subscribed at the broker, the changes that run, one at a time for
    each channel, and channels of which the broker may not know that nobody wants them.

    Args:
        hub: Knows who is subscribed here.
        broker: To be asked.
        loop: Gives the loop on which changes run.
    """

    def __init__(
        self, hub: Hub, broker: Broker, loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        self.hub = hub
        self.broker = broker
        self.loop = loop
        self.channels: set[str] = set()
        self.changes: dict[str, asyncio.Task[None]] = {}
        self.unwanted: set[str] = set()

    def is_settled(self, channel: str) -> bool:
        """Tell whether a channel is received, and nothing is about to change that."""
        return channel in self.channels and channel not in self.changes

    async def follow(self, channel: str) -> None:
        """Have the broker know whether anybody here is subscribed.

        Raises:
            BrokerError: It does not answer.
        """
        while True:
            # A change that runs may have been begun for somebody who left since.
            change = self.changes.get(channel)
            if change is None:
                if self.hub.has_subscribers(channel) == (channel in self.channels):
                    return
                change = self.loop().create_task(self._change(channel))
                self.changes[channel] = change
            # Others wait for the same change: one of them being cancelled must not stop it.
            await asyncio.shield(change)

    async def _change(self, channel: str) -> None:
        """Subscribe or unsubscribe at the broker. Nobody counts on a channel being let go."""
        try:
            # Where it fails, whether it was done is not known.
            self.unwanted.add(channel)
            if self.hub.has_subscribers(channel):
                await self.broker.subscribe(channel)
                self.channels.add(channel)
            else:
                self.channels.discard(channel)
                await self.broker.unsubscribe(channel)
            self.unwanted.discard(channel)
        finally:
            del self.changes[channel]

    async def retry(self) -> None:
        """Let go what the broker was not able to let go while its link was cut.

        Raises:
            BrokerError: It does not answer; the rest waits for the next time.
        """
        for channel in list(self.unwanted):
            if channel not in self.changes and not self.hub.has_subscribers(channel):
                self.changes[channel] = self.loop().create_task(self._change(channel))
                await asyncio.shield(self.changes[channel])
