"""The thread that keeps the file small: removes what has ended, and copies the log back.

Strategy: every worker has a keeper, and each does a little at a time, so that nobody waits long for
the lock and none has to be elected; what one has done the others do not find any more.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from wirebell.brokers.sqlite.database import Link, describe, is_broken, is_busy
from wirebell.brokers.sqlite.inbox import read_newest
from wirebell.brokers.sqlite.statements import FREE, execute_many
from wirebell.errors import WirebellError

__all__ = ("BATCH_SECONDS", "Keeper", "remove_batches", "remove_ended", "vacuum")

logger = logging.getLogger(__name__)

BATCH_SECONDS = 10.0
"""How long what crosses workers can be read: a process that stands still for longer has missed
some, is told so, and reads the histories."""

LOOK_SECONDS = 1.0
SWEEP_SECONDS = 5.0
# The log is copied back when it has so much, or when it has been lying for so long: what a power
# cut may take is what was not copied.
LOG_BYTES_COPIED = 4 * 1024 * 1024
LOG_SECONDS_MAX = 5.0
# Under steady writing a copy never catches up: then writers wait for the last of it. They wait for
# readers too, and somebody may have been reading for hours: so not for long, and not often.
LOG_BYTES_MAX = 32 * 1024 * 1024
TRUNCATE_SECONDS = 0.05
TRUNCATE_PAUSE_SECONDS = 10.0
# Others are to have the lock in between.
PAUSE_SECONDS = 0.005
LOCK_SECONDS = 1.0
CACHE_KIB = 512
# Removed in one transaction: a few milliseconds.
ROWS_MAX = 2_000
# A row of the log holds up to 4 MiB.
BATCHES_MAX = 100
STREAMS_MAX = 256
# Free pages are used again; they are given back only when they are many, and a quarter of all.
FREE_PAGES_MAX = 2_000
VACUUM_PAGES = 2_048
VACUUM_ROUNDS_MAX = 4

IS_ANYTHING_ENDED = """
SELECT EXISTS (SELECT 1 FROM results WHERE expires_at <= :now)
    OR EXISTS (SELECT 1 FROM members WHERE expires_at <= :now)
    OR EXISTS (SELECT 1 FROM streams WHERE expires_at <= :now)
    OR EXISTS (SELECT 1 FROM streams WHERE meta_expires_at <= :now)
    OR (SELECT count(*) FROM streams WHERE top = 0) > :unused
"""
REMOVE_RESULTS = (
    "DELETE FROM results WHERE (channel, key) IN "
    "(SELECT channel, key FROM results WHERE expires_at <= ? LIMIT ?)"
)
REMOVE_MEMBERS = (
    "DELETE FROM members WHERE (channel, client_id) IN "
    "(SELECT channel, client_id FROM members WHERE expires_at <= ? LIMIT ?)"
)
REMOVE_UNUSED = (
    "DELETE FROM streams WHERE id IN (SELECT id FROM streams WHERE top = 0 ORDER BY id LIMIT "
    "max(0, (SELECT count(*) FROM streams WHERE top = 0) - ?))"
)
FIND = (
    "SELECT json_group_array(json_array(id, stored_from, top)) FROM "
    "(SELECT id, stored_from, top FROM streams WHERE {column} <= ? ORDER BY {column} LIMIT ?)"
)
FIND_EXPIRED = FIND.format(column="expires_at")
FIND_ENDED = FIND.format(column="meta_expires_at")
EMPTY = (
    "UPDATE streams SET floor = top, stored_from = top + 1, expires_at = NULL WHERE id IN (VALUES ",
    ")",
)
FORGET = ("DELETE FROM streams WHERE id IN (VALUES ", ")")
ADVANCE = "UPDATE streams SET floor = max(floor, ?2), stored_from = ?2 + 1 WHERE id = ?1"

Part = tuple[int, int, int]
"""A stream, and the first and the last of its offsets that may be stored."""

_decode_parts = msgspec.json.Decoder(list[Part]).decode


class Keeper(threading.Thread):
    """Cleans up behind one worker, and all others.

    Args:
        path: Of the database.
        unused_max: Streams that stay though nothing was ever published to them.
    """

    def __init__(self, path: Path, *, unused_max: int) -> None:
        super().__init__(name="wirebell-sqlite-keeper", daemon=True)
        self.link = Link(path, busy_seconds=LOCK_SECONDS, cache_kib=CACHE_KIB)
        self.unused_max = unused_max
        self.log_path = path.with_name(path.name + "-wal")
        self.ended = threading.Event()
        # The newest row at the times of the last sweeps, oldest first: no clock is set back there.
        self.newest: deque[tuple[float, int]] = deque()
        self.swept_at = 0.0
        self.copied_at = 0.0
        self.log_changed_at = 0
        self.truncate_at = 0.0
        # From this size on the log is told of, and again at each doubling.
        self.told_bytes = 2 * LOG_BYTES_MAX
        self.is_failing = False

    def stop(self) -> None:
        """End soon."""
        self.ended.set()

    def run(self) -> None:
        """Look around until `stop`."""
        while not self.ended.wait(LOOK_SECONDS):
            try:
                self.look(time.monotonic(), time.time())
                self.is_failing = False
            except Exception as error:  # noqa: BLE001 - told once, and tried again
                self._fail(error)
        self.link.close()

    def look(self, now: float, wall: float) -> None:
        """Do what is due.

        Args:
            now: Monotonic seconds.
            wall: Seconds since 1970.

        Raises:
            sqlite3.Error: It could not be done; the next look tries again.
        """
        connection = self.link.get()
        self._copy_log(connection, now)
        if now - self.swept_at < SWEEP_SECONDS:
            return
        self.swept_at = now
        remove_batches(connection, self._find_last(connection, now))
        while remove_ended(connection, wall, unused_max=self.unused_max):
            if self.ended.wait(PAUSE_SECONDS):
                return
        vacuum(connection)

    def _find_last(self, connection: sqlite3.Connection, now: float) -> int:
        """Return the newest row that everybody had time to read; 0 when there is none."""
        self.newest.append((now, read_newest(connection)))
        last = 0
        while now - self.newest[0][0] >= BATCH_SECONDS:
            last = self.newest.popleft()[1]
        return last

    def _copy_log(self, connection: sqlite3.Connection, now: float) -> None:
        """Copy the write-ahead log into the file, so that it can begin anew."""
        try:
            status = self.log_path.stat()
        except OSError:
            return
        if status.st_mtime_ns == self.log_changed_at:
            return
        if status.st_size < LOG_BYTES_COPIED and now - self.copied_at < LOG_SECONDS_MAX:
            return
        self.log_changed_at, self.copied_at = status.st_mtime_ns, now
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if status.st_size > LOG_BYTES_MAX and now >= self.truncate_at:
            self._begin_log_anew(connection, now, status.st_size)

    def _begin_log_anew(self, connection: sqlite3.Connection, now: float, size: int) -> None:
        """Copy the last of the log, with writers held up, and cut it."""
        connection.execute(f"PRAGMA busy_timeout = {int(TRUNCATE_SECONDS * 1_000)}")
        try:
            (is_held, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(LOCK_SECONDS * 1_000)}")
        if not is_held:
            self.told_bytes = 2 * LOG_BYTES_MAX
            return
        self.truncate_at = now + TRUNCATE_PAUSE_SECONDS
        if size >= self.told_bytes:
            self.told_bytes = 2 * size
            logger.warning(
                "%s has %d MiB and grows: some program has been reading %s without an end; find it "
                "(fuser, lsof) and end it",
                self.log_path,
                size // 2**20,
                self.link.path.name,
            )

    def _fail(self, error: Exception) -> None:
        """Tell once what does not work."""
        if isinstance(error, sqlite3.Error):
            if is_busy(error):
                return
            if is_broken(error):
                self.link.close()
            text = describe(error, self.link.path)
        elif isinstance(error, WirebellError):
            text = str(error)
        else:
            logger.error("the sqlite broker could not clean up", exc_info=error)
            return
        if not self.is_failing:
            self.is_failing = True
            logger.warning("nothing that ended is removed: %s", text)


def remove_batches(connection: sqlite3.Connection, last: int) -> None:
    """Remove rows of the log up to one; the newest stays, so that its number tells of the others.

    Args:
        connection: Of the calling thread, outside of a transaction.
        last: The newest that may go.
    """
    query = "SELECT min(id), max(id) FROM batches"
    oldest, newest = connection.execute(query).fetchone()
    if oldest is None:
        return
    last = min(last, newest - 1)
    for first in range(oldest, last + 1, BATCHES_MAX):
        end = min(first + BATCHES_MAX - 1, last)
        connection.execute("DELETE FROM batches WHERE id BETWEEN ? AND ?", (first, end))


def remove_ended(connection: sqlite3.Connection, now: float, *, unused_max: int) -> bool:
    """Remove a part of what has ended, in one transaction; none when there is nothing.

    Args:
        connection: Of the calling thread, outside of a transaction.
        now: Seconds since 1970.
        unused_max: Streams that stay though nothing was ever published to them.

    Returns:
        Whether there was anything: then there may be more.
    """
    bounds = {"now": now, "unused": unused_max}
    (is_ended,) = connection.execute(IS_ANYTHING_ENDED, bounds).fetchone()
    if not is_ended:
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(REMOVE_RESULTS, (now, ROWS_MAX))
        connection.execute(REMOVE_MEMBERS, (now, ROWS_MAX))
        _remove_streams(connection, FIND_EXPIRED, EMPTY, now)
        _remove_streams(connection, FIND_ENDED, FORGET, now)
        connection.execute(REMOVE_UNUSED, (unused_max,))
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return True


def vacuum(connection: sqlite3.Connection) -> None:
    """Give free pages back to the disk, when they are many."""
    for _ in range(VACUUM_ROUNDS_MAX):
        (free_count,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page_count,) = connection.execute("PRAGMA page_count").fetchone()
        if free_count <= max(FREE_PAGES_MAX, page_count // 4):
            return
        # Each page is a step of the statement, and `execute` takes only one: it sees no columns.
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")


def _remove_streams(
    connection: sqlite3.Connection, find: str, finish: tuple[str, str], now: float
) -> None:
    """Free the publications of streams that have ended, and then say so of the streams."""
    (text,) = connection.execute(find, (now, STREAMS_MAX)).fetchone()
    whole, part = _bound(_decode_parts(text))
    execute_many(connection, FREE, [*whole, *part])
    execute_many(connection, finish, [(stream_id,) for stream_id, _, _ in whole])
    for stream_id, _, last in part:
        connection.execute(ADVANCE, (stream_id, last))


def _bound(parts: Iterable[Part]) -> tuple[list[Part], list[Part]]:
    """Take streams until they have enough publications, and of the last one perhaps a part."""
    whole: list[Part] = []
    left = ROWS_MAX
    for stream_id, first, top in parts:
        count = max(0, top - first + 1)
        if count > left:
            return whole, [(stream_id, first, first + left - 1)] if left else []
        left -= count
        whole.append((stream_id, first, top))
    return whole, []
