"""Declared channels: a pattern, what travels there, what is kept, who may come.

A declaration is the one place for a channel's policy. Names match patterns as paths match routes:
``room:{room_id}`` takes one part without a colon, ``topic:{topic:path}`` takes the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json
from starlette.requests import HTTPConnection

from wirebell.errors import BadRequest, ConfigError, PermissionDenied
from wirebell.interfaces import HistorySlice
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    PayloadFormat,
    Publication,
    StreamPosition,
)
from wirebell.node import Node
from wirebell.permissions import PermissionApp

__all__ = ("BoundChannel", "Channel", "ChannelRegistry", "ChannelTemplate", "encode_payload")

SendsT = TypeVar("SendsT")
Authorizer = TypeVar("Authorizer", bound=Callable[..., Any])

# Matching patterns is most of what a publish would cost; 10,000 names are about 2 MB.
KNOWN_OPTIONS_MAX = 10_000

PARAMETER = re.compile(r"{([a-zA-Z_][a-zA-Z0-9_]*)(:path)?}")


def encode_payload(data: object, key: str = "") -> Publication:
    """Serialise a payload, once for all subscribers.

    Args:
        data: ``str`` travels as text; a Pydantic model, or anything that Pydantic can write as
            JSON, travels as JSON. JSON has no words for NaN and infinity: they become null.
        key: What it is the newest state of, for `Overflow.KEEP_LATEST`.

    Raises:
        BadRequest: It is text that UTF-8 cannot hold, or nothing that JSON can.
    """
    try:
        if isinstance(data, str):
            return Publication(data.encode(), PayloadFormat.TEXT, key=key)
        return Publication(to_json(data, inf_nan_mode="null"), PayloadFormat.JSON, key=key)
    except (UnicodeEncodeError, ValueError, TypeError) as error:
        raise BadRequest(f"cannot serialise {type(data).__name__}: {error}") from error


class ChannelTemplate:
    """A pattern of channel names.

    Args:
        pattern: Literal text with ``{name}`` (one part, no colon) and ``{name:path}`` (any rest).

    Raises:
        ConfigError: A parameter's name stands twice, or a brace is left over.
    """

    def __init__(self, pattern: str) -> None:
        names = [match[1] for match in PARAMETER.finditer(pattern)]
        if len(set(names)) != len(names) or set(PARAMETER.sub("", pattern)) & set("{}"):
            raise ConfigError(f"not a channel pattern: {pattern!r}")
        self.pattern = pattern
        self.names = tuple(names)
        self.parts = {
            match[1]: re.compile(".+" if match[2] else "[^:]+")
            for match in PARAMETER.finditer(pattern)
        }
        expression = ""
        end = 0
        for match in PARAMETER.finditer(pattern):
            expression += re.escape(pattern[end : match.start()])
            expression += f"(?P<{match[1]}>{self.parts[match[1]].pattern})"
            end = match.end()
        self.expression = re.compile(expression + re.escape(pattern[end:]))

    def match(self, channel: str) -> dict[str, str] | None:
        """Return the parameters of a name, or ``None`` when it is not of this pattern."""
        match = self.expression.fullmatch(channel)
        return None if match is None else match.groupdict()

    def format(self, values: dict[str, object]) -> str:
        """Build a name.

        Raises:
            TypeError: A parameter is missing, or unknown.
            BadRequest: A value does not fit its place, so the name would mean another channel.
        """
        if values.keys() != set(self.names):
            raise TypeError(f"{self.pattern!r} takes {self.names}, got {tuple(values)}")
        for name, value in values.items():
            if not self.parts[name].fullmatch(str(value)):
                raise BadRequest(f"{name} of {self.pattern!r} cannot be {str(value)!r}")
        channel = PARAMETER.sub(lambda match: str(values[match[1]]), self.pattern)
        if self.match(channel) != {name: str(value) for name, value in values.items()}:
            raise BadRequest(f"{channel!r} would be read with other parameters than {values}")
        return channel


@dataclass(frozen=True, slots=True)
class BoundChannel(Generic[SendsT]):
    """One channel of a declaration.

    Attributes:
        name: As on the wire.
        declaration: Its policy.
    """

    name: str
    declaration: Channel[SendsT]

    async def publish(self, data: SendsT, *, key: str = "") -> StreamPosition:
        """Publish; no peer is waited for, and no peer can make it fail.

        Args:
            data: Checked against the declaration's ``sends`` type.
            key: What ``data`` is the newest state of, where the channel keeps the latest for
                subscribers that do not read (`Overflow.KEEP_LATEST`); all without one are
                states of the same thing.

        Returns:
            The publication's position; offset 0 where the channel keeps no history.

        Raises:
            BadRequest: ``data`` is not of that type, or too long.
            BrokerUnavailable: The broker does not answer.
            NotRunning: Outside the lifespan of `wirebell.Realtime`.
        """
        publication = self.declaration.encode(data, key)
        return await self.declaration.node().publish(self.name, publication)

    async def presence(self) -> dict[str, ClientInfo]:
        """Read who is there: client id → info.

        Raises:
            BadRequest: The channel keeps no presence.
        """
        return await self.declaration.node().presence(self.name)

    async def history(
        self, *, since: StreamPosition | None = None, limit: int = 100
    ) -> HistorySlice:
        """Read kept publications after ``since``, oldest first, at most ``limit``.

        Raises:
            BadRequest: The channel keeps no history.
        """
        return await self.declaration.node().history(self.name, since=since, limit=limit)


class Channel(Generic[SendsT]):
    """A declaration; create it with `wirebell.Realtime.channel`.

    Call it with the pattern's parameters to get one channel: ``room(7)`` or ``room(room_id=7)``.
    """

    def __init__(
        self,
        pattern: str,
        sends: type[SendsT] | None,
        options: ChannelOptions,
        node: Callable[[], Node],
        permissions: PermissionApp,
        *,
        public: bool,
    ) -> None:
        self.template = ChannelTemplate(pattern)
        self.adapter: TypeAdapter[SendsT] | None = None if sends is None else TypeAdapter(sends)
        self.options = options
        self.node = node
        self.permissions = permissions
        self.public = public
        # A pattern has braces and colons, which would mean something in a path.
        self.name = pattern.encode().hex()
        self.is_authorized = False

    def __call__(self, *args: object, **kwargs: object) -> BoundChannel[SendsT]:
        """Name one channel, with parameters in the pattern's order or by name.

        Raises:
            TypeError: A parameter is missing, unknown or given twice.
            BadRequest: A value does not fit its place.
        """
        positional = dict(zip(self.template.names, args, strict=False))
        if len(args) > len(self.template.names) or positional.keys() & kwargs.keys():
            raise TypeError(f"{self.template.pattern!r} takes {self.template.names}")
        return BoundChannel(self.template.format(positional | kwargs), self)

    def encode(self, data: SendsT, key: str = "") -> Publication:
        """Check a payload against ``sends``, and serialise it once.

        Raises:
            BadRequest: It is not of that type.
        """
        if self.adapter is None:
            return encode_payload(data, key)
        try:
            checked = self.adapter.validate_python(data)
        except ValueError as error:
            raise BadRequest(f"not what {self.template.pattern!r} sends: {error}") from error
        return encode_payload(checked, key)

    def authorize(self, function: Authorizer) -> Authorizer:
        """Have a function decide who may subscribe; a decorator.

        The function is an ordinary FastAPI dependency: it takes the pattern's parameters and
        whatever ``Depends`` gives, sees the headers and cookies of the handshake, lets the peer
        in by returning and keeps it out by raising `wirebell.Denied` or an ``HTTPException``.
        Without it only channels declared ``public`` can be subscribed to from outside.
        """
        self.permissions.add(self.name, self.template.names, function)
        self.is_authorized = True
        return function

    async def check_subscribe(
        self, connection: HTTPConnection, parameters: Mapping[str, str]
    ) -> None:
        """Let a peer subscribe by returning.

        Args:
            connection: Its handshake.
            parameters: Values of the pattern's parameters.

        Raises:
            Denied: The function given to `authorize` keeps the peer out.
            PermissionDenied: There is none, and the channel is not public.
        """
        if self.is_authorized:
            await self.permissions.ask(connection, self.name, parameters)
        elif not self.public:
            pattern = self.template.pattern
            raise PermissionDenied(f"channel {pattern!r} is not public and has no authorize")


class ChannelRegistry:
    """All declarations of one `wirebell.Realtime`; the first that matches a name decides.

    Mutable state: the declarations, and the answers for names asked lately.
    """

    def __init__(self) -> None:
        self.declarations: list[Channel[Any]] = []
        self.known_options: dict[str, ChannelOptions] = {}

    def add(self, declaration: Channel[Any]) -> None:
        """Add a declaration after the others.

        Raises:
            ConfigError: Its pattern is declared already.
        """
        patterns = {known.template.pattern for known in self.declarations}
        if declaration.template.pattern in patterns:
            raise ConfigError(f"channel {declaration.template.pattern!r} is declared twice")
        self.declarations.append(declaration)
        self.known_options.clear()

    def find(self, channel: str) -> tuple[Channel[Any], dict[str, str]] | None:
        """Return the declaration of a name and its parameters, or ``None``."""
        for declaration in self.declarations:
            parameters = declaration.template.match(channel)
            if parameters is not None:
                return declaration, parameters
        return None

    def options_for(self, channel: str) -> ChannelOptions:
        """Return what a channel keeps: nothing, where no declaration matches."""
        options = self.known_options.get(channel)
        if options is None:
            if len(self.known_options) >= KNOWN_OPTIONS_MAX:
                self.known_options.clear()
            found = self.find(channel)
            options = found[0].options if found is not None else ChannelOptions()
            self.known_options[channel] = options
        return options
