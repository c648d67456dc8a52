"""What a transaction does to streams, keys and presence: decided here, written elsewhere. Pure.

Strategy: the writer reads the rows that a batch of operations is about, `Ledger` applies the
operations to them one after the other, and the writer stores what came out, a kind of row at a
time. ``now`` and fresh epochs are arguments.

Invariants: within an epoch the offsets of a stream rise by one; nothing above ``floor`` is ever
missing from ``publications`` until it expires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from wirebell.brokers.sqlite.operations import (
    CONTROL,
    ITEM,
    Add,
    Entry,
    OpenStream,
    Operation,
    Probe,
    Publish,
    Remove,
    RemoveHistory,
    Tell,
    TellNodes,
)
from wirebell.history import IDEMPOTENCY_SECONDS
from wirebell.model import ChannelItem, History, Published, PublishOptions, StreamPosition

__all__ = ("Answer", "Ledger", "Stream", "StreamRow")

# Trimming a publication at each publication would be a second write of the same page: up to this
# many, and not more than are kept, lie there for longer.
SLACK_MAX: Final = 64
# Freed in one transaction of one stream: more would hold the lock for too long.
FREED_MAX: Final = 1_000

Answer = Published | StreamPosition | None
"""What became of an operation: of a publication, of a stream that was opened, of all others."""

StreamRow = tuple[int, str, str, int, int, int, int, str, float | None, float]
"""A row of ``streams``, in the order of its columns."""


@dataclass(slots=True)
class Stream:
    """A channel's stream as a transaction sees it; the columns of its row."""

    id: int
    channel: str
    epoch: str
    top: int
    floor: int
    stored_from: int
    version: int
    version_epoch: str
    expires_at: float | None
    meta_expires_at: float

    @property
    def position(self) -> StreamPosition:
        """Where its newest publication stands."""
        return StreamPosition(self.top, self.epoch)

    def to_row(self) -> StreamRow:
        """Return its columns."""
        return (
            self.id,
            self.channel,
            self.epoch,
            self.top,
            self.floor,
            self.stored_from,
            self.version,
            self.version_epoch,
            self.expires_at,
            self.meta_expires_at,
        )


@dataclass(slots=True)
class Ledger:
    """One transaction: what was there, and what is to be written.

    Args:
        now: Seconds since 1970.
        new_epoch: Gives 8 hexadecimal characters that were never given before.
        next_id: The first id that no stream has.
        streams: Channel → its stream, of all channels with history that the operations name.
        results: Channel and idempotency key → what became of the first, of those that count.
    """

    now: float
    new_epoch: Callable[[], str]
    next_id: int
    streams: dict[str, Stream]
    results: dict[tuple[str, str], StreamPosition]
    changed: dict[str, Stream] = field(default_factory=dict)
    detached: list[int] = field(default_factory=list)
    publications: list[tuple[int, int, bytes]] = field(default_factory=list)
    freed: list[tuple[int, int, int]] = field(default_factory=list)
    new_results: dict[tuple[str, str], StreamPosition] = field(default_factory=dict)
    members: dict[tuple[str, str], tuple[bytes, float] | None] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    delivered: list[ChannelItem | None] = field(default_factory=list)

    @property
    def results_expire_at(self) -> float:
        """When the keys of this transaction are forgotten."""
        return self.now + IDEMPOTENCY_SECONDS

    def apply(self, operations: Iterable[Operation]) -> list[Answer]:
        """Do operations in their order, and return what became of each."""
        answers = [self._apply(operation) for operation in operations]
        for stream in self.changed.values():
            self._trim(stream)
        return answers

    def _apply(self, operation: Operation) -> Answer:
        """Do one."""
        match operation:
            case Publish():
                return self._publish(operation)
            case Tell(channel=channel, membership=membership, record=record):
                self._tell(ITEM, channel, 0, "", record, membership)
            case TellNodes(node_id=node_id, data=data):
                self._tell(CONTROL, node_id, 0, "", data, None)
            case OpenStream(channel=channel, history=history):
                return self._open(channel, history).position
            case RemoveHistory(channel=channel):
                stream = self.streams.get(channel)
                if stream is not None and stream.floor < stream.top:
                    stream.floor = stream.top
                    self.changed[channel] = stream
            case Add(channel=channel, client_id=client_id, info=info, ttl_seconds=ttl_seconds):
                self.members[channel, client_id] = (info, self.now + ttl_seconds)
            case Remove(channel=channel, client_id=client_id):
                self.members[channel, client_id] = None
            case Probe():
                pass
        return None

    def _publish(self, operation: Publish) -> Published:
        """Append, where there is history, unless the key or the version says otherwise."""
        how = operation.how
        channel = operation.channel
        history = None if how is not None and how.skip_history else operation.history
        if how is not None and how.idempotency_key:
            known = self.results.get((channel, how.idempotency_key))
            if known is not None:
                return Published(known, is_suppressed=True)
        position = StreamPosition()
        if history is not None:
            stream = self._open(channel, history)
            if how is not None and how.version and not _accept_version(stream, how):
                return Published(stream.position, is_suppressed=True)
            position = self._append(stream, operation.record, history)
        if how is not None and how.idempotency_key:
            key = (channel, how.idempotency_key)
            self.results[key] = self.new_results[key] = position
        placed = msgspec.structs.replace(
            operation.publication, offset=position.offset, epoch=position.epoch
        )
        self._tell(ITEM, channel, position.offset, position.epoch, operation.record, placed)
        return Published(position)

    def _append(self, stream: Stream, record: bytes, history: History) -> StreamPosition:
        """Give a publication its place; the newest call decides what is kept of the stream."""
        if stream.expires_at is None or stream.expires_at <= self.now:
            stream.floor = stream.top
        stream.top += 1
        stream.floor = max(stream.floor, stream.top - history.size)
        stream.expires_at = self.now + history.ttl_seconds
        stream.meta_expires_at = self.now + history.meta_ttl_seconds
        self.changed[stream.channel] = stream
        self.publications.append((stream.id, stream.top, record))
        return stream.position

    def _open(self, channel: str, history: History) -> Stream:
        """Return the stream of a channel, a new one where there is none or it was forgotten."""
        stream = self.streams.get(channel)
        if stream is not None and stream.meta_expires_at > self.now:
            return stream
        if stream is not None:
            self.detached.append(stream.id)
        stream = Stream(
            id=self.next_id,
            channel=channel,
            epoch=self.new_epoch(),
            top=0,
            floor=0,
            stored_from=1,
            version=0,
            version_epoch="",
            expires_at=None,
            meta_expires_at=self.now + history.meta_ttl_seconds,
        )
        self.next_id += 1
        self.streams[channel] = self.changed[channel] = stream
        return stream

    def _trim(self, stream: Stream) -> None:
        """Plan what is removed from the disk, once it is worth it."""
        # One that keeps few lets few lie.
        slack = min(SLACK_MAX, stream.top - stream.floor)
        if stream.floor - stream.stored_from + 1 > slack:
            last = min(stream.floor, stream.stored_from + FREED_MAX - 1)
            self.freed.append((stream.id, stream.stored_from, last))
            stream.stored_from = last + 1

    def _tell(
        self,
        kind: int,
        name: str,
        offset: int,
        epoch: str,
        record: bytes,
        item: ChannelItem | None,
    ) -> None:
        """Add what all nodes read, and what this one delivers without reading it."""
        self.entries.append((kind, name, offset, epoch, record))
        self.delivered.append(item)


def _accept_version(stream: Stream, how: PublishOptions) -> bool:
    """Take a publication's version for the stream's, unless it is not above that.

    Source:
        Protocol document, section 2.7: another ``version_epoch`` starts again.
    """
    if how.version_epoch == stream.version_epoch and how.version <= stream.version:
        return False
    stream.version, stream.version_epoch = how.version, how.version_epoch
    return True
