"""What one call to PostgreSQL carries, and how its answer is read."""

from __future__ import annotations

from typing import Any

from wirebell.brokers.postgresql.batches import (
    CONTROL,
    KEY_BYTES_MAX,
    Batch,
    Item,
    key_of,
    shard_of,
    size_of,
)
from wirebell.model import History, Published, PublishOptions, StreamPosition

KEPT = History(size=3, ttl_seconds=2.0, meta_ttl_seconds=4.0)


def answer(**values: Any) -> dict[str, Any]:
    """Make an answer."""
    return {
        "epochs": None,
        "bases": None,
        "left_out": None,
        "left_out_epochs": None,
        "left_out_offsets": None,
        **values,
    }


def test_groups() -> None:
    """Items of a channel are one group; those that are kept are counted, in their order."""
    batch = Batch(
        [
            Item(b"a", 5, b"1", KEPT),
            Item(b"b", 2, b"2"),
            Item(b"a", 5, b"3"),
            Item(b"a", 0, b"4", kind=CONTROL),
            Item(b"a", 5, b"5", KEPT),
        ]
    )
    shards, kinds, keys, of, counts, sizes, ttls, metas, groups, places, records, *extras = (
        batch.arguments
    )

    assert ([0, 2, 5], 5) == (shards, batch.count)
    assert ([0, 0, 1], [b"a", b"b", b"a"], [5, 2, 0]) == (kinds, keys, of)
    assert ([2, 0, 0], [3, None, None]) == (counts, sizes)
    assert ([2.0, None, None], [4.0, None, None]) == (ttls, metas)
    assert ([1, 2, 1, 3, 1], [1, 0, 0, 0, 2]) == (groups, places)
    assert [b"1", b"2", b"3", b"4", b"5"] == records
    assert [[], [], [], []] == extras
    unkept = Published(StreamPosition())
    assert [
        Published(StreamPosition(8, "e")),
        unkept,
        unkept,
        unkept,
        Published(StreamPosition(9, "e")),
    ] == batch.read(answer(epochs=["e", None, None], bases=[7, None, None]))


def test_keys_and_versions() -> None:
    """What holds for one item alone is told beside; a key that comes again is not sent again."""
    once = PublishOptions(idempotency_key="k")
    batch = Batch(
        [
            Item(b"a", 1, b"1", KEPT, once),
            Item(b"a", 1, b"2", KEPT, once),
            Item(b"b", 1, b"3", KEPT, once),
            Item(b"a", 1, b"4", KEPT, PublishOptions(version=7, version_epoch="e")),
            Item(b"a", 1, b"5", None, PublishOptions(version=7)),
        ]
    )
    numbers, keys, versions, epochs = batch.arguments[-4:]

    assert [1, -1, 1, 2, 0] == batch.item_places
    assert [1, 3, 4] == numbers
    assert keys[0] != keys[1]
    assert keys[2] is None
    assert [None, None, b"%020d" % 7] == versions
    assert [b"", b"", b"e"] == epochs
    results = batch.read(
        answer(
            epochs=["x", "y"],
            bases=[4, 0],
            left_out=[1],
            left_out_epochs=["old"],
            left_out_offsets=[2],
        )
    )
    assert Published(StreamPosition(2, "old"), is_suppressed=True) == results[0] == results[1]
    assert Published(StreamPosition(1, "y")) == results[2]
    # It is the first that is kept, because the one before it was left out.
    assert Published(StreamPosition(5, "x")) == results[3]


def test_key_behind_a_version() -> None:
    """Whether a key counts is not known while its version may be old: the batch ends before it."""
    both = PublishOptions(idempotency_key="k", version=1)
    items = [
        Item(b"a", 1, b"1", KEPT, both),
        Item(b"a", 1, b"2", KEPT),
        Item(b"a", 1, b"3", KEPT, PublishOptions(idempotency_key="k", version=2)),
        Item(b"a", 1, b"4", KEPT),
    ]

    assert [2, 2] == [Batch(items).count, Batch(items[2:]).count]
    assert [b"1", b"2"] == Batch(items).arguments[10]


def test_names() -> None:
    """A name is its own key unless an index would not take it; a shard is the same everywhere."""
    long = "n" * (KEY_BYTES_MAX + 1)

    assert "späť\x00".encode() == key_of("späť\x00")
    assert 33 == len(key_of(long))
    assert key_of(long) != key_of(long + "n")
    assert {0, 1, 2, 3} == {shard_of(b"%d" % number, 4) for number in range(100)}
    assert 0 == shard_of(b"room:1", 8)
    assert size_of(Item(b"ab", 0, b"c" * 10)) > 12
