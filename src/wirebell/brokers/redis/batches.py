"""What one call to Redis carries, as bytes, and what its answer and its messages say. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from wirebell.model import History, Published, PublishOptions, StreamPosition
from wirebell.records import UnknownRecord

__all__ = (
    "Batch",
    "ChannelNames",
    "Item",
    "Partition",
    "Terms",
    "milliseconds",
    "pack",
    "read_frames",
    "read_terms",
)

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
    meta: bytes
    stream: bytes
    once: str
    """Followed by an idempotency key."""


class Terms(NamedTuple):
    """What holds for one publication alone."""

    is_unkept: bool
    once: bytes = b""
    """The key under which Redis remembers it; empty for none."""
    version: str = ""
    """So many digits that text compares like numbers; empty for none."""
    version_epoch: str = ""


class Item(msgspec.Struct, frozen=True, gc=False):
    """What shall be delivered, and how.

    Attributes:
        names: Of its channel.
        record: As every node reads it.
        history: What to keep of it; ``None`` keeps nothing.
        terms: What holds for it alone; ``None`` for nothing.
    """

    names: ChannelNames
    record: bytes
    history: History | None = None
    terms: Terms | None = None


def read_terms(
    names: ChannelNames, history: History | None, how: PublishOptions
) -> tuple[History | None, Terms | None]:
    """Find out what is kept of a publication, and what holds for it alone.

    Raises:
        UnicodeEncodeError: Its key or its version epoch is no text that UTF-8 can hold.
    """
    if how.skip_history:
        history = None
    has_version = bool(how.version) and history is not None
    if not how.idempotency_key and not has_version:
        return history, None
    # Here it fails alone; in a batch it would take all others along.
    how.version_epoch.encode()
    return history, Terms(
        history is None,
        (names.once + how.idempotency_key).encode() if how.idempotency_key else b"",
        f"{how.version:020d}" if has_version else "",
        how.version_epoch,
    )


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
            f"{keys}.meta.{channel}".encode(),
            f"{keys}.stream.{channel}".encode(),
            # Both may have any characters.
            f"{keys}.once.{len(channel)}.{channel}.",
        )

    def deliver_only(self, name: str) -> ChannelNames:
        """Name a channel of Redis that keeps nothing."""
        return ChannelNames(f"{self.channels}.{name}", b"", b"", "")


# What is in a channel with history, and is not kept.
_UNKEPT = (1, 0, "", "")


class Batch:
    """Items of one call, put together by channel; in a channel their order stays.

    Args:
        items: Any number.
        sender: The keys that stand ahead of all others.

    Attributes:
        names: Of the channels of Redis that it goes to.
        keys: All that the script touches.
        string_count: How many of them, the first ones, are no streams.
        structure: What to do with the records.
        records: In the order of `structure`.
    """

    __slots__ = ("groups", "keys", "names", "records", "string_count", "structure")

    def __init__(self, items: Sequence[Item], sender: Sequence[bytes]) -> None:
        gathered: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            name = item.names.name
            if name in gathered:
                gathered[name].append(index)
            else:
                gathered[name] = [index]
        self.names = gathered.keys()
        kept: list[tuple[History, list[int]]] = []
        unkept: list[tuple[None, list[int]]] = []
        for indexes in gathered.values():
            # The newest call decides for the whole stream.
            for index in reversed(indexes):
                history = items[index].history
                if history is not None:
                    kept.append((history, indexes))
                    break
            else:
                unkept.append((None, indexes))
        # Items by their number, group by group.
        self.groups = [indexes for _, indexes in (*kept, *unkept)]
        self.records = [items[index].record for indexes in self.groups for index in indexes]
        once_keys: dict[bytes, int] = {}
        plans, groups = _describe(items, (*kept, *unkept), once_keys, len(sender))
        self.structure = pack((len(kept), plans, groups))
        names = [items[indexes[0]].names for _, indexes in kept]
        self.keys = [*sender, *once_keys, *(each.meta for each in names)]
        self.string_count = len(self.keys)
        self.keys += [each.stream for each in names]

    def read(self, answer: bytes) -> list[Published]:
        """Read the answer: what became of each item, in their order."""
        values = iter(_unpack(answer))
        results = [_NOT_KEPT] * len(self.records)
        for indexes in self.groups:
            epoch = next(values)
            for index in indexes:
                value = next(values)
                if type(value) is list:
                    offset, names, is_suppressed = value
                    results[index] = Published(StreamPosition(offset, names), bool(is_suppressed))
                elif value:
                    results[index] = Published(StreamPosition(value, epoch))
        return results


def _describe(
    items: Sequence[Item],
    gathered: Sequence[tuple[History | None, list[int]]],
    once_keys: dict[bytes, int],
    ahead: int,
) -> tuple[list[tuple[int, int, int]], list[Any]]:
    """Say what to do with each group: the plans, and the groups one behind the other.

    Args:
        items: All.
        gathered: What to keep of each group, and the numbers of its items.
        once_keys: Is given the keys of what happens once → their numbers.
        ahead: Keys that stand ahead of those.
    """
    plans: dict[History, int] = {}
    groups: list[Any] = []
    plan, last = 0, None
    for history, indexes in gathered:
        if history is not last:
            # Most channels of a node share one object.
            last = history
            plan = 0 if history is None else plans.setdefault(history, len(plans) + 1)
        entries: list[Any] = []
        for index in indexes:
            item = items[index]
            terms = item.terms
            if terms is not None:
                once = (
                    once_keys.setdefault(terms.once, ahead + len(once_keys) + 1)
                    if terms.once
                    else 0
                )
                entries.append((int(terms.is_unkept), once, terms.version, terms.version_epoch))
            elif item.history is None and history is not None:
                entries.append(_UNKEPT)
            else:
                entries.append(0)
        groups += (items[indexes[0]].names.name, plan, entries if any(entries) else len(entries))
    return [
        (
            min(each.size, SIZE_MAX),
            milliseconds(each.ttl_seconds),
            milliseconds(each.meta_ttl_seconds),
        )
        for each in plans
    ], groups


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
