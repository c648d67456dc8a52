"""The thread that writes: one transaction for all that gathered while the one before ran.

Strategy: what a batch told others is one row of the log; once it is committed, this thread reads
on from where the node was, and hands what others told and its own to the event loop in the order
of the log. Its own it knows, and does not read again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wirebell.brokers.sqlite import statements
from wirebell.brokers.sqlite.database import Link, describe, is_broken, is_busy
from wirebell.brokers.sqlite.inbox import Inbox
from wirebell.brokers.sqlite.ledger import Answer, Ledger
from wirebell.brokers.sqlite.operations import (
    OpenStream,
    Operation,
    Publish,
    RemoveHistory,
    pack,
)
from wirebell.errors import BrokerUnavailable, WirebellError

__all__ = ("Job", "Writer")

logger = logging.getLogger(__name__)

# A transaction takes a few tenths of a millisecond, so a lock that is taken is soon free. SQLite's
# own waiting grows to 100 ms at once.
RETRY_SECONDS_MIN = 0.0002
RETRY_SECONDS_MAX = 0.001
CACHE_KIB = 2_048


@dataclass(slots=True)
class Job:
    """A batch that is to be written.

    Attributes:
        operations: In their order.
        finish: Takes what became of each; called on the writer's thread.
    """

    operations: Sequence[Operation]
    finish: Callable[[list[Answer | Exception]], None]


class Writer(threading.Thread):
    """Writes batches, one after the other.

    Args:
        path: Of the database.
        inbox: Reads the log for this node.
        told: Is called when the log has grown.
        behind: Is called when this node has to read on, and this thread could not.
    """

    def __init__(
        self, path: Path, inbox: Inbox, told: Callable[[], None], behind: Callable[[], None]
    ) -> None:
        super().__init__(name="wirebell-sqlite-writer", daemon=True)
        self.link = Link(path, busy_seconds=0, cache_kib=CACHE_KIB)
        self.inbox = inbox
        self.told = told
        self.behind = behind
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # After a failure a probe has to write, or it would not find out that the disk is full.
        self.has_failed = False

    def submit(self, job: Job) -> None:
        """Have a batch written.

        Raises:
            BrokerUnavailable: The one before has not even begun: nothing comes back from the disk.
        """
        if self.jobs.qsize():
            raise BrokerUnavailable(
                f"the disk of the sqlite broker's {self.link.path} does not answer"
            )
        self.jobs.put(job)

    def stop(self) -> None:
        """End after what was submitted before."""
        self.jobs.put(None)

    def run(self) -> None:
        """Write what is submitted until `stop`."""
        while (job := self.jobs.get()) is not None:
            job.finish(self._serve(job.operations))
        self.link.close()

    def _serve(self, operations: Sequence[Operation]) -> list[Answer | Exception]:
        """Write one batch, and return what became of each operation."""
        now = time.monotonic()
        late = BrokerUnavailable("the sqlite broker was busy with what came before for too long")
        answers: list[Answer | Exception] = [late] * len(operations)
        live = [n for n, operation in enumerate(operations) if operation.deadline > now]
        if not live:
            return answers
        written: Sequence[Answer | Exception]
        try:
            written = self._write([operations[number] for number in live])
            self.has_failed = False
        except Exception as error:  # noqa: BLE001 - it is raised to everybody who waits
            self.has_failed = True
            written = [self._translate(error)] * len(live)
        for number, answer in zip(live, written, strict=True):
            answers[number] = answer
        return answers

    def _translate(self, error: Exception) -> Exception:
        """Say in the broker's words why nothing was written, and get ready for the next batch."""
        if isinstance(error, WirebellError):
            return BrokerUnavailable(str(error))
        if not isinstance(error, sqlite3.Error):
            # A mistake of ours is no outage, and must not end the thread.
            logger.error("the sqlite broker could not write a batch", exc_info=error)
            self.link.close()
            return error
        if is_broken(error):
            self.link.close()
        unavailable = BrokerUnavailable(describe(error, self.link.path))
        unavailable.__cause__ = error
        return unavailable

    def _write(self, operations: Sequence[Operation]) -> list[Answer]:
        """Write one batch whole, or raise and write nothing of it."""
        connection = self.link.get()
        _begin(connection, min(operation.deadline for operation in operations))
        try:
            ledger = _open_ledger(connection, operations)
            answers = ledger.apply(operations)
            statements.store(connection, ledger)
            row_id = 0
            if ledger.entries:
                row_id = statements.append(connection, pack(ledger.entries))
            elif self.has_failed:
                statements.probe(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        if row_id:
            self.told()
            self._read_on(connection, row_id, ledger)
        return answers

    def _read_on(self, connection: sqlite3.Connection, row_id: int, ledger: Ledger) -> None:
        """Deliver up to what was just written; it is written, whatever happens here."""
        own = self.inbox.select(ledger.entries, ledger.delivered)
        try:
            self.inbox.read_on(connection, self.link.database, row_id, own)
        except sqlite3.Error:
            self.behind()


def _begin(connection: sqlite3.Connection, deadline: float) -> None:
    """Take the lock for writing, and wait for it until ``deadline`` at most.

    Raises:
        sqlite3.OperationalError: It was not to be had.
    """
    delay = RETRY_SECONDS_MIN
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(delay)
        delay = min(delay * 1.1, RETRY_SECONDS_MAX)


def _open_ledger(connection: sqlite3.Connection, operations: Sequence[Operation]) -> Ledger:
    """Read what the operations are about."""
    now = time.time()
    channels: dict[str, None] = {}
    keys: dict[tuple[str, str], None] = {}
    for operation in operations:
        match operation:
            case Publish():
                if operation.history is not None:
                    channels[operation.channel] = None
                if operation.how is not None and operation.how.idempotency_key:
                    keys[operation.channel, operation.how.idempotency_key] = None
            case OpenStream() | RemoveHistory():
                channels[operation.channel] = None
            case _:
                pass
    streams = statements.find_streams(connection, list(channels)) if channels else {}
    is_new = len(streams) < len(channels) or any(
        stream.meta_expires_at <= now for stream in streams.values()
    )
    return Ledger(
        now=now,
        new_epoch=lambda: secrets.token_hex(4),
        next_id=statements.read_next_id(connection) if is_new else 0,
        streams=streams,
        results=statements.find_results(connection, list(keys), now) if keys else {},
    )
