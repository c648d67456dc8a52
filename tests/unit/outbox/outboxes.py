"""An outbox on a real SQLite file, without threads: for tests whose clock jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, select
from sqlalchemy.orm import Session

from wirebell.model import PublishOptions
from wirebell.outbox import Outbox
from wirebell.outbox.tables import OUTBOX, WaitingRow, create_tables
from wirebell.publishing import encode_payload

ResultT = TypeVar("ResultT")


class Database:
    """Runs statements at once; fails those that it is told to fail.

    Mutable state: calls so far; numbers of calls → what they raise.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.count = 0
        self.failures: dict[int, Exception] = {}
        self.rows: list[Sequence[WaitingRow]] = []

    async def run(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Do something in a transaction."""
        self.count += 1
        if self.count in self.failures:
            raise self.failures[self.count]
        return self.now(work)

    def now(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Do it for a test."""
        with self.engine.begin() as connection:
            result = work(connection)
        if isinstance(result, list) and result and isinstance(result[0], WaitingRow):
            self.rows.append(result)
        return result

    def write(self, *said: tuple[str, str], how: PublishOptions | None = None) -> None:
        """Publish to channels in one transaction, and commit it."""
        outbox = Outbox(self.engine)
        with Session(self.engine) as session, session.begin():
            for channel, text in said:
                outbox.add_now(session, channel, encode_payload(text), how)

    def waiting(self) -> list[str]:
        """Return the channels of rows that are left."""
        query = select(OUTBOX.c.channel).order_by(OUTBOX.c.id)
        return self.now(lambda link: list(link.scalars(query)))

    def reasons(self) -> dict[str, str | None]:
        """Return channel → why its row was set aside."""
        return self.now(
            lambda link: {each.channel: each.error for each in link.execute(select(OUTBOX))}
        )


@contextmanager
def database(folder: Path) -> Iterator[Database]:
    """Make a database with an outbox."""
    engine = create_engine(f"sqlite:///{folder / 'app.db'}")
    with engine.begin() as connection:
        create_tables(connection)
    try:
        yield Database(engine)
    finally:
        engine.dispose()
