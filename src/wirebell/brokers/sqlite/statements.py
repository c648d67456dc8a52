"""The SQL of the broker: rows in and out, as few steps as possible.

Python lets go of its lock at each step of a statement, and under load waits up to five
milliseconds to have it back. So what belongs together is one step: many rows are written by one
statement, and read as one row of JSON. Publications are hexadecimal there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain

import msgspec

from wirebell.brokers.sqlite.ledger import Ledger, Stream, StreamRow
from wirebell.model import StreamPosition

__all__ = (
    "FREE",
    "HistoryRow",
    "append",
    "execute_many",
    "find_results",
    "find_streams",
    "probe",
    "read_history",
    "read_members",
    "read_next_id",
    "store",
)

# 256 rows of ten columns are below the 32,766 variables that a statement may have.
ROWS = (256, 64, 16, 4, 1)
INTEGER_MAX = 2**63 - 1
PROBE_BYTES = 65_536

COLUMNS = (
    "id, channel, epoch, top, floor, stored_from, version, version_epoch, expires_at, "
    "meta_expires_at"
)
STORE_STREAMS = (
    f"INSERT INTO streams ({COLUMNS}) VALUES ",  # noqa: S608 - written above
    (
        " ON CONFLICT (id) DO UPDATE SET top = excluded.top, floor = excluded.floor, "
        "stored_from = excluded.stored_from, version = excluded.version, "
        "version_epoch = excluded.version_epoch, expires_at = excluded.expires_at, "
        "meta_expires_at = excluded.meta_expires_at"
    ),
)
STORE_PUBLICATIONS = ("INSERT INTO publications (stream, offset, record) VALUES ", "")
STORE_RESULTS = (
    "INSERT OR REPLACE INTO results (channel, key, offset, epoch, expires_at) VALUES ",
    "",
)
STORE_MEMBERS = (
    "INSERT OR REPLACE INTO members (channel, client_id, info, expires_at) VALUES ",
    "",
)
# The join is what makes SQLite look rows up by their keys; with values alone it reads the table.
FREE = (
    "WITH gone (stream, first, last) AS (VALUES ",
    (
        ") DELETE FROM publications WHERE (stream, offset) IN (SELECT p.stream, p.offset "
        "FROM gone CROSS JOIN publications AS p ON p.stream = gone.stream "
        "AND p.offset BETWEEN gone.first AND gone.last)"
    ),
)
REMOVE_MEMBERS = (
    "WITH gone (channel, client_id) AS (VALUES ",
    (
        ") DELETE FROM members WHERE (channel, client_id) IN (SELECT m.channel, m.client_id "
        "FROM gone CROSS JOIN members AS m ON m.channel = gone.channel "
        "AND m.client_id = gone.client_id)"
    ),
)
DETACH = (
    (
        "UPDATE streams SET channel = NULL, expires_at = NULL, meta_expires_at = 0 "
        "WHERE id IN (VALUES "
    ),
    ")",
)
FIND_STREAMS = (
    (
        f"SELECT json_group_array(json_array({COLUMNS})) "  # noqa: S608 - written above
        "FROM streams WHERE channel IN (VALUES "
    ),
    ")",
)
FIND_RESULTS = (
    "WITH asked (channel, key) AS (VALUES ",
    (
        ") SELECT json_group_array(json_array(r.channel, r.key, r.offset, r.epoch)) "
        "FROM asked CROSS JOIN results AS r ON r.channel = asked.channel AND r.key = asked.key "
        "WHERE r.expires_at > ?"
    ),
)
# The rows of a part come in any order: each says its offset.
READ_HISTORY = """
SELECT epoch, top, meta_expires_at > :now, CASE WHEN :limit > 0 AND expires_at > :now THEN (
    SELECT json_group_array(json_array(offset, hex(record))) FROM (
        SELECT offset, record FROM publications
        WHERE stream = streams.id AND offset > max(streams.floor, :after) AND offset < :before
        ORDER BY offset {order} LIMIT :limit
    )
) END FROM streams WHERE channel = :channel
"""
READ_FORWARD = READ_HISTORY.format(order="")
READ_REVERSE = READ_HISTORY.format(order="DESC")
READ_MEMBERS = (
    "SELECT json_group_array(hex(info)) FROM members WHERE channel = ? AND expires_at > ?"
)

HistoryRow = tuple[StreamPosition, list[tuple[int, bytes]]]
"""Where a stream's newest publication stands, and offset and record of those asked for."""

_decode_streams = msgspec.json.Decoder(list[StreamRow]).decode
_decode_results = msgspec.json.Decoder(list[tuple[str, str, int, str]]).decode
_decode_records = msgspec.json.Decoder(list[tuple[int, str]]).decode
_decode_infos = msgspec.json.Decoder(list[str]).decode


def find_streams(connection: sqlite3.Connection, channels: Sequence[str]) -> dict[str, Stream]:
    """Read the streams of channels, of those that have one."""
    found: dict[str, Stream] = {}
    for part in _parts([(channel,) for channel in channels]):
        (text,) = connection.execute(_values(FIND_STREAMS, part), _flatten(part)).fetchone()
        for row in _decode_streams(text):
            found[row[1]] = Stream(*row)
    return found


def find_results(
    connection: sqlite3.Connection, keys: Sequence[tuple[str, str]], now: float
) -> dict[tuple[str, str], StreamPosition]:
    """Read what became of publications with idempotency keys, of those that count."""
    found: dict[tuple[str, str], StreamPosition] = {}
    for part in _parts(keys):
        statement = _values(FIND_RESULTS, part)
        (text,) = connection.execute(statement, [*_flatten(part), now]).fetchone()
        for channel, key, offset, epoch in _decode_results(text):
            found[channel, key] = StreamPosition(offset, epoch)
    return found


def read_next_id(connection: sqlite3.Connection) -> int:
    """Return the first id that no stream has."""
    (newest,) = connection.execute("SELECT max(id) FROM streams").fetchone()
    return 1 if newest is None else int(newest) + 1


def append(connection: sqlite3.Connection, packed: bytes) -> int:
    """Append a row to the log that all workers read, and return its number."""
    cursor = connection.execute("INSERT INTO batches (items) VALUES (?)", (packed,))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def probe(connection: sqlite3.Connection) -> None:
    """Write as much as a few publications have, to see whether there is room."""
    connection.execute("UPDATE meta SET value = zeroblob(?) WHERE name = 'probe'", (PROBE_BYTES,))


def store(connection: sqlite3.Connection, ledger: Ledger) -> None:
    """Write what a ledger came to, but for what it tells others."""
    execute_many(connection, DETACH, [(stream_id,) for stream_id in ledger.detached])
    execute_many(connection, STORE_STREAMS, [stream.to_row() for stream in ledger.changed.values()])
    floors = {stream.id: stream.floor for stream in ledger.changed.values()}
    kept = [row for row in ledger.publications if row[1] > floors.get(row[0], 0)]
    execute_many(connection, STORE_PUBLICATIONS, kept)
    execute_many(connection, FREE, ledger.freed)
    expires_at = ledger.results_expire_at
    results = [
        (channel, key, position.offset, position.epoch, expires_at)
        for (channel, key), position in ledger.new_results.items()
    ]
    execute_many(connection, STORE_RESULTS, results)
    members = [(*name, *entry) for name, entry in ledger.members.items() if entry is not None]
    execute_many(connection, STORE_MEMBERS, members)
    execute_many(
        connection,
        REMOVE_MEMBERS,
        [name for name, entry in ledger.members.items() if entry is None],
    )


def read_history(
    connection: sqlite3.Connection,
    channel: str,
    now: float,
    *,
    since: int | None,
    limit: int,
    reverse: bool,
) -> HistoryRow | None:
    """Read a part of a stream at one moment; ``None`` when there is no stream, or no more.

    Args:
        connection: Of the calling thread.
        channel: Its name.
        now: Seconds since 1970.
        since: Only offsets above this one, or with ``reverse`` below it; ``None`` is no bound.
        limit: Most publications, 0 or more.
        reverse: The newest ones, newest first.
    """
    row = connection.execute(
        READ_REVERSE if reverse else READ_FORWARD,
        {
            "channel": channel,
            "now": now,
            "after": 0 if since is None or reverse else min(since, INTEGER_MAX),
            "before": INTEGER_MAX if since is None or not reverse else min(since, INTEGER_MAX),
            "limit": min(limit, INTEGER_MAX),
        },
    ).fetchone()
    if row is None or not row[2]:
        return None
    epoch, top, _, text = row
    records = [] if text is None else _decode_records(text)
    records.sort(reverse=reverse)
    return (
        StreamPosition(top, epoch),
        [(offset, bytes.fromhex(record)) for offset, record in records],
    )


def read_members(connection: sqlite3.Connection, channel: str, now: float) -> list[bytes]:
    """Read the records of those who are in a channel."""
    (text,) = connection.execute(READ_MEMBERS, (channel, now)).fetchone()
    return [bytes.fromhex(record) for record in _decode_infos(text)]


def execute_many(
    connection: sqlite3.Connection, statement: tuple[str, str], rows: Sequence[tuple[object, ...]]
) -> None:
    """Run a statement for rows, many at once."""
    for part in _parts(rows):
        connection.execute(_values(statement, part), _flatten(part))


def _parts(rows: Sequence[tuple[object, ...]]) -> Iterable[Sequence[tuple[object, ...]]]:
    """Cut rows into parts of a few sizes, so that the same statements come again."""
    start = 0
    while start < len(rows):
        size = next(size for size in ROWS if size <= len(rows) - start)
        yield rows[start : start + size]
        start += size


def _values(statement: tuple[str, str], rows: Sequence[tuple[object, ...]]) -> str:
    """Return a statement for so many rows of so many columns."""
    return _build(statement, len(rows), len(rows[0]))


@lru_cache(maxsize=128)
def _build(statement: tuple[str, str], row_count: int, column_count: int) -> str:
    """Put the question marks between the two halves of a statement."""
    row = f"({', '.join('?' * column_count)})"
    return f"{statement[0]}{', '.join([row] * row_count)}{statement[1]}"


def _flatten(rows: Sequence[tuple[object, ...]]) -> list[object]:
    """Put the columns of rows one behind the other."""
    return list(chain.from_iterable(rows))
