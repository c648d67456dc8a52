"""Accounts: register, sign in and out, tickets for sockets."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel, Field
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from starlette.requests import HTTPConnection

from wirebell.demo.credentials import COOKIE, CurrentUser, GateDep, Signer, digest_of
from wirebell.demo.db import DEMO_PASSWORD, DEMO_USERS, Db, Ticket, User
from wirebell.demo.settings import DemoSettings

__all__ = ("is_password", "router")

ResultT = TypeVar("ResultT")

router = APIRouter(tags=["accounts"])
hasher = PasswordHasher()
# Checked for names that do not exist, so that they take as long as those that do.
NOBODY_HASH = hasher.hash(secrets.token_hex())


class Hashing:
    """Hashes passwords, two at a time: each takes 64 MiB and 100 ms of a core, by design.

    Mutable state: how many are being hashed or wait for it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.limiter = CapacityLimiter(2)

    async def run(
        self, settings: DemoSettings, function: Callable[..., ResultT], *args: str
    ) -> ResultT:
        """Call a function of the hasher in a thread, when it is its turn.

        Raises:
            HTTPException: 503, ``sign_ins_waiting_max`` wait already.
        """
        if self.count >= settings.sign_ins_waiting_max:
            raise HTTPException(503, "too many sign-ins at once, try again", {"Retry-After": "3"})
        self.count += 1
        try:
            return await to_thread.run_sync(function, *args, limiter=self.limiter)
        finally:
            self.count -= 1


hashing = Hashing()


class Credentials(BaseModel):
    """A new account."""

    username: str = Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")
    password: str = Field(min_length=8, max_length=1024)


class Token(BaseModel):
    """What OAuth2's password flow answers (RFC 6749, section 5.1)."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - a type, no secret
    expires_in: int


class TicketOut(BaseModel):
    """A one-time ticket for ``/ws/secure/{topic}?ticket=``."""

    ticket: str
    expires_in: int


class Me(BaseModel):
    """Who the page is signed in as, and what it may say of demo accounts."""

    username: str | None
    demo_users: bool
    demo_password: str | None


@router.post("/token")
async def sign_in(
    connection: HTTPConnection,
    response: Response,
    form: Annotated[OAuth2PasswordRequestForm, Depends()],
) -> Token:
    """Sign in with name and password; the answer also sets the page's cookie."""
    settings: DemoSettings = connection.app.state.settings
    signer: Signer = connection.app.state.signer
    # The session ends before the hashing: who waits for that must not hold a connection.
    async with connection.app.state.sessions() as session:
        user = await session.get(User, form.username) if form.username.isprintable() else None
    stored = user.password_hash if user is not None else NOBODY_HASH
    is_good = await hashing.run(settings, is_password, stored, form.password)
    if not settings.users and form.username in DEMO_USERS and form.password == DEMO_PASSWORD:
        # An earlier start of the same data folder made them; everybody knows this password.
        is_good = False
    if user is None or not is_good:
        raise HTTPException(
            401,
            "incorrect username or password",
            {"WWW-Authenticate": "Bearer"},
        )
    token = signer.sign(user.username)
    seconds = int(signer.ttl_seconds)
    response.set_cookie(
        COOKIE,
        token,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=connection.url.scheme == "https",
    )
    return Token(access_token=token, expires_in=seconds)


def is_password(stored: str, password: str) -> bool:
    """Compare a password with its hash."""
    try:
        return hasher.verify(stored, password)
    except (VerificationError, UnicodeEncodeError):
        return False


@router.post("/register", status_code=201)
async def register(
    connection: HTTPConnection, credentials: Credentials, session: Db
) -> dict[str, str]:
    """Create an account."""
    settings: DemoSettings = connection.app.state.settings
    stored = await hashing.run(settings, hasher.hash, credentials.password)
    user = User(username=credentials.username, password_hash=stored, created_at=datetime.now(UTC))
    session.add(user)
    try:
        await session.commit()
    except IntegrityError as error:
        raise HTTPException(409, f"{credentials.username} is taken") from error
    return {"username": credentials.username}


@router.post("/logout", status_code=204)
async def logout(response: Response) -> None:
    """Forget the page's cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


@router.post("/ticket")
async def give_ticket(connection: HTTPConnection, user: CurrentUser, session: Db) -> TicketOut:
    """Give a ticket that opens one socket, once, for clients that can set no header."""
    settings: DemoSettings = connection.app.state.settings
    now = datetime.now(UTC)
    ticket = secrets.token_urlsafe(32)
    await session.execute(delete(Ticket).where(Ticket.expires_at < now))
    session.add(
        Ticket(
            digest=digest_of(ticket),
            username=user.user_id,
            expires_at=now + timedelta(seconds=settings.ticket_ttl_seconds),
            token_expires_at=user.expires_at,
        )
    )
    await session.commit()
    return TicketOut(ticket=ticket, expires_in=int(settings.ticket_ttl_seconds))


@router.get("/me")
async def who_am_i(connection: HTTPConnection, response: Response, gate: GateDep) -> Me:
    """Tell the page who is signed in; a cookie that is not good any more is taken away."""
    if gate.refusal is not None:
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    has_demo_users: bool = connection.app.state.has_demo_users
    return Me(
        username=gate.identity.user_id if gate.identity is not None else None,
        demo_users=has_demo_users,
        demo_password=DEMO_PASSWORD if has_demo_users else None,
    )
