"""A thread's connection to the database, opened when it is used."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from wirebell.brokers.sqlite.database import Identity, connect, prepare, read_identity

__all__ = ("Link",)

OPEN_SECONDS = 2.0


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
        if identity is None:
            prepare(self.path)
        # Whoever opens it first, or closes it last, locks everybody out for a moment.
        self.connection = connect(self.path, busy_seconds=OPEN_SECONDS, cache_kib=self.cache_kib)
        self.identity = read_identity(self.path)
        query = "SELECT value FROM meta WHERE name = 'instance'"
        (self.instance,) = self.connection.execute(query).fetchone()
        self.connection.execute(f"PRAGMA busy_timeout = {int(self.busy_seconds * 1_000)}")
        return self.connection

    def close(self) -> None:
        """Close it; idempotent. The next `get` opens it anew."""
        if self.connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self.connection.close()
            self.connection = None
