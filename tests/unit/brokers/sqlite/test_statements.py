"""The broker's SQL against a real file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.unit.brokers.sqlite.databases import NOW, database, write
from wirebell.brokers.sqlite import statements
from wirebell.brokers.sqlite.operations import Add, OpenStream, Publish, Remove, RemoveHistory
from wirebell.model import History, Publication, PublishOptions, StreamPosition

KEPT = History(size=5, ttl_seconds=10, meta_ttl_seconds=100)


def publish(channel: str, number: int, how: PublishOptions | None = None) -> Publish:
    """Make a publication's operation."""
    return Publish(channel, Publication(b""), b"%d" % number, KEPT, how, 0.0)


def read(
    connection: sqlite3.Connection,
    channel: str = "a",
    *,
    now: float = NOW,
    since: int | None = None,
    limit: int = 100,
    reverse: bool = False,
) -> list[int] | None:
    """Return the offsets that are read."""
    row = statements.read_history(
        connection, channel, now, since=since, limit=limit, reverse=reverse
    )
    if row is None:
        return None
    assert all(record == b"%d" % offset for offset, record in row[1])
    return [offset for offset, _ in row[1]]


def test_reading_parts(tmp_path: Path) -> None:
    """Parts are read forward and backward, after and before an offset of any size."""
    with database(tmp_path) as connection:
        write(connection, *(publish("a", number) for number in range(1, 9)))

        assert [4, 5, 6, 7, 8] == read(connection)
        assert [6, 7] == read(connection, since=5, limit=2)
        assert [8, 7, 6] == read(connection, limit=3, reverse=True)
        assert [5, 4] == read(connection, since=6, reverse=True)
        assert [] == read(connection, since=2**70)
        assert [8, 7, 6, 5, 4] == read(connection, since=2**70, limit=2**70, reverse=True)
        assert [] == read(connection, limit=0)
        assert None is read(connection, "b")


def test_reading_after_the_end(tmp_path: Path) -> None:
    """After the time to live there is a position alone, and after that of positions nothing."""
    with database(tmp_path) as connection:
        write(connection, publish("a", 1), publish("a", 2))

        assert [1, 2] == read(connection, now=NOW + 9.9)
        assert [] == read(connection, now=NOW + 10)
        assert None is read(connection, now=NOW + 100)


def test_reading_what_was_removed(tmp_path: Path) -> None:
    """A removed history is empty, and goes on where it was."""
    with database(tmp_path) as connection:
        write(connection, publish("a", 1), publish("a", 2))
        write(connection, RemoveHistory("a", 0.0))

        assert [] == read(connection)
        write(connection, publish("a", 3))
        assert [3] == read(connection)


def test_many_rows_are_few_statements(tmp_path: Path) -> None:
    """A thousand channels are written and read by statements of a few sizes."""
    count = 1_000
    told: list[str] = []
    with database(tmp_path) as connection:
        connection.set_trace_callback(told.append)
        write(connection, *(publish(f"channel {number}", 1) for number in range(count)))
        connection.set_trace_callback(None)
        found = statements.find_streams(connection, [f"channel {n}" for n in range(count)])

    assert count == len(found)
    assert {1} == {stream.top for stream in found.values()}
    # 1,000 = 3 × 256 + 3 × 64 + 2 × 16 + 2 × 4, for streams, for publications and for finding.
    assert 3 * 10 + 5 > len(told)


def test_replaced_streams(tmp_path: Path) -> None:
    """A stream that was forgotten makes room for one with the same channel."""
    with database(tmp_path) as connection:
        (first,) = write(connection, publish("a", 1))
        (second,) = write(connection, publish("a", 1), now=NOW + 200)
        streams = connection.execute("SELECT channel FROM streams ORDER BY id").fetchall()

        assert [1] == read(connection, now=NOW + 200)
    assert [(None,), ("a",)] == streams
    assert first != second


def test_idempotency_keys(tmp_path: Path) -> None:
    """Keys are found in their channel until their time is over, and the newest word counts."""
    how = PublishOptions(idempotency_key="k")
    with database(tmp_path) as connection:
        write(connection, publish("a", 1, how), publish("b", 1))
        asked = [("a", "k"), ("b", "k"), ("a", "other")]

        found = statements.find_results(connection, asked, NOW + 299)
        over = statements.find_results(connection, asked, NOW + 300)
        write(connection, publish("a", 2, how))
        newest = statements.find_results(connection, asked, NOW)

    assert {("a", "k"): StreamPosition(1, "epoch1")} == found
    assert {} == over
    assert {("a", "k"): StreamPosition(2, "epoch1")} == newest


def test_members(tmp_path: Path) -> None:
    """Members are those of the channel, until they leave or their lease ends."""
    with database(tmp_path) as connection:
        write(
            connection,
            Add("a", "1", b"one \xff\x00", 10, 0.0),
            Add("a", "2", b"two", 5, 0.0),
            Add("a", "3", b"three", 50, 0.0),
            Add("b", "1", b"other", 50, 0.0),
        )
        write(connection, Remove("a", "3", 0.0), Remove("b", "nobody", 0.0))

        assert [b"one \xff\x00", b"two"] == sorted(statements.read_members(connection, "a", NOW))
        assert [b"one \xff\x00"] == statements.read_members(connection, "a", NOW + 5)
        assert [] == statements.read_members(connection, "c", NOW)


@pytest.mark.parametrize("channel", ["späť ☃", "a\x00b", "'; DROP TABLE streams; --", '"'])
def test_names_of_channels(tmp_path: Path, channel: str) -> None:
    """Any name is only a name."""
    with database(tmp_path) as connection:
        write(connection, OpenStream(channel, KEPT, 0.0), publish(channel, 1))

        assert [channel] == list(statements.find_streams(connection, [channel, channel + "x"]))
        assert [1] == read(connection, channel)


def test_plans_use_keys(tmp_path: Path) -> None:
    """What is done for each batch looks rows up, however many there are."""
    asked = {
        statements.FIND_STREAMS: (1, 1),
        statements.FIND_RESULTS: (2, 2),
        statements.FREE: (2, 3),
        statements.REMOVE_MEMBERS: (2, 2),
        statements.DETACH: (2, 1),
    }
    with database(tmp_path) as connection:
        for statement, (rows, columns) in asked.items():
            text = statements._build(statement, rows, columns)
            values = [0] * text.count("?")
            plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()
            scans = {row[3] for row in plan if row[3].startswith("SCAN")}

            assert scans <= {
                f"SCAN {rows} CONSTANT ROWS",
                "SCAN CONSTANT ROW",
                "SCAN gone",
                "SCAN asked",
            }
