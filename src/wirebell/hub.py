"""This node's map of channels to subscribers, and the tick.

Strategy: whatever reaches a channel during one turn of the event loop waits in ``pending``. At
the end of the turn `Hub.flush` encodes it once per encoding and hands the same frames to every
subscriber. A subscriber that is catching up from history does not take part in that: until it is
released its items are held, and afterwards those it already got from history are left out.

Pure: it calls ``write`` of a subscriber's transport and nothing else of the world.

Invariants: a channel without subscribers has no entry; a subscriber is either live or catching
up in a channel, never both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from wirebell.interfaces import Encoding
from wirebell.model import ChannelItem, Frames, Publication, StreamPosition

__all__ = ("CatchUp", "Hub", "Subscriber")

EntryT = TypeVar("EntryT")


class Subscriber(Protocol):
    """What the hub knows of a connection."""

    @property
    def encoding(self) -> Encoding:
        """How its items are written. Subscribers with the same object share frames."""

    @property
    def write(self) -> Callable[[Frames], bool]:
        """Takes frames; false when it is over its limit and must be closed."""


@dataclass(slots=True)
class CatchUp:
    """A subscriber between subscribing and having read history.

    Attributes:
        held: What arrived meanwhile, oldest first.
        position: The newest publication it got from history; ``None`` while it has not read yet.
    """

    held: list[ChannelItem] = field(default_factory=list)
    position: StreamPosition | None = None

    def is_new(self, item: ChannelItem) -> bool:
        """Tell whether history has not delivered this item yet."""
        position = self.position
        assert position is not None
        if not isinstance(item, Publication) or item.epoch != position.epoch:
            return True
        return item.offset > position.offset


class Hub:
    """Channels, their subscribers, and what waits for the end of the tick.

    Args:
        held_items_max: Items held for one subscriber that is catching up, 1 or more; one more and
            it is reported by `flush` as overflowed.
    """

    def __init__(self, *, held_items_max: int) -> None:
        self.held_items_max = held_items_max
        self.live: dict[str, dict[Subscriber, None]] = {}
        self.catching_up: dict[str, dict[Subscriber, CatchUp]] = {}
        self.pending: dict[str, list[ChannelItem]] = {}
        self.delivered_count = 0

    def subscribe(self, channel: str, subscriber: Subscriber, *, catch_up: bool = False) -> bool:
        """Add a subscriber; returns true when it is the channel's first on this node.

        Args:
            channel: Any name.
            subscriber: Must not be subscribed to ``channel``. A live one also gets what reached
                the channel earlier in the running tick.
            catch_up: Hold what arrives until `release` is called.
        """
        assert not self.is_subscribed(channel, subscriber)
        is_first = not self.has_subscribers(channel)
        if catch_up:
            self.catching_up.setdefault(channel, {})[subscriber] = CatchUp()
        else:
            self.live.setdefault(channel, {})[subscriber] = None
        return is_first

    def unsubscribe(self, channel: str, subscriber: Subscriber) -> bool:
        """Remove a subscriber; returns true when it was the channel's last on this node.

        Idempotent: false when it was not subscribed.
        """
        if not self.is_subscribed(channel, subscriber):
            return False
        _discard(self.live, channel, subscriber)
        _discard(self.catching_up, channel, subscriber)
        if self.has_subscribers(channel):
            return False
        self.pending.pop(channel, None)
        return True

    def has_subscribers(self, channel: str) -> bool:
        """Tell whether anybody on this node is subscribed."""
        return channel in self.live or channel in self.catching_up

    def is_subscribed(self, channel: str, subscriber: Subscriber) -> bool:
        """Tell whether this subscriber is."""
        return subscriber in self.live.get(channel, ()) or subscriber in self.catching_up.get(
            channel, ()
        )

    def subscriber_count(self, channel: str) -> int:
        """Return the subscribers of a channel on this node."""
        return len(self.live.get(channel, ())) + len(self.catching_up.get(channel, ()))

    @property
    def channel_count(self) -> int:
        """Channels with at least one subscriber on this node."""
        return len(self.live.keys() | self.catching_up.keys())

    def release(
        self, channel: str, subscriber: Subscriber, position: StreamPosition | None
    ) -> list[ChannelItem]:
        """End the holding for a subscriber that has read history up to ``position``.

        Args:
            channel: What it is catching up in.
            subscriber: Who is.
            position: ``None`` where there is no history: everything held is new to it.

        Returns:
            What was held and history did not deliver, oldest first: to be sent right after the
            history. Items of the running tick follow by `flush`, without duplicates.
        """
        entry = self.catching_up[channel][subscriber]
        entry.position = position
        held, entry.held = entry.held, []
        if position is None:
            _discard(self.catching_up, channel, subscriber)
            self.live.setdefault(channel, {})[subscriber] = None
        else:
            held = [item for item in held if entry.is_new(item)]
        self.delivered_count += len(held)
        return held

    def enqueue(self, channel: str, item: ChannelItem) -> bool:
        """Keep an item for the end of the tick; returns true when it is the tick's first.

        An item of a channel without subscribers is left out.
        """
        items = self.pending.get(channel)
        if items is not None:
            items.append(item)
            return False
        if not self.has_subscribers(channel):
            return False
        self.pending[channel] = [item]
        return len(self.pending) == 1

    def flush(self) -> list[Subscriber]:
        """Write this tick's items, and return the subscribers that are over their limit."""
        pending, self.pending = self.pending, {}
        overflowed: list[Subscriber] = []
        for channel, items in pending.items():
            frames_by_encoding: dict[Encoding, Frames] = {}
            live = self.live.get(channel, {})
            for subscriber in live:
                encoding = subscriber.encoding
                frames = frames_by_encoding.get(encoding)
                if frames is None:
                    frames = frames_by_encoding[encoding] = encoding.join(channel, items)
                if frames.messages and not subscriber.write(frames):
                    overflowed.append(subscriber)
            self.delivered_count += len(items) * len(live)
            if channel in self.catching_up:
                overflowed += self.flush_catching_up(channel, items)
        return overflowed

    def flush_catching_up(self, channel: str, items: Sequence[ChannelItem]) -> list[Subscriber]:
        """Hold items for those who read history, and make live those who have passed it."""
        overflowed: list[Subscriber] = []
        # After a storm of reconnects thousands stand at the same position: they share frames too.
        known: dict[tuple[Encoding, StreamPosition], Frames] = {}
        for subscriber, entry in list(self.catching_up[channel].items()):
            if entry.position is None:
                entry.held.extend(items)
                if len(entry.held) > self.held_items_max:
                    entry.held.clear()
                    overflowed.append(subscriber)
                continue
            new = [item for item in items if entry.is_new(item)]
            if not new:
                continue
            self.delivered_count += len(new)
            key = (subscriber.encoding, entry.position)
            frames = known.get(key)
            if frames is None:
                frames = known[key] = subscriber.encoding.join(channel, new)
            if frames.messages and not subscriber.write(frames):
                overflowed.append(subscriber)
            # Only a publication proves that the channel has passed what history delivered.
            if any(isinstance(item, Publication) for item in new):
                _discard(self.catching_up, channel, subscriber)
                self.live.setdefault(channel, {})[subscriber] = None
        return overflowed


def _discard(
    channels: dict[str, dict[Subscriber, EntryT]], channel: str, subscriber: Subscriber
) -> None:
    """Remove a subscriber, and the channel's entry with its last one."""
    subscribers = channels.get(channel)
    if subscribers is None:
        return
    subscribers.pop(subscriber, None)
    if not subscribers:
        del channels[channel]
