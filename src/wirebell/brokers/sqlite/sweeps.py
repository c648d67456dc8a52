"""What is removed because it has ended, a bounded part in each transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable

import msgspec

from wirebell.brokers.sqlite.statements import FREE, execute_many

__all__ = ("remove_batches", "remove_ended", "vacuum")

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
