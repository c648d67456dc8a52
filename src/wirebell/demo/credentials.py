"""Who is there: tokens, tickets, and the five ways in which a socket shows them.

Tokens are JWTs signed with the secret of the data folder. Where credentials were given and are
not good, the peer is refused: never quietly made a guest.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from wirebell import Denied, Identity
from wirebell.demo.db import Ticket, User

__all__ = (
    "COOKIE",
    "CurrentUser",
    "Gate",
    "GateDep",
    "MaybeUser",
    "Signer",
    "digest_of",
    "find_user",
    "read_first_message",
)

COOKIE = "access_token"
ISSUER = "wirebell-taskboard"
ALGORITHM = "HS256"
CLAIMS = ["sub", "exp", "iat", "jti", "iss", "aud"]

bearer = OAuth2PasswordBearer(tokenUrl="token", auto_error=False)


class Signer:
    """Signs and checks tokens.

    Args:
        secret: Shared by all workers.
        ttl_seconds: How long a token lasts.
    """

    def __init__(self, secret: str, ttl_seconds: float) -> None:
        self.secret = secret
        self.ttl_seconds = ttl_seconds

    def sign(self, username: str) -> str:
        """Create a token for a user."""
        now = datetime.now(UTC)
        claims = {
            "sub": username,
            "iat": now,
            "exp": now + timedelta(seconds=self.ttl_seconds),
            "jti": str(uuid.uuid4()),
            "iss": ISSUER,
            "aud": ISSUER,
        }
        return jwt.encode(claims, self.secret, ALGORITHM)

    def check(self, token: str) -> Identity:
        """Read a token.

        Raises:
            Denied: It is expired, forged, for somebody else, or no token at all.
        """
        try:
            claims = jwt.decode(
                token,
                self.secret,
                algorithms=[ALGORITHM],
                audience=ISSUER,
                issuer=ISSUER,
                options={"require": CLAIMS},
            )
            return Identity(claims["sub"], datetime.fromtimestamp(claims["exp"], UTC))
        except jwt.ExpiredSignatureError as error:
            raise Denied("token expired") from error
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, OSError) as error:
            raise Denied("token is not valid") from error


@dataclass(frozen=True, slots=True)
class Gate:
    """What a connection showed: an identity, a refusal, or nothing yet.

    Attributes:
        identity: Who it is; ``None`` when it showed no credentials, or bad ones.
        refusal: Why its credentials are not good; ``None`` when they are, or none were shown.
        subprotocol: To be named in the answer to the handshake; never the token.
    """

    identity: Identity | None
    refusal: str | None = None
    subprotocol: str | None = None


async def find_user(session: AsyncSession, identity: Identity) -> Identity:
    """Make sure that the user of a token still exists.

    Raises:
        Denied: The account is gone.
    """
    if await session.get(User, identity.user_id) is None:
        raise Denied("account does not exist")
    return identity


def digest_of(ticket: str) -> str:
    """Return what is stored of a ticket."""
    return hashlib.sha256(ticket.encode(errors="replace")).hexdigest()


async def redeem_ticket(session: AsyncSession, ticket: str) -> Identity:
    """Use a ticket up, whichever worker it is shown to.

    Raises:
        Denied: It was never given, was used before, or is too old.
    """
    used = delete(Ticket).where(Ticket.digest == digest_of(ticket)).returning(Ticket)
    row = (await session.execute(used)).scalar_one_or_none()
    if row is None:
        await session.rollback()
        raise Denied("ticket is not valid: unknown, or used before")
    identity, expires_at = Identity(row.username, row.token_expires_at), row.expires_at
    await session.commit()
    if expires_at <= datetime.now(UTC):
        raise Denied("ticket expired")
    return identity


def read_subprotocols(connection: HTTPConnection) -> tuple[str | None, str | None]:
    """Find a token among the offered subprotocols, and the one to name in the answer.

    A page writes ``new WebSocket(url, ["bearer", token])``: a browser can set no header.
    """
    offered: list[str] = connection.scope.get("subprotocols", [])
    if len(offered) >= 2 and offered[0] == "bearer":
        return offered[1], "bearer"
    return None, offered[0] if offered else None


async def open_gate(
    connection: HTTPConnection, header: Annotated[str | None, Depends(bearer)]
) -> Gate:
    """Look for credentials: header, subprotocol, ticket, cookie, in this order.

    It opens and closes a database session of its own: one that a dependency gives would be held
    as long as the socket lives.
    """
    signer: Signer = connection.app.state.signer
    token, subprotocol = read_subprotocols(connection)
    is_socket = connection.scope["type"] == "websocket"
    ticket = connection.query_params.get("ticket") if is_socket else None
    token = header or token
    if "authorization" in connection.headers and not header:
        return Gate(None, "the Authorization header has no Bearer token", subprotocol)
    if token is None and ticket is None:
        token = connection.cookies.get(COOKIE)
        if token is None:
            return Gate(None, None, subprotocol)
    try:
        async with connection.app.state.sessions() as session:
            if token is None and ticket is not None:
                identity = await redeem_ticket(session, ticket)
            else:
                identity = await find_user(session, signer.check(token or ""))
        return Gate(identity, None, subprotocol)
    except Denied as error:
        return Gate(None, error.message, subprotocol)


GateDep = Annotated[Gate, Depends(open_gate)]


async def maybe_user(gate: GateDep) -> str | None:
    """Return the user's name, or ``None`` for a guest.

    Raises:
        HTTPException: 401, credentials were shown and are not good.
    """
    if gate.refusal is not None:
        raise HTTPException(401, gate.refusal, {"WWW-Authenticate": "Bearer"})
    return gate.identity.user_id if gate.identity is not None else None


async def current_identity(gate: GateDep) -> Identity:
    """Return who is signed in.

    Raises:
        HTTPException: 401, nobody is.
    """
    if gate.identity is None:
        raise HTTPException(
            401,
            gate.refusal or "sign in first: POST /token",
            {"WWW-Authenticate": "Bearer"},
        )
    return gate.identity


MaybeUser = Annotated[str | None, Depends(maybe_user)]
CurrentUser = Annotated[Identity, Depends(current_identity)]


def read_first_message(text: str) -> str:
    """Read a token that came as a first message: alone, or as ``{"token": "..."}``."""
    try:
        body = json.loads(text)
    except ValueError:
        return text.strip()
    except RecursionError:
        return ""
    token = body.get("token") if isinstance(body, dict) else None
    return token if isinstance(token, str) else ""
