"""Taskboard: the article, grown up. Joins the parts; each route stands in its own module."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from anyio import to_thread
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette.datastructures import Headers, MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wirebell import Denied, Identity
from wirebell.auth import is_origin_allowed
from wirebell.demo import accounts, sockets, tasks
from wirebell.demo.accounts import is_password
from wirebell.demo.credentials import GateDep, Signer
from wirebell.demo.db import DEMO_PASSWORD, DEMO_USERS, User, create_engine_for, prepare
from wirebell.demo.live import rt
from wirebell.demo.settings import DemoSettings, load_secret
from wirebell.logs import redact_servers
from wirebell.routes import BrowserClient
from wirebell.version import __version__

__all__ = ("create_app",)

logger = logging.getLogger(__name__)

WEB = files("wirebell.demo") / "web"


PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware: bounds bodies, refuses foreign origins, sets the page's headers.

    Args:
        app: What is guarded.
        body_bytes_max: Longest body of a request; a longer one is answered by 413.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int) -> None:
        self.app = app
        self.body_bytes_max = body_bytes_max
        self.too_long = f"a request has at most {body_bytes_max} bytes"

    def refuse(self, scope: Scope) -> Response | None:
        """Return the answer to a request that goes no further, by its headers alone."""
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.body_bytes_max:
            return answer_error(413, f"{self.too_long}, got {announced:.20}")
        # A form of another site could sign a visitor in as somebody else.
        if scope["method"] not in SAFE_METHODS and not is_origin_allowed(
            headers.get("origin"),
            headers.get("host"),
            scope["scheme"],
            rt.settings.allowed_origins,
        ):
            return answer_error(403, "this origin is not allowed")
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.body_bytes_max:
                raise HTTPException(413, self.too_long)
            return message

        async def send_with_headers(message: Message) -> None:
            is_page = scope["path"] == "/" or scope["path"].startswith("/web/")
            if is_page and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(PAGE_HEADERS)
            await send(message)

        await self.app(scope, receive_bounded, send_with_headers)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the database, open it, run the channels."""
    settings: DemoSettings = app.state.settings
    await to_thread.run_sync(prepare, settings)
    app.state.signer = Signer(load_secret(settings.data_dir), settings.token_ttl_seconds)
    engine = create_engine_for(settings)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with app.state.sessions() as session:
        query = select(User.password_hash).where(User.username.in_(DEMO_USERS))
        hashes = list(await session.scalars(query)) if settings.users else []
    # Somebody may have registered one of the names with a password of their own.
    app.state.has_demo_users = await to_thread.run_sync(
        lambda: any(is_password(stored, DEMO_PASSWORD) for stored in hashes)
    )
    if app.state.has_demo_users:
        names = " and ".join(DEMO_USERS)
        logger.warning("demo accounts: %s sign in with the password %s", names, DEMO_PASSWORD)
    try:
        async with rt.lifespan(app):
            yield
    finally:
        await engine.dispose()


def create_app() -> FastAPI:
    """Create the application; its settings come from the environment (``WIREBELL_DEMO_*``)."""
    settings = DemoSettings()
    redact_servers()
    app = FastAPI(title="Taskboard", version=__version__, lifespan=lifespan)
    app.state.settings = settings
    app.add_middleware(Guard, body_bytes_max=settings.request_bytes_max)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    rt.mount(app, "/realtime")
    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    for module in (accounts, tasks, sockets):
        app.include_router(module.router)
    # After the sockets, which know what to say to one that goes there.
    app.mount("/web/browser", BrowserClient(), name="browser")
    app.mount("/web", StaticFiles(packages=[("wirebell.demo", "web")]), name="web")
    return app


@rt.authenticate
async def page_identity(gate: GateDep) -> Identity:
    """Say who has the page open: by the cookie, or nobody."""
    if gate.refusal is not None:
        raise Denied(gate.refusal)
    return gate.identity or Identity()


async def page() -> FileResponse:
    """Send the page."""
    return FileResponse(str(WEB / "index.html"))


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Say what is wrong with a request, without repeating what was sent.

    An input may be a password, or text that no answer can carry.
    """
    assert isinstance(error, RequestValidationError)
    detail = [{key: item[key] for key in ("loc", "msg", "type")} for item in error.errors()]
    return answer_error(422, detail)


def answer_error(status: int, detail: object) -> Response:
    """Answer as FastAPI does, in ASCII: a detail may quote what UTF-8 cannot hold."""
    return Response(json.dumps({"detail": detail}), status, media_type="application/json")
