"""The thread that reads: what others told, histories, and who is where.

Readers of a write-ahead log wait for no writer, so this goes on while somebody holds the lock.
The thread sleeps until another worker or its own event loop wakes it, or a poll's interval passed.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wirebell.backoff import Backoff
from wirebell.brokers.sqlite import statements
from wirebell.brokers.sqlite.database import Link, describe, is_broken, is_busy
from wirebell.brokers.sqlite.inbox import Inbox, read_newest
from wirebell.brokers.sqlite.wakeups import Wakeups
from wirebell.errors import BrokerUnavailable, WirebellError

__all__ = ("POLL_SECONDS", "Question", "ReadHistory", "ReadMembers", "Reader")

logger = logging.getLogger(__name__)

QUESTIONS_MAX = 100_000
POLL_SECONDS = 0.25
"""How long a worker that nobody could wake does not know of what is new."""

# For the moments when nobody may read: another process repairs what a killed one left.
BUSY_SECONDS = 2.0
CACHE_KIB = 2_048


@dataclass(slots=True)
class ReadHistory:
    """Read a part of a stream; see `statements.read_history`."""

    channel: str
    since: int | None
    limit: int
    reverse: bool
    deadline: float
    finish: Callable[[statements.HistoryRow | Exception | None], None]


@dataclass(slots=True)
class ReadMembers:
    """Read who is in a channel."""

    channel: str
    deadline: float
    finish: Callable[[list[bytes] | Exception], None]


Question = ReadHistory | ReadMembers


class Reader(threading.Thread):
    """Reads for one node.

    Args:
        path: Of the database.
        inbox: Reads the log.
        wakeups: Wakes this thread; opened and closed by it.
        came_back: Is called when the log can be read again after it could not.
    """

    def __init__(
        self, path: Path, inbox: Inbox, wakeups: Wakeups, came_back: Callable[[], None]
    ) -> None:
        super().__init__(name="wirebell-sqlite-reader", daemon=True)
        self.link = Link(path, busy_seconds=BUSY_SECONDS, cache_kib=CACHE_KIB)
        self.inbox = inbox
        self.wakeups = wakeups
        self.came_back = came_back
        self.questions: deque[Question] = deque()
        self.is_stopping = False
        # Why the log cannot be read; empty when it can.
        self.trouble = ""
        self.backoff = Backoff()
        self.next_try_at = 0.0

    def ask(self, question: Question) -> None:
        """Have a question answered.

        Raises:
            BrokerUnavailable: As many wait already as may.
        """
        if len(self.questions) >= QUESTIONS_MAX:
            raise BrokerUnavailable(
                f"{QUESTIONS_MAX} questions wait for the sqlite broker: it is slower than its "
                f"callers"
            )
        self.questions.append(question)
        self.wakeups.kick()

    def stop(self) -> None:
        """End after what was asked before."""
        self.is_stopping = True
        self.wakeups.kick()

    def run(self) -> None:
        """Answer and read on until `stop`."""
        self.wakeups.open()
        while not self.is_stopping:
            self.wakeups.wait(self._wait_seconds())
            self._answer_all()
            if self.inbox.is_running and time.monotonic() >= self.next_try_at:
                self._read_on()
        self._answer_all()
        self.link.close()
        self.wakeups.close()

    def _wait_seconds(self) -> float | None:
        """Say how long to sleep at most."""
        if not self.inbox.is_running:
            return None
        return max(POLL_SECONDS, self.next_try_at - time.monotonic())

    def _read_on(self) -> None:
        """Read what others told, and notice when that does not work."""
        trouble, lost_count = self.trouble, self.inbox.lost_count
        try:
            connection = self.link.get()
            if trouble:
                read_newest(connection)
            # Who is told that it is back asks at once whether it is.
            self.trouble = ""
            self.inbox.read_on(connection, self.link.database)
        except Exception as error:  # noqa: BLE001 - told below, and tried again
            self._fail(error, trouble)
            return
        if trouble:
            logger.info("the sqlite broker can read %s again", self.link.path)
            self.backoff.reset()
            self.next_try_at = 0.0
            if self.inbox.lost_count == lost_count:
                self.came_back()

    def _fail(self, error: Exception, trouble: str) -> None:
        """Note why the log cannot be read, and try again later.

        Args:
            error: Why.
            trouble: Why it could not be read before; empty if it could.
        """
        if isinstance(error, sqlite3.Error):
            if is_busy(error) and not trouble:
                # Over in a moment, and nothing is lost: the next poll finds it.
                return
            text = describe(error, self.link.path)
        else:
            text = str(error)
        self.trouble = text
        if not trouble:
            logger.warning("what other workers publish does not arrive: %s", text)
        self.link.close()
        self.next_try_at = time.monotonic() + self.backoff.next_delay()

    def _answer_all(self) -> None:
        """Answer what was asked until now."""
        while self.questions:
            question = self.questions.popleft()
            if question.deadline <= time.monotonic():
                question.finish(BrokerUnavailable("the sqlite broker was busy for too long"))
                continue
            try:
                self._answer(question)
            except Exception as error:  # noqa: BLE001 - raised to who asked
                question.finish(self._translate(error))

    def _answer(self, question: Question) -> None:
        """Answer one."""
        connection = self.link.get()
        now = time.time()
        match question:
            case ReadHistory():
                question.finish(
                    statements.read_history(
                        connection,
                        question.channel,
                        now,
                        since=question.since,
                        limit=question.limit,
                        reverse=question.reverse,
                    )
                )
            case ReadMembers():
                question.finish(statements.read_members(connection, question.channel, now))

    def _translate(self, error: Exception) -> Exception:
        """Say in the broker's words why something could not be read."""
        if isinstance(error, sqlite3.Error):
            if is_broken(error):
                self.link.close()
            unavailable = BrokerUnavailable(describe(error, self.link.path))
        elif isinstance(error, WirebellError):
            unavailable = BrokerUnavailable(str(error))
        else:
            return error
        unavailable.__cause__ = error
        return unavailable
