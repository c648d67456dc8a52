"""The thread that keeps the file small: removes what has ended, and copies the log back.

Strategy: every worker has a keeper, and each does a little at a time, so that nobody waits long for
the lock and none has to be elected; what one has done the others do not find any more.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path

from wirebell.brokers.sqlite.database import describe, is_broken, is_busy
from wirebell.brokers.sqlite.inbox import read_newest
from wirebell.brokers.sqlite.link import Link
from wirebell.brokers.sqlite.sweeps import remove_batches, remove_ended, vacuum
from wirebell.errors import WirebellError

__all__ = ("BATCH_SECONDS", "Keeper")

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
# Under steady writing a copy never catches up: then writers wait for the last of it.
LOG_BYTES_MAX = 32 * 1024 * 1024
# Others are to have the lock in between.
PAUSE_SECONDS = 0.005
LOCK_SECONDS = 1.0
CACHE_KIB = 512


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
        if status.st_size > LOG_BYTES_MAX:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

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
