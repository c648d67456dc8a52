"""The client protocol over a link that carries both ways: commands in, replies and pushes out.

Strategy: a frame goes into the session, commands come out one at a time, the client does them, and
the reply is written before the next command is looked at. What must wait is awaited in a task of
the carrier's, and meanwhile nothing else of the peer is handled. Source: protocol document,
sections 1.2 to 1.7.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from wirebell.access import Access
from wirebell.client import Client
from wirebell.client_commands import handle_command
from wirebell.client_requests import LateReply
from wirebell.deferred import Deferred
from wirebell.errors import (
    ClientDisconnected,
    Disconnect,
    DisconnectCode,
    create_disconnect,
)
from wirebell.interfaces import Transport
from wirebell.model import Frames, Published
from wirebell.node import Node
from wirebell.protocol.codec import Codec
from wirebell.protocol.messages import Command, Reply
from wirebell.protocol.pushes import DisconnectPush
from wirebell.session import Session, State
from wirebell.subscribing import create_encoding

__all__ = ("BidirectionalReceiver",)

logger = logging.getLogger(__name__)

# Time for a client to close after a connect that was refused with an error (section 1.6).
FAILED_SECONDS = 5.0
# Looked at with every command; looking a member up costs more.
_CONNECTING, _CLOSED = State.CONNECTING, State.CLOSED


class BidirectionalReceiver:
    """A `wirebell.interfaces.Receiver` for one client of the protocol.

    Mutable state: the session, the client that it drives, and whether a command is waited for.

    Args:
        node: The engine.
        transport: The peer.
        codec: Its encoding.
        access: Decides what it may do.
        address: The peer's; empty when unknown.
        transport_name: As ``connections`` shows it.
        is_emulated: Commands come by other requests, and the end is told by a push
            (section 1.10).
        has_native_pings: The carrier pings, since the client asked for that (section 1.2).
        on_connect: Told the session's id once the client has connected.
        on_end: Told it once the client is gone.

    Raises:
        LimitExceeded: A limit of how many connections was reached; nothing is left behind.
    """

    __slots__ = (
        "client",
        "has_native_pings",
        "is_busy",
        "is_emulated",
        "node",
        "on_connect",
        "on_end",
        "session",
    )

    def __init__(
        self,
        node: Node,
        transport: Transport,
        codec: Codec,
        access: Access,
        *,
        address: str = "",
        transport_name: str = "websocket",
        is_emulated: bool = False,
        has_native_pings: bool = False,
        on_connect: Callable[[str], None] | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self.node = node
        self.session = Session(codec)
        self.is_busy = False
        self.is_emulated = is_emulated
        self.has_native_pings = has_native_pings
        self.on_connect = on_connect
        self.on_end = on_end
        self.client = Client(
            node,
            transport,
            codec,
            create_encoding(codec),
            access,
            self.close,
            address=address,
            transport_name=transport_name,
            has_session=is_emulated,
            announces_ping=not has_native_pings,
        )

    # What the carrier tells

    def receive_open(self) -> None:
        """Give the client its time to connect."""
        if self.session.state is State.OPEN:
            delay = self.node.settings.first_message_timeout_seconds
            self.client.deadlines.plan("connect", delay, self._stale)

    def receive_text(self, text: str) -> Awaitable[None] | None:
        """Take a frame of commands."""
        command = self.session.receive_publish(text)
        return self._go_on() if command is None else self._publish(command)

    def receive_bytes(self, data: bytes) -> Awaitable[None] | None:
        """Take a frame of commands; in JSON it may come as bytes (``frame_binary_on_json``)."""
        command = self.session.receive_publish(data)
        return self._go_on() if command is None else self._publish(command)

    def receive_leave(self) -> None:
        """Leave the channels; commands that came before are done, as far as they need none."""
        self.node.disconnect(self.client.connection)

    def receive_eof(self) -> None:
        """Leave the channels, and forget the client."""
        self.session.close()
        self.client.end()
        if self.on_end is not None:
            self.on_end(self.client.session_id)

    def receive_writable(self) -> None:
        """Go on with channels that held back."""
        self.node.resume(self.client.connection)

    def receive_shutdown(self) -> None:
        """Send the client elsewhere."""
        self.close(create_disconnect(DisconnectCode.SHUTDOWN))

    def send_ping(self) -> bool:
        """Ping the client, which has to answer in time (section 1.7)."""
        if self.has_native_pings:
            return False
        session = self.session
        if session.state is State.CONNECTED and not session.is_pong_due:
            session.expect_pong()
            self.node.write(self.client.connection, session.codec.ping)
            self._plan_pong()
        return True

    def close(self, disconnect: Disconnect) -> None:
        """End the connection; where there is no close frame a push says why."""
        self.session.close()
        if self.client.connection.is_closed:
            return
        notice = None
        if self.is_emulated:
            push = DisconnectPush(disconnect.code, disconnect.reason)
            notice = self.session.codec.encode_push(push)
        self.node.close(self.client.connection, disconnect, notice=notice)

    # Commands

    def _publish(self, command: Command) -> Awaitable[None] | None:
        """Handle a frame that is but one publication."""
        try:
            answer = handle_command(self.client, "publish", command)
            if isinstance(answer, LateReply):
                return self._reply_later(answer)
            if answer is not None and not isinstance(answer, Reply):
                return self._finish(answer)
            self._reply(answer)
        except ClientDisconnected as error:
            self.close(error.disconnect)
        except Exception:  # noqa: BLE001 - it is logged there.
            self._fail()
        return None

    def _reply_later(self, answer: LateReply) -> Deferred[None]:
        """Answer a frame that was but one publication when the broker has, without a task."""
        self.is_busy = True
        done: Deferred[None] = Deferred()
        answer.published.add_done_callback(partial(self._end_publish, answer, done))
        return done

    def _end_publish(
        self, answer: LateReply, done: Deferred[None], _published: Deferred[Published]
    ) -> None:
        """Answer a publication; nothing came behind it in its frame."""
        self.is_busy = False
        try:
            self._reply(answer.read())
        except ClientDisconnected as error:
            self.close(error.disconnect)
        except Exception:  # noqa: BLE001 - it is logged there.
            self._fail()
        finally:
            if not done.done():
                done.set_result(None)

    def _go_on(self) -> Awaitable[None] | None:
        """Handle what waits, as far as nothing has to be waited for."""
        session, client = self.session, self.client
        try:
            while (found := session.next_command()) is not None:
                name, command = found
                if name == "connect":
                    session.connecting()
                answer = handle_command(client, name, command)
                if answer is None or isinstance(answer, Reply):
                    self._reply(answer)
                else:
                    return self._finish(answer)
        except ClientDisconnected as error:
            self.close(error.disconnect)
        except Exception:  # noqa: BLE001 - it is logged there.
            self._fail()
        return None

    async def _finish(self, answer: Awaitable[Reply | None]) -> None:
        """Wait for an answer, then handle what came behind the command."""
        session, client = self.session, self.client
        self.is_busy = True
        try:
            self._reply(await answer)
            while (found := session.next_command()) is not None:
                name, command = found
                if name == "connect":
                    session.connecting()
                answered = handle_command(client, name, command)
                if isinstance(answered, Awaitable):
                    answered = await answered
                self._reply(answered)
        except ClientDisconnected as error:
            self.close(error.disconnect)
        except Exception:  # noqa: BLE001 - it is logged there.
            self._fail()
        finally:
            self.is_busy = False

    def _fail(self) -> None:
        """End a connection of which a command failed on our side; to be called in ``except``."""
        logger.exception("a command failed", extra={"client_id": self.client.client_id})
        self.close(create_disconnect(DisconnectCode.INTERNAL_SERVER_ERROR))

    def _reply(self, reply: Reply | None) -> None:
        """Write an answer, and let go what had to wait for it."""
        session, client = self.session, self.client
        if reply is not None and session.state is not _CLOSED:
            message = session.codec.encode_reply(reply)
            if reply.publish is not None:
                # A number between brackets: as many bytes as characters.
                frames = Frames((message,), len(message))
            else:
                frames = Frames.from_message(message)
            self.node.write(client.connection, frames)
            if session.state is _CONNECTING:
                self._settle_connect(reply)
        if client.unreleased:
            client.settle()

    def _settle_connect(self, reply: Reply) -> None:
        """Go on after connect was answered."""
        self.client.deadlines.cancel("connect")
        if reply.error is None:
            self.session.connected()
            if self.on_connect is not None:
                self.on_connect(self.client.session_id)
            return
        self.session.fail()
        self.client.deadlines.plan("failed", FAILED_SECONDS, self._end_failed)

    # Deadlines

    def _stale(self) -> None:
        """End a connection that did not connect."""
        self.close(create_disconnect(DisconnectCode.STALE))

    def _end_failed(self) -> None:
        """End a connection whose client did not go after an error."""
        if self.is_emulated:
            self._stale()
        else:
            self.close(create_disconnect(DisconnectCode.CONNECTION_CLOSED))

    def _plan_pong(self) -> None:
        """Give the client its time to answer a ping."""
        delay = self.node.settings.pong_timeout_seconds
        self.client.deadlines.plan("pong", delay, self._check_pong)

    def _check_pong(self) -> None:
        """End a connection whose client did not answer a ping."""
        if not self.session.is_pong_due:
            return
        if self.is_busy:
            # Nothing of the client is read meanwhile: its pong may lie behind the command.
            self._plan_pong()
        else:
            self.close(create_disconnect(DisconnectCode.NO_PONG))
