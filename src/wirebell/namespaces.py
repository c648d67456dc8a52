"""Names of channels: which options they have, and who may do what in them.

A name is ``[private prefix][namespace boundary]rest[user boundary users]``, as in ``news``,
``chat:room``, ``$chat:secret`` and ``chat:pair#42,43``. The part before the first boundary selects
the options; a name without one, or with nothing before it, has those "without namespace". Pure.

What a command is answered with, first reason first (recordings ``subscribe_errors``,
``publish_errors``, ``presence_errors``, ``history_errors``, ``insecure_mode``):

1. longer than ``name_bytes_max``: 107 (`Namespaces.check_name`);
2. unknown namespace: 102 (`Namespaces.options_for` returns ``None``);
3. a name that the namespace does not allow: 107 (`Namespaces.check_name` too, which leaves the
   names of unknown namespaces to step 2);
4. subscribe only: already subscribed 105, too many channels 106;
5. subscribe only: a private channel without a token 103; then a token decides alone;
6. presence and history only: the channel keeps none, 108;
7. not allowed: 103 (`Namespaces.may_subscribe`, `may_publish`, `may_presence`, `may_history`);
8. publish only: data that the channel does not take, 107 (`check_publication`).

The server API asks for steps 2 and 8 only: ``news:é`` and names of any length are fine there
(recording ``http-api/publish``).

Source:
    Protocol document, sections 1.6, 2.3, 2.4.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping

import msgspec
from pydantic_core import SchemaError, SchemaValidator, core_schema

from wirebell.errors import ConfigError, ErrorCode, ProtocolError
from wirebell.model import ChannelOptions, PayloadFormat, PublicationFormat

__all__ = (
    "Namespaces",
    "check_publication",
    "embed",
    "may_history",
    "may_presence",
    "may_publish",
)

# A name is asked for with every command; 10,000 names of 255 bytes are about 4 MB.
KNOWN_OPTIONS_MAX = 10_000

# An escape, the name of a class, the begin of brackets (where "]" is a plain character), their
# end, and what are operators between them.
PIECE = re.compile(r"\\.|\[:\^?\w+:\]|\[\^?\]?|\]|&&|--|~~", re.DOTALL)
ASCII_CLASSES: Mapping[str, str] = {
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\s": r"[\t\n\f\r ]",
    r"\S": r"[^\t\n\f\r ]",
    r"\w": "[0-9A-Za-z_]",
    r"\W": "[^0-9A-Za-z_]",
    r"\b": r"(?-u:\b)",
    r"\B": r"(?-u:\B)",
}
"""Escape → what it stands for in RE2."""

_json = msgspec.json.Decoder(msgspec.Raw)


class Namespaces:
    """The configured channels.

    Mutable state: the answers for names asked lately, at most 10,000.

    Args:
        without_namespace: Options of names without a namespace.
        namespaces: Name → options.
        boundary: Ends the namespace; empty for no namespaces.
        private_prefix: Begins a name that needs a token; empty for none.
        user_boundary: Begins the list of users; empty for no user-limited channels.
        user_separator: Stands between two users; empty for one user only.
        name_bytes_max: Longest name that a client may use, bytes of UTF-8.

    Raises:
        ConfigError: A namespace's name is empty or can never be matched, or a ``channel_regex``
            is no regular expression.
    """

    def __init__(
        self,
        without_namespace: ChannelOptions,
        namespaces: Mapping[str, ChannelOptions],
        *,
        boundary: str = ":",
        private_prefix: str = "$",
        user_boundary: str = "#",
        user_separator: str = ",",
        name_bytes_max: int = 255,
    ) -> None:
        for name in namespaces:
            if not name or (boundary and boundary in name):
                raise ConfigError(f"a namespace cannot be called {name!r}")
            if private_prefix and name.startswith(private_prefix):
                raise ConfigError(f"namespace {name!r} begins with the private prefix")
        self.options = {**namespaces, "": without_namespace}
        self.boundary = boundary
        self.private_prefix = private_prefix
        self.user_boundary = user_boundary
        self.user_separator = user_separator
        self.name_bytes_max = name_bytes_max
        self.expressions = {
            name: _compile(options.channel_regex, name)
            for name, options in self.options.items()
            if options.channel_regex
        }
        self.known_options: dict[str, ChannelOptions | None] = {}

    def split(self, channel: str) -> tuple[str, str]:
        """Return a name's namespace and the rest; the namespace is empty where there is none."""
        trimmed = channel.removeprefix(self.private_prefix)
        if self.boundary:
            name, boundary, rest = trimmed.partition(self.boundary)
            if boundary:
                return name, rest
        return "", channel

    def options_for(self, channel: str) -> ChannelOptions | None:
        """Return a channel's options; ``None`` when its namespace does not exist (error 102)."""
        try:
            return self.known_options[channel]
        except KeyError:
            pass
        options = self.options.get(self.split(channel)[0])
        # The server API takes names of any length; they are not worth remembering.
        if len(channel) <= self.name_bytes_max:
            if len(self.known_options) >= KNOWN_OPTIONS_MAX:
                self.known_options.clear()
            self.known_options[channel] = options
        return options

    def check_name(self, channel: str) -> None:
        """Let a name pass that a client may use.

        With a ``channel_regex`` that decides which characters a name may have, and it sees the
        part behind the namespace; elsewhere a name is ASCII. Names of unknown namespaces pass:
        `options_for` says what they are.

        Raises:
            ProtocolError: 107: the name is empty, too long, not ASCII, or not of the expression.

        Source:
            Recordings ``subscribe_errors``, ``subscribe_name_length``.
        """
        if not channel or len(channel) > self.name_bytes_max:
            raise ProtocolError(ErrorCode.BAD_REQUEST)
        is_ascii = channel.isascii()
        if is_ascii and not self.expressions:
            return
        # "surrogatepass": whatever a codec lets through is counted, never an error.
        if not is_ascii and len(channel.encode("utf-8", "surrogatepass")) > self.name_bytes_max:
            raise ProtocolError(ErrorCode.BAD_REQUEST)
        name, rest = self.split(channel)
        expression = self.expressions.get(name)
        if expression is None:
            is_good = is_ascii or name not in self.options
        else:
            is_good = expression.isinstance_python(rest)
        if not is_good:
            raise ProtocolError(ErrorCode.BAD_REQUEST)

    def is_private(self, channel: str) -> bool:
        """Say whether a subscription needs a token, whatever else is allowed."""
        return self.private_prefix != "" and channel.startswith(self.private_prefix)

    def users_of(self, channel: str) -> tuple[str, ...] | None:
        """Return the users that a name lists; ``None`` when it lists none.

        Whether the list counts is up to ``allow_user_limited_channels``.
        """
        if not self.user_boundary or self.user_boundary not in channel:
            return None
        users = channel.rpartition(self.user_boundary)[2]
        return tuple(users.split(self.user_separator)) if self.user_separator else (users,)

    def covers(self, pattern: str, channel: str) -> bool:
        """Tell whether who may subscribe to a pattern may hear a channel that it matches.

        Both are in one namespace, and the channel's name asks for no more: it is not private unless
        the pattern is, and lists no users.
        """
        return (
            self.split(pattern)[0] == self.split(channel)[0]
            and self.is_private(pattern) == self.is_private(channel)
            and self.users_of(channel) is None
        )

    def personal_channel(self, user_id: str, namespace: str = "") -> str:
        """Return the name of a user's own channel: ``#user``, or ``namespace:#user``.

        Args:
            user_id: Not empty: somebody anonymous has none.
            namespace: Empty for the channels without namespace.

        Raises:
            ProtocolError: 103: the name would let others in, because the namespace allows
                user-limited channels and the user id has a separator in it.

        Source:
            Recording ``personal_channel``.
        """
        prefix = f"{namespace}{self.boundary}" if namespace else ""
        channel = f"{prefix}{self.user_boundary}{user_id}"
        options = self.options.get(namespace)
        is_limited = options is not None and options.permissions.allow_user_limited_channels
        if is_limited and self.users_of(channel) != (user_id,):
            raise ProtocolError(ErrorCode.PERMISSION_DENIED)
        return channel

    def may_subscribe(
        self, channel: str, options: ChannelOptions, user_id: str, *, insecure: bool = False
    ) -> bool:
        """Say whether a client may subscribe without a token; with one, the token decides.

        Args:
            channel: Its name.
            options: What `options_for` says of it.
            user_id: Empty for somebody anonymous.
            insecure: ``client.insecure``: everything but private channels is open.

        Source:
            Recordings ``subscribe_errors``, ``subscribe_anonymous``, ``subscribe_user_limited``,
            ``insecure_mode``.
        """
        if self.is_private(channel):
            return False
        if insecure:
            return True
        permissions = options.permissions
        if permissions.allow_user_limited_channels:
            users = self.users_of(channel)
            if users is not None:
                # A name that ends with the boundary would list the user "", that is anybody.
                return user_id != "" and user_id in users
        return permissions.allow_subscribe_for_client and (
            user_id != "" or permissions.allow_subscribe_for_anonymous
        )


def may_publish(
    options: ChannelOptions, user_id: str, *, is_subscribed: bool, insecure: bool = False
) -> bool:
    """Say whether a client may publish.

    Args:
        options: The channel's.
        user_id: Empty for somebody anonymous, who needs ``allow_publish_for_anonymous`` besides
            one of the two others.
        is_subscribed: The client is subscribed to the channel.
        insecure: ``client.insecure``: everybody may.
    """
    permissions = options.permissions
    # As `_may`, which would take as long as all of this: it is asked with every publication.
    return insecure or (
        (
            permissions.allow_publish_for_client
            or (is_subscribed and permissions.allow_publish_for_subscriber)
        )
        and (user_id != "" or permissions.allow_publish_for_anonymous)
    )


def may_presence(
    options: ChannelOptions, user_id: str, *, is_subscribed: bool, insecure: bool = False
) -> bool:
    """Say whether a client may ask who is there; arguments as of `may_publish`.

    With ``is_subscribed`` true it also says whether somebody who subscribes may ask for joins and
    leaves.
    """
    permissions = options.permissions
    return insecure or _may(
        user_id,
        permissions.allow_presence_for_client
        or (is_subscribed and permissions.allow_presence_for_subscriber),
        permissions.allow_presence_for_anonymous,
    )


def may_history(
    options: ChannelOptions, user_id: str, *, is_subscribed: bool, insecure: bool = False
) -> bool:
    """Say whether a client may read the history; arguments as of `may_publish`.

    With ``is_subscribed`` true it also says whether somebody who subscribes may ask for
    positioning and recovery where ``allow_positioning`` and ``allow_recovery`` do not say so.
    """
    permissions = options.permissions
    return insecure or _may(
        user_id,
        permissions.allow_history_for_client
        or (is_subscribed and permissions.allow_history_for_subscriber),
        permissions.allow_history_for_anonymous,
    )


def check_publication(options: ChannelOptions, data: bytes) -> PayloadFormat:
    """Let data pass that a channel takes, and say what it is.

    Args:
        options: The channel's. With `PublicationFormat.BINARY` it takes any bytes; those that are
            JSON are treated as such, so that clients of both encodings can read them.
        data: As it came, with its line feeds.

    Returns:
        JSON or BINARY.

    Raises:
        ProtocolError: 107: no data, not JSON, or not an object where the channel wants one.

    Source:
        Recordings ``publish_data_format``, ``publish_data_kinds``.
    """
    if not data:
        raise ProtocolError(ErrorCode.BAD_REQUEST)
    try:
        value = bytes(_json.decode(data))
        # What is skipped is not looked at closely: a string in it may not be UTF-8.
        if not value.isascii():
            value.decode()
    except (ValueError, RecursionError) as error:
        if options.publication_format is PublicationFormat.BINARY:
            return PayloadFormat.BINARY
        raise ProtocolError(ErrorCode.BAD_REQUEST) from error
    if options.publication_format is PublicationFormat.JSON_OBJECT and value[:1] != b"{":
        raise ProtocolError(ErrorCode.BAD_REQUEST)
    return PayloadFormat.JSON


def embed(payload: bytes) -> bytes:
    """Return what a JSON frame can hold: a JSON value as it is, other bytes as a base64 string.

    For payloads that come from outside of the protocol: claims, grants and the server API. Line
    feeds, which separate frames (section 1.1), stand between the tokens of a value only, and are
    taken out; carriage returns stay (recording ``publish_data_kinds``).
    """
    if not payload:
        return payload
    try:
        value = bytes(_json.decode(payload))
        value.decode()
    except (ValueError, RecursionError):
        return b'"' + b64encode(payload) + b'"'
    return value.replace(b"\n", b"") if b"\n" in value else value


def _may(user_id: str, is_allowed: bool, is_allowed_for_anonymous: bool) -> bool:  # noqa: FBT001
    """Apply the rule that all permissions share."""
    return is_allowed and (user_id != "" or is_allowed_for_anonymous)


def _compile(expression: str, name: str) -> SchemaValidator:
    """Read a ``channel_regex``.

    Configurations are written for RE2, which takes time in proportion to the name: clients make
    names up, and Python's own expressions can take for ever. Pydantic has another engine that is
    like RE2 in this, and nearly in its syntax.

    Raises:
        ConfigError: It is none.
    """
    pattern = _translate(expression)
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        where = f"namespace {name!r}" if name else "channels without namespace"
        reason = str(error).splitlines()[-1].strip().removeprefix("error: ")
        raise ConfigError(f"channel_regex {expression!r} of {where}: {reason}") from error


def _translate(expression: str) -> str:
    r"""Write what RE2 means by an expression in the syntax of Rust's.

    They differ in what ``\d`` and its like hold (RE2: ASCII), and within brackets, where Rust's
    has brackets and operators that are plain characters to RE2.
    """
    is_in_brackets = False

    def replace(match: re.Match[str]) -> str:
        nonlocal is_in_brackets
        piece = match[0]
        if piece[0] == "\\":
            return ASCII_CLASSES.get(piece, piece)
        if piece.startswith("[:"):
            return piece
        if not is_in_brackets:
            is_in_brackets = piece[0] == "["
            return piece
        if piece[0] == "[":
            is_in_brackets = not piece.endswith("]")
            return f"\\{piece}"
        if piece == "]":
            is_in_brackets = False
            return piece
        return f"{piece[0]}\\{piece[1]}"

    return PIECE.sub(replace, expression)
