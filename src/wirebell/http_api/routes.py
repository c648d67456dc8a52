"""The routes of the server API: keys, bodies, answers, and how they are documented.

The body is JSON whatever its ``Content-Type`` says. An answer has status 200 and holds a result or
an error, unless the caller or the options ask for HTTP statuses (section 1.14).
"""

import asyncio
import hmac
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response, Security
from fastapi.security import APIKeyHeader
from starlette.requests import ClientDisconnect

from wirebell.errors import (
    BrokerError,
    CommandError,
    ErrorCode,
    ProtocolError,
)
from wirebell.http_api import messages
from wirebell.http_api.calls import METHODS, Method
from wirebell.http_api.schema import describe_batch, describe_method
from wirebell.http_api.values import UNREADABLE, decode_request, describe_error, not_found
from wirebell.operations import Operations, breathe
from wirebell.options import APIOptions
from wirebell.publishing import check_count

__all__ = ("create_api_router",)

logger = logging.getLogger(__name__)

# 16 MiB: a hundred of the longest publications, and too little to hurt.
BODY_BYTES_MAX = 16_777_216
# A batch of more is two batches; with the memory broker this many take a tenth of a second.
BATCH_COMMANDS_MAX = 10_000
# So many commands of a parallel batch wait for the broker at once.
PARALLEL_MAX = 64

STATUSES: Mapping[int, int] = {
    ErrorCode.INTERNAL: 500,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.UNKNOWN_CHANNEL: 404,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.METHOD_NOT_FOUND: 404,
    ErrorCode.ALREADY_SUBSCRIBED: 409,
    ErrorCode.LIMIT_EXCEEDED: 400,
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.NOT_AVAILABLE: 400,
    ErrorCode.TOKEN_EXPIRED: 400,
    ErrorCode.EXPIRED: 400,
    ErrorCode.TOO_MANY_REQUESTS: 429,
    ErrorCode.UNRECOVERABLE_POSITION: 416,
    ErrorCode.CONCURRENT_PAGINATION: 409,
}
"""Code of an error → HTTP status, where the caller asks for one (section 1.14)."""

_ENCODER = msgspec.json.Encoder()
_BATCH = msgspec.json.Decoder(messages.BatchRequest)
_NO_BATCH = messages.BatchRequest()


class _Command(msgspec.Struct, frozen=True):
    """A request to the API's root: the method is inside."""

    method: str = ""
    params: msgspec.Raw = msgspec.field(default_factory=messages.nothing)


_COMMAND = msgspec.json.Decoder(_Command)

_header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="Wirebell API key",
    description="Also taken: the header `Authorization: apikey KEY`, and `?api_key=KEY`.",
    auto_error=False,
)


class ServerAPI:
    """The server API of one application.

    Args:
        operations: What may be done.
        options: Who may ask.
        body_bytes_max: Longest body of a request, 1 or more.
        batch_commands_max: Commands in one batch, 1 or more.
    """

    def __init__(
        self,
        operations: Operations,
        options: APIOptions,
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
        batch_commands_max: int = BATCH_COMMANDS_MAX,
    ) -> None:
        self.operations = operations
        self.body_bytes_max = body_bytes_max
        self.batch_commands_max = batch_commands_max
        self.insecure = options.insecure
        self.key = options.key.encode()
        self.has_statuses = options.transport_errors
        if self.insecure:
            logger.warning("the server API takes orders from everybody: http_api.insecure is set")

    def is_allowed(self, request: Request) -> bool:
        """Tell whether a request shows the key; how long that takes tells nothing of it."""
        if self.insecure:
            return True
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        shown = [
            request.headers.get("x-api-key", ""),
            credentials.strip() if scheme.lower() == "apikey" else "",
            request.query_params.get("api_key", ""),
        ]
        matches = [hmac.compare_digest(key.encode(errors="replace"), self.key) for key in shown]
        return self.key != b"" and any(matches)

    async def answer(
        self, request: Request, call: Callable[[bytes], Coroutine[Any, Any, bytes]]
    ) -> Response:
        """Check the key, read the body, and write what ``call`` makes of it."""
        if not self.is_allowed(request):
            return Response(status_code=401, headers={"WWW-Authenticate": "apikey"})
        try:
            body = await _read_body(request, self.body_bytes_max)
            if body is None:
                return _text(413, f"a body has at most {self.body_bytes_max} bytes\n")
            return _json(await call(body))
        except (*UNREADABLE, ClientDisconnect):
            return _text(400, "Bad Request\n")
        except CommandError as error:
            return self._refuse(request, error)

    def _refuse(self, request: Request, error: CommandError) -> Response:
        """Write an error, in the mode that the caller or the options ask for."""
        body = _ENCODER.encode(describe_error(error))
        mode = request.headers.get("x-centrifugo-error-mode", "")
        if self.has_statuses or mode.lower() == "transport":
            return _json(body, STATUSES.get(error.code, 500))
        return _json(b'{"error":' + body + b"}")

    async def call(self, method: Method, body: bytes) -> bytes:
        """Do what a request asks for, and return its whole answer."""
        request = decode_request(method.decoder, method.empty, body)
        return b'{"result":' + await self._call(method, request) + b"}"

    async def call_named(self, body: bytes) -> bytes:
        """Do what a request to the root asks for (recording ``http-api/bad_requests``)."""
        command = _COMMAND.decode(body)
        params = bytes(command.params) or b"{}"
        if command.method == "batch":
            return await self.call_batch(params)
        method = METHODS.get(command.method)
        if method is None:
            raise msgspec.DecodeError(f"no method {command.method!r:.80}")
        return await self.call(method, params)

    async def call_batch(self, body: bytes) -> bytes:
        """Do what each command asks for, and return all answers in their order."""
        batch = decode_request(_BATCH, _NO_BATCH, body)
        check_count("commands", len(batch.commands), self.batch_commands_max)
        # All are read before the first is done: what is malformed does nothing at all.
        commands = [_read_command(members) for members in batch.commands]
        replies: list[msgspec.Raw] = []
        at_once = PARALLEL_MAX if batch.parallel else 1
        for start in range(0, len(commands), at_once):
            some = [self._reply(command) for command in commands[start : start + at_once]]
            replies += await asyncio.gather(*some) if len(some) > 1 else [await some[0]]
            await breathe(start + at_once)
        return _ENCODER.encode(messages.BatchResult(replies))

    async def _reply(self, command: tuple[Method, Any] | CommandError) -> msgspec.Raw:
        """Answer a command of a batch; what fails is an answer too."""
        try:
            if isinstance(command, CommandError):
                raise command
            method, request = command
            result = await self._call(method, request)
            return msgspec.Raw(b'{"%b":%b}' % (method.name.encode(), result))
        except CommandError as error:
            return msgspec.Raw(b'{"error":' + _ENCODER.encode(describe_error(error)) + b"}")

    async def _call(self, method: Method, request: Any) -> bytes:
        """Do what a request asks for.

        Raises:
            CommandError: It was refused, or something broke on our side.
        """
        try:
            return _ENCODER.encode(await method.call(self.operations, request))
        except CommandError:
            raise
        except BrokerError as error:
            logger.warning("%s of the server API failed: %s", method.name, error)
            raise ProtocolError(ErrorCode.INTERNAL) from error
        except Exception as error:
            logger.exception("%s of the server API failed", method.name)
            raise ProtocolError(ErrorCode.INTERNAL) from error


def _read_command(
    members: dict[str, msgspec.Raw] | None,
) -> tuple[Method, Any] | CommandError:
    """Find a command's method and read its request."""
    if members is None:
        return ProtocolError(ErrorCode.BAD_REQUEST)
    for name, body in members.items():
        method = METHODS.get(name)
        if method is not None and bytes(body) != b"null":
            return method, decode_request(method.decoder, method.empty, bytes(body))
    return not_found()


async def _read_body(request: Request, most: int) -> bytes | None:
    """Read a body of at most ``most`` bytes; ``None`` for a longer one.

    Raises:
        ClientDisconnect: The caller has gone.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def _json(body: bytes, status: int = 200) -> Response:
    """Answer JSON."""
    return Response(body, status, media_type="application/json")


def _text(status: int, text: str, **headers: str) -> Response:
    """Answer something that a browser must not take for a page."""
    return Response(
        text,
        status,
        media_type="text/plain",
        headers={"X-Content-Type-Options": "nosniff", **headers},
    )


def create_api_router(
    operations: Operations,
    options: APIOptions,
    *,
    body_bytes_max: int = BODY_BYTES_MAX,
    batch_commands_max: int = BATCH_COMMANDS_MAX,
) -> APIRouter:
    """Create the routes of the server API: ``POST /publish`` and the others.

    Args:
        operations: What may be done, in an application that may not run yet.
        options: Who may ask. Include the router with ``options.path`` in its prefix; the prefix
            must not be empty.
        body_bytes_max: Longest body of a request, 1 or more; a longer one is answered 413.
        batch_commands_max: Commands in one batch, 1 or more; more are answered with error 106.
    """
    api = ServerAPI(
        operations,
        options,
        body_bytes_max=body_bytes_max,
        batch_commands_max=batch_commands_max,
    )
    router = APIRouter(tags=["wirebell server API"], dependencies=[Security(_header)])

    def add(name: str, description: dict[str, Any], call: Any, *, shown: bool = True) -> None:
        async def endpoint(request: Request) -> Response:
            return await api.answer(request, call)

        router.add_api_route(
            f"/{name}" if name else "",
            endpoint,
            methods=["POST"],
            response_class=Response,
            response_model=None,
            include_in_schema=shown,
            **description,
        )

    for method in METHODS.values():
        is_there = not method.name.startswith(("map_", "shared_poll_")) and method.name != "rpc"
        description = describe_method(method) if is_there else {}
        add(method.name, description, _bind(api, method), shown=is_there)
    add("batch", describe_batch(), api.call_batch)
    add("", {}, api.call_named, shown=False)

    async def refuse(request: Request) -> Response:
        """Refuse another method than POST, or a path that is none."""
        name = request.path_params.get("name", "")
        is_known = name in METHODS or name in {"", "batch"}
        if is_known and request.method != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        return _text(404, "404 page not found\n")

    every = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    for path in ("", "/{name:path}"):
        router.add_api_route(path, refuse, methods=every, include_in_schema=False)
    return router


def _bind(api: ServerAPI, method: Method) -> Callable[[bytes], Coroutine[Any, Any, bytes]]:
    """Return what answers a method's body."""

    async def call(body: bytes) -> bytes:
        return await api.call(method, body)

    return call
