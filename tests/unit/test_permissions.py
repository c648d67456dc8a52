"""FastAPI's dependencies, asked for a connection that is no request."""

import functools
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Query, Request
from starlette.requests import HTTPConnection

from wirebell.errors import Denied
from wirebell.permissions import PermissionApp, QuotedConvertor

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on an ordinary loop: FastAPI asks sync functions in threads."""
    return "asyncio"


def handshake(*, query: bytes = b"", scheme: str = "ws") -> HTTPConnection:
    """Make the handshake of a socket with a cookie."""
    return HTTPConnection(
        {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": scheme,
            "path": "/ws",
            "query_string": query,
            "headers": [(b"cookie", b"session=s1"), (b"x-thing", b"t1")],
            "client": ("10.0.0.1", 1),
        }
    )


def current_session(session: Annotated[str, Cookie()]) -> str:
    """Read a cookie."""
    return session


async def test_sees_the_handshake() -> None:
    """Cookies, headers and the query of the handshake are there, and dependencies run."""
    permissions = PermissionApp()

    async def ask(
        session: Annotated[str, Depends(current_session)],
        x_thing: Annotated[str, Header()],
        q: Annotated[int, Query()],
    ) -> tuple[str, str, int]:
        return session, x_thing, q

    permissions.add("f", (), ask)

    assert ("s1", "t1", 5) == await permissions.ask(handshake(query=b"q=5"), "f")


@pytest.mark.parametrize("value", ["plain", "a/b", "späť ?&#%25", "..", "a:b", "+"])
async def test_parameters(value: str) -> None:
    """A parameter arrives as it was, whatever characters it has."""
    permissions = PermissionApp()
    permissions.add("f", ("one", "two"), lambda one, two: (one, two))

    assert (value, "2") == await permissions.ask(handshake(), "f", {"one": value, "two": "2"})


async def test_answer_is_the_object() -> None:
    """The very object that the function returned comes back, from sync and async functions."""
    permissions = PermissionApp()
    answer = object()

    async def later() -> object:
        return answer

    permissions.add("sync", (), lambda: answer)
    permissions.add("async", (), later)

    assert await permissions.ask(handshake(), "sync") is answer
    assert await permissions.ask(handshake(), "async") is answer


class Gate:
    """A dependency that is an object, as FastAPI's own security classes are."""

    async def __call__(self, session: Annotated[str, Cookie()]) -> str:
        """Let one session in."""
        if session != "s1":
            raise Denied("not this session")
        return session


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function with a plain one, whatever it is itself."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("function", [Gate(), logged(Gate()), functools.partial(Gate())])
async def test_async_behind_something_else(function: Callable[..., Any]) -> None:
    """An object or a plain decorator before an ``async`` function: it is waited for."""
    permissions = PermissionApp()
    permissions.add("f", (), function)
    other = handshake()
    other.scope["headers"] = [(b"cookie", b"session=s2")]

    assert await permissions.ask(handshake(), "f") == "s1"
    with pytest.raises(Denied, match="not this session"):
        await permissions.ask(other, "f")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Denied("not you"), "not you"),
        (HTTPException(403, "nor you"), "nor you"),
        (HTTPException(401, {"a": 1}), "not allowed"),
        (HTTPException(401), "Unauthorized"),
        (HTTPException(403, ""), "not allowed"),
    ],
)
async def test_denied(error: Exception, message: str) -> None:
    """Raising keeps the peer out; a text for a person is handed on."""
    permissions = PermissionApp()

    def refuse() -> None:
        raise error

    permissions.add("f", (), refuse)

    with pytest.raises(Denied) as caught:
        await permissions.ask(handshake(), "f")
    assert message == caught.value.message


async def test_invalid_parameter() -> None:
    """A parameter that is not of its type keeps the peer out, and its value is not told."""
    permissions = PermissionApp()

    async def take(number: int) -> int:
        return number

    permissions.add("f", ("number",), take)

    assert await permissions.ask(handshake(), "f", {"number": "7"}) == 7
    with pytest.raises(Denied, match=r"^not allowed$"):
        await permissions.ask(handshake(), "f", {"number": "x"})


async def test_failure_is_no_permission() -> None:
    """A function that breaks lets nobody in."""
    permissions = PermissionApp()
    permissions.add("f", (), lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        await permissions.ask(handshake(), "f")


async def test_yield_and_overrides() -> None:
    """Dependencies with ``yield`` are closed, and the application's overrides apply."""
    permissions, app = PermissionApp(), FastAPI()
    steps: list[str] = []

    async def resource() -> AsyncIterator[str]:
        steps.append("open")
        yield "r"
        steps.append("close")

    def ask(
        session: Annotated[str, Depends(current_session)], item: Annotated[str, Depends(resource)]
    ) -> str:
        steps.append("ask")
        return session + item

    permissions.add("f", (), ask)
    permissions.join(app)
    app.dependency_overrides[current_session] = lambda: "other-"

    assert await permissions.ask(handshake(), "f") == "other-r"
    assert ["open", "ask", "close"] == steps


async def test_state_is_shared() -> None:
    """A dependency finds what the application keeps in its ``state``."""
    permissions, app = PermissionApp(), FastAPI()
    app.state.thing = "kept"

    async def ask(request: Request) -> str:
        thing: str = request.app.state.thing
        return thing

    permissions.add("f", (), ask)
    permissions.join(app)

    assert await permissions.ask(handshake(), "f") == "kept"


async def test_unknown_name() -> None:
    """A name that was not added lets nobody in."""
    with pytest.raises(Denied):
        await PermissionApp().ask(handshake(scheme="wss"), "unknown")


def test_quoted_convertor() -> None:
    """A quoted part is read and written back."""
    convertor = QuotedConvertor()

    assert convertor.convert("a%2Fb") == "a/b"
    assert convertor.to_string("a/b") == "a%2Fb"
