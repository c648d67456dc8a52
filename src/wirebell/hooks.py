"""The application's own functions around a client's life: connect, subscribe, calls, and the ends.

Functions are plain or ``async``; they take a `Caller` first. Those of connect and subscribe decide:
raising `wirebell.Denied` refuses. Those of the ends are told afterwards, in tasks of their own.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from pydantic_core import to_json
from starlette.requests import HTTPConnection

from wirebell.errors import ConfigError, ErrorCode, ProtocolError
from wirebell.model import Identity

__all__ = ("Caller", "HookDecorators", "Hooks", "RPCHandler")

logger = logging.getLogger(__name__)

RPCHandler = Callable[["Caller", Any], Any]
"""Takes the caller and the call's data, decoded from JSON; what it returns is the answer."""

HookT = TypeVar("HookT", bound=Callable[..., Any])
RPCHandlerT = TypeVar("RPCHandlerT", bound=RPCHandler)


# What reading data of a client may raise: it may be no JSON, no UTF-8, or nested too deeply.
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a function is asked about.

    Attributes:
        client_id: The connection.
        user_id: Empty for somebody anonymous.
        handshake: The request that opened the connection: headers, cookies, query, address. Told
            of an end, a function that was given after the client connected may see an empty one:
            it is kept only where somebody may ask for it.
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
        except UNREADABLE as error:
            raise ProtocolError(ErrorCode.BAD_REQUEST) from error
        answer = await _finish(handler(caller, value))
        return b"" if answer is None else to_json(answer, inf_nan_mode="null")

    async def send(self, caller: Caller, data: bytes) -> bool:
        """Hand over a message that has no answer; false when nobody takes it, or it is no JSON."""
        if self.on_send is None:
            return False
        try:
            value = msgspec.json.decode(data) if data else None
        except UNREADABLE:
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


class HookDecorators:
    """How an application gives its functions; whoever is one has ``hooks``."""

    hooks: Hooks

    def on_connect(self, function: HookT) -> HookT:
        """Have a function asked about each client that connects through `mount`; a decorator.

        It takes a `wirebell.Caller`, plain or ``async``; raising `Denied` refuses the client.
        """
        self.hooks.on_connect.append(function)
        return function

    def on_disconnect(self, function: HookT) -> HookT:
        """Have a function told of each client that has gone; takes a `wirebell.Caller`."""
        self.hooks.on_disconnect.append(function)
        return function

    def on_subscribe(self, function: HookT) -> HookT:
        """Have a function asked about each channel that a client asks for; a decorator.

        It takes a `wirebell.Caller` and the channel, after whatever else decides about it; raising
        `Denied` refuses it. Channels of a connection token, the personal one and those of
        `subscribe` are not asked about: the server has decided.
        """
        self.hooks.on_subscribe.append(function)
        return function

    def on_unsubscribe(self, function: HookT) -> HookT:
        """Have a function told of each subscription that ends before its connection.

        It takes a `wirebell.Caller`, the channel, a code (0 at the client's wish) and a reason.
        """
        self.hooks.on_unsubscribe.append(function)
        return function

    def on_refresh(self, function: HookT) -> HookT:
        """Have a function renew connections whose credentials have ended; a decorator.

        It takes a `wirebell.Caller` and returns an `Identity` of the same user with a later
        ``expires_at``, or ``None``: then the connection ends with 3005.

        Raises:
            ConfigError: There is such a function already.
        """
        if self.hooks.on_refresh is not None:
            raise ConfigError("on_refresh has a function already")
        self.hooks.on_refresh = function
        return function

    def on_message(self, function: HookT) -> HookT:
        """Have a function take messages of clients that have no answer (``client.send``).

        It takes a `wirebell.Caller` and the data, decoded from JSON.

        Raises:
            ConfigError: There is such a function already.
        """
        if self.hooks.on_send is not None:
            raise ConfigError("on_message has a function already")
        self.hooks.on_send = function
        return function

    def rpc(self, method: str) -> Callable[[RPCHandlerT], RPCHandlerT]:
        """Have a function answer a remote procedure call of clients; a decorator.

        It takes a `wirebell.Caller` and the data, decoded from JSON; what it returns is the
        answer. Raising a `CommandError` answers with its code.

        Raises:
            ConfigError: The method has a function already.
        """

        def add(function: RPCHandlerT) -> RPCHandlerT:
            self.hooks.add_rpc(method, function)
            return function

        return add


async def _run(function: Callable[..., Any], *args: object) -> None:
    """Call a function; its failure is logged."""
    try:
        await _finish(function(*args))
    except Exception:
        logger.exception("%s failed", getattr(function, "__qualname__", function))


async def _finish(result: Awaitable[Any] | Any) -> Any:
    """Wait for an ``async`` function's result."""
    return await result if inspect.isawaitable(result) else result
