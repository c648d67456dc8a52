"""The database's file: how it is made, and what is refused."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from wirebell.brokers.sqlite import database
from wirebell.brokers.sqlite.database import (
    APPLICATION,
    SCHEMA,
    Link,
    check_disk,
    connect,
    describe,
    is_broken,
    is_busy,
    prepare,
    read_identity,
)
from wirebell.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database may be made."""
    return tmp_path / "broker.db"


def run(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """Run statements on a file, and return what the last one found."""
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def test_a_fresh_file(path: Path) -> None:
    """It is of this user alone, has a write-ahead log, and says whose and how new it is."""
    prepare(path)

    assert 0o600 == path.stat().st_mode & 0o777
    assert [("wal",)] == run(path, "PRAGMA journal_mode")
    assert [(APPLICATION,)] == run(path, "PRAGMA application_id")
    assert [(SCHEMA,)] == run(path, "PRAGMA user_version")
    assert [(2,)] == run(path, "PRAGMA auto_vacuum")


def test_two_who_prepare_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins while another looks at the fresh file does not make it look strange."""
    read = database._pragma
    others: list[threading.Thread] = []

    def read_slowly(connection: sqlite3.Connection, name: str) -> int:
        found = read(connection, name)
        if name == "application_id" and not others:
            others.append(threading.Thread(target=prepare, args=(path,)))
            others[0].start()
            # It must wait for this look, which would come to its end first otherwise.
            others[0].join(timeout=0.5)
        return found

    monkeypatch.setattr(database, "_pragma", read_slowly)
    prepare(path)
    others[0].join()

    assert [(APPLICATION,)] == run(path, "PRAGMA application_id")
    assert [(1,)] == run(path, "SELECT count(*) FROM meta WHERE name = 'instance'")


def test_preparing_again_changes_nothing(path: Path) -> None:
    """A file that is there stays what it is."""
    prepare(path)
    before = run(path, "SELECT value FROM meta WHERE name = 'instance'")

    prepare(path)

    assert before == run(path, "SELECT value FROM meta WHERE name = 'instance'")


def make_newer(path: Path) -> None:
    """Make what a newer release would."""
    prepare(path)
    run(path, f"PRAGMA user_version = {SCHEMA + 1}")


def write_text(path: Path) -> None:
    """Write what is no database."""
    path.write_text("my diary\n" * 1_000)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (write_text, "no database of SQLite: name another file"),
        (lambda path: run(path, "CREATE TABLE tasks (id)"), "a file of its own"),
        (lambda path: run(path, "PRAGMA user_version = 7"), "a file of its own"),
        (make_newer, "newer release .* upgrade this node too"),
        (lambda path: path.mkdir(), "needs a file, .* is a folder"),
    ],
)
def test_files_that_cannot_be_used(path: Path, spoil: Callable[[Path], object], told: str) -> None:
    """What stands there and is no log of ours is left as it is, and named."""
    spoil(path)

    with pytest.raises(ConfigError, match=told) as caught:
        prepare(path)

    assert str(path) in str(caught.value)


def test_damaged_pages(path: Path) -> None:
    """A database with pages of noise is said to be damaged."""
    prepare(path)
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * (4096 - 100)
    path.write_bytes(data)

    with pytest.raises(ConfigError, match="it is damaged: move it away"):
        prepare(path)


def test_a_missing_folder(tmp_path: Path) -> None:
    """A folder is not made: a name with a mistake would be a second log."""
    with pytest.raises(ConfigError, match=r"folder .* is missing: make .*nowhere"):
        prepare(tmp_path / "nowhere" / "broker.db")


def test_the_machine_went_down(path: Path) -> None:
    """When the newest commits may be missing, streams begin a new epoch; keys are forgotten."""
    prepare(path)
    with closing(connect(path, busy_seconds=1, cache_kib=64)) as connection:
        # Held open, so that the log stays beside the file, as a power cut would leave it.
        connection.execute(
            "INSERT INTO streams VALUES (1, 'a', 'before', 5, 0, 1, 0, '', NULL, 9e9)"
        )
        connection.execute("INSERT INTO results VALUES ('a', 'k', 5, 'before', 9e9)")
        prepare(path)
        same = connection.execute("SELECT channel, epoch, top FROM streams").fetchall()
        connection.execute("UPDATE meta SET value = 'another' WHERE name = 'boot'")
        prepare(path)
        changed = connection.execute("SELECT channel, epoch, top FROM streams").fetchall()
        keys = connection.execute("SELECT * FROM results").fetchall()

    assert [("a", "before", 5)] == same
    ((channel, epoch, top),) = changed
    assert ("a", 8, 5) == (channel, len(epoch), top)
    assert epoch != "before"
    assert [] == keys


def test_the_machine_was_shut_down(path: Path) -> None:
    """A file that was closed lost nothing with the machine: epochs stay."""
    prepare(path)
    run(
        path,
        "INSERT INTO streams VALUES (1, 'a', 'before', 5, 0, 1, 0, '', NULL, 9e9)",
        "UPDATE meta SET value = 'another' WHERE name = 'boot'",
    )

    prepare(path)

    assert [("before",)] == run(path, "SELECT epoch FROM streams")


def test_describing_errors(path: Path) -> None:
    """Errors are told with the file and what to do; unknown ones in SQLite's own words."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        connect(path, busy_seconds=0, cache_kib=64)
    text = describe(caught.value, path)

    assert str(path) in text
    assert "let this user read and write it" in text
    assert is_broken(caught.value)
    assert not is_busy(caught.value)
    assert "it does not work (what)" in describe(sqlite3.Error("what"), path)
    assert is_broken(sqlite3.ProgrammingError("closed"))


def test_another_file_under_the_name(path: Path) -> None:
    """A file that was removed is made anew, and is another database."""
    prepare(path)
    link = Link(path, busy_seconds=1, cache_kib=64)
    first = link.get()
    before = link.database
    assert first is link.get()

    path.unlink()
    second = link.get()
    after = link.database
    link.close()
    link.close()

    assert first is not second
    assert before[0] != after[0]
    assert read_identity(path) == after[1]
    assert read_identity(path.with_name("nothing")) is None


def test_a_file_that_something_else_took_the_place_of(path: Path) -> None:
    """A link that is open refuses what is no database of ours, each time."""
    prepare(path)
    link = Link(path, busy_seconds=1, cache_kib=64)
    link.get()
    for each in path.parent.glob("broker.db*"):
        each.unlink()
    run(path, "CREATE TABLE tasks (id)")

    for _ in range(2):
        with pytest.raises(ConfigError, match="a file of its own"):
            link.get()


def test_somebody_else_makes_the_file(path: Path) -> None:
    """Whoever finds no file waits for another process that is about to make one."""
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    preparing = threading.Thread(target=prepare, args=(path,))
    preparing.start()
    preparing.join(0.1)
    was_waiting = preparing.is_alive() and not path.exists()
    os.close(folder)
    preparing.join()

    assert was_waiting
    assert path.exists()


MOUNTS = """\
overlay / overlay rw 0 0
proc /proc proc rw 0 0
server:/export /srv nfs4 rw 0 0
/dev/sda1 /srv/our\\040disk ext4 rw 0 0
//server/share /mnt cifs rw 0 0
tmpfs /mnt tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    "name", ["/app/broker.db", "/srv/our disk/broker.db", "/mnt/broker.db", "/srvice/broker.db"]
)
def test_disks_of_this_machine(name: str) -> None:
    """The file system whose mount point is nearest counts, and of equal ones the newest."""
    check_disk(Path(name), MOUNTS)
    check_disk(Path(name), "")


@pytest.mark.parametrize("name", ["/srv/broker.db", "/srv/our/broker.db"])
def test_disks_of_others(name: str) -> None:
    """A file on a network is refused: two machines would damage it, and none would notice."""
    with pytest.raises(ConfigError, match=r"lies on a network \(nfs4\).*disk of this machine"):
        check_disk(Path(name), MOUNTS)
