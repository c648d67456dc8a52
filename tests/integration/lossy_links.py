"""A network between a broker and its server that loses answers: what all brokers' tests share."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Self

__all__ = ("LossyLink",)

HOST = "127.0.0.1"
READ_BYTES = 65_536

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class LossyLink:
    """A TCP proxy to a server: on demand it loses answers, holds questions back, or ends all.

    Attributes:
        LOSES: What a question says whose answer may be lost.
        HOLDS: What a question says that may be held back.
        lost_answers: So many answers more are lost, each with its connection.
        refuses: Close whatever comes.
        is_open: Questions pass; else those that are held back wait, and everything behind them.
        has_held: One waits.
    """

    LOSES: ClassVar[bytes]
    HOLDS: ClassVar[bytes] = b""

    def __init__(self, port: int) -> None:
        self.target = port
        self.lost_answers = 0
        self.refuses = False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.has_held = asyncio.Event()
        self.server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """Where it is."""
        assert self.server is not None
        return f"{HOST}:{self.server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        self.cut()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection at once."""
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        own = asyncio.current_task()
        assert own is not None
        self.tasks.add(own)
        writers = {writer}
        self.writers.add(writer)
        try:
            if not self.refuses:
                answers, questions = await asyncio.open_connection(HOST, self.target)
                writers.add(questions)
                self.writers.add(questions)
                await self._carry((reader, questions), (answers, writer))
        except asyncio.CancelledError:
            # The end of the block; streams of Python 3.11 take it for a mistake.
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self.writers -= writers
            self.tasks.discard(own)

    async def _carry(self, there: Ends, back: Ends) -> None:
        """Carry both directions until one of them ends."""
        is_losing = asyncio.Event()

        async def ask() -> None:
            while data := await there[0].read(READ_BYTES):
                if self.lost_answers and self.LOSES in data:
                    self.lost_answers -= 1
                    is_losing.set()
                if self.HOLDS and self.HOLDS in data and not self.is_open.is_set():
                    self.has_held.set()
                    await self.is_open.wait()
                there[1].write(data)

        async def answer() -> None:
            while data := await back[0].read(READ_BYTES):
                if is_losing.is_set():
                    break
                back[1].write(data)

        tasks = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
