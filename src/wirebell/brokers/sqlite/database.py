"""The database's file: how it is opened, what stands in it, and what its errors mean.

Nothing here knows threads or the event loop. A connection is used by the thread that opened it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from pathlib import Path

from wirebell.errors import BrokerUnavailable, ConfigError

__all__ = (
    "Identity",
    "connect",
    "describe",
    "is_broken",
    "is_busy",
    "prepare",
    "read_identity",
)

SCHEMA = 1
"""Of the tables, in ``PRAGMA user_version``. What stands in a record says its own."""

# "WBEL": tells our file from one that an application made for itself.
APPLICATION = 0x5742454C

VERSION_MIN = (3, 35, 0)
"""The first SQLite with everything that is used here; JSON functions are asked for."""

LOCK_SECONDS_MAX = 4.0

# A publication of a channel with history changes a page or two, and pages are written whole: with
# the usual 4 KiB four times as much goes to the disk where many channels take turns.
PAGE_BYTES = 1_024

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

# What tells that the connection is of no use any more, and not only the statement.
BROKEN = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
)

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

-- What crosses processes: one row for each transaction that told anything, read once by everybody
-- and removed after seconds. AUTOINCREMENT: numbers have no holes, also after all rows are gone.
CREATE TABLE batches (id INTEGER PRIMARY KEY AUTOINCREMENT, items BLOB NOT NULL);

-- A channel's stream. Kept are the offsets above `floor`, but those from `stored_from` on may still
-- lie in `publications`. One whose channel is NULL was replaced, and only waits to be removed.
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    channel TEXT UNIQUE,
    epoch TEXT NOT NULL,
    top INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    stored_from INTEGER NOT NULL,
    version INTEGER NOT NULL,
    version_epoch TEXT NOT NULL,
    expires_at REAL,
    meta_expires_at REAL NOT NULL
);
CREATE INDEX streams_expire ON streams (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX streams_end ON streams (meta_expires_at);
CREATE INDEX streams_unused ON streams (id) WHERE top = 0;

CREATE TABLE publications (
    stream INTEGER NOT NULL, offset INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (stream, offset)
) WITHOUT ROWID;

CREATE TABLE results (
    channel TEXT NOT NULL, key TEXT NOT NULL,
    offset INTEGER NOT NULL, epoch TEXT NOT NULL, expires_at REAL NOT NULL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE INDEX results_expire ON results (expires_at);

CREATE TABLE members (
    channel TEXT NOT NULL, client_id TEXT NOT NULL, info BLOB NOT NULL, expires_at REAL NOT NULL,
    PRIMARY KEY (channel, client_id)
) WITHOUT ROWID;
CREATE INDEX members_expire ON members (expires_at);
"""

Identity = tuple[int, int]
"""Device and inode of a file: another one under the same name is another database."""


def connect(path: Path, *, busy_seconds: float, cache_kib: int) -> sqlite3.Connection:
    """Open a database that was prepared.

    Args:
        path: Its file.
        busy_seconds: How long a statement waits for a lock; 0 does not wait.
        cache_kib: Pages that the connection may keep, in KiB.

    Raises:
        sqlite3.Error: As `describe` explains it.
    """
    # mode=rw: a file that somebody removed must not come back empty and without its tables.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=busy_seconds, isolation_level=None
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        # The keeper copies the log back; a commit that did so would wait for the disk.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def read_identity(path: Path) -> Identity | None:
    """Return which file stands at a path; ``None`` when none does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def prepare(path: Path) -> None:
    """Make the file and its tables where they are missing, and check them where they are not.

    Raises:
        ConfigError: The file cannot be used as it is; the message says what to do.
        BrokerUnavailable: Somebody holds its lock, or the disk is full.
    """
    if sqlite3.sqlite_version_info < VERSION_MIN:
        least = ".".join(map(str, VERSION_MIN))
        raise ConfigError(
            f"the sqlite broker needs SQLite {least}, this Python has {sqlite3.sqlite_version}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"the folder of the sqlite broker's file is missing: make {path.parent}")
    if path.is_dir():
        raise ConfigError(f"the sqlite broker needs a file, {path} is a folder")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(
            f"the sqlite broker cannot use {path}: it can only be read, or not even that: let "
            f"this user write it, and to its folder"
        )
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            _prepare(path)
        except sqlite3.Error as error:
            # Changing to WAL does not wait for another worker that does the same.
            if _primary(error) in BUSY and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            kind = BrokerUnavailable if _is_passing(error) else ConfigError
            raise kind(describe(error, path)) from error
        except OSError as error:
            raise ConfigError(
                f"the sqlite broker's file {path} cannot be made: {error.strerror}; "
                f"may this user write to its folder?"
            ) from error
        return


def describe(error: sqlite3.Error, path: Path) -> str:
    """Say what an error means for the operator."""
    texts = {
        sqlite3.SQLITE_BUSY: "another process holds its lock for too long",
        sqlite3.SQLITE_LOCKED: "another process holds its lock for too long",
        sqlite3.SQLITE_FULL: "the disk is full: free some space",
        sqlite3.SQLITE_IOERR: "the disk does not answer as it should",
        sqlite3.SQLITE_READONLY: "it can only be read: let this user write it, and to its folder",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened: let this user read and write it",
        sqlite3.SQLITE_PERM: "it cannot be opened: let this user read and write it",
        sqlite3.SQLITE_NOTADB: "it is no database of SQLite: name another file",
        sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, and a new one is made",
    }
    text = texts.get(_primary(error), "it does not work")
    return f"the sqlite broker cannot use {path}: {text} ({error})"


def is_broken(error: sqlite3.Error) -> bool:
    """Tell whether a connection should be opened anew."""
    return _primary(error) in BROKEN or isinstance(error, sqlite3.ProgrammingError)


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether somebody else holds a lock."""
    return _primary(error) in BUSY


def _primary(error: sqlite3.Error) -> int:
    """Return the kind of an error: SQLite's code without its details."""
    code = getattr(error, "sqlite_errorcode", 0)
    return int(code) & 0xFF


def _is_passing(error: sqlite3.Error) -> bool:
    """Tell what may be over soon from what somebody has to repair."""
    return _primary(error) in {*BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def _prepare(path: Path) -> None:
    """Do what `prepare` promises, once."""
    # Written to by others, or left by a machine that went down.
    had_log = _size(path.with_name(path.name + "-wal")) > 0
    # Publications are nobody else's business; SQLite gives the files beside it the same mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = connect(path, busy_seconds=LOCK_SECONDS_MAX, cache_kib=256)
    try:
        _check(connection, path)
        # Both before the first table, or never.
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigError(
                f"the sqlite broker cannot use {path}: its disk allows no write-ahead log; "
                f"name a file on a disk of this machine"
            )
        connection.execute("BEGIN IMMEDIATE")
        # Another worker may have made the tables meanwhile.
        if _check(connection, path) == 0:
            _create(connection)
        _check_boot(connection, had_log=had_log)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the tables; 0 when there are none."""
    version = _pragma(connection, "user_version")
    application = _pragma(connection, "application_id")
    (is_used,) = connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()
    if application != APPLICATION and (is_used or version or application):
        raise ConfigError(
            f"{path} is a database of something else: give the sqlite broker a file of its own"
        )
    if version > SCHEMA:
        raise ConfigError(
            f"{path} was made by a newer release (schema {version}, this one knows {SCHEMA}): "
            f"upgrade this node too"
        )
    return version


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, inside of a transaction."""
    for statement in TABLES.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(
        "INSERT INTO meta VALUES ('instance', ?), ('boot', ''), ('probe', x'')",
        (secrets.token_hex(8),),
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _check_boot(connection: sqlite3.Connection, *, had_log: bool) -> None:
    """Start new epochs when the machine went down while somebody wrote.

    A killed process loses nothing: what was committed is with the operating system. When that goes
    down too, the newest commits may be missing, and a client would wrongly believe that the
    publications which take their offsets are those that it has. A file that was closed before left
    no log behind.
    """
    boot = _read_boot()
    (known,) = connection.execute("SELECT value FROM meta WHERE name = 'boot'").fetchone()
    if boot == known:
        return
    if known and had_log:
        connection.execute("UPDATE streams SET epoch = lower(hex(randomblob(4)))")
        connection.execute("DELETE FROM results")
    connection.execute("UPDATE meta SET value = ? WHERE name = 'boot'", (boot,))


def _read_boot() -> str:
    """Return what changes when the machine starts; empty where that cannot be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    """Read a number of the file's header."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _size(path: Path) -> int:
    """Return a file's size; 0 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
