"""This node's map of channels to subscribers, and the tick.

Strategy: whatever reaches a channel during one turn of the event loop waits in ``pending``, and
what is sent to one subscriber alone in ``replies``. At the end of the turn `Hub.flush` encodes a
channel's items once per encoding and hands the same frames to every subscriber; whoever gets
something else besides gets all of it in one write. A subscriber that is catching up from history
does not take part in that: until it is released its items are held, and afterwards those it
already got from history are left out. Where somebody takes patches, the hub keeps the channel's
newest publication, against which the next one's patch is made.

Pure: it calls ``write`` of a subscriber's transport and nothing else of the world.

Invariants: a channel without subscribers has no entry; a subscriber is either live or catching
up in a channel, never both; a reply stands between the items that came before and after it; who
has a backlog gets nothing past it in a channel that may drop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from wirebell.backlog import Backlog
from wirebell.interfaces import Encoding
from wirebell.model import ChannelItem, Frames, Membership, Overflow, Publication, StreamPosition
from wirebell.tick import CatchUp, Reply, Subscriber, Tick

__all__ = ("Hub",)

EntryT = TypeVar("EntryT")

# What a membership counts: it has no payload, and must not be free.
MEMBERSHIP_BYTES = 64
NOTHING = Frames((), 0)


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
        self.live: dict[str, dict[Subscriber, Encoding]] = {}
        self.catching_up: dict[str, dict[Subscriber, CatchUp]] = {}
        self.pending: dict[str, list[ChannelItem]] = {}
        self.pending_bytes = 0
        self.replies: dict[Subscriber, list[Reply]] = {}
        # What `take` has given already: subscriber → channel → how many of this tick's items.
        self.taken: dict[Subscriber, dict[str, int]] = {}
        self.backlogs: dict[Subscriber, Backlog] = {}
        # Channels with another policy than to cut who does not read.
        self.droppers: set[str] = set()
        # Channels in which somebody takes patches → the newest publication that was sent there.
        self.bases: dict[str, Publication | None] = {}
        # Channels with history → the newest position that this node has seen of them.
        self.tops: dict[str, StreamPosition] = {}
        # Of these, channels whose position is history's: what leads to it may still arrive.
        self.unseen: set[str] = set()
        self.delivered_count = 0
        self.dropped_counts: Counter[Overflow] = Counter()

    # Subscribers

    def subscribe(
        self,
        channel: str,
        subscriber: Subscriber,
        encoding: Encoding | None = None,
        *,
        catch_up: bool = False,
    ) -> bool:
        """Add a subscriber; returns true when it is the channel's first on this node.

        Args:
            channel: Any name.
            subscriber: Must not be subscribed to ``channel``. A live one also gets what reached
                the channel earlier in the running tick.
            encoding: How its items are written; ``None`` as the subscriber's others.
            catch_up: Hold what arrives until `release` is called.
        """
        assert not self.is_subscribed(channel, subscriber)
        is_first = not self.has_subscribers(channel)
        if is_first and self.overflow_for(channel) is not Overflow.DISCONNECT:
            self.droppers.add(channel)
        encoding = encoding or subscriber.encoding
        if catch_up:
            self.catching_up.setdefault(channel, {})[subscriber] = CatchUp(encoding)
        else:
            self.live.setdefault(channel, {})[subscriber] = encoding
        if encoding.uses_base:
            self.bases.setdefault(channel, None)
        return is_first

    def recode(self, channel: str, subscriber: Subscriber, encoding: Encoding) -> None:
        """Write items of a subscriber that is not released yet in another way from now on."""
        self.catching_up[channel][subscriber].encoding = encoding
        if encoding.uses_base:
            self.bases.setdefault(channel, None)

    def know_top(self, channel: str, position: StreamPosition, newest: Publication | None) -> None:
        """Take a channel's newest position, and its publication, from history.

        Deliveries of this node decide once there are any: history may be ahead of them. Before,
        the oldest answer counts, since answers may overtake each other.

        Args:
            channel: Where; without subscribers nothing is kept.
            position: The stream's top.
            newest: The publication there, for patches; ``None`` when it is not known.
        """
        if not self.has_subscribers(channel):
            # Whoever asked has left meanwhile.
            return
        known = self.tops.get(channel)
        if known is None or (channel in self.unseen and position.precedes(known)):
            self.take_top(channel, position)
        if (
            newest is not None
            and self.tops[channel] == position == StreamPosition(newest.offset, newest.epoch)
            and self.bases.get(channel, newest) is None
        ):
            self.bases[channel] = newest

    def take_top(self, channel: str, position: StreamPosition) -> None:
        """Count on from a position, whatever this node has seen.

        Args:
            channel: One with subscribers.
            position: The stream's top.
        """
        self.tops[channel] = position
        self.unseen.add(channel)

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
        self.droppers.discard(channel)
        self.bases.pop(channel, None)
        self.tops.pop(channel, None)
        self.unseen.discard(channel)
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

    def subscribers(self, channel: str) -> list[Subscriber]:
        """Return those that have a place in a channel: live, or with what history gave them."""
        waiting = self.catching_up.get(channel, {})
        released = [who for who, entry in waiting.items() if entry.position is not None]
        return [*self.live.get(channel, ()), *released]

    def subscriber_count(self, channel: str) -> int:
        """Return the subscribers of a channel on this node."""
        return len(self.live.get(channel, ())) + len(self.catching_up.get(channel, ()))

    @property
    def channel_count(self) -> int:
        """Channels with at least one subscriber on this node."""
        return len(self.live.keys() | self.catching_up.keys())

    def release(
        self, channel: str, subscriber: Subscriber, position: StreamPosition | None
    ) -> Frames:
        """End the holding for a subscriber that has read history up to ``position``.

        Args:
            channel: What it is catching up in.
            subscriber: Who is.
            position: ``None`` where there is no history: everything held is new to it.

        Returns:
            What was held and history did not deliver: to be sent right after the history. Items
            of the running tick follow by `flush`, without duplicates.
        """
        entry = self.catching_up[channel][subscriber]
        entry.position = position
        held, entry.held = entry.held, []
        if position is not None:
            held = [item for item in held if entry.is_new(item)]
        allowed = [item for item in held if not _is_excluded(item, subscriber)]
        frames = entry.encoding.join(channel, allowed) if allowed else NOTHING
        entry.encoding = _settle(entry.encoding, held, subscriber)
        if position is None:
            _discard(self.catching_up, channel, subscriber)
            self.live.setdefault(channel, {})[subscriber] = entry.encoding
        elif _has_publication(held):
            # What it has from now on is not the publication at its position.
            entry.encoding = entry.encoding.restarted
        self.delivered_count += len(allowed)
        return frames

    def is_torn(self, channel: str, subscriber: Subscriber, position: StreamPosition) -> bool:
        """Tell whether a publication is missing behind history that was read up to ``position``.

        Args:
            channel: What it is catching up in.
            subscriber: Who is; not released yet.
            position: The newest publication that it gets from history.
        """
        entry, offset = self.catching_up[channel][subscriber], position.offset
        for item in chain(entry.held, self.pending.get(channel, ())):
            if not isinstance(item, Publication) or not item.offset:
                continue
            if item.epoch != position.epoch or item.offset > offset + 1:
                return True
            offset = max(offset, item.offset)
        return entry.is_torn

    # The tick

    def find_gap(self, channel: str, publication: Publication) -> bool | None:
        """Look whether a publication follows the one before; for channels with history.

        Returns:
            True when something between the two never came, or the stream is another one: who
            counts on every publication must be told before it is enqueued. ``None`` when it came
            before, and must be left out. False when all is well.

        Source:
            Protocol document, section 1.8.
        """
        top = self.tops.get(channel)
        if top is None:
            if self.has_subscribers(channel):
                self.tops[channel] = StreamPosition(publication.offset, publication.epoch)
            return False
        offset, epoch = publication.offset, publication.epoch
        if epoch == top.epoch and offset <= top.offset:
            return False if channel in self.unseen else None
        self.unseen.discard(channel)
        self.tops[channel] = StreamPosition(offset, epoch)
        return epoch != top.epoch or offset != top.offset + 1

    def enqueue(self, channel: str, item: ChannelItem) -> None:
        """Keep an item for the end of the tick; one of a channel without subscribers is left out.

        ``pending_bytes`` grows with it, so that whoever owns the tick can end it early.
        """
        items = self.pending.get(channel)
        if items is not None:
            items.append(item)
        elif channel in self.live or channel in self.catching_up:
            self.pending[channel] = [item]
        else:
            return
        # As `_size`, which would take as long as all of the above.
        self.pending_bytes += len(item.data) if isinstance(item, Publication) else MEMBERSHIP_BYTES

    def reply(self, subscriber: Subscriber, frames: Frames, *, is_ahead: bool = False) -> None:
        """Keep what one subscriber alone is sent, for the end of the tick.

        Args:
            subscriber: Who.
            frames: Its messages: behind what reached its channels before, and ahead of what
                reaches them afterwards.
            is_ahead: Put them ahead of this tick's items, too.
        """
        before: dict[str, int] = {}
        pending = self.pending
        if pending and not is_ahead:
            for channel in subscriber.channels:
                items = pending.get(channel)
                # Who reads history gets nothing of a channel before it is released.
                if items is not None and not (
                    channel in self.catching_up and self._is_held(channel, subscriber)
                ):
                    before[channel] = len(items)
        waiting = self.replies.get(subscriber)
        if waiting is None:
            self.replies[subscriber] = [Reply(frames, before, frames.byte_count)]
        else:
            waiting.append(Reply(frames, before, waiting[-1].byte_count + frames.byte_count))

    def reply_bytes(self, subscriber: Subscriber) -> int:
        """Count what waits for the tick's end and is for one subscriber alone."""
        waiting = self.replies.get(subscriber)
        return 0 if waiting is None else waiting[-1].byte_count

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
        # Where items may be dropped there are no patches.
        frames = Frames.join(
            [self._encoding(channel, subscriber).join(channel, items) for channel, items in runs]
        )
        return not frames.messages or subscriber.write(frames)

    def flush(self) -> list[Subscriber]:
        """Write this tick's items and replies; returns the subscribers over their limit."""
        pending, self.pending = self.pending, {}
        replies, self.replies = self.replies, {}
        self.pending_bytes = 0
        if len(pending) == 1 and not replies and not self.taken:
            for channel, items in pending.items():
                if channel not in self.catching_up and self._is_plain(channel, items):
                    return self._fan_out(channel, items)
        tick = Tick()
        for subscriber, entries in replies.items():
            if not self._answer_alone(tick, subscriber, entries, pending):
                self.taken[subscriber] = self._merge(tick, subscriber, entries, pending)
        for channel, items in pending.items():
            self._deliver(tick, channel, items)
            if channel in self.bases:
                self.bases[channel] = self._base(channel, items, len(items))
        self.taken.clear()
        return tick.write()

    def _answer_alone(
        self,
        tick: Tick,
        subscriber: Subscriber,
        replies: Sequence[Reply],
        pending: dict[str, list[ChannelItem]],
    ) -> bool:
        """Write a reply and what came before it in a channel that only one is subscribed to.

        That is what most ticks of a client are that has a channel of its own and publishes there.

        Returns:
            False, with nothing done, when it is not like that.
        """
        before = replies[0].before
        if len(replies) > 1 or len(before) != 1 or len(subscriber.channels) != 1:
            return False
        [channel] = before
        items, live = pending[channel], self.live.get(channel)
        if live is None or len(live) != 1 or before[channel] != len(items):
            return False
        if channel in self.catching_up or subscriber in self.taken:
            return False
        if not self._is_plain(channel, items):
            return False
        del pending[channel]
        self.delivered_count += len(items)
        first, second = live[subscriber].join(channel, items), replies[0].frames
        frames = Frames(first.messages + second.messages, first.byte_count + second.byte_count)
        if not subscriber.write(frames):
            tick.overflowed.append(subscriber)
        return True

    def _is_plain(self, channel: str, items: Sequence[ChannelItem]) -> bool:
        """Tell whether every live subscriber of a channel gets all of its items as they are."""
        if channel in self.bases or channel in self.droppers:
            return False
        for item in items:  # noqa: SIM110 - a generator would take longer than all of this.
            if isinstance(item, Publication) and item.exclude:
                return False
        return True

    def _fan_out(self, channel: str, items: Sequence[ChannelItem]) -> list[Subscriber]:
        """Write a tick in which there is nothing but one channel: by far the most frequent."""
        live = self.live.get(channel, {})
        self.delivered_count += len(items) * len(live)
        frames_by_encoding: dict[Encoding, Frames] = {}
        overflowed: list[Subscriber] = []
        last: Encoding | None = None
        frames: Frames | None = NOTHING
        for subscriber, encoding in live.items():
            if encoding is not last:
                last = encoding
                frames = frames_by_encoding.get(encoding)
                if frames is None:
                    frames = frames_by_encoding[encoding] = encoding.join(channel, items)
            assert frames is not None
            if frames.messages and not subscriber.write(frames):
                overflowed.append(subscriber)
        return overflowed

    def _deliver(self, tick: Tick, channel: str, items: Sequence[ChannelItem]) -> None:
        """Give a channel's items to its subscribers, but for what `_merge` gave them."""
        end = len(items)
        is_plain = self._is_plain(channel, items)
        last: Encoding | None = None
        shared = NOTHING
        # Giving may change how a subscriber's next items are written, but not who is one.
        for subscriber, encoding in self.live.get(channel, {}).items():
            if not is_plain or subscriber in self.taken:
                start = self.taken.get(subscriber, {}).get(channel, 0)
                self._give(tick, channel, subscriber, items, start, end)
                continue
            if encoding is not last:
                last = encoding
                shared = tick.encode(encoding, channel, items, None, 0, end, None)
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
        is_live = entry is None
        base = self._base(channel, items, start)
        if entry is None:
            encoding = self.live[channel][subscriber]
        elif entry.position is None:
            self._hold(tick, subscriber, entry, run)
            return
        else:
            encoding = entry.encoding
            run = [item for item in run if entry.is_new(item)]
            if base is not None and StreamPosition(base.offset, base.epoch) != entry.position:
                base = None
            is_live = entry.is_over(run)
            if is_live:
                _discard(self.catching_up, channel, subscriber)
                self.live.setdefault(channel, {})[subscriber] = encoding
            else:
                # What it has after a publication is not the one at its position.
                entry.encoding = encoding.restarted if _has_publication(run) else encoding
        if is_live and encoding.uses_base and _has_publication(run):
            # What leaves the subscriber out changes what the next patch can be made against.
            self.live[channel][subscriber] = _settle(encoding, run, subscriber)
        allowed = [item for item in run if not _is_excluded(item, subscriber)]
        which: tuple[Hashable, ...] = (start, end, None if entry is None else entry.position)
        if len(allowed) < len(run):
            run, which = allowed, (*which, subscriber.client_id)
        if not run:
            return
        if channel in self.droppers and not self._keeps_up(subscriber):
            self._keep(channel, subscriber, run)
            return
        self.delivered_count += len(run)
        # After a storm of reconnects thousands stand at the same position: they share frames too.
        tick.add(subscriber, tick.encode(encoding, channel, run, base, *which))

    def _base(self, channel: str, items: Sequence[ChannelItem], start: int) -> Publication | None:
        """Return the publication before ``items[start]``, where patches are made."""
        if channel not in self.bases:
            return None
        for item in reversed(items[:start]):
            if isinstance(item, Publication):
                return item
        return self.bases[channel]

    def _hold(
        self, tick: Tick, subscriber: Subscriber, entry: CatchUp, items: Sequence[ChannelItem]
    ) -> None:
        """Have items wait for one that reads history; too many are reported as overflow."""
        entry.held.extend(items)
        if len(entry.held) > self.held_items_max:
            entry.held.clear()
            tick.overflowed.append(subscriber)

    def _encoding(self, channel: str, subscriber: Subscriber) -> Encoding:
        """Return how a subscriber's items are written."""
        entry = self.catching_up.get(channel, {}).get(subscriber)
        return self.live[channel][subscriber] if entry is None else entry.encoding

    def _is_held(self, channel: str, subscriber: Subscriber) -> bool:
        """Tell whether a subscriber has not read history yet."""
        entry = self.catching_up.get(channel, {}).get(subscriber)
        return entry is not None and entry.position is None

    # Backlogs

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


def _has_publication(items: Iterable[ChannelItem]) -> bool:
    """Tell whether one of some items is a publication."""
    return any(isinstance(item, Publication) for item in items)


def _settle(encoding: Encoding, run: Sequence[ChannelItem], subscriber: Subscriber) -> Encoding:
    """Return how what follows a run is written: is its newest publication the subscriber's?"""
    newest = next((item for item in reversed(run) if isinstance(item, Publication)), None)
    if newest is None:
        return encoding
    return encoding.restarted if _is_excluded(newest, subscriber) else encoding.settled


def _is_excluded(item: ChannelItem, subscriber: Subscriber) -> bool:
    """Tell whether a publication leaves out this subscriber."""
    return isinstance(item, Publication) and item.exclude == subscriber.client_id


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
