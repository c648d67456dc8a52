"""Gaps that are filled from history: after a link to the broker was cut, and whenever one shows.

Strategy: a publication that does not follow the one before is held, and what follows it. History
is read from the newest position that was seen; what was missed is delivered, then what was held,
each once and in order. After a reconnect channels are looked at in which nothing arrives, too.
Where the missing part cannot be had, everybody who counts on it is told before anything else.

Invariants: what is held of a channel is delivered behind what history had, or dropped because
history has it; one question runs for each channel; a channel that nobody is subscribed to any more
holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wirebell.background import Background
from wirebell.backoff import Backoff
from wirebell.errors import BrokerClosed, BrokerError
from wirebell.history import recover
from wirebell.hub import Hub
from wirebell.interfaces import Broker, HistorySlice
from wirebell.model import ChannelItem, ChannelOptions, Publication, StreamPosition

__all__ = ("Resuming",)

# So many channels are read at once after a reconnect: what a pool of connections serves quickly.
READERS_MAX = 32
# A broker that answers has answered by then: about 3 s with its delays.
TRIES_MAX = 6
# Payload bytes held in all channels together; more is dropped, and read again.
HELD_BYTES_MAX = 67_108_864
# A broker of this process answers at once: others must get their turn in between.
CHANNELS_IN_A_TURN = 50


@dataclass(slots=True)
class Hold:
    """What arrived in a channel whose gap is being filled.

    Attributes:
        items: Oldest first.
        byte_count: Of their payloads.
        has_dropped: Some publications were left out, since history has them.
    """

    items: list[ChannelItem] = field(default_factory=list)
    byte_count: int = 0
    has_dropped: bool = False


class Resuming:
    """Fills gaps. Used on the node's event loop.

    Mutable state: channels whose gap is being filled and what is held there; channels that wait to
    be looked at, and those that are.

    Args:
        hub: Knows the newest position that was seen of each channel.
        broker: Has history.
        options_for: Gives a channel's options by its name.
        deliver: Puts an item into the tick.
        tell_gap: Tells those who count on every publication that some cannot be had.
        background: Runs the readers.
        publications_max: Most publications that are read or held of one channel, 1 or more; a
            wider gap is told.
    """

    def __init__(
        self,
        hub: Hub,
        broker: Broker,
        options_for: Callable[[str], ChannelOptions],
        deliver: Callable[[str, ChannelItem], None],
        tell_gap: Callable[[str], None],
        background: Background,
        publications_max: int,
    ) -> None:
        self.hub = hub
        self.broker = broker
        self.options_for = options_for
        self.deliver = deliver
        self.tell_gap = tell_gap
        self.background = background
        self.statistics = background.statistics
        self.publications_max = publications_max
        self.held: dict[str, Hold] = {}
        self.held_bytes = 0
        self.waiting: dict[str, None] = {}
        # Of those that wait, the ones that go first: something is held or doubtful there.
        self.urgent: dict[str, None] = {}
        # Channel → whether it is to be looked at once more.
        self.running: dict[str, bool] = {}
        self.readers: set[asyncio.Task[None]] = set()
        self.sweep_count = 0
        self.is_failing = False

    def close(self) -> None:
        """Stop; what is held is dropped."""
        for reader in self.readers:
            reader.cancel()
        self.waiting.clear()
        self.urgent.clear()
        self.held.clear()

    # What arrives

    def tell(self, channel: str) -> None:
        """Tell that something of a channel cannot be had."""
        self.statistics.gap_count += 1
        self.tell_gap(channel)

    def handle_gap(self, channel: str, seen: StreamPosition, item: Publication) -> None:
        """Hold a publication that does not follow ``seen``, of the same epoch, and fill the gap."""
        self.hub.tops[channel] = seen
        self.held[channel] = Hold()
        self.hold(channel, item)
        self.look(channel)

    def hold(self, channel: str, item: ChannelItem) -> None:
        """Keep an item of a channel in ``held`` until its gap is filled."""
        hold = self.held[channel]
        is_kept = isinstance(item, Publication) and item.offset > 0
        if not hold.has_dropped:
            size = len(item.data) if isinstance(item, Publication) else 0
            is_full = (
                len(hold.items) >= self.publications_max or self.held_bytes + size > HELD_BYTES_MAX
            )
            if not is_full:
                hold.items.append(item)
                hold.byte_count += size
                self.held_bytes += size
                return
            self._overflow(channel, hold)
        if not is_kept:
            # History does not have it.
            self.deliver(channel, item)

    def _overflow(self, channel: str, hold: Hold) -> None:
        """Drop what history has, to be read from there; what it has not goes at once."""
        items, hold.items = hold.items, []
        self.held_bytes -= hold.byte_count
        hold.byte_count, hold.has_dropped = 0, True
        for item in items:
            if not isinstance(item, Publication) or not item.offset:
                self.deliver(channel, item)

    # Looking

    def sweep(self) -> None:
        """Look at each channel with history whose position is known: the link was cut."""
        self.sweep_count += 1
        for channel in [*self.held, *self.hub.tops]:
            self._queue(channel)
        self._read()

    def look(self, channel: str) -> None:
        """Look whether something of a channel is missing, and fill it."""
        self._queue(channel)
        self._read()

    def doubt(self, channel: str) -> None:
        """Look at a channel in which something came once more; soon, before its stream goes on.

        Mostly it was read from history meanwhile. Else the stream lost its end, and counts again.
        """
        self._queue(channel)
        if channel in self.waiting:
            self.urgent[channel] = None
        self._read()

    def _queue(self, channel: str) -> None:
        """Have a channel looked at, after a look that runs."""
        if channel in self.running:
            self.running[channel] = True
            return
        self.waiting[channel] = None
        if channel in self.held:
            self.urgent[channel] = None

    def _read(self) -> None:
        """Start readers, as many as there is work for."""
        # Those that look at nothing yet are about to.
        while len(self.readers) < READERS_MAX and (
            len(self.readers) - len(self.running) < len(self.waiting)
        ):
            reader = self.background.begin(self._read_some())
            self.readers.add(reader)
            reader.add_done_callback(self.readers.discard)

    async def _read_some(self) -> None:
        """Look at one channel after the other."""
        count = 0
        while self.waiting:
            channel = next(iter(self.urgent or self.waiting))
            del self.waiting[channel]
            self.urgent.pop(channel, None)
            self.running[channel] = False
            try:
                await self._resume(channel)
            except Exception as error:  # noqa: BLE001 - it is told; the other channels go on.
                self.background.note_failure(error)
                self._drop(channel)
                self.tell(channel)
            finally:
                if self.running.pop(channel):
                    self._queue(channel)
            count += 1
            if count % CHANNELS_IN_A_TURN == 0:
                await asyncio.sleep(0)
        reader = asyncio.current_task()
        assert reader is not None
        # Now, and not when the loop finds it done: what comes in between needs another reader.
        self.readers.discard(reader)

    async def _resume(self, channel: str) -> None:
        """Fill a channel's gap, or tell it."""
        backoff, failure = Backoff(), False
        # When the broker did not answer for one channel the others need not try as long.
        for _ in range(1 if self.is_failing else TRIES_MAX):
            seen, options = self.hub.tops.get(channel), self.options_for(channel)
            if seen is None or options.history is None:
                self._let_go(channel)
                return
            if failure:
                await asyncio.sleep(0.1 + backoff.next_delay())
            try:
                # One more, to see a gap that is too wide.
                part = await self.broker.history(
                    channel, options, since=seen, limit=self.publications_max + 1
                )
            except BrokerClosed:
                return
            except BrokerError as error:
                self.background.note_failure(error)
                if not self.broker.is_connected:
                    # It is looked at again when the link stands.
                    return
                failure = True
                continue
            failure = self.is_failing = False
            if self._take(channel, seen, part):
                return
        self.is_failing = failure
        self.give_up(channel, None)

    def _take(self, channel: str, seen: StreamPosition, part: HistorySlice) -> bool:
        """Deliver what history has beyond ``seen``, and what is held; false to read once more."""
        now_seen = self.hub.tops.get(channel)
        if now_seen is None:
            self._let_go(channel)
            return True
        top = part.top
        if now_seen.epoch != seen.epoch:
            # It was told while history was read.
            return False
        recovery = recover(part.publications, top, seen, limit=self.publications_max)
        if top.epoch != seen.epoch or not recovery.recovered:
            self.give_up(channel, top)
            return True
        self._fill(channel, recovery.publications)
        return self._deliver_held(channel)

    def _fill(self, channel: str, missed: Sequence[Publication]) -> None:
        """Deliver what was missed, as far as it did not arrive meanwhile."""
        for publication in missed:
            seen = self.hub.tops.get(channel)
            if seen is None:
                return
            if publication.epoch == seen.epoch and publication.offset <= seen.offset:
                continue
            self.hub.find_gap(channel, publication)
            self.statistics.refilled_count += 1
            self.deliver(channel, publication)

    def _deliver_held(self, channel: str) -> bool:
        """Deliver what was held, as far as it follows; false where something is missing still."""
        hold = self.held.get(channel)
        if hold is None:
            return True
        for number, item in enumerate(hold.items):
            if isinstance(item, Publication) and item.offset:
                seen = self.hub.tops.get(channel)
                if seen is None:
                    break
                if item.epoch != seen.epoch:
                    del hold.items[:number]
                    self.give_up(channel, None)
                    return True
                if item.offset <= seen.offset:
                    continue
                if item.offset > seen.offset + 1:
                    del hold.items[:number]
                    return False
                self.hub.find_gap(channel, item)
            self.deliver(channel, item)
        if hold.has_dropped and channel in self.hub.tops:
            self._empty(hold)
            hold.has_dropped = False
            return False
        self._drop(channel)
        return True

    def give_up(self, channel: str, top: StreamPosition | None) -> None:
        """Tell that something cannot be had, then let what was held follow.

        Args:
            channel: Where.
            top: The stream's newest position; ``None`` when it is not known.
        """
        if top is not None:
            self.hub.take_top(channel, top)
        self.tell(channel)
        hold = self.held.get(channel)
        if top is not None and hold is not None:
            # Who has come since counts in the new stream: the old one's must not confuse it.
            hold.items = [
                item
                for item in hold.items
                if not isinstance(item, Publication) or item.epoch in {"", top.epoch}
            ]
        self._let_go(channel)

    def _let_go(self, channel: str) -> None:
        """Deliver what is held whatever came before it."""
        for item in self._drop(channel):
            if (
                isinstance(item, Publication)
                and item.offset
                and self.hub.find_gap(channel, item) is None
            ):
                continue
            self.deliver(channel, item)

    def _drop(self, channel: str) -> list[ChannelItem]:
        """Hold nothing of a channel any more, and return what was held."""
        hold = self.held.pop(channel, None)
        if hold is None:
            return []
        self.held_bytes -= hold.byte_count
        return hold.items

    def _empty(self, hold: Hold) -> None:
        """Hold none of what was delivered."""
        self.held_bytes -= hold.byte_count
        hold.items, hold.byte_count = [], 0
