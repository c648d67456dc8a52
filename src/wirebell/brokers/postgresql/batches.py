"""What one call carries, as arrays, and what its answer says. Pure."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from wirebell.model import History, Published, PublishOptions, StreamPosition

__all__ = (
    "CONTROL",
    "FOR_CHANNELS",
    "OFFSET_MAX",
    "PROBE",
    "Batch",
    "Item",
    "bounded_seconds",
    "key_of",
    "shard_of",
    "size_of",
)

FOR_CHANNELS = 0
CONTROL = 1
PROBE = 2
"""Kinds of what is in the log."""

KEY_BYTES_MAX = 1024
"""Longest name that is a key as it is: an index takes no more than about 2,700 bytes."""

OFFSET_MAX = 2**63 - 1
SECONDS_MAX = 100 * 365 * 86_400.0
VERSION_MAX = 10**20 - 1
OVERHEAD_BYTES = 64

_NOT_KEPT = Published(StreamPosition())


class Item(NamedTuple):
    """What shall be in the log."""

    key: bytes
    """Of the channel, or for `CONTROL` and `PROBE` of the node that is meant."""
    shard: int
    record: bytes
    history: History | None = None
    """``None`` keeps nothing."""
    how: PublishOptions | None = None
    kind: int = FOR_CHANNELS


def key_of(name: str) -> bytes:
    """Return what stands for a name in the database: itself, or its hash where it is long."""
    data = name.encode("utf-8", "surrogatepass")
    if len(data) <= KEY_BYTES_MAX:
        return data
    return b"\x00" + hashlib.sha256(data).digest()


def shard_of(key: bytes, count: int) -> int:
    """Return the shard of a channel: the same on every node."""
    return zlib.crc32(key) % count


def size_of(item: Item) -> int:
    """Estimate the bytes that an item takes in a call."""
    return len(item.record) + len(item.key) + OVERHEAD_BYTES


def bounded_seconds(seconds: float) -> float:
    """Return seconds as the server can count them."""
    return min(seconds, SECONDS_MAX)


class _Group:
    """What goes to one channel."""

    __slots__ = ("count", "first", "history")

    def __init__(self, first: Item) -> None:
        self.first = first
        self.history: History | None = None
        self.count = 0


class Batch:
    """Items of one call, put together by channel; their order stays.

    Args:
        items: Any number.

    Attributes:
        shards: That are written to, ascending.
        arguments: Of `statements.PUBLISH`, from the shards on.
    """

    __slots__ = ("arguments", "count", "item_groups", "item_places", "repeats", "shards")

    def __init__(self, items: Sequence[Item]) -> None:
        self.count = len(items)
        self.repeats: dict[int, int] = {}
        groups: dict[tuple[int, bytes], int] = {}
        found: list[_Group] = []
        self.item_groups: list[int] = []
        self.item_places: list[int] = []
        extras: list[tuple[int, bytes | None, bytes | None, bytes]] = []
        keys: dict[bytes, int] = {}
        for number, item in enumerate(items):
            name = (item.kind, item.key)
            index = groups.get(name)
            if index is None:
                index = groups[name] = len(found)
                found.append(_Group(item))
            group = found[index]
            self.item_groups.append(index + 1)
            if item.how is not None and self._is_repeated(number, item, keys, extras):
                self.item_places.append(-1)
                continue
            if item.history is None:
                self.item_places.append(0)
                continue
            # The newest call decides for the whole stream.
            group.history = item.history
            group.count += 1
            self.item_places.append(group.count)
        self.shards = sorted({group.first.shard for group in found})
        self.arguments: tuple[Any, ...] = (
            self.shards,
            *_arrays_of(found),
            self.item_groups,
            self.item_places,
            [item.record for item in items],
            [extra[0] for extra in extras],
            [extra[1] for extra in extras],
            [extra[2] for extra in extras],
            [extra[3] for extra in extras],
        )

    def _is_repeated(
        self,
        number: int,
        item: Item,
        keys: dict[bytes, int],
        extras: list[tuple[int, bytes | None, bytes | None, bytes]],
    ) -> bool:
        """Note what holds for an item alone; true when the batch has its key already."""
        how = item.how
        assert how is not None
        key: bytes | None = None
        if how.idempotency_key:
            once = how.idempotency_key.encode("utf-8", "surrogatepass")
            text = b"%d %b%b" % (len(item.key), item.key, once)
            key = hashlib.sha256(text).digest()
            if key in keys:
                self.repeats[number] = keys[key]
                return True
            keys[key] = number
        version: bytes | None = None
        if how.version and item.history is not None:
            version = b"%020d" % min(how.version, VERSION_MAX)
        if key is not None or version is not None:
            epoch = how.version_epoch.encode("utf-8", "surrogatepass")
            extras.append((number + 1, key, version, epoch))
        return False

    def read(self, answer: Any) -> list[Published]:
        """Read the answer: what became of each item, in their order."""
        results: list[Published] = [_NOT_KEPT] * self.count
        left_out: dict[int, Published] = {}
        if answer["left_out"]:
            left_out = {
                number - 1: Published(StreamPosition(offset, epoch), is_suppressed=True)
                for number, epoch, offset in zip(
                    answer["left_out"],
                    answer["left_out_epochs"],
                    answer["left_out_offsets"],
                    strict=True,
                )
            }
        epochs, bases = answer["epochs"], answer["bases"]
        # How many of a group were left out so far: who follows stands that much further ahead.
        shifts: dict[int, int] = {}
        for number, (group, place) in enumerate(
            zip(self.item_groups, self.item_places, strict=True)
        ):
            if number in left_out:
                results[number] = left_out[number]
                if place > 0:
                    shifts[group] = shifts.get(group, 0) + 1
            elif place > 0:
                offset = bases[group - 1] + place - shifts.get(group, 0)
                results[number] = Published(StreamPosition(offset, epochs[group - 1]))
        for number, first in self.repeats.items():
            results[number] = Published(results[first].position, is_suppressed=True)
        return results


def _arrays_of(groups: Sequence[_Group]) -> tuple[list[Any], ...]:
    """Return what is the same for all items of each channel."""
    histories = [group.history for group in groups]
    return (
        [group.first.kind for group in groups],
        [group.first.key for group in groups],
        [group.first.shard for group in groups],
        [group.count for group in groups],
        [None if each is None else min(each.size, OFFSET_MAX // 2) for each in histories],
        [None if each is None else bounded_seconds(each.ttl_seconds) for each in histories],
        [None if each is None else bounded_seconds(each.meta_ttl_seconds) for each in histories],
    )
