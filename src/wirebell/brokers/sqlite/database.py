"""The database's file: how it is opened, what stands in it, and what its errors mean.

Nothing here knows threads or the event loop. A connection is used by the thread that opened it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from wirebell.errors import BrokerUnavailable, ConfigError

if sys.platform != "win32":
    import fcntl

__all__ = (
    "Identity",
    "Link",
    "check_disk",
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
# Whoever opens it first, or closes it last, locks everybody out for a moment.
OPEN_SECONDS = 2.0

# File systems that several machines may have mounted: processes that use a write-ahead log share
# memory, so two machines would damage the file, and none of them would notice.
NETWORK_KINDS = (
    *("afs", "ceph", "cifs", "lustre", "nfs", "nfs4", "smb2", "smb3", "smbfs"),
    *("fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
)
MOUNTS = Path("/proc/self/mounts")

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
        # Debian's SQLite fills what is removed with zeros, which writes it all a second time.
        connection.execute("PRAGMA secure_delete = OFF")
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
    _check_place(path)
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
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise BrokerUnavailable(
                f"the sqlite broker cannot make {path}: another process has begun to, and stands "
                f"still"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"the sqlite broker's file {path} cannot be made: {error.strerror}; "
                f"may this user write to its folder?"
            ) from error
        return


def check_disk(path: Path, mounts: str) -> None:
    """Refuse a file that other machines may have open too.

    Args:
        path: Absolute.
        mounts: What is mounted, oldest first, as /proc/self/mounts tells it (fstab(5)).

    Raises:
        ConfigError: It lies on a network; the message says what to do.
    """
    kind, longest = "", -1
    for line in mounts.splitlines():
        _, point, kind_there, *_ = line.split(" ")
        # A space in a name is written as its code.
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
        if len(point) >= longest and path.is_relative_to(point):
            kind, longest = kind_there, len(point)
    if kind in NETWORK_KINDS:
        raise ConfigError(
            f"the sqlite broker's file {path} lies on a network ({kind}), where two machines would "
            f"damage it: name a file on a disk of this machine, or take redis://, nats:// or "
            f"postgresql://"
        )


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


class Link:
    """A connection that is opened anew when it is of no use any more; for one thread.

    A file that was removed or replaced is another database: the one that is open would be written
    to, and nobody would ever read it.

    Args:
        path: Of the database.
        busy_seconds: How long a statement waits for a lock.
        cache_kib: Pages that the connection may keep.
    """

    def __init__(self, path: Path, *, busy_seconds: float, cache_kib: int) -> None:
        self.path = path
        self.busy_seconds = busy_seconds
        self.cache_kib = cache_kib
        self.connection: sqlite3.Connection | None = None
        self.identity: Identity | None = None
        self.instance = ""

    @property
    def database(self) -> tuple[str, Identity | None]:
        """What the open database called itself when it was made, and which file it is."""
        return self.instance, self.identity

    def get(self) -> sqlite3.Connection:
        """Return the connection; ``database`` then says what is behind it.

        Raises:
            sqlite3.Error: The file cannot be opened.
            BrokerUnavailable: It was removed, and cannot be made anew.
            ConfigError: Likewise.
        """
        identity = read_identity(self.path)
        if self.connection is not None and identity == self.identity:
            return self.connection
        self.close()
        # Before the first time whoever starts has prepared it.
        if identity is None or self.identity not in {None, identity}:
            prepare(self.path)
        connection = connect(self.path, busy_seconds=OPEN_SECONDS, cache_kib=self.cache_kib)
        try:
            self.identity = read_identity(self.path)
            query = "SELECT value FROM meta WHERE name = 'instance'"
            (self.instance,) = connection.execute(query).fetchone()
            connection.execute(f"PRAGMA busy_timeout = {int(self.busy_seconds * 1_000)}")
        except BaseException:
            connection.close()
            raise
        self.connection = connection
        return connection

    def close(self) -> None:
        """Close it; idempotent. The next `get` opens it anew."""
        if self.connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self.connection.close()
            self.connection = None


def _primary(error: sqlite3.Error) -> int:
    """Return the kind of an error: SQLite's code without its details."""
    code = getattr(error, "sqlite_errorcode", 0)
    return int(code) & 0xFF


def _is_passing(error: sqlite3.Error) -> bool:
    """Tell what may be over soon from what somebody has to repair."""
    return _primary(error) in {*BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def _check_place(path: Path) -> None:
    """Refuse where no file of ours can be, or none that can be written."""
    if not path.parent.is_dir():
        raise ConfigError(f"the folder of the sqlite broker's file is missing: make {path.parent}")
    if path.is_dir():
        raise ConfigError(f"the sqlite broker needs a file, {path} is a folder")
    check_disk(path, _read_mounts())
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(
            f"the sqlite broker cannot use {path}: it can only be read, or not even that: let "
            f"this user write it, and to its folder"
        )


def _prepare(path: Path) -> None:
    """Do what `prepare` promises, once."""
    # Written to by others, or left by a machine that went down.
    had_log = _size(path.with_name(path.name + "-wal")) > 0
    if not path.exists():
        _make_file(path)
    connection = connect(path, busy_seconds=LOCK_SECONDS_MAX, cache_kib=256)
    try:
        # One look: else another worker may make the tables between its parts.
        connection.execute("BEGIN")
        _check(connection, path)
        connection.execute("COMMIT")
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


def _make_file(path: Path) -> None:
    """Make an empty file, if no other process does.

    What stands beside it belonged to a file that was removed. Processes that have that one open
    use it still, so it goes away, and must not while another process begins with the new file.

    Raises:
        BlockingIOError: Another process is at it.
    """
    with _locked(path.parent):
        if path.exists():
            return
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        # Publications are nobody else's business; SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out; a process that dies lets go.

    Raises:
        BlockingIOError: Another process is in.
    """
    if sys.platform == "win32":  # pragma: no cover - a file that is open cannot be removed there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _read_mounts() -> str:
    """Read what is mounted; empty where that cannot be known."""
    try:
        return MOUNTS.read_text()
    except OSError:
        return ""


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
