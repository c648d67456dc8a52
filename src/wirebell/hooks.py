"""The application's own functions around a client's life: connect, subscribe, calls, and the ends.

Functions are plain or ``async``; they take a `Caller` first. Those of connect and subscribe decide:
raising `wirebell.Denied` refuses. Those of the ends are told afterwards, in tasks of their own.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic_core import to_json
from starlette.requests import HTTPConnection

from wirebell.errors import ConfigError, ErrorCode, ProtocolError
from wirebell.model import Identity

__all__ = ("Caller", "Hooks", "RPCHandler")

logger = logging.getLogger(__name__)

RPCHandler = Callable[["Caller", Any], Any]
"""Takes the caller and the call's data, decoded from JSON; what it returns is the answer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a function is asked about.

    Attributes:
        client_id: The connection.
        user_id: Empty for somebody anonymous.
        handshake: The request that opened the connection: headers, cookies, query, address.
    """

    client_id: str
    user_id: str
    handshake: HTTPConnection


class Hooks:
    """The functions of one application.

    Mutable state: the functions, in the order in which they were given, and tasks that run those
    of the ends.
    """

    def __init__(self) -> None:
        self.on_connect: list[Callable[..., Any]] = []
        self.on_disconnect: list[Callable[..., Any]] = []
        self.on_subscribe: list[Callable[..., Any]] = []
        self.on_unsubscribe: list[Callable[..., Any]] = []
        self.on_refresh: Callable[..., Any] | None = None
        self.on_send: Callable[..., Any] | None = None
        self.rpc_handlers: dict[str, RPCHandler] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def connect(self, caller: Caller) -> None:
        """Ask about a client that connects.

        Raises:
            Denied: It may not.
        """
        for function in self.on_connect:
            await _finish(function(caller))

    async def subscribe(self, caller: Caller, channel: str) -> None:
        """Ask about a client that subscribes.

        Raises:
            Denied: It may not.
        """
        for function in self.on_subscribe:
            await _finish(function(caller, channel))

    async def refresh(self, caller: Caller) -> Identity | None:
        """Ask for a longer life of a connection that ends; ``None`` lets it end."""
        if self.on_refresh is None:
            return None
        identity = await _finish(self.on_refresh(caller))
        if identity is not None and not isinstance(identity, Identity):
            raise TypeError(f"on_refresh returns an Identity, got {type(identity).__name__}")
        return identity

    def disconnect(self, caller: Caller) -> None:
        """Tell of a client that has gone."""
        for function in self.on_disconnect:
            self._spawn(_run(function, caller))

    def unsubscribe(self, caller: Caller, channel: str, code: int, reason: str) -> None:
        """Tell of a subscription that has ended before its connection; code 0 at its own wish."""
        for function in self.on_unsubscribe:
            self._spawn(_run(function, caller, channel, code, reason))

    def add_rpc(self, method: str, handler: RPCHandler) -> None:
        """Have a function answer a method.

        Raises:
            ConfigError: It has one already.
        """
        if method in self.rpc_handlers:
            raise ConfigError(f"rpc method {method!r} has a function already")
        self.rpc_handlers[method] = handler

    async def call(self, caller: Caller, method: str, data: bytes) -> bytes:
        """Answer a remote procedure call.

        Raises:
            ProtocolError: ``METHOD_NOT_FOUND``, or ``BAD_REQUEST`` for data that is no JSON.
            CommandError: What the handler raised.
        """
        handler = self.rpc_handlers.get(method)
        if handler is None:
            raise ProtocolError(ErrorCode.METHOD_NOT_FOUND)
        try:
            value = msgspec.json.decode(data) if data else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProtocolError(ErrorCode.BAD_REQUEST) from error
        answer = await _finish(handler(caller, value))
        return b"" if answer is None else to_json(answer, inf_nan_mode="null")

    async def send(self, caller: Caller, data: bytes) -> bool:
        """Hand over a message that has no answer; false when nobody takes it."""
        if self.on_send is None:
            return False
        try:
            value = msgspec.json.decode(data) if data else None
        except (msgspec.DecodeError, RecursionError):
            return False
        await _finish(self.on_send(caller, value))
        return True

    async def aclose(self, timeout_seconds: float) -> None:
        """Let what is running finish, within a bound."""
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=timeout_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def _run(function: Callable[..., Any], *args: object) -> None:
    """Call a function; its failure is logged."""
    try:
        await _finish(function(*args))
    except Exception:
        logger.exception("%s failed", getattr(function, "__qualname__", function))


async def _finish(result: Awaitable[Any] | Any) -> Any:
    """Wait for an ``async`` function's result."""
    return await result if inspect.isawaitable(result) else result
