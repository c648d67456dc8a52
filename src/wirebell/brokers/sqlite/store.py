"""One worker's access to the database, for its broker and its presence store together.

Mutable state: the three threads, and who uses them. To be used on one event loop; what the threads
have to say comes back to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from wirebell.batching import Batcher
from wirebell.brokers.sqlite.database import LOCK_SECONDS_MAX, Link, prepare
from wirebell.brokers.sqlite.inbox import Delivery, Inbox
from wirebell.brokers.sqlite.keeper import Keeper
from wirebell.brokers.sqlite.ledger import Answer
from wirebell.brokers.sqlite.operations import Operation, size_of
from wirebell.brokers.sqlite.reader import Question, Reader, ReadHistory, ReadMembers
from wirebell.brokers.sqlite.statements import HistoryRow
from wirebell.brokers.sqlite.wakeups import Wakeups, find_folder
from wirebell.brokers.sqlite.writer import Job, Writer
from wirebell.deferred import Deferred
from wirebell.errors import BrokerUnavailable

__all__ = ("Store",)

logger = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")

ANSWER_SECONDS = LOCK_SECONDS_MAX
"""Within this an operation is done, or raises."""

# A thread that does not come back from a call of the operating system cannot be waited for.
GRACE_SECONDS = 0.5
END_SECONDS_MAX = 5.0


class Store:
    """Reads and writes one database in threads of its own.

    Args:
        path: Of the database; relative to the current folder.
        unused_streams_max: Streams that stay though nothing was ever published to them.
    """

    def __init__(self, path: Path, *, unused_streams_max: int) -> None:
        # Links are followed here, so that all workers mean the same file and folder.
        self.path = Path(os.path.realpath(path))
        self.unused_streams_max = unused_streams_max
        self.deliver: Callable[[list[Delivery]], None] = lambda _: None
        self.handle_return: Callable[[], None] = lambda: None
        self.inbox = Inbox(self._receive, self._lose)
        self.user_count = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.batcher: Batcher[Operation, Answer] | None = None
        self.writer: Writer | None = None
        self.reader: Reader | None = None
        self.keeper: Keeper | None = None
        self.starting = asyncio.Lock()

    # Life

    async def acquire(self) -> None:
        """Start, for the first who asks.

        Raises:
            ConfigError: The file cannot be used as it is.
            BrokerUnavailable: Somebody holds its lock, or the disk is full.
        """
        async with self.starting:
            if self.user_count == 0:
                await asyncio.to_thread(prepare, self.path)
                self._start()
            self.user_count += 1

    async def release(self) -> None:
        """Stop, for the last who lets go."""
        async with self.starting:
            self.user_count -= 1
            if self.user_count == 0:
                await self._stop()

    async def follow(self, node_id: str) -> None:
        """Deliver what is told from now on.

        Raises:
            BrokerUnavailable: The log cannot be read.
        """
        self.inbox.node_id = node_id
        await asyncio.to_thread(self._place)
        assert self.reader is not None
        # It slept without a bound until now.
        self.reader.wakeups.kick()

    def unfollow(self) -> None:
        """Deliver nothing any more."""
        self.inbox.is_running = False
        self.inbox.subscribed.clear()

    # Work

    def write(self, operation: Operation) -> Deferred[Answer]:
        """Have an operation done with the others of this turn.

        Raises:
            BrokerUnavailable: Too many wait.
            BrokerClosed: Nobody uses the store any more.
        """
        assert self.batcher is not None
        return self.batcher.add(operation)

    async def read_history(
        self, channel: str, *, since: int | None, limit: int, reverse: bool
    ) -> HistoryRow | None:
        """Read a part of a stream; ``None`` when there is none.

        Raises:
            BrokerUnavailable: It cannot be read.
        """
        return await self._ask(
            lambda deadline, finish: ReadHistory(channel, since, limit, reverse, deadline, finish)
        )

    async def read_members(self, channel: str) -> list[bytes]:
        """Read who is in a channel.

        Raises:
            BrokerUnavailable: It cannot be read.
        """
        return await self._ask(lambda deadline, finish: ReadMembers(channel, deadline, finish))

    @property
    def trouble(self) -> str:
        """Why what others tell does not arrive; empty when it does."""
        return "" if self.reader is None else self.reader.trouble

    # Inside

    def _start(self) -> None:
        """Start the threads."""
        self.loop = asyncio.get_running_loop()
        wakeups = Wakeups(find_folder(self.path))
        self.batcher = Batcher(self._write, size_of=size_of)
        self.reader = Reader(self.path, self.inbox, wakeups, self._come_back)
        self.writer = Writer(self.path, self.inbox, wakeups.wake_others, wakeups.kick)
        self.keeper = Keeper(self.path, unused_max=self.unused_streams_max)
        for thread in (self.reader, self.writer, self.keeper):
            thread.start()

    async def _stop(self) -> None:
        """Write what waits, and end the threads."""
        assert self.batcher is not None
        assert self.writer is not None
        assert self.reader is not None
        assert self.keeper is not None
        try:
            await self.batcher.aclose()
        finally:
            writer, reader, keeper = self.writer, self.reader, self.keeper
            self.writer = self.reader = self.keeper = None
            # It is done, also when who waits is cancelled before a thread has begun it.
            ending = asyncio.get_running_loop().run_in_executor(None, _end, writer, reader, keeper)
            await asyncio.shield(ending)
            self.loop = None

    def _place(self) -> None:
        """Begin behind the newest row; on a thread."""
        link = Link(self.path, busy_seconds=ANSWER_SECONDS, cache_kib=64)
        try:
            connection = link.get()
            self.inbox.place(connection, link.database)
        finally:
            link.close()

    async def _write(self, operations: Sequence[Operation]) -> Sequence[Answer | Exception]:
        """Have a batch written, and wait for it within bounds."""
        assert self.writer is not None
        future: asyncio.Future[list[Answer | Exception]] = self._loop().create_future()
        self.writer.submit(Job(operations, lambda answers: self._finish(future, answers)))
        try:
            async with asyncio.timeout(ANSWER_SECONDS + GRACE_SECONDS):
                return await future
        except TimeoutError:
            raise self._silent() from None

    async def _ask(
        self, make: Callable[[float, Callable[[AnswerT | Exception], None]], Question]
    ) -> AnswerT:
        """Have a question answered, and wait for it within bounds."""
        assert self.reader is not None
        future: asyncio.Future[AnswerT | Exception] = self._loop().create_future()
        deadline = time.monotonic() + ANSWER_SECONDS
        self.reader.ask(make(deadline, lambda answer: self._finish(future, answer)))
        try:
            async with asyncio.timeout(ANSWER_SECONDS + GRACE_SECONDS):
                answer = await future
        except TimeoutError:
            raise self._silent() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _silent(self) -> BrokerUnavailable:
        """Say that a thread is stuck in a call of the operating system."""
        return BrokerUnavailable(f"the disk of the sqlite broker's {self.path} does not answer")

    def _loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        assert self.loop is not None
        return self.loop

    def _post(self, callback: Callable[[], None]) -> None:
        """Have something done on the event loop; from any thread."""
        loop = self.loop
        if loop is not None:
            # A loop that was closed under us has nobody who would listen.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(callback)

    def _finish(self, future: asyncio.Future[AnswerT], answer: AnswerT) -> None:
        """Hand an answer to the event loop; from any thread."""

        def finish() -> None:
            if not future.done():
                future.set_result(answer)

        self._post(finish)

    def _receive(self, deliveries: list[Delivery], size: int) -> None:
        """Hand what came to the event loop; from any thread, in order."""

        def deliver() -> None:
            was_full = self.inbox.is_full
            self.inbox.delivered_bytes += size
            self.deliver(deliveries)
            if was_full and not self.inbox.is_full and self.reader is not None:
                self.reader.wakeups.kick()

        self._post(deliver)

    def _lose(self, text: str) -> None:
        """Tell that something was missed; from any thread, in order."""
        logger.warning("some of what other workers published was missed: %s", text)
        self._come_back()

    def _come_back(self) -> None:
        """Tell that the log is read again; from any thread."""
        self._post(lambda: self.handle_return())


def _end(writer: Writer, reader: Reader, keeper: Keeper) -> None:
    """End the threads, each after what it was given before."""
    keeper.stop()
    writer.stop()
    # The others are still to be woken for what is written last.
    writer.join(END_SECONDS_MAX)
    reader.stop()
    reader.join(END_SECONDS_MAX)
    keeper.join(END_SECONDS_MAX)
