"""What the codecs of the client protocol promise, and how they refuse a frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from wirebell.errors import BadRequest
from wirebell.model import Frames, Membership, Publication, StreamPosition
from wirebell.protocol.messages import (
    Command,
    ConnectRequest,
    EmulationRequest,
    Reply,
    SubscribeRequest,
)
from wirebell.protocol.pushes import Push

__all__ = ("ID_MAX", "MESSAGES_MAX", "PONG", "BadFrame", "Codec", "check_command", "check_connect")

MESSAGES_MAX = 16
"""Replies and pushes in one WebSocket message; what the protocol's servers do by default."""

ID_MAX = 2**32 - 1
"""Largest id of a command (section 1.3: uint32)."""

OFFSET_MAX = 2**64 - 1
"""Largest offset (section 1.4: uint64)."""

INT32_MAX = 2**31 - 1
"""Largest limit, type and phase (section 1.4: int32)."""

INT64_MAX = 2**63 - 1
"""Largest flag (section 1.4: int64)."""

PONG = Command()
"""A command without an id that is no message: the answer to a ping (section 1.6)."""


class BadFrame(BadRequest):
    """A frame cannot be read; a protocol connection ends with 3501.

    Attributes:
        commands: Those before the place that cannot be read. The protocol's servers answer them
            before they close (section 1.6).
    """

    def __init__(self, message: str, commands: Iterable[Command] = ()) -> None:
        super().__init__(message)
        self.commands = list(commands)


class Codec(Protocol):
    """One of the two encodings of the client protocol; both have the same messages."""

    def __hash__(self) -> int:
        """Tell the two apart."""

    @property
    def name(self) -> str:
        """``json`` or ``protobuf``."""

    @property
    def is_binary(self) -> bool:
        """Tell whether messages are bytes, not text."""

    @property
    def ping(self) -> Frames:
        """What the server sends as a ping: an empty reply."""

    def decode_commands(self, data: str | bytes) -> list[Command]:
        """Read one frame of a client: one command or more, in order.

        A command with two requests has both; servers do the first one of the schema's order. One
        without an id that is no ``send`` is a `PONG`.

        Raises:
            BadFrame: The frame is empty, or some of it cannot be read.
        """

    def decode_connect(self, data: str | bytes) -> ConnectRequest:
        """Read the first message of a unidirectional connection, which has no command around it.

        Raises:
            BadRequest: It cannot be read.
        """

    def decode_emulation(self, data: bytes) -> EmulationRequest:
        """Read commands that come in a request of their own (section 1.10).

        Raises:
            BadRequest: It cannot be read.
        """

    def encode_reply(self, reply: Reply) -> str | bytes:
        """Write the answer to a command."""

    def encode_push(self, push: Push, *, is_bare: bool = False) -> str | bytes:
        """Write what one client is told; bare on unidirectional connections (section 1.11)."""

    def encode_publication(
        self,
        channel: str,
        publication: Publication,
        *,
        is_bare: bool = False,
        is_delta: bool = False,
        patch: bytes | None = None,
    ) -> str | bytes:
        """Write a publication for the subscribers of its channel.

        Args:
            channel: Where it happened.
            publication: What.
            is_bare: For unidirectional connections.
            is_delta: For those who negotiated patches (section 1.9).
            patch: Goes instead of the payload.
        """

    def encode_membership(
        self, channel: str, membership: Membership, *, is_bare: bool = False
    ) -> str | bytes:
        """Write a join or a leave for the subscribers of its channel."""

    def get_document(self, publication: Publication) -> bytes:
        """Give the bytes that a patch is made of, and against: those the client has at the end."""

    def join(
        self, messages: Sequence[str | bytes], messages_max: int = MESSAGES_MAX
    ) -> tuple[str | bytes, ...]:
        """Join replies and pushes to WebSocket messages of at most ``messages_max`` of them."""


def check_command(command: Command) -> Command:
    """Refuse what no schema has room for; a pong becomes `PONG`.

    Raises:
        BadRequest: A number is out of its type's bounds, or nothing is asked for.
    """
    if command.id == 0 and command.send is None:
        return PONG
    if not 0 <= command.id <= ID_MAX:
        raise BadRequest(f"id {command.id} is not within 0 and {ID_MAX}")
    # Of several requests each is checked: which one counts is the session's to say.
    if command.subscribe is not None:
        _check_subscribe(command.subscribe)
    if command.history is not None:
        _check_range("limit", command.history.limit, -INT32_MAX - 1, INT32_MAX)
        _check_position(command.history.since)
    if command.connect is not None:
        check_connect(command.connect)
    if _is_empty(command):
        raise BadRequest(f"command {command.id} has no known request")
    return command


def check_connect(request: ConnectRequest) -> None:
    """Refuse numbers that no schema has room for.

    Raises:
        BadRequest: A number is out of its type's bounds.
    """
    _check_range("flag", request.flag, -INT64_MAX - 1, INT64_MAX)
    for wanted in request.subs.values():
        _check_subscribe(wanted)


def _is_empty(command: Command) -> bool:
    """Tell whether a command asks for nothing."""
    return (
        command.publish is None
        and command.rpc is None
        and command.subscribe is None
        and command.history is None
        and command.connect is None
        and command.unsubscribe is None
        and command.presence is None
        and command.presence_stats is None
        and command.send is None
        and command.refresh is None
        and command.sub_refresh is None
        and command.ping is None
    )


def _check_subscribe(request: SubscribeRequest) -> None:
    """Refuse numbers that no schema has room for."""
    _check_range("offset", request.offset, 0, OFFSET_MAX)
    _check_range("flag", request.flag, -INT64_MAX - 1, INT64_MAX)
    for name, value in (
        ("type", request.type), ("phase", request.phase), ("limit", request.limit),
    ):  # fmt: skip
        _check_range(name, value, -INT32_MAX - 1, INT32_MAX)


def _check_position(position: StreamPosition | None) -> None:
    """Refuse an offset that no schema has room for."""
    if position is not None:
        _check_range("offset", position.offset, 0, OFFSET_MAX)


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    """Refuse a number that is out of bounds."""
    if not lowest <= value <= highest:
        raise BadRequest(f"{name} {value} is not within {lowest} and {highest}")
