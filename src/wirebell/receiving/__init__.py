"""What this node receives of its channels: asked for at the broker, whole and in order.

Strategy: `following` asks the broker for the channels that somebody here is subscribed to. What
comes shows gaps by its offsets; `resuming` fills them from history, or tells of them. `positions`
finds gaps that nothing shows, and `catching_up` reads history for who subscribes.

It knows the broker by its interface, and puts into the tick what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from wirebell.background import Background
from wirebell.connection import Connection
from wirebell.hub import Hub
from wirebell.interfaces import Broker
from wirebell.model import ChannelItem, ChannelOptions, Publication
from wirebell.receiving.catching_up import CatchingUp, Subscribed
from wirebell.receiving.following import Following
from wirebell.receiving.positions import Positions
from wirebell.receiving.resuming import Resuming

__all__ = ("Receiving", "Subscribed")


class Receiving:
    """The receiving side of a node. Used on its event loop.

    Mutable state: that of its four parts.

    Args:
        hub: Who is subscribed, and how far each channel was seen.
        broker: Sends, and has history.
        options_for: Gives a channel's options by its name.
        deliver: Puts an item into the tick.
        tell_gap: Tells a connection of a gap in a channel.
        background: Runs what nobody waits for, on the node's loop.
        publications_max: Most publications that are read or held of one channel, 1 or more.
    """

    def __init__(
        self,
        hub: Hub,
        broker: Broker,
        options_for: Callable[[str], ChannelOptions],
        deliver: Callable[[str, ChannelItem], None],
        tell_gap: Callable[[Connection, str], None],
        background: Background,
        publications_max: int,
    ) -> None:
        self.hub = hub
        self.deliver = deliver
        self.background = background
        self.statistics = background.statistics
        self.following = Following(hub, broker, background.loop)
        self.positions = Positions(
            hub,
            broker,
            options_for,
            background.note_failure,
            lambda channel: self.resuming.look(channel),
            tell_gap,
        )
        self.resuming = Resuming(
            hub,
            broker,
            options_for,
            deliver,
            self.positions.tell_gap,
            background,
            publications_max,
        )
        self.catching_up = CatchingUp(hub, broker, self.resuming, publications_max)
        # Looked at for every item: one attribute less.
        self.held = self.resuming.held

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Take what the broker delivers; the tick's end sends it."""
        self.statistics.received_count += 1
        if self.held and channel in self.held:
            self.resuming.hold(channel, item)
            return
        if isinstance(item, Publication) and item.offset:
            seen = self.hub.tops.get(channel)
            gap = self.hub.find_gap(channel, item)
            if gap is None:
                self.resuming.doubt(channel)
                return
            if gap and seen is not None:
                if item.epoch == seen.epoch:
                    self.resuming.handle_gap(channel, seen, item)
                    return
                self.resuming.tell(channel)
        self.deliver(channel, item)

    def handle_reconnect(self) -> None:
        """Read what was missed while the link to the broker was cut."""
        self.resuming.sweep()
        self.background.spawn(self.following.retry())

    def close(self) -> Iterable[asyncio.Task[None]]:
        """Stop reading; returns the changes at the broker that still run."""
        self.resuming.close()
        return self.following.changes.values()
