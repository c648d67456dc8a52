"""What one call to Redis carries, as bytes, and what its answer and its messages say. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from wirebell.model import History, Published, PublishOptions, StreamPosition
from wirebell.records import UnknownRecord

__all__ = ("Batch", "ChannelNames", "Item", "Partition", "milliseconds", "pack", "read_frames")

FRAMING = 1
"""Version of what stands around a record; its first byte."""

# A year of milliseconds has 11 digits; Redis takes up to about 18.
MILLISECONDS_MAX = 10**15
# What a script prints in full; more would not fit into anybody's memory.
SIZE_MAX = 10**9

pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_HEADER = struct.Struct(">Q8sI")
_read_header = _HEADER.unpack_from
HEADER_BYTES = _HEADER.size
FIRST_RECORD = 1 + HEADER_BYTES
_NOT_KEPT = Published(StreamPosition())


class ChannelNames(NamedTuple):
    """Where a channel stands in its shard: the names of what belongs to it."""

    name: str
    """Of the channel of Redis that carries it."""
    meta: str
    stream: str
    once: str
    """Followed by an idempotency key."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """What shall be delivered, and how.

    Attributes:
        names: Of its channel.
        record: As every node reads it.
        history: What to keep of it; ``None`` keeps nothing.
        how: What holds for it alone.
    """

    names: ChannelNames
    record: bytes
    history: History | None = None
    how: PublishOptions | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """How keys and channels of one partition are called.

    Attributes:
        keys: Ahead of all keys.
        channels: Ahead of all channels of Redis, which its databases share.
    """

    keys: str
    channels: str

    @classmethod
    def create(cls, prefix: str, db: int, partition: int | None) -> Partition:
        """Name a partition of a cluster, or a server that is none."""
        if partition is None:
            return cls(prefix, f"{prefix}.{db}")
        tag = f"{{{prefix}.{partition}}}"
        return cls(tag, tag)

    def channel(self, channel: str) -> ChannelNames:
        """Name what belongs to a channel."""
        keys = self.keys
        return ChannelNames(
            f"{self.channels}.channel.{channel}",
            f"{keys}.meta.{channel}",
            f"{keys}.stream.{channel}",
            # Both may have any characters.
            f"{keys}.once.{len(channel)}.{channel}.",
        )

    def deliver_only(self, name: str) -> ChannelNames:
        """Name a channel of Redis that keeps nothing."""
        return ChannelNames(f"{self.channels}.{name}", "", "", "")


class _Group:
    """What goes to one channel."""

    __slots__ = ("entries", "has_extras", "history", "indexes", "names")

    def __init__(self, names: ChannelNames) -> None:
        self.names = names
        self.history: History | None = None
        # A tuple for each entry for which something holds alone, 0 for the others.
        self.entries: list[Any] = []
        self.has_extras = False
        self.indexes: list[int] = []


# What is in a channel with history, and is not kept.
_UNKEPT = (1, 0, "", "")


class Batch:
    """Items of one call, put together by channel; in a channel their order stays.

    Args:
        items: Any number.
        keys: Those that stand ahead of the channels' own.

    Attributes:
        keys: All that the script touches.
        structure: What to do with the records.
        records: In the order of `structure`.
    """

    __slots__ = ("count", "groups", "keys", "records", "structure")

    def __init__(self, items: Sequence[Item], keys: Sequence[str]) -> None:
        self.count = len(items)
        self.keys = list(keys)
        self.groups = self._gather(items)
        self.records: list[bytes] = []
        structure: list[tuple[Any, ...]] = []
        history: History | None = None
        kept: tuple[int, int, int] = (0, 0, 0)
        for group in self.groups:
            names, indexes = group.names, group.indexes
            for index in indexes:
                self.records.append(items[index].record)
            entries = group.entries if group.has_extras else len(indexes)
            if group.history is None:
                structure.append((names.name, 0, 0, 0, 0, entries))
                continue
            if group.history is not history:
                # Most channels of a node share one object.
                history = group.history
                kept = (
                    min(history.size, SIZE_MAX),
                    milliseconds(history.ttl_seconds),
                    milliseconds(history.meta_ttl_seconds),
                )
            self.keys += (names.meta, names.stream)
            structure.append((names.name, len(self.keys) - 1, *kept, entries))
        self.structure = pack(structure)

    def _gather(self, items: Sequence[Item]) -> list[_Group]:
        """Put items together by channel."""
        groups: dict[str, _Group] = {}
        for index, item in enumerate(items):
            names, history = item.names, item.history
            group = groups.get(names.name)
            if group is None:
                group = groups[names.name] = _Group(names)
            group.indexes.append(index)
            if item.how is not None:
                group.entries.append(self._describe(names, history, item.how))
                group.has_extras = True
            elif history is not None:
                group.entries.append(0)
            else:
                group.entries.append(_UNKEPT)
            if history is not None:
                # The newest call decides for the whole stream.
                group.history = history
        for group in groups.values():
            # Where nothing is kept, that is said once.
            if group.history is not None and not group.has_extras:
                group.has_extras = _UNKEPT in group.entries
        return list(groups.values())

    def _describe(
        self, names: ChannelNames, history: History | None, how: PublishOptions
    ) -> tuple[int, int, str, str]:
        """Say what holds for one entry alone."""
        once = 0
        if how.idempotency_key:
            self.keys.append(names.once + how.idempotency_key)
            once = len(self.keys)
        version = f"{how.version:020d}" if how.version and history is not None else ""
        return (0 if history is not None else 1, once, version, how.version_epoch)

    def read(self, answer: bytes) -> list[Published]:
        """Read the answer: what became of each item, in their order."""
        results: list[Published] = [_NOT_KEPT] * self.count
        for group, values in zip(self.groups, _unpack(answer), strict=True):
            # The epoch, and then a value for each.
            epoch = values[0]
            for number, index in enumerate(group.indexes, 1):
                value = values[number]
                if type(value) is list:
                    offset, names, is_suppressed = value
                    results[index] = Published(StreamPosition(offset, names), bool(is_suppressed))
                elif value:
                    results[index] = Published(StreamPosition(value, epoch))
        return results


def milliseconds(seconds: float) -> int:
    """Return milliseconds as Redis takes them: 1 or more."""
    return max(1, min(MILLISECONDS_MAX, round(seconds * 1000)))


def read_frames(data: bytes) -> list[tuple[int, str, bytes]]:
    """Read what was published: offset, epoch and record of each, in order.

    Raises:
        UnknownRecord: It is damaged, or of a newer framing.
    """
    end = len(data)
    if not end or data[0] != FRAMING:
        raise UnknownRecord(
            f"a message of Redis has the framing {data[:1]!r}, this release reads {FRAMING}: "
            "upgrade this node too"
        )
    if end >= FIRST_RECORD:
        offset, epoch, size = _read_header(data, 1)
        if size == end - FIRST_RECORD:
            # One record, as nearly always.
            return [(offset, epoch.decode("ascii") if offset else "", data[FIRST_RECORD:])]
    frames: list[tuple[int, str, bytes]] = []
    at = 1
    while at < end:
        if end < at + HEADER_BYTES:
            raise UnknownRecord("a message of Redis is cut short")
        offset, epoch, size = _read_header(data, at)
        first = at + HEADER_BYTES
        at = first + size
        if at > end:
            raise UnknownRecord("a message of Redis is cut short")
        frames.append((offset, epoch.decode("ascii") if offset else "", data[first:at]))
    return frames
