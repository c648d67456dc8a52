"""What is removed: all that has ended, a part at a time, and nothing else."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.brokers.sqlite.databases import NOW, database, write
from wirebell.brokers.sqlite import statements
from wirebell.brokers.sqlite.keeper import (
    BATCH_SECONDS,
    LOCK_SECONDS,
    LOG_BYTES_MAX,
    SWEEP_SECONDS,
    VACUUM_PAGES,
    VACUUM_ROUNDS_MAX,
    Keeper,
    remove_batches,
    remove_ended,
    vacuum,
)
from wirebell.brokers.sqlite.operations import Add, OpenStream, Publish, RemoveHistory, TellNodes
from wirebell.model import History, Publication, PublishOptions

KEPT = History(size=5_000, ttl_seconds=10, meta_ttl_seconds=100)


def publish(channel: str = "a", *, key: str = "") -> Publish:
    """Make a publication's operation."""
    how = PublishOptions(idempotency_key=key)
    return Publish(channel, Publication(b""), b"x" * 100, KEPT, how, 0.0)


def count(connection: sqlite3.Connection, table: str) -> int:
    """Count the rows of a table."""
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def sweep(connection: sqlite3.Connection, now: float, unused_max: int = 100) -> int:
    """Remove all that has ended, and return in how many parts."""
    rounds = 0
    while remove_ended(connection, now, unused_max=unused_max):
        rounds += 1
        assert rounds < 100, "it does not come to an end"
    return rounds


def test_nothing_ended(tmp_path: Path) -> None:
    """Without anything to remove nothing is written."""
    with database(tmp_path) as connection:
        write(connection, publish(key="k"), Add("a", "1", b"", 5, 0.0))

        assert 0 == sweep(connection, NOW + 4.9)
        assert (1, 1, 1) == (
            count(connection, "publications"),
            count(connection, "results"),
            count(connection, "members"),
        )


def test_everything_ends(tmp_path: Path) -> None:
    """Leases, publications, keys and at last streams go when their time is over."""
    with database(tmp_path) as connection:
        write(connection, publish(key="k"), publish(), Add("a", "1", b"", 5, 0.0))
        tables = ("members", "publications", "streams", "results")
        left = []
        for seconds in (5, 10, 100, 300):
            assert 1 == sweep(connection, NOW + seconds)
            left.append(tuple(count(connection, table) for table in tables))

    assert [(0, 2, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)] == left


def test_a_stream_goes_on_after_its_publications_ended(tmp_path: Path) -> None:
    """Offsets count on in the same epoch, and only what is new is kept."""
    with database(tmp_path) as connection:
        write(connection, *[publish()] * 5)
        sweep(connection, NOW + 10)
        write(connection, publish(), now=NOW + 20)
        row = statements.read_history(connection, "a", NOW + 21, since=None, limit=9, reverse=False)
        assert row is not None
        assert 1 == count(connection, "publications")
        assert 1 == sweep(connection, NOW + 30)
        assert 0 == count(connection, "publications")

    assert ("epoch1", 6) == (row[0].epoch, row[0].offset)
    assert [6] == [offset for offset, _ in row[1]]


def test_large_streams_go_in_parts(tmp_path: Path) -> None:
    """A stream with more publications than a transaction may free goes step by step."""
    with database(tmp_path) as connection:
        for _ in range(5):
            write(connection, *[publish()] * 1_000)
        write(connection, publish("b"))

        rounds = sweep(connection, NOW + 10)

        assert 3 == rounds
        assert 0 == count(connection, "publications")
        assert [(5_001,), (2,)] == connection.execute("SELECT stored_from FROM streams").fetchall()


def test_removed_histories_are_freed_with_their_time(tmp_path: Path) -> None:
    """What was removed and not freed at once is freed when it would have ended."""
    with database(tmp_path) as connection:
        for _ in range(2):
            write(connection, *[publish()] * 1_000)
        write(connection, RemoveHistory("a", 0.0))
        after = count(connection, "publications")
        sweep(connection, NOW + 10)

        assert (1_000, 0) == (after, count(connection, "publications"))


def test_replaced_streams_go(tmp_path: Path) -> None:
    """A stream whose place another took leaves nothing behind."""
    with database(tmp_path) as connection:
        write(connection, publish())
        write(connection, publish(), now=NOW + 200)
        sweep(connection, NOW + 200)

        assert [("a",)] == connection.execute("SELECT channel FROM streams").fetchall()
        assert 1 == count(connection, "publications")


def test_streams_that_were_only_asked_for(tmp_path: Path) -> None:
    """Of streams without a publication a bounded number stays: the newest."""
    with database(tmp_path) as connection:
        write(connection, *(OpenStream(f"{number}", KEPT, 0.0) for number in range(10)))
        write(connection, publish("5"))

        assert 1 == sweep(connection, NOW, unused_max=3)
        names = connection.execute("SELECT channel FROM streams ORDER BY id").fetchall()

    assert [("5",), ("7",), ("8",), ("9",)] == names


def test_the_file_shrinks(tmp_path: Path) -> None:
    """Many free pages are given back to the disk."""
    with database(tmp_path) as connection:
        for _ in range(60):
            write(connection, TellNodes("", b"x" * 400_000, 0.0))
        (before,) = connection.execute("PRAGMA page_count").fetchone()
        remove_batches(connection, 1_000)
        vacuum(connection)
        vacuum(connection)
        (after,) = connection.execute("PRAGMA page_count").fetchone()

    assert before > 5_000
    assert after < before - 2 * VACUUM_PAGES * VACUUM_ROUNDS_MAX + 10


def test_batches_stay_until_everybody_had_time(tmp_path: Path) -> None:
    """The keeper removes what crossed workers when it has been there for long enough."""
    with database(tmp_path) as connection:
        keeper = Keeper(tmp_path / "broker.db", unused_max=10)
        left = []
        for look in range(6):
            write(connection, TellNodes("", b"1", 0.0))
            keeper.look(1_000 + look * SWEEP_SECONDS, NOW)
            left.append(count(connection, "batches"))
        keeper.link.close()

    assert 10.0 == BATCH_SECONDS == 2 * SWEEP_SECONDS
    assert [1, 2, 2, 2, 2, 2] == left


def test_removing_writes_little(tmp_path: Path) -> None:
    """What is removed is not written once more, whatever SQLite was built to do."""
    log = tmp_path / "broker.db-wal"
    with database(tmp_path) as connection:
        for _ in range(3):
            write(connection, TellNodes("", b"x" * 1_000_000, 0.0))
        before = log.stat().st_size
        remove_batches(connection, 2)
        grown = log.stat().st_size - before

    assert grown < 100_000


def test_the_log_is_copied_back(tmp_path: Path) -> None:
    """The write-ahead log begins anew after it was copied, so that it does not grow for ever."""
    with database(tmp_path) as connection:
        keeper = Keeper(tmp_path / "broker.db", unused_max=10)
        sizes = []
        for look in range(6):
            for _ in range(20):
                write(connection, TellNodes("", b"x" * 300_000, 0.0))
            keeper.look(1_000.0 + look, NOW)
            sizes.append((tmp_path / "broker.db-wal").stat().st_size)
        keeper.link.close()

    assert max(sizes) < 10_000_000


def test_somebody_reads_without_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A log that cannot begin anew is told of; writers are held up for a moment, and seldom."""
    path = tmp_path / "broker.db"
    with database(tmp_path) as connection, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        count(reader, "batches")
        keeper = Keeper(path, unused_max=10)
        keeper.told_bytes = LOG_BYTES_MAX
        log = path.with_name("broker.db-wal")
        while log.stat().st_size <= LOG_BYTES_MAX:
            write(connection, TellNodes("", b"x" * 4_000_000, 0.0))
        seconds = []
        for now in (1_000.0, 1_001.0):
            write(connection, TellNodes("", b"x", 0.0))
            started = time.monotonic()
            keeper.look(now, NOW)
            seconds.append(time.monotonic() - started)
        reader.rollback()
        write(connection, TellNodes("", b"x", 0.0))
        keeper.look(1_010.0, NOW)
        size = log.stat().st_size
        keeper.link.close()

    assert max(seconds) < LOCK_SECONDS
    assert size < LOG_BYTES_MAX // 2
    (line,) = [record.message for record in caplog.records]
    assert "broker.db-wal has 3" in line
    assert "find it (fuser, lsof) and end it" in line


def test_a_keeper_that_fails_tells_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be cleaned up is told in one line, and a lock that is taken in none."""
    keeper = Keeper(tmp_path / "nowhere" / "broker.db", unused_max=10)
    for error in (
        sqlite3.OperationalError("no such thing"),
        sqlite3.OperationalError("no such thing"),
    ):
        keeper._fail(error)
    with pytest.raises(Exception, match="folder") as caught:
        keeper.look(0.0, NOW)
    keeper.is_failing = False
    keeper._fail(caught.value)

    assert 2 == len(caplog.records)
    assert "nothing that ended is removed" in caplog.text
