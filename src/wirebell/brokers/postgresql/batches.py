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

SIZE_MAX = 2**62
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

    __slots__ = ("count", "first", "history", "number")

    def __init__(self, number: int, first: Item) -> None:
        self.number = number
        self.first = first
        self.history: History | None = None
        self.count = 0


class _Extra(NamedTuple):
    """What decides about an item alone."""

    number: int
    key: bytes | None
    version: bytes | None
    version_epoch: bytes


class Batch:
    """Items of one call, put together by channel; their order stays.

    Args:
        items: 1 or more. An idempotency key that comes again behind one that has a version too
            ends the batch: whether that is published is known afterwards.

    Attributes:
        count: How many items it took; 1 or more.
        arguments: Of `wirebell.brokers.postgresql.broker.PUBLISH`, from the shards on.
    """

    __slots__ = ("arguments", "count", "item_groups", "item_places", "repeats")

    def __init__(self, items: Sequence[Item]) -> None:
        self.repeats: dict[int, int] = {}
        self.item_groups: list[int] = []
        self.item_places: list[int] = []
        groups: dict[tuple[int, bytes], _Group] = {}
        extras: list[_Extra] = []
        firsts: dict[bytes, _Extra] = {}
        for number, item in enumerate(items, 1):
            extra = None if item.how is None else _extra_of(number, item, item.how)
            first = extra
            if extra is not None and extra.key is not None:
                first = firsts.setdefault(extra.key, extra)
                if first is not extra and first.version is not None:
                    break
            group = groups.get((item.kind, item.key))
            if group is None:
                group = groups[item.kind, item.key] = _Group(len(groups) + 1, item)
            self.item_groups.append(group.number)
            if first is not extra and first is not None:
                self.repeats[number] = first.number
                self.item_places.append(-1)
                continue
            if extra is not None:
                extras.append(extra)
            if item.history is not None:
                # The newest call decides for the whole stream.
                group.history = item.history
                group.count += 1
            self.item_places.append(0 if item.history is None else group.count)
        self.count = len(self.item_groups)
        self.arguments: tuple[Any, ...] = (
            sorted({group.first.shard for group in groups.values()}),
            *_arrays_of(list(groups.values())),
            self.item_groups,
            self.item_places,
            [item.record for item in items[: self.count]],
            *([extra[column] for extra in extras] for column in range(len(_Extra._fields))),
        )

    def read(self, answer: Any) -> list[Published]:
        """Read the answer: what became of each item that it took, in their order."""
        left_out = {
            number: Published(StreamPosition(offset, epoch), is_suppressed=True)
            for number, epoch, offset in zip(
                answer["left_out"] or (),
                answer["left_out_epochs"] or (),
                answer["left_out_offsets"] or (),
                strict=True,
            )
        }
        epochs, bases = answer["epochs"], answer["bases"]
        results: list[Published] = []
        # How many of a group are kept so far.
        counts = [0] * (max(self.item_groups) + 1)
        for number, (group, place) in enumerate(
            zip(self.item_groups, self.item_places, strict=True), 1
        ):
            if number in left_out:
                results.append(left_out[number])
            elif number in self.repeats:
                first = results[self.repeats[number] - 1]
                results.append(Published(first.position, is_suppressed=True))
            elif place == 0:
                results.append(_NOT_KEPT)
            else:
                counts[group] += 1
                position = StreamPosition(bases[group - 1] + counts[group], epochs[group - 1])
                results.append(Published(position))
        return results


def _extra_of(number: int, item: Item, how: PublishOptions) -> _Extra | None:
    """Return what decides about an item alone, if anything does."""
    key: bytes | None = None
    if how.idempotency_key:
        once = how.idempotency_key.encode("utf-8", "surrogatepass")
        key = hashlib.sha256(b"%d %b%b" % (len(item.key), item.key, once)).digest()
    version: bytes | None = None
    if how.version and item.history is not None:
        version = b"%020d" % min(how.version, VERSION_MAX)
    if key is None and version is None:
        return None
    return _Extra(number, key, version, how.version_epoch.encode("utf-8", "surrogatepass"))


def _arrays_of(groups: Sequence[_Group]) -> tuple[list[Any], ...]:
    """Return what is the same for all items of each channel."""
    histories = [group.history for group in groups]
    return (
        [group.first.kind for group in groups],
        [group.first.key for group in groups],
        [group.first.shard for group in groups],
        [group.count for group in groups],
        [None if each is None else min(each.size, SIZE_MAX) for each in histories],
        [None if each is None else bounded_seconds(each.ttl_seconds) for each in histories],
        [None if each is None else bounded_seconds(each.meta_ttl_seconds) for each in histories],
    )
