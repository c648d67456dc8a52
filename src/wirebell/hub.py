"""This node's map of channels to subscribers, and the tick.

Strategy: whatever reaches a channel during one turn of the event loop waits in ``pending``, and
what is sent to one subscriber alone in ``replies``. At the end of the turn `Hub.flush` encodes a
channel's items once per encoding and hands the same frames to every subscriber; whoever gets
something else besides gets all of it in one write. A subscriber that is catching up from history
does not take part in that: until it is released its items are held, and afterwards those it
already got from history are left out.

Pure: it calls ``write`` of a subscriber's transport and nothing else of the world.

Invariants: a channel without subscribers has no entry; a subscriber is either live or catching
up in a channel, never both; a reply stands between the items that came before and after it; who
has a backlog gets nothing past it in a channel that may drop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from wirebell.backlog import Backlog
from wirebell.interfaces import Encoding
from wirebell.model import ChannelItem, Frames, Membership, Overflow, Publication, StreamPosition

__all__ = ("CatchUp", "Hub", "Subscriber")

EntryT = TypeVar("EntryT")

# What a membership counts: it has no payload, and must not be free.
MEMBERSHIP_BYTES = 64
NOTHING = Frames((), 0)


class Subscriber(Protocol):
    """What the hub knows of a connection."""

    @property
    def encoding(self) -> Encoding:
        """How its items are written. Subscribers with the same object share frames."""

    @property
    def channels(self) -> Mapping[str, object]:
        """What it is subscribed to."""

    @property
    def write(self) -> Callable[[Frames], bool]:
        """Takes frames; false when it is over its limit and must be closed."""

    @property
    def is_writable(self) -> bool:
        """Whether nothing that was written before waits."""


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


@dataclass(frozen=True, slots=True)
class Reply:
    """What one subscriber alone is sent.

    Attributes:
        frames: The messages.
        before: Channel → how many of this tick's items come before them; those that have none
            are left out.
    """

    frames: Frames
    before: dict[str, int]


class Tick:
    """One flush: what each subscriber gets, and frames that several of them share.

    Mutable state: subscriber → its frames in order, what was encoded, and who holds too much.
    """

    def __init__(self) -> None:
        self.outgoing: dict[Subscriber, list[Frames]] = {}
        self.encoded: dict[Hashable, Frames] = {}
        self.overflowed: list[Subscriber] = []

    def add(self, subscriber: Subscriber, frames: Frames) -> None:
        """Put frames behind what a subscriber gets already."""
        if not frames.messages:
            return
        waiting = self.outgoing.get(subscriber)
        if waiting is None:
            self.outgoing[subscriber] = [frames]
        else:
            waiting.append(frames)

    def encode(
        self, encoding: Encoding, channel: str, items: Sequence[ChannelItem], *which: Hashable
    ) -> Frames:
        """Encode items of a channel once for all who get the same, which ``which`` tells."""
        key = (encoding, channel, which)
        frames = self.encoded.get(key)
        if frames is None:
            frames = self.encoded[key] = encoding.join(channel, items)
        return frames

    def write(self) -> list[Subscriber]:
        """Write to everybody once, and return those over their limit."""
        return self.overflowed + [
            subscriber
            for subscriber, parts in self.outgoing.items()
            if not subscriber.write(Frames.join(parts))
        ]


class Hub:
    """Channels, their subscribers, and what waits for the end of the tick.

    Args:
        held_items_max: Items held for one subscriber that is catching up, 1 or more; one more and
            it is reported by `flush` as overflowed.
        backlog_bytes_max: Bytes that wait for one subscriber in channels that may drop; 1 or more.
        overflow_for: Gives a channel's policy by its name; must be quick and pure.
    """

    def __init__(
        self,
        *,
        held_items_max: int,
        backlog_bytes_max: int,
        overflow_for: Callable[[str], Overflow] = lambda _: Overflow.DISCONNECT,
    ) -> None:
        self.held_items_max = held_items_max
        self.backlog_bytes_max = backlog_bytes_max
        self.overflow_for = overflow_for
        self.live: dict[str, dict[Subscriber, None]] = {}
        self.catching_up: dict[str, dict[Subscriber, CatchUp]] = {}
        self.pending: dict[str, list[ChannelItem]] = {}
        self.pending_bytes = 0
        self.replies: dict[Subscriber, list[Reply]] = {}
        # What `take` has given already: subscriber → channel → how many of this tick's items.
        self.taken: dict[Subscriber, dict[str, int]] = {}
        self.backlogs: dict[Subscriber, Backlog] = {}
        self.delivered_count = 0
        self.dropped_counts: Counter[Overflow] = Counter()

    # Subscribers

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
        for reply in self.replies.get(subscriber, ()):
            reply.before.pop(channel, None)
        backlog = self.backlogs.get(subscriber)
        if backlog is not None:
            backlog.leave(channel)
        if self.has_subscribers(channel):
            return False
        for item in self.pending.pop(channel, ()):
            self.pending_bytes -= _size(item)
        return True

    def forget(self, subscriber: Subscriber) -> None:
        """Drop what waits for a subscriber that is gone; idempotent."""
        self.replies.pop(subscriber, None)
        self.taken.pop(subscriber, None)
        self.backlogs.pop(subscriber, None)

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

    # The tick

    def enqueue(self, channel: str, item: ChannelItem) -> None:
        """Keep an item for the end of the tick; one of a channel without subscribers is left out.

        ``pending_bytes`` grows with it, so that whoever owns the tick can end it early.
        """
        items = self.pending.get(channel)
        if items is not None:
            items.append(item)
        elif self.has_subscribers(channel):
            self.pending[channel] = [item]
        else:
            return
        self.pending_bytes += _size(item)

    def reply(self, subscriber: Subscriber, frames: Frames, *, is_ahead: bool = False) -> None:
        """Keep what one subscriber alone is sent, for the end of the tick.

        Args:
            subscriber: Who.
            frames: Its messages: behind what reached its channels before, and ahead of what
                reaches them afterwards.
            is_ahead: Put them ahead of this tick's items, too.
        """
        before: dict[str, int] = {}
        if self.pending and not is_ahead:
            for channel in subscriber.channels:
                items = self.pending.get(channel)
                # Who reads history gets nothing of a channel before it is released.
                if items is not None and not self._is_held(channel, subscriber):
                    before[channel] = len(items)
        self.replies.setdefault(subscriber, []).append(Reply(frames, before))

    def take(self, subscriber: Subscriber) -> Frames | None:
        """Take out what waits for one subscriber that is about to be closed, in its order."""
        tick = Tick()
        replies = self.replies.pop(subscriber, ())
        self.taken[subscriber] = self._merge(tick, subscriber, replies, self.pending)
        parts = tick.outgoing.get(subscriber)
        return None if parts is None else Frames.join(parts)

    def resume(self, subscriber: Subscriber) -> bool:
        """Write the backlog of a subscriber that reads again; false when it is over its limit."""
        backlog = self.backlogs.pop(subscriber, None)
        if backlog is None:
            return True
        runs = backlog.runs()
        self.delivered_count += sum(len(items) for _, items in runs)
        frames = Frames.join([subscriber.encoding.join(channel, items) for channel, items in runs])
        return not frames.messages or subscriber.write(frames)

    def flush(self) -> list[Subscriber]:
        """Write this tick's items and replies; returns the subscribers over their limit."""
        pending, self.pending = self.pending, {}
        replies, self.replies = self.replies, {}
        self.pending_bytes = 0
        if len(pending) == 1 and not replies and not self.taken:
            for channel, items in pending.items():
                if channel not in self.catching_up and not self._may_drop(channel):
                    return self._fan_out(channel, items)
        tick = Tick()
        for subscriber, entries in replies.items():
            self.taken[subscriber] = self._merge(tick, subscriber, entries, pending)
        for channel, items in pending.items():
            self._deliver(tick, channel, items)
        self.taken.clear()
        return tick.write()

    def _fan_out(self, channel: str, items: Sequence[ChannelItem]) -> list[Subscriber]:
        """Write a tick in which there is nothing but one channel: by far the most frequent."""
        live = self.live.get(channel, {})
        self.delivered_count += len(items) * len(live)
        frames_by_encoding: dict[Encoding, Frames] = {}
        overflowed: list[Subscriber] = []
        for subscriber in live:
            encoding = subscriber.encoding
            frames = frames_by_encoding.get(encoding)
            if frames is None:
                frames = frames_by_encoding[encoding] = encoding.join(channel, items)
            if frames.messages and not subscriber.write(frames):
                overflowed.append(subscriber)
        return overflowed

    def _deliver(self, tick: Tick, channel: str, items: Sequence[ChannelItem]) -> None:
        """Give a channel's items to its subscribers, but for what `_merge` gave them."""
        end, may_drop = len(items), self._may_drop(channel)
        encoding: Encoding | None = None
        shared = NOTHING
        for subscriber in self.live.get(channel, ()):
            if may_drop or subscriber in self.taken:
                start = self.taken.get(subscriber, {}).get(channel, 0)
                self._give(tick, channel, subscriber, items, start, end)
                continue
            if subscriber.encoding is not encoding:
                encoding = subscriber.encoding
                shared = tick.encode(encoding, channel, items, 0, end, None)
            self.delivered_count += end
            tick.add(subscriber, shared)
        for subscriber in list(self.catching_up.get(channel, ())):
            start = self.taken.get(subscriber, {}).get(channel, 0)
            self._give(tick, channel, subscriber, items, start, end)

    def _merge(
        self,
        tick: Tick,
        subscriber: Subscriber,
        replies: Iterable[Reply],
        pending: Mapping[str, Sequence[ChannelItem]],
    ) -> dict[str, int]:
        """Give a subscriber its replies, each between the items before and after it.

        Returns:
            Channel → how many of its items it got with them.
        """
        taken = self.taken.get(subscriber, {})
        for reply in replies:
            for channel, end in reply.before.items():
                start = taken.get(channel, 0)
                self._give(tick, channel, subscriber, pending[channel], start, end)
                taken[channel] = end
            tick.add(subscriber, reply.frames)
        for channel in subscriber.channels:
            items = pending.get(channel)
            if items is not None and self.is_subscribed(channel, subscriber):
                start = taken.get(channel, 0)
                self._give(tick, channel, subscriber, items, start, len(items))
                taken[channel] = len(items)
        return taken

    def _give(
        self,
        tick: Tick,
        channel: str,
        subscriber: Subscriber,
        items: Sequence[ChannelItem],
        start: int,
        end: int,
    ) -> None:
        """Give a run of a channel's items to one subscriber: send, hold, leave out or keep them."""
        if start >= end:
            return
        run: Sequence[ChannelItem] = items[start:end]
        entry = self.catching_up.get(channel, {}).get(subscriber)
        if entry is not None:
            if entry.position is None:
                self._hold(tick, subscriber, entry, run)
                return
            run = [item for item in run if entry.is_new(item)]
            # Only a publication proves that the channel has passed what history delivered.
            if any(isinstance(item, Publication) for item in run):
                _discard(self.catching_up, channel, subscriber)
                self.live.setdefault(channel, {})[subscriber] = None
        if not run:
            return
        if self._may_drop(channel) and not self._keeps_up(subscriber):
            self._keep(channel, subscriber, run)
            return
        self.delivered_count += len(run)
        # After a storm of reconnects thousands stand at the same position: they share frames too.
        position = None if entry is None else entry.position
        tick.add(subscriber, tick.encode(subscriber.encoding, channel, run, start, end, position))

    def _hold(
        self, tick: Tick, subscriber: Subscriber, entry: CatchUp, items: Sequence[ChannelItem]
    ) -> None:
        """Have items wait for one that reads history; too many are reported as overflow."""
        entry.held.extend(items)
        if len(entry.held) > self.held_items_max:
            entry.held.clear()
            tick.overflowed.append(subscriber)

    def _is_held(self, channel: str, subscriber: Subscriber) -> bool:
        """Tell whether a subscriber has not read history yet."""
        entry = self.catching_up.get(channel, {}).get(subscriber)
        return entry is not None and entry.position is None

    # Backlogs

    def _may_drop(self, channel: str) -> bool:
        """Tell whether a channel's policy is another than to cut who does not read."""
        return self.overflow_for(channel) is not Overflow.DISCONNECT

    def _keeps_up(self, subscriber: Subscriber) -> bool:
        """Tell whether a subscriber has read what it was written before."""
        return subscriber.is_writable and subscriber not in self.backlogs

    def _keep(self, channel: str, subscriber: Subscriber, items: Sequence[ChannelItem]) -> None:
        """Have items wait until a subscriber reads again; the policy says which are dropped."""
        backlog = self.backlogs.get(subscriber)
        if backlog is None:
            backlog = self.backlogs[subscriber] = Backlog(self.backlog_bytes_max)
        overflow = self.overflow_for(channel)
        self.dropped_counts[overflow] += backlog.add(channel, items, overflow)


def _size(item: ChannelItem) -> int:
    """Count what an item takes of a tick."""
    return MEMBERSHIP_BYTES if isinstance(item, Membership) else len(item.data)


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
