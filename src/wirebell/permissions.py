"""Permissions are ordinary FastAPI dependencies, also where FastAPI has no route.

A private FastAPI application has one GET route per function that must be asked. It is called as
ASGI with the headers and cookies of the handshake, so that ``Depends``, ``Security``, ``yield``,
``dependency_overrides`` and ``HTTPException`` work as everywhere, through FastAPI's public face.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, unquote

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import HTTPConnection

from wirebell.errors import Denied

__all__ = ("PermissionApp",)

# What the asked function returned: FastAPI would turn it into a body.
_answers: ContextVar[list[Any]] = ContextVar("wirebell_permission_answers")


class PermissionApp:
    """Runs functions with FastAPI's dependencies for a connection that is no request.

    Mutable state: the private application's routes.
    """

    def __init__(self) -> None:
        self.app = FastAPI(openapi_url=None)
        self.app.add_exception_handler(Denied, _answer_denied)

    def join(self, app: FastAPI) -> None:
        """Share ``state`` and ``dependency_overrides`` with the people's own application."""
        self.app.state = app.state
        self.app.dependency_overrides = app.dependency_overrides

    def add(self, name: str, parameters: Sequence[str], function: Callable[..., Any]) -> None:
        """Make a function callable by a name; it takes the parameters as path parameters.

        Args:
            name: Not added before.
            parameters: Names, in any order that `ask` keeps.
            function: An endpoint in FastAPI's sense.
        """
        path = _path(name, [f"{{{parameter}:wirebell}}" for parameter in parameters])
        self.app.add_api_route(path, _keep_answer(function), methods=["GET"], response_model=None)

    async def ask(
        self, connection: HTTPConnection, name: str, parameters: Mapping[str, str] | None = None
    ) -> Any:
        """Run a function with a connection's headers, cookies and query.

        Args:
            connection: A handshake, or a request.
            name: As added.
            parameters: Values of the path parameters, in the order in which they were added.

        Returns:
            What the function returned.

        Raises:
            Denied: It, or a dependency, raised `Denied` or an ``HTTPException``, or a parameter
                was not valid; the message is what a person may read.
        """
        values = (parameters or {}).values()
        path = _path(name, [quote(value, safe="") for value in values])
        answers: list[Any] = []
        token = _answers.set(answers)
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        try:
            await self.app(_scope(connection, path), receive, send)
        finally:
            _answers.reset(token)
        if answers:
            return answers[0]
        raise Denied(_detail(sent))


class QuotedConvertor(Convertor[str]):
    """A path parameter of any characters, slashes included: it stands quoted in the path."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Read a value from a path."""
        return unquote(value)

    def to_string(self, value: str) -> str:
        """Write a value into a path."""
        return quote(value, safe="")


register_url_convertor("wirebell", QuotedConvertor())


def _path(name: str, parts: Sequence[str]) -> str:
    """Join a function's name and its parameters to a path."""
    return "/".join(("", name, *parts))


def _scope(connection: HTTPConnection, path: str) -> MutableMapping[str, Any]:
    """Make an HTTP request's scope of a handshake's."""
    scope = connection.scope
    return {
        "type": "http",
        "asgi": scope["asgi"],
        "http_version": "1.1",
        "method": "GET",
        "scheme": {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"]),
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": scope["query_string"],
        "root_path": "",
        "headers": scope["headers"],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "state": scope.get("state", {}),
    }


def _keep_answer(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its answer is kept as the object it is.

    As with FastAPI's own, a plain function runs in a thread. What it returns may have to be waited
    for, because a decorator or a class stands before an ``async`` one.
    """
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )

    @functools.wraps(function)
    async def ask(*args: object, **kwargs: object) -> Response:
        if is_async:
            answer = function(*args, **kwargs)
        else:
            answer = await run_in_threadpool(function, *args, **kwargs)
        _answers.get().append(await answer if inspect.isawaitable(answer) else answer)
        return Response(status_code=204)

    return ask


async def _answer_denied(request: Request, error: Exception) -> Response:
    """Turn `Denied` into an answer that `_detail` reads."""
    return Response(json.dumps({"detail": str(error)}), status_code=403)


def _detail(sent: list[MutableMapping[str, Any]]) -> str:
    """Read why FastAPI answered with an error, for a person."""
    body = b"".join(message.get("body", b"") for message in sent)
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return "not allowed"
    # Never empty: clients need a message with each error.
    return detail if isinstance(detail, str) and detail else "not allowed"
