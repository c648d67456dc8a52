"""Declared channels: a pattern, what travels there, what is kept, who may come.

A declaration is the one place for a channel's policy. Names match patterns as paths match routes:
``room:{room_id}`` takes one part without a colon, ``topic:{topic:path}`` takes the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

import msgspec
from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from wirebell.errors import BadRequest, ConfigError, PermissionDenied
from wirebell.interfaces import HistorySlice
from wirebell.model import (
    ChannelOptions,
    ChannelPermissions,
    ClientInfo,
    History,
    Overflow,
    Publication,
    PublicationFormat,
    RecoveryMode,
    StreamPosition,
)
from wirebell.node import Node
from wirebell.permissions import PermissionApp
from wirebell.publishing import PublishKeywords, compose, encode_payload, require

if TYPE_CHECKING:
    from wirebell.outbox import Outbox, OutboxSession

__all__ = (
    "BoundChannel",
    "Channel",
    "ChannelKeywords",
    "ChannelRegistry",
    "ChannelTemplate",
    "create_options",
)

SendsT = TypeVar("SendsT")
Authorizer = TypeVar("Authorizer", bound=Callable[..., Any])

# Matching patterns is most of what a publish would cost; 10,000 names are about 2 MB.
KNOWN_OPTIONS_MAX = 10_000

OF_HISTORY = ("allow_history_for_subscriber", "allow_history_for_anonymous")
OF_PRESENCE = ("allow_presence_for_subscriber", "allow_presence_for_anonymous")

PARAMETER = re.compile(r"{([a-zA-Z_][a-zA-Z0-9_]*)(:path)?}")


class ChannelKeywords(TypedDict, total=False):
    """What `wirebell.Realtime.channel` takes: fields of `ChannelOptions` and its permissions."""

    history: History | None
    presence: bool
    join_leave: bool
    force_push_join_leave: bool
    overflow: Overflow
    allow_positioning: bool
    force_positioning: bool
    allow_recovery: bool
    force_recovery: bool
    recovery_mode: RecoveryMode
    auto_cache_recover: bool
    allowed_delta_types: tuple[str, ...]
    delta_publish: bool
    allow_tags_filter: bool
    publication_format: PublicationFormat
    allow_subscribe_for_client: bool
    allow_subscribe_for_anonymous: bool
    allow_publish_for_client: bool
    allow_publish_for_subscriber: bool
    allow_publish_for_anonymous: bool
    allow_presence_for_client: bool
    allow_presence_for_subscriber: bool
    allow_presence_for_anonymous: bool
    allow_history_for_client: bool
    allow_history_for_subscriber: bool
    allow_history_for_anonymous: bool


def create_options(keywords: ChannelKeywords) -> ChannelOptions:
    """Create a declared channel's options; history and presence bring what belongs to them.

    A subscriber of a declared channel has passed its ``authorize``, so it may read what the
    channel keeps, anonymous or not; a configured namespace grants nothing by itself.
    """
    given: dict[str, Any] = dict(keywords)
    if given.get("history") is not None:
        implied = ("force_positioning", "force_recovery", *OF_HISTORY)
        given = dict.fromkeys(implied, True) | given
    if given.get("presence"):
        implied = ("join_leave", "force_push_join_leave", *OF_PRESENCE)
        given = dict.fromkeys(implied, True) | given
    allowed = {
        name: given.pop(name) for name in ChannelPermissions.__struct_fields__ if name in given
    }
    return ChannelOptions(**given, permissions=ChannelPermissions(**allowed))


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

    async def publish(
        self, data: SendsT, *, outbox: OutboxSession | None = None, **how: Unpack[PublishKeywords]
    ) -> StreamPosition:
        """Publish; no peer is waited for, and no peer can make it fail.

        Args:
            data: Checked against the declaration's ``sends`` type.
            outbox: As for `wirebell.Realtime.publish`: publish if its transaction commits.
            **how: As for `wirebell.Realtime.publish`; see `wirebell.publishing.PublishKeywords`.

        Returns:
            The publication's position; offset 0 where the channel keeps no history, and with
            ``outbox``. Of one that was left out the first one's, or the stream's top.

        Raises:
            BadRequest: ``data`` is not of that type, or it or a keyword is out of bounds.
            BrokerUnavailable: The broker does not answer.
            ConfigError: ``outbox`` is given, and `wirebell.Realtime` has none.
            NotRunning: Outside the lifespan of `wirebell.Realtime`.
        """
        if how and self.declaration.options.delta_publish:
            how["delta"] = True
        publication, options = compose(self.declaration.encode(data), how)
        if outbox is not None:
            return await require(self.declaration.outbox).add(
                outbox, self.name, publication, options
            )
        return await self.declaration.node().publish(self.name, publication, options)

    async def presence(self) -> dict[str, ClientInfo]:
        """Read who is there: client id → info.

        Raises:
            BadRequest: The channel keeps no presence.
        """
        return await self.declaration.node().presence(self.name)

    async def history(
        self, *, since: StreamPosition | None = None, limit: int = 100, reverse: bool = False
    ) -> HistorySlice:
        """Read kept publications after ``since``, oldest first, at most ``limit``.

        Args:
            since: Only what came after it; ``None`` starts at the oldest.
            limit: 0 asks for the position alone, below 0 for all.
            reverse: Those before ``since`` instead, newest first.

        Raises:
            BadRequest: The channel keeps no history.
        """
        node, kept = self.declaration.node(), self.declaration.options.history
        if limit < 0 and kept is not None:
            limit = kept.size
        return await node.history(self.name, since=since, limit=limit, reverse=reverse)


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
        outbox: Outbox | None = None,
    ) -> None:
        self.template = ChannelTemplate(pattern)
        self.adapter: TypeAdapter[SendsT] | None = None if sends is None else TypeAdapter(sends)
        self.options = options
        self.node = node
        self.permissions = permissions
        self.public = public
        self.outbox = outbox
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

    def encode(self, data: SendsT) -> Publication:
        """Check a payload against ``sends``, and serialise it once.

        Raises:
            BadRequest: It is not of that type.
        """
        checked: object = data
        if self.adapter is not None:
            try:
                checked = self.adapter.validate_python(data)
            except ValueError as error:
                raise BadRequest(f"not what {self.template.pattern!r} sends: {error}") from error
        publication = encode_payload(checked)
        if self.options.delta_publish:
            publication = msgspec.structs.replace(publication, has_delta=True)
        return publication

    def authorize(self, function: Authorizer) -> Authorizer:
        """Have a function decide who may subscribe; a decorator.

        The function is an ordinary FastAPI dependency: it takes the pattern's parameters and
        whatever ``Depends`` gives, sees the headers and cookies of the handshake, lets the peer
        in by returning and keeps it out by raising `wirebell.Denied` or an ``HTTPException``.
        Without it only channels declared ``public`` can be subscribed to from outside.

        Raises:
            ConfigError: The channel has such a function already.
        """
        if self.is_authorized:
            raise ConfigError(f"channel {self.template.pattern!r} has an authorize already")
        self.permissions.add(self.name, self.template.names, function)
        self.is_authorized = True
        return function

    def lets_in(self, user_id: str) -> bool:
        """Tell whether a peer may subscribe without being asked anything."""
        permissions = self.options.permissions
        return not self.is_authorized and (
            self.public
            or (
                permissions.allow_subscribe_for_client
                and (user_id != "" or permissions.allow_subscribe_for_anonymous)
            )
        )

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

    Args:
        name_bytes_max: Longest name that a channel may have, bytes of UTF-8. No declaration
            matches a longer one: peers make names up, and matching one takes the square of its
            length where a pattern has two parts of any length.
    """

    def __init__(self, *, name_bytes_max: int = 255) -> None:
        self.name_bytes_max = name_bytes_max
        self.declarations: list[Channel[Any]] = []
        self.known_options: dict[str, ChannelOptions | None] = {}

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
        if len(channel) > self.name_bytes_max:
            return None
        for declaration in self.declarations:
            parameters = declaration.template.match(channel)
            if parameters is not None:
                return declaration, parameters
        return None

    def check_data(self, channel: str, data: bytes) -> None:
        """Refuse JSON that a channel's declaration does not send; without one all of it passes.

        Raises:
            BadRequest: It is not of the declaration's ``sends`` type.
        """
        found = self.find(channel) if self.declarations else None
        if found is not None and found[0].adapter is not None:
            try:
                found[0].adapter.validate_json(data)
            except ValidationError as error:
                # What the client sent is not repeated to it, nor to the log.
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(map(str, first["loc"]))
                what = f"not what {found[0].template.pattern!r} sends"
                raise BadRequest(f"{what}: {where or 'it'}: {first['msg']}") from error

    def find_options(self, channel: str) -> ChannelOptions | None:
        """Return what a channel keeps and allows; ``None`` where no declaration matches."""
        if not self.declarations or len(channel) > self.name_bytes_max:
            return None
        try:
            return self.known_options[channel]
        except KeyError:
            pass
        if len(self.known_options) >= KNOWN_OPTIONS_MAX:
            self.known_options.clear()
        found = self.find(channel)
        options = found[0].options if found is not None else None
        self.known_options[channel] = options
        return options
