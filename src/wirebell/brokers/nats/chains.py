"""Which frame comes next in a channel: what is to be published, and what is known of its chain."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wirebell.brokers.nats.faults import Declined
from wirebell.brokers.nats.frames import CHAIN_MAX, Frame, encode_frame
from wirebell.brokers.nats.link import Link
from wirebell.brokers.nats.messages import Ack
from wirebell.brokers.nats.streams import Stream, Streams
from wirebell.model import History, Published, PublishOptions, StreamPosition

__all__ = ("Chains", "Item", "Lane", "Sent", "Tail")

# Of one frame. A stream counts frames, so a channel keeps up to so many times its size.
RECORDS_MAX = 16
RECORD_BYTES_MAX = 256 * 1024
TAILS_MAX = 20_000
"""Channels whose last frame is remembered; about 1 KB each."""

_SEQUENCE = b"Nats-Sequence: "


class Item(NamedTuple):
    """What is to be published.

    Attributes:
        subject: Where it is received.
        word: The channel's; empty for what nodes tell each other.
        record: Of the publication.
        history: What to keep; ``None`` keeps nothing.
        how: What holds for it alone; ``None`` where that is nothing.
        heard: Subject and payload for those who subscribed to patterns; ``None`` for nothing.
        deadline: Until when, by the loop's clock; given where it begins to wait.
    """

    subject: bytes
    word: bytes
    record: bytes
    history: History | None = None
    how: PublishOptions | None = None
    heard: tuple[bytes, bytes] | None = None
    deadline: float = 0.0


class Tail(NamedTuple):
    """Where a channel goes on: what its last frame says.

    Attributes:
        sequence: Of the frame in its stream.
        at: When it was stored, in seconds since 1970 by the server's clock.
        top: The offset of the newest publication so far.
        epoch: Of the channel.
        floor: As `Frame` has it; the next ones too.
        version: Likewise.
        version_epoch: Likewise.
        chain: Of the next frame.
    """

    sequence: int
    at: float
    top: int
    epoch: str
    floor: int = 1
    version: int = 0
    version_epoch: str = ""
    chain: tuple[int, ...] = ()

    @staticmethod
    def of(sequence: int, at: float, frame: Frame) -> Tail:
        """Return what a frame says to the next one."""
        return Tail(
            sequence,
            at,
            frame.top,
            frame.epoch,
            frame.floor,
            frame.version,
            frame.version_epoch,
            (sequence, *frame.chain[: CHAIN_MAX - 1]),
        )


@dataclass(slots=True)
class Lane:
    """What is to be published in one channel, in order, its places in the batch, and how far.

    Attributes:
        ident: That its frame is to have; empty for a new one each time.
    """

    word: bytes
    places: list[int]
    items: list[Item]
    at: int = 0
    ident: bytes = b""

    def settle(
        self, found: Sequence[Published | Exception], results: list[Published | Exception]
    ) -> None:
        """Take what became of the next items, and go on behind them."""
        for result in found:
            results[self.places[self.at]] = result
            self.at += 1


@dataclass(slots=True)
class Sent:
    """A frame that is under way.

    Attributes:
        stream: That is to store it.
        subject: Under which.
        frame: Itself.
        payload: As it is written.
        expected: The sequence of the frame before it.
        results: For whom it stands, in order; there are more than records where some are left out.
        doubts: How often it was sent before without an answer.
        answer: Where it was stored, or why not; ``None`` where that was lost.
    """

    stream: Stream
    subject: bytes
    frame: Frame
    payload: bytes
    expected: int
    results: list[Published]
    doubts: int = 0
    answer: Ack | Declined | None = None


class Chains:
    """Plans frames.

    Mutable state: the last frames of the channels that were published to lately.

    Args:
        link: Leads to the server.
        streams: Of the same.
    """

    def __init__(self, link: Link, streams: Streams) -> None:
        self.link = link
        self.streams = streams
        self.tails: dict[bytes, tuple[Stream, Tail]] = {}
        self.nonce = secrets.token_bytes(8)
        self.numbers = itertools.count(1)

    def handle_back(self) -> None:
        """Learn that the link was away: whatever is remembered may be of before."""
        self.tails.clear()

    def handle_frame(self, word: bytes, headers: bytes, frame: Frame) -> None:
        """Learn what was published in a channel that this node may publish to, too.

        Args:
            word: The channel's.
            headers: With which the stream published the frame anew.
            frame: Itself.
        """
        known = self.tails.get(word)
        if known is None:
            return
        stream, tail = known
        at = headers.find(_SEQUENCE)
        if at < 0 or b"Nats-Stream: %b\r" % stream.name not in headers:
            return
        sequence = int(headers[at + len(_SEQUENCE) : headers.index(b"\r", at)])
        if sequence > tail.sequence:
            self.tails[word] = stream, Tail.of(sequence, self.streams.now(), frame)

    def plan_known(self, lane: Lane) -> Sent | None:
        """Plan the next frame, if nothing has to be asked for it."""
        item = lane.items[0]
        known = self.tails.get(lane.word)
        if known is None or item.history is None:
            return None
        if item.how is not None and (item.how.idempotency_key or item.how.version):
            return None
        stream, tail = known
        if stream is not self.streams.kept(item.history) or not stream.life:
            return None
        if self.streams.now() - tail.at > item.history.meta_ttl_seconds:
            return None
        return self.build(lane, stream, tail, tail.sequence, b"")

    def remember(self, word: bytes, plan: Sent, sequence: int) -> None:
        """Learn that a frame was stored."""
        stream = plan.stream
        if sequence > stream.acknowledged:
            stream.acknowledged = sequence
        known = self.tails.get(word)
        if known is None or known[0] is not stream or known[1].sequence < sequence:
            if len(self.tails) >= TAILS_MAX and word not in self.tails:
                del self.tails[next(iter(self.tails))]
            self.tails[word] = stream, Tail.of(sequence, self.streams.now(), plan.frame)

    def forget(self, word: bytes) -> None:
        """Ask for the last frame of a channel before the next one."""
        self.tails.pop(word, None)

    async def plan(self, lane: Lane, left: Sent | None, deadline: float) -> Sent:
        """Plan the next frame from what the server has."""
        item = lane.items[lane.at]
        assert item.history is not None
        stream = self.streams.kept(item.history)
        await self.streams.open(stream, deadline=deadline)
        found = await self.streams.last(stream, lane.word, deadline)
        sequence, tail = 0, None
        if found is not None:
            message, frame = found
            sequence = message.seq
            tail = Tail.of(sequence, message.stored_at, frame)
        if tail is None or self.streams.now() - tail.at > item.history.meta_ttl_seconds:
            epoch = await self.streams.epoch(stream, lane.word, item.history, deadline)
            tail = Tail(sequence, self.streams.now(), 0, epoch)
        is_same = left is not None and left.expected == sequence and left.stream is stream
        plan = self.build(
            lane, stream, tail, sequence, left.frame.ident if left and is_same else lane.ident
        )
        if left is not None and is_same and (left.answer is None or left.doubts):
            # What was sent before may still be on its way, and only one of both is stored.
            plan.doubts = left.doubts + 1
        return plan

    def build(self, lane: Lane, stream: Stream, tail: Tail, expected: int, ident: bytes) -> Sent:
        """Make the next frame of a channel behind its last one."""
        top, version, version_epoch = tail.top, tail.version, tail.version_epoch
        records: list[bytes] = []
        results: list[Published] = []
        size, limit = 0, min(RECORD_BYTES_MAX, self.link.payload_bytes_max // 2)
        for item in itertools.islice(lane.items, lane.at, None):
            how = item.how
            is_once = how is not None and how.idempotency_key != ""
            if item.history is None or self.streams.kept(item.history) is not stream:
                break
            size += len(item.record)
            if results and (is_once or len(records) >= RECORDS_MAX or size > limit):
                break
            if how is not None and how.version:
                if how.version_epoch == version_epoch and how.version <= version:
                    results.append(Published(StreamPosition(top, tail.epoch), is_suppressed=True))
                    continue
                version, version_epoch = how.version, how.version_epoch
            top += 1
            records.append(item.record)
            results.append(Published(StreamPosition(top, tail.epoch)))
            if is_once:
                break
        frame = self.frame_behind(tail, records, version, version_epoch, ident)
        return Sent(
            stream, stream.subject + lane.word, frame, encode_frame(frame), expected, results
        )

    def frame_behind(
        self,
        tail: Tail,
        records: Sequence[bytes],
        version: int,
        version_epoch: str,
        ident: bytes = b"",
    ) -> Frame:
        """Make a frame that follows another."""
        return Frame(
            tail.top + 1,
            tail.epoch,
            tail.floor,
            version,
            version_epoch,
            ident or self.next_ident(),
            tail.chain,
            records,
        )

    def next_ident(self) -> bytes:
        """Return what no other frame has."""
        return self.nonce + next(self.numbers).to_bytes(8)
