"""Uvicorn's HTTP class with a bound on how long and how large a request's head may be.

Uvicorn waits for ever for a client that connected and asks for nothing, httptools takes lines of
any length, and what follows an upgrade request in the same segment is lost.
"""

from __future__ import annotations

import asyncio
import json
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wirebell.settings import Settings
from wirebell.websocket.handshake import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LINE_BYTES_MAX,
    encode_response,
)

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ("HTTPProtocol", "SilentClients")

# RFC 6455 4.1: what the request of every browser looks like. Others take the longer way.
UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)
CONNECTION = re.compile(rb"\r\nconnection:[^\r\n]*\bupgrade\b", re.IGNORECASE)
# Time for a client that is still sending to read why it is closed.
LINGER_SECONDS = 1.0


class SilentClients:
    """Clients that owe the rest of a request's head: one timer drops those that are too late.

    Args:
        loop: Runs the timer, which exists only while somebody owes something.
        seconds: How long a client may take; a tenth more until it is noticed. 0 is no limit.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.seconds = seconds
        # All have the same time, so the order in which they came is that of their deadlines.
        self.deadlines: dict[HTTPProtocol, float] = {}
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def add(self, protocol: HTTPProtocol) -> None:
        """Begin to wait; who is waited for already keeps its deadline."""
        if self.seconds and protocol not in self.deadlines:
            self.deadlines[protocol] = self._loop.time() + self.seconds
            if self._timer is None:
                self._timer = self._loop.call_later(self.seconds, self.sweep)

    def discard(self, protocol: HTTPProtocol) -> None:
        """Stop waiting; idempotent. The timer stays: the next client is about to come."""
        self.deadlines.pop(protocol, None)

    def sweep(self) -> None:
        """Drop who is late, and come back when the next one will be."""
        now = self._loop.time()
        late = list(takewhile(lambda item: item[1] <= now, self.deadlines.items()))
        for protocol, _ in late:
            del self.deadlines[protocol]
            protocol.transport.abort()
        first = next(iter(self.deadlines.values()), None)
        self._timer = None
        if first is not None:
            delay = max(first - now, self.seconds / 10)
            self._timer = self._loop.call_later(delay, self.sweep)


SILENT: WeakKeyDictionary[ServerState, SilentClients] = WeakKeyDictionary()
"""One for each server, and so for each event loop."""


def find_silent_clients(state: ServerState, loop: asyncio.AbstractEventLoop) -> SilentClients:
    """Return the server's own; the first connection makes it, and reads the settings."""
    silent = SILENT.get(state)
    if silent is None:
        silent = SILENT[state] = SilentClients(loop, Settings().request_timeout_seconds)
    return silent


class HTTPProtocol(HttpToolsProtocol):
    """Uvicorn's class for HTTP/1.1 on httptools, for ``uvicorn --http wirebell.uvicorn:...``.

    A client has ``WIREBELL_REQUEST_TIMEOUT_SECONDS`` for the head of a request and is dropped
    after. A line of more than 8,192 bytes, more than 128 headers or more than 65,536 bytes of head
    are answered with 431. A connection that was upgraded leaves nothing of this class in memory.
    """

    refusal: str = ""
    """Why the client is answered with 431; what it sends after that is thrown away."""
    head_bytes_count: int = 0
    """Bytes of the request's target, headers and trailers so far."""
    callback_count: int = 0
    """Whatever the parser has recognised so far: rises when it gets on."""
    stalled_bytes_count: int = 0
    """Bytes in which the parser has recognised nothing: all of one line."""
    is_in_message: bool = False
    is_prepared: bool = False
    """Whether uvicorn's class has been set up: a connection that asks for a WebSocket at once
    needs no parser, no flow control and no address here, and they are 5 % of what it costs."""
    # What uvicorn asks a connection that has sent nothing.
    cycle: Any = None
    timeout_keep_alive_task: asyncio.TimerHandle | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_event_loop()
        self.connections = server_state.connections
        self.silent_clients = find_silent_clients(server_state, self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self.transport = transport
        self.connections.add(self)
        self.silent_clients.add(self)

    def _prepare(self) -> None:
        """Become uvicorn's class, for a connection that is not upgraded at once."""
        self.is_prepared = True
        transport = self.transport
        super().__init__(self.config, self.server_state, self.app_state, self.loop)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self.silent_clients.discard(self)
        if self.is_prepared:
            super().connection_lost(exc)
        else:
            self.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.refusal:
            return
        if not self.is_prepared:
            if self._is_upgrade(data):
                self._hand_over(data)
                return
            self._prepare()
        self._unset_keepalive_if_required()
        count = self.callback_count
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse()
        else:
            if self.is_in_message and count == self.callback_count:
                self._check_line(len(data))

    def _refuse(self) -> None:
        """Answer what could not be parsed, or what we do not want to parse."""
        if self.refusal:
            self.send_431_response()
        else:
            message = "Invalid HTTP request received."
            # Not a warning: a flood of garbage would be a flood of them.
            self.logger.debug(message)
            self.send_400_response(message)

    def _check_line(self, bytes_count: int) -> None:
        """Refuse a line that does not end, before httptools has kept all of it."""
        self.stalled_bytes_count += bytes_count
        if self.stalled_bytes_count > LINE_BYTES_MAX:
            self.refusal = f"a line has more than {LINE_BYTES_MAX} bytes"
            self.send_431_response()

    def _check_head(self, line_bytes_count: int) -> None:
        """Count a line of the head.

        Raises:
            ValueError: It is too much; httptools hands on that a callback failed.
        """
        self.callback_count += 1
        self.stalled_bytes_count = 0
        if line_bytes_count > LINE_BYTES_MAX:
            self.refusal = f"a line has more than {LINE_BYTES_MAX} bytes"
        elif len(self.headers) >= HEADERS_MAX:
            self.refusal = f"there are more than {HEADERS_MAX} headers"
        elif self.head_bytes_count > HEAD_BYTES_MAX:
            self.refusal = f"the head has more than {HEAD_BYTES_MAX} bytes"
        if self.refusal:
            raise ValueError(self.refusal)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head, on a connection that is kept alive too."""
        super().on_message_begin()
        self.head_bytes_count = self.stalled_bytes_count = 0
        self.callback_count += 1
        self.is_in_message = True
        self.silent_clients.add(self)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        super().on_url(url)
        self.head_bytes_count += len(url)
        # A query may be longer than a header: only the head's own bound counts.
        self._check_head(0)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        line_bytes_count = len(name) + 2 + len(value)
        self.head_bytes_count += line_bytes_count + 2
        self._check_head(line_bytes_count)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Have the request's head."""
        self.silent_clients.discard(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self.callback_count += 1
        self.stalled_bytes_count = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Have all of a request."""
        self.is_in_message = False
        super().on_message_complete()

    def send_431_response(self) -> None:
        """Say what is too long, and close.

        The rest of what the client is sending is read and thrown away for a moment: the kernel
        answers unread bytes with a reset, and a reset takes the answer from the client.
        """
        transport = self.transport
        self.silent_clients.discard(self)
        if self.cycle is not None and not self.cycle.response_complete:
            # The answer of a request before is on its way, or this one's is: trailers.
            transport.close()
            return
        body = json.dumps({"detail": self.refusal}).encode()
        headers = [*self.server_state.default_headers, (b"content-type", b"application/json")]
        transport.write(encode_response(431, headers, body))
        if transport.can_write_eof():
            transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, transport.abort)
        else:
            transport.close()

    def _is_upgrade(self, data: bytes) -> bool:
        """Tell whether this is all of a request for a WebSocket, as a connection's first bytes.

        The WebSocket class parses it anyway; parsing it here as well is 6 % of the time that a
        whole connection takes. Whatever looks different is left to httptools.
        """
        end = data.find(b"\r\n\r\n") + 2
        return (
            data.startswith(b"GET ")
            and 2 <= end <= LINE_BYTES_MAX
            and UPGRADE.search(data, 0, end) is not None
            and CONNECTION.search(data, 0, end) is not None
            and self.config.ws_protocol_class is not None
        )

    def _hand_over(self, data: bytes) -> None:
        """Give the connection to the WebSocket class, with all that has come."""
        create: Any = self.config.ws_protocol_class
        self.connections.discard(self)
        self.silent_clients.discard(self)
        protocol = create(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        # The parser holds methods of ours: without this both stay until a collection finds them.
        self.parser = None  # type: ignore[assignment]
        protocol.data_received(data)

    def _upgrade(self, rest: bytes) -> None:
        """Hand over a request that httptools has read, with what came behind its head."""
        if not self._should_upgrade():
            self._unsupported_upgrade_warning()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The answer that is still due would end up in the middle of the frames.
            self.send_400_response("an upgrade behind an unanswered request")
            return
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        self._hand_over(b"".join((*head, b"\r\n", rest)))
