"""What a usual endpoint asks FastAPI for: who is there, and a unit of work.

Strategy: both are `async`, because FastAPI runs a plain function in a thread, which costs more than
all the rest of the handshake. Nothing is looked up anywhere: what is measured is FastAPI's solving
of dependencies and the server's handshake, not a database.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Cookie, Depends, Header, WebSocketException, status

__all__ = ("CurrentVisitor", "CurrentWork", "UnitOfWork", "Visitor", "open_work", "read_visitor")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is there.

    Attributes:
        user_id: From the cookie `session`.
        agent: What the browser calls itself.
    """

    user_id: str
    agent: str


@dataclass(slots=True)
class UnitOfWork:
    """Stands for a database session: something that must be given back.

    Attributes:
        is_open: Whether it may be used.
        done: What was done with it, oldest first.
    """

    is_open: bool = True
    done: list[str] = field(default_factory=list)


async def read_visitor(
    session: Annotated[str, Cookie()] = "", user_agent: Annotated[str, Header()] = ""
) -> Visitor:
    """Take the visitor from cookie and header.

    Raises:
        WebSocketException: There is no cookie.
    """
    if not session:
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION)
    return Visitor(session, user_agent)


async def open_work() -> AsyncIterator[UnitOfWork]:
    """Lend a unit of work to the endpoint and take it back."""
    work = UnitOfWork()
    try:
        yield work
    finally:
        work.is_open = False


CurrentVisitor = Annotated[Visitor, Depends(read_visitor)]
CurrentWork = Annotated[UnitOfWork, Depends(open_work)]
