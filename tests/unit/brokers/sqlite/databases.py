"""What tests of the sqlite broker's parts share: a database, and rows in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from wirebell.brokers.sqlite import statements
from wirebell.brokers.sqlite.database import connect, prepare
from wirebell.brokers.sqlite.ledger import Answer, Ledger
from wirebell.brokers.sqlite.operations import Operation, pack

__all__ = ("NOW", "database", "write")

NOW = 1_000_000.0


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    """Make a database, and open it until the block ends."""
    path = folder / "broker.db"
    prepare(path)
    connection = connect(path, busy_seconds=1, cache_kib=64)
    try:
        yield connection
    finally:
        connection.close()


def write(connection: sqlite3.Connection, *operations: Operation, now: float = NOW) -> list[Answer]:
    """Do what the writer does, at a time of the test's choice."""
    channels = sorted({getattr(operation, "channel", "") for operation in operations})
    numbers = count(statements.read_next_id(connection))
    ledger = Ledger(
        now=now,
        new_epoch=lambda: f"epoch{next(numbers)}",
        next_id=statements.read_next_id(connection),
        streams=statements.find_streams(connection, channels),
        results={},
    )
    answers = ledger.apply(operations)
    statements.store(connection, ledger)
    if ledger.entries:
        statements.append(connection, pack(ledger.entries))
    return answers
