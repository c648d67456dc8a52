"""Calls to Redis as bytes, and what comes back."""

from __future__ import annotations

import struct

import msgspec
import pytest

from wirebell.brokers.redis.batches import (
    Batch,
    Item,
    Partition,
    Terms,
    milliseconds,
    read_frames,
    read_terms,
)
from wirebell.brokers.redis.broker import locate
from wirebell.model import History, Published, PublishOptions, StreamPosition
from wirebell.records import UnknownRecord

SINGLE = Partition.create("w", 0, None)
A, B = SINGLE.channel("a"), SINGLE.channel("b")
SENDER = (b"sender", b"generation")
KEPT = History(size=5, ttl_seconds=1.5, meta_ttl_seconds=10)


def frame(offset: int, epoch: bytes, record: bytes) -> bytes:
    """Write a record as the script does."""
    return struct.pack(">Q8sI", offset, epoch, len(record)) + record


def test_names() -> None:
    """A channel's names differ by database where Redis mixes them, and have one slot's tag."""
    other, clustered = Partition.create("w", 2, None), Partition.create("w", 0, 17)

    assert ("w.0.channel.a", b"w.meta.a", b"w.stream.a", "w.once.1.a.") == A
    assert "w.2.channel.a" == other.channel("a").name
    assert ("{w.17}.channel.a", b"{w.17}.meta.a", b"{w.17}.stream.a") == clustered.channel("a")[:3]
    assert "{w.17}.once.1.a." == clustered.channel("a").once
    assert "{w.17}.control" == clustered.deliver_only("control").name


def terms(**how: object) -> Terms:
    """Make what holds for one publication alone."""
    _, found = read_terms(A, KEPT, PublishOptions(**how))  # type: ignore[arg-type]  # by name
    assert found is not None
    return found


def test_channels_are_put_together() -> None:
    """Records of one channel stand behind each other, in their order; those that are kept first."""
    items = [Item(B, b"2"), Item(A, b"1", KEPT), Item(A, b"3", KEPT)]

    batch = Batch(items, SENDER)

    assert [*SENDER, b"w.meta.a", b"w.stream.a"] == batch.keys
    assert 3 == batch.string_count
    assert [b"1", b"3", b"2"] == batch.records
    assert [1, [[5, 1500, 10_000]], ["w.0.channel.a", 1, 2, "w.0.channel.b", 0, 1]] == (
        msgspec.msgpack.decode(batch.structure)
    )
    assert {"w.0.channel.a", "w.0.channel.b"} == set(batch.names)


def test_plans() -> None:
    """What to keep is said once for all channels that have the same; a channel's newest counts."""
    other = History(size=7)
    items = [Item(A, b"1", KEPT), Item(B, b"2", other), Item(A, b"3", other), Item(A, b"4")]

    _, plans, (_, first, entries, _, second, _) = msgspec.msgpack.decode(
        Batch(items, SENDER).structure
    )

    assert [[7, 300_000, 2_592_000_000]] == plans
    assert (1, 1) == (first, second)
    assert [0, 0, [1, 0, "", ""]] == entries


def test_what_holds_for_one_alone() -> None:
    """Keys, versions and what is not kept are said entry by entry; a key is named once."""
    items = [
        Item(A, b"1", KEPT, terms(idempotency_key="k")),
        Item(A, b"2", None),
        Item(A, b"3", KEPT, terms(version=7, version_epoch="e")),
        Item(A, b"4", KEPT),
        Item(A, b"5", KEPT, terms(idempotency_key="k")),
    ]

    batch = Batch(items, SENDER)

    assert [*SENDER, b"w.once.1.a.k", b"w.meta.a", b"w.stream.a"] == batch.keys
    assert 4 == batch.string_count
    _, _, (_, _, entries) = msgspec.msgpack.decode(batch.structure)
    assert [
        [0, 3, "", ""], [1, 0, "", ""], [0, 0, "0" * 19 + "7", "e"], 0, [0, 3, "", ""]
    ] == entries  # fmt: skip


def test_joins_among_publications() -> None:
    """A join between publications that are kept is delivered in order, and not kept."""
    batch = Batch([Item(A, b"1", KEPT), Item(A, b"join")], ())

    _, _, (_, _, entries) = msgspec.msgpack.decode(batch.structure)

    assert [0, [1, 0, "", ""]] == entries


def test_terms() -> None:
    """Where nothing is kept a version means nothing, and a key still does."""
    skipped = PublishOptions(skip_history=True, version=1)
    keyed = PublishOptions(idempotency_key="ü", version=1)

    assert (None, None) == read_terms(A, KEPT, skipped)
    assert (None, Terms(True, "w.once.1.a.ü".encode(), "", "")) == read_terms(A, None, keyed)
    assert (KEPT, Terms(False, b"", "0" * 19 + "1", "")) == read_terms(
        A, KEPT, PublishOptions(version=1)
    )
    for refused in (
        PublishOptions(idempotency_key="\ud800"),
        PublishOptions(idempotency_key="k", version_epoch="\ud800"),
    ):
        with pytest.raises(UnicodeEncodeError):
            read_terms(A, KEPT, refused)


def test_nothing_kept_is_said_once() -> None:
    """Where nothing is kept, only the number of records is said."""
    plain = Batch([Item(A, b"1"), Item(A, b"2")], ())
    keyed = Batch([Item(A, b"1", None, Terms(True, b"k", "", ""))], ())

    assert [0, [], ["w.0.channel.a", 0, 2]] == msgspec.msgpack.decode(plain.structure)
    assert [[1, 1, "", ""]] == msgspec.msgpack.decode(keyed.structure)[2][2]
    assert [b"k"] == keyed.keys


def test_results() -> None:
    """Each item gets its own position, whatever order the groups have."""
    items = [Item(A, b"1", KEPT), Item(B, b"2"), Item(A, b"3", KEPT)]
    answer = msgspec.msgpack.encode(["aaaaaaaa", 4, [2, "bbbbbbbb", 1], "", 0])

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
