"""How far a node has read the log that all workers append to, and what of it is for this node.

Strategy: rows are numbered without a hole, so a missing number is a loss that is known: this
process stood still for longer than rows are kept, or the database is another one. Both threads
read on, one at a time, and everything goes to the event loop in the order of the log.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from wirebell.brokers.sqlite.operations import CONTROL, ITEM, Entry, unpack
from wirebell.model import ChannelItem
from wirebell.records import UnknownRecord, decode_item

__all__ = ("Database", "Delivery", "Inbox", "read_newest")

logger = logging.getLogger(__name__)

# What may wait for the event loop: a node that is slower than the others reads later.
WAITING_BYTES_MAX = 32 * 1024 * 1024
UNKNOWN_SECONDS = 60.0

Delivery = tuple[int, str, ChannelItem | bytes]
"""Kind, channel, and the item or what a node told."""

Database = tuple[str, tuple[int, int] | None]
"""What a database called itself when it was made, and which file it is."""

READ = "SELECT id, items FROM batches WHERE id > ? ORDER BY id"


def read_newest(connection: sqlite3.Connection) -> int:
    """Return the number of the newest row; 0 when there never was one."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
    return 0 if row is None else int(row[0])


class Inbox:
    """Reads the log for one node.

    Mutable state: the newest row that was read, what the node subscribed to, and how many bytes
    wait for the event loop. `read_on` may be called by several threads; what the node subscribed
    to is changed on the event loop alone.

    Args:
        deliver: Takes what came, in order, with its size; called on the thread that reads.
        lost: Is told that rows are missing, and why; likewise, in order with what came.
        waiting_bytes_max: What may wait for the event loop before nothing more is read.
    """

    def __init__(
        self,
        deliver: Callable[[list[Delivery], int], None],
        lost: Callable[[str], None],
        *,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
    ) -> None:
        self.deliver = deliver
        self.lost = lost
        self.waiting_bytes_max = waiting_bytes_max
        self.lock = threading.Lock()
        self.subscribed: set[str] = set()
        self.node_id = ""
        self.database: Database | None = None
        self.last_id = 0
        self.is_running = False
        self.lost_count = 0
        # Two numbers that only rise, each changed by one side, need no lock between the sides.
        self.read_bytes = 0
        self.delivered_bytes = 0
        self.unknown_told_at = -UNKNOWN_SECONDS

    @property
    def is_full(self) -> bool:
        """Tell whether the event loop is to catch up first."""
        return self.read_bytes - self.delivered_bytes > self.waiting_bytes_max

    def place(self, connection: sqlite3.Connection, database: Database) -> None:
        """Begin behind the newest row of a database."""
        with self.lock:
            self.database, self.last_id = database, read_newest(connection)
            self.is_running = True

    def read_on(
        self,
        connection: sqlite3.Connection,
        database: Database,
        own_id: int = 0,
        own: Sequence[Delivery] = (),
    ) -> None:
        """Read what is new, up to what the event loop can take.

        Args:
            connection: Of the calling thread.
            database: Which one that is.
            own_id: The row that the caller has just written; 0 for none.
            own: What it told, so that nobody has to read it.

        Raises:
            sqlite3.Error: It cannot be read; what was read before is delivered.
        """
        with self.lock:
            if not self.is_running:
                return
            if database != self.database:
                self._change(connection, database)
            if own_id and own_id == self.last_id + 1:
                self._take_own(own_id, own)
                return
            # Row by row: each may have megabytes.
            with closing(connection.execute(READ, (self.last_id,))) as rows:
                for row_id, items in rows:
                    if self.is_full:
                        return
                    self._check_number(row_id)
                    if row_id == own_id:
                        self._take_own(own_id, own)
                    else:
                        self._take(row_id, items)

    def select(
        self, entries: Sequence[Entry], items: Sequence[ChannelItem | None]
    ) -> list[Delivery]:
        """Choose what is for this node of what it tells itself."""
        chosen: list[Delivery] = []
        for (kind, name, _, _, record), item in zip(entries, items, strict=True):
            if item is not None:
                if name in self.subscribed:
                    chosen.append((ITEM, name, item))
            elif kind == CONTROL and name in {"", self.node_id}:
                chosen.append((CONTROL, "", record))
        return chosen

    def _take_own(self, row_id: int, own: Sequence[Delivery]) -> None:
        """Hand on what this process wrote."""
        self.last_id = row_id
        if own:
            self.deliver(list(own), 0)

    def _take(self, row_id: int, packed: bytes) -> None:
        """Hand on what of a row is for this node."""
        self.last_id = row_id
        try:
            entries = unpack(packed)
        except UnknownRecord as error:
            self.tell_unknown(error)
            return
        chosen: list[Delivery] = []
        for kind, name, offset, epoch, record in entries:
            if kind == ITEM and name in self.subscribed:
                try:
                    chosen.append((ITEM, name, decode_item(record, offset, epoch)))
                except UnknownRecord as error:
                    self.tell_unknown(error)
            elif kind == CONTROL and name in {"", self.node_id}:
                chosen.append((CONTROL, "", record))
        if chosen:
            self.read_bytes += len(packed)
            self.deliver(chosen, len(packed))

    def _change(self, connection: sqlite3.Connection, database: Database) -> None:
        """Begin anew in another database, or in one that was put back to an earlier state."""
        known, self.database = self.database, database
        newest = read_newest(connection)
        if known is None or known[0] != database[0] or newest < self.last_id:
            self.last_id = newest
            self._lose("its file is another one than before")

    def _check_number(self, row_id: int) -> None:
        """Notice that rows are gone that were never read."""
        if row_id != self.last_id + 1:
            self._lose(f"{row_id - self.last_id - 1} batches were removed before they were read")

    def _lose(self, text: str) -> None:
        """Tell that something was missed."""
        self.lost_count += 1
        self.lost(text)

    def tell_unknown(self, error: UnknownRecord) -> None:
        """Log what cannot be read, from time to time: it is left out, and offsets show the gap."""
        now = time.monotonic()
        if now - self.unknown_told_at >= UNKNOWN_SECONDS:
            self.unknown_told_at = now
            logger.error("%s", error)
