"""The session: what one client of the protocol may say next. Sans-I/O.

Strategy: bytes of the peer go in by `receive_data`, commands come out by `next_command`, one at a
time: whoever handles them takes the next one when the last one is answered, so that answers keep
the order of the commands, whatever has to wait. What a command must have stands in `RULES`, what
may come when in `ALLOWED`.

Invariants: the first command is connect, and there is no second; after a connect that failed, and
after the end, nothing comes out; one pong answers one ping.

Source: protocol document, sections 1.2, 1.6 and 1.7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum

from wirebell.errors import BadRequest, ClientDisconnected, DisconnectCode, create_disconnect
from wirebell.protocol.codec import BadFrame, Codec
from wirebell.protocol.messages import Command

__all__ = ("ALLOWED", "RULES", "Session", "State")


class State(Enum):
    """How far a session has come."""

    OPEN = "open"
    """Connect is awaited."""
    CONNECTING = "connecting"
    """Connect is being answered."""
    CONNECTED = "connected"
    """Everything but connect may come."""
    FAILED = "failed"
    """Connect was answered with an error: what comes is ignored."""
    CLOSED = "closed"
    """The connection ends: what comes is ignored."""


RULES: Mapping[str, tuple[str, ...]] = {
    "connect": (),
    "subscribe": ("channel",),
    "unsubscribe": ("channel",),
    "publish": ("channel",),
    "presence": ("channel",),
    "presence_stats": ("channel",),
    "history": ("channel",),
    "send": (),
    "rpc": (),
    "refresh": ("token",),
    "sub_refresh": (),
}
"""Request → what it must not leave out. In the schema's order: of a command with two requests the
first counts. ``ping`` is missing, because nobody may send it (section 1.4); a ``sub_refresh`` may
leave out its channel, which then stands in the token: the Python SDK does (section 1.15)."""

ALLOWED: Mapping[State, frozenset[str]] = {
    State.OPEN: frozenset(("connect",)),
    State.CONNECTED: frozenset(RULES) - {"connect"},
}
"""State → the requests that may come; in other states none is looked at."""

# Read for every command, and looking a member up is what takes the time.
_CONNECTED, _FAILED, _CLOSED = State.CONNECTED, State.FAILED, State.CLOSED


class Session:
    """The protocol state of one connection.

    Mutable state: how far it has come, commands that wait, and whether a pong is due. Called from
    one task at a time.

    Args:
        codec: The connection's encoding.
    """

    __slots__ = ("codec", "is_pong_due", "state", "violation", "waiting")

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.state = State.OPEN
        self.waiting: deque[Command] | None = None
        self.violation = False
        self.is_pong_due = False

    def receive_publish(self, data: str | bytes) -> Command | None:
        """Take one frame of the peer, and return it where it is but one publication.

        That is by far the most frequent frame, and nothing has to be waited for before it.

        Returns:
            A publish that may come and has what it must have; ``None`` when `next_command` is to
            be asked. Never raises for what a peer can do.
        """
        if self.state is not _CONNECTED or self.waiting or self.violation:
            self.receive_data(data)
            return None
        try:
            commands = self.codec.decode_commands(data)
        except BadRequest as error:
            self._keep(error)
            return None
        if len(commands) == 1:
            command = commands[0]
            publish = command.publish
            if (
                publish is not None
                and publish.channel
                and command.connect is None
                and command.subscribe is None
                and command.unsubscribe is None
            ):
                return command
        self.waiting = deque(commands)
        return None

    def receive_data(self, data: str | bytes) -> None:
        """Take one frame of the peer. Never raises for what a peer can do."""
        if self.violation or self.state is _FAILED or self.state is _CLOSED:
            return
        try:
            self._wait(self.codec.decode_commands(data))
        except BadRequest as error:
            self._keep(error)

    def next_command(self) -> tuple[str, Command] | None:
        """Return the next request's name and its command; ``None`` when there is none.

        Raises:
            ClientDisconnected: The peer broke a rule of the protocol: 3501. The session is closed.
        """
        waiting = self.waiting
        while waiting:
            if self.state is _FAILED or self.state is _CLOSED:
                break
            command = waiting.popleft()
            if command.id == 0 and command.send is None:
                self._receive_pong()
                continue
            return self._check(command), command
        self.waiting = None
        if self.violation and self.state is not _FAILED and self.state is not _CLOSED:
            raise self._refuse()
        return None

    def connecting(self) -> None:
        """Learn that connect is being answered: of the commands behind it none may overtake."""
        self.state = State.CONNECTING

    def connected(self) -> None:
        """Learn that connect was answered with success."""
        if self.state is State.CONNECTING:
            self.state = State.CONNECTED

    def fail(self) -> None:
        """Learn that connect was answered with an error."""
        self.state = State.FAILED
        self.waiting = None

    def close(self) -> None:
        """Learn that the connection ends."""
        self.state = State.CLOSED
        self.waiting = None

    def expect_pong(self) -> None:
        """Learn that a ping goes to the peer, which has to answer."""
        self.is_pong_due = True

    def _wait(self, commands: Sequence[Command]) -> None:
        """Have commands wait behind those that do already."""
        if self.waiting is None:
            self.waiting = deque(commands)
        else:
            self.waiting.extend(commands)

    def _keep(self, error: BadRequest) -> None:
        """Remember that a frame is broken; what stood before the mistake is answered first."""
        self.violation = True
        self._wait(error.commands if isinstance(error, BadFrame) else ())

    def _receive_pong(self) -> None:
        """Take the answer to a ping; one that nobody asked for breaks the rules."""
        if not self.is_pong_due or self.state is not State.CONNECTED:
            raise self._refuse()
        self.is_pong_due = False

    def _check(self, command: Command) -> str:
        """Return the name of a command's request, if it may come and has what it must have."""
        name = _name(command)
        allowed = ALLOWED.get(self.state)
        if name is None or allowed is None or name not in allowed:
            raise self._refuse()
        request = getattr(command, name)
        for field in RULES[name]:
            if not getattr(request, field):
                raise self._refuse()
        return name

    def _refuse(self) -> ClientDisconnected:
        """End the session for a mistake of the peer."""
        self.close()
        return ClientDisconnected(create_disconnect(DisconnectCode.BAD_REQUEST))


def _name(command: Command) -> str | None:
    """Return the name of a command's first request."""
    for name in RULES:
        if getattr(command, name) is not None:
            return name
    return None
