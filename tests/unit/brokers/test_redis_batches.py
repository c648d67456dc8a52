"""Calls to Redis as bytes, and what comes back."""

from __future__ import annotations

import struct

import msgspec
import pytest

from wirebell.brokers.redis.batches import (
    Batch,
    Item,
    Partition,
    milliseconds,
    read_frames,
)
from wirebell.brokers.redis.broker import locate
from wirebell.model import History, Published, PublishOptions, StreamPosition
from wirebell.records import UnknownRecord

SINGLE = Partition.create("w", 0, None)
A, B = SINGLE.channel("a"), SINGLE.channel("b")
KEPT = History(size=5, ttl_seconds=1.5, meta_ttl_seconds=10)


def frame(offset: int, epoch: bytes, record: bytes) -> bytes:
    """Write a record as the script does."""
    return struct.pack(">Q8sI", offset, epoch, len(record)) + record


def test_names() -> None:
    """A channel's names differ by database where Redis mixes them, and have one slot's tag."""
    other, clustered = Partition.create("w", 2, None), Partition.create("w", 0, 17)

    assert ("w.0.channel.a", "w.meta.a", "w.stream.a", "w.once.1.a.") == A
    assert "w.2.channel.a" == other.channel("a").name
    assert all(name.startswith("{w.17}.") for name in clustered.channel("a"))
    assert "{w.17}.control" == clustered.deliver_only("control").name


def test_channels_are_put_together() -> None:
    """Records of one channel stand behind each other, in their order."""
    items = [Item(A, b"1", KEPT), Item(B, b"2"), Item(A, b"3", KEPT)]

    batch = Batch(items, ("sender", "generation"))

    assert ["sender", "generation", "w.meta.a", "w.stream.a"] == batch.keys
    assert [b"1", b"3", b"2"] == batch.records
    assert [["w.0.channel.a", 3, 5, 1500, 10_000, 2], ["w.0.channel.b", 0, 0, 0, 0, 1]] == (
        msgspec.msgpack.decode(batch.structure)
    )


def test_what_holds_for_one_alone() -> None:
    """Keys, versions and what is not kept are said entry by entry."""
    items = [
        Item(A, b"1", KEPT, PublishOptions(idempotency_key="k")),
        Item(A, b"2", None),
        Item(A, b"3", KEPT, PublishOptions(version=7, version_epoch="e")),
        Item(A, b"4", KEPT),
    ]

    batch = Batch(items, ("sender", "generation"))

    assert ["sender", "generation", "w.once.1.a.k", "w.meta.a", "w.stream.a"] == batch.keys
    ((_, first, _, _, _, entries),) = msgspec.msgpack.decode(batch.structure)
    assert 4 == first
    assert [[0, 3, "", ""], [1, 0, "", ""], [0, 0, "0" * 19 + "7", "e"], 0] == entries


def test_joins_among_publications() -> None:
    """A join between publications that are kept is delivered in order, and not kept."""
    batch = Batch([Item(A, b"1", KEPT), Item(A, b"join")], ())

    ((*_, entries),) = msgspec.msgpack.decode(batch.structure)

    assert [0, [1, 0, "", ""]] == entries


def test_nothing_kept_is_said_once() -> None:
    """Where nothing is kept, only the number of records is said; a version means nothing."""
    how = PublishOptions(idempotency_key="k", version=1)
    plain = Batch([Item(A, b"1"), Item(A, b"2")], ())
    keyed = Batch([Item(A, b"1", None, how)], ())

    assert 2 == msgspec.msgpack.decode(plain.structure)[0][-1]
    assert [[1, 1, "", ""]] == msgspec.msgpack.decode(keyed.structure)[0][-1]


def test_results() -> None:
    """Each item gets its own position, whatever order the groups have."""
    items = [Item(A, b"1", KEPT), Item(B, b"2"), Item(A, b"3", KEPT)]
    answer = msgspec.msgpack.encode([["aaaaaaaa", 4, [2, "bbbbbbbb", 1]], ["", 0]])

    results = Batch(items, ()).read(answer)

    assert [
        Published(StreamPosition(4, "aaaaaaaa")),
        Published(StreamPosition()),
        Published(StreamPosition(2, "bbbbbbbb"), is_suppressed=True),
    ] == results


def test_frames() -> None:
    """A message holds records with their positions, or without."""
    data = b"\x01" + frame(7, b"aaaaaaaa", b"one") + frame(0, b" " * 8, b"")

    assert [(7, "aaaaaaaa", b"one"), (0, "", b"")] == list(read_frames(data))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "framing b''"),
        (b"\x02", "upgrade this node too"),
        (b"\x01short", "cut short"),
        (b"\x01" + frame(1, b"aaaaaaaa", b"one")[:-1], "cut short"),
    ],
)
def test_messages_that_cannot_be_read(data: bytes, says: str) -> None:
    """What is damaged, or newer than this release, says so."""
    with pytest.raises(UnknownRecord, match=says):
        list(read_frames(data))


@pytest.mark.parametrize(("seconds", "expected"), [(0.0001, 1), (1.5, 1500), (1e30, 10**15)])
def test_milliseconds(seconds: float, expected: int) -> None:
    """Redis takes whole milliseconds, 1 or more, and not all of them."""
    assert expected == milliseconds(seconds)


def test_locate() -> None:
    """Where a channel lies never changes: other nodes, and what is stored, rely on it."""
    assert (0, 0) == locate("news", 1, 1)
    assert [(2, 26), (1, 28), (0, 1)] == [locate(name, 3, 32) for name in ("news", "ü", "a")]
    assert {0, 1, 2} == {locate(f"channel:{n}", 3, 32)[0] for n in range(50)}
