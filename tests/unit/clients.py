"""Clients of the protocol in a test: they speak either encoding, and a table says what they may."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable
from typing import Any, Protocol

from google.protobuf.json_format import ParseDict

from tests.transcripts.framing import decode_frame
from tests.unit.clocks import turns
from tests.unit.fakes import FakeTransport
from wirebell.access import ConnectGrant, RefreshGrant
from wirebell.client import Client
from wirebell.errors import (
    ClientDisconnected,
    DisconnectCode,
    ErrorCode,
    ProtocolError,
    create_disconnect,
)
from wirebell.model import (
    ChannelOptions,
    History,
    PayloadFormat,
    Publication,
    ServerSubscribe,
)
from wirebell.node import Node
from wirebell.protocol import client_pb2
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import (
    ConnectRequest,
    PublishRequest,
    SubRefreshRequest,
    SubscribeRequest,
)
from wirebell.protocol.protobuf import PROTOBUF
from wirebell.transports.bidirectional import BidirectionalReceiver

CODECS: tuple[Codec, Codec] = (JSON, PROTOBUF)


def options_of(channel: str) -> ChannelOptions:
    """Keep history for names with an ``h``, presence for a ``p``, patches for a ``D``."""
    return ChannelOptions(
        history=History(size=10) if "h" in channel else None,
        presence="p" in channel,
        join_leave="p" in channel,
        force_positioning="h" in channel,
        force_recovery="h" in channel,
        allowed_delta_types=("fossil",) if "D" in channel else (),
        delta_publish="D" in channel,
        allow_tags_filter="t" in channel,
    )


class FakeAccess:
    """A `wirebell.access.Access` that a test changes, holds back and breaks.

    Mutable state: what it grants, and what it was told.
    """

    def __init__(self) -> None:
        self.tells_time = False
        self.connect_grant = ConnectGrant()
        self.refresh_grant = RefreshGrant()
        self.subscribe_grant = ServerSubscribe()
        self.renewal: RefreshGrant | None = None
        self.sub_expires_at: float | None = None
        self.held: dict[str, asyncio.Event] = {}
        self.failures: dict[str, BaseException] = {}
        self.is_slow_publish = False
        self.told: list[str] = []

    async def enter(self, name: str) -> None:
        """Note a question, and wait or fail as told."""
        self.told.append(name)
        if name in self.held:
            await self.held[name].wait()
        if name in self.failures:
            raise self.failures[name]

    def hold(self, name: str) -> asyncio.Event:
        """Have a question wait; setting the event lets it go."""
        self.held[name] = asyncio.Event()
        return self.held[name]

    async def connect(self, client: Client, request: ConnectRequest) -> ConnectGrant:
        """Grant what was set."""
        await self.enter("connect")
        return self.connect_grant

    async def refresh(self, client: Client, token: str) -> RefreshGrant:
        """Grant what was set."""
        await self.enter("refresh")
        return self.refresh_grant

    async def subscribe(self, client: Client, request: SubscribeRequest) -> ServerSubscribe:
        """Grant what was set."""
        await self.enter("subscribe")
        return self.subscribe_grant

    async def sub_refresh(
        self, client: Client, request: SubRefreshRequest
    ) -> tuple[str, float | None]:
        """Grant what was set."""
        await self.enter("sub_refresh")
        return request.channel, self.sub_expires_at

    def options_for(self, channel: str) -> ChannelOptions:
        """Give options by letters of the name."""
        if channel.startswith("unknown"):
            raise ProtocolError(ErrorCode.UNKNOWN_CHANNEL)
        return options_of(channel)

    def publish(
        self, client: Client, request: PublishRequest
    ) -> Publication | Awaitable[Publication | None] | None:
        """Take everything; what is for ``swallow`` is handled already."""
        if "publish" in self.failures:
            raise self.failures["publish"]
        if request.channel == "swallow":
            return None
        publication = Publication(
            bytes(request.data),
            PayloadFormat.JSON,
            info=client.connection.info(request.channel),
            has_delta="D" in request.channel,
        )
        return self.publish_later(publication) if self.is_slow_publish else publication

    async def publish_later(self, publication: Publication) -> Publication | None:
        """Take it later; ``null`` is handled already."""
        await self.enter("publish_later")
        return None if publication.data == b"null" else publication

    def check_presence(self, client: Client, channel: str) -> None:
        """Allow it where it is kept."""
        if not options_of(channel).presence:
            raise ProtocolError(ErrorCode.NOT_AVAILABLE)

    def may_see_presence(self, client: Client, channel: str, options: ChannelOptions) -> bool:
        """Allow it."""
        return True

    def may_recover(self, client: Client, options: ChannelOptions) -> bool:
        """Allow it."""
        return True

    async def renew(self, client: Client) -> RefreshGrant | None:
        """Grant what was set."""
        await self.enter("renew")
        return self.renewal

    def check_history(self, client: Client, channel: str) -> None:
        """Allow it where it is kept."""
        if options_of(channel).history is None:
            raise ProtocolError(ErrorCode.NOT_AVAILABLE)

    async def rpc(self, client: Client, method: str, data: bytes) -> bytes:
        """Say back what came."""
        await self.enter("rpc")
        return data

    async def send(self, client: Client, data: bytes) -> None:
        """Note what came."""
        await self.enter("send")
        self.told.append(f"message {data.decode()}")

    def unsubscribed(self, client: Client, channel: str, code: int, reason: str) -> None:
        """Note it."""
        self.told.append(f"unsubscribed {channel} {code} {reason}")

    def disconnected(self, client: Client) -> None:
        """Note it."""
        self.told.append("disconnected")


def disconnected(code: DisconnectCode) -> ClientDisconnected:
    """Create what ends a connection."""
    return ClientDisconnected(create_disconnect(code))


def encode_frame(codec: Codec, *commands: Any) -> str | bytes:
    """Write commands as one frame of a client; a payload is given as what JSON can hold."""
    if not codec.is_binary:
        return "\n".join(json.dumps(command) for command in commands)
    frame = b""
    for command in commands:
        message = ParseDict(_to_bytes(command), client_pb2.Command()).SerializeToString()
        frame += encode_length(len(message)) + message
    return frame


def encode_length(number: int) -> bytes:
    """Write a varint."""
    head = b""
    while number > 0x7F:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])


def _to_bytes(value: Any) -> Any:
    """Put payloads as `ParseDict` wants bytes."""
    if not isinstance(value, dict):
        return value
    return {
        key: b64encode(json.dumps(item, separators=(",", ":")).encode()).decode()
        if key == "data"
        else _to_bytes(item)
        for key, item in value.items()
    }


def load(value: Any) -> Any:
    """Read a payload as either encoding's frame shows it."""
    return json.loads(value) if isinstance(value, str) else value


class Host(Protocol):
    """Whoever has a node."""

    node: Node


class Peer:
    """A client at the other end of a bidirectional connection, of either encoding."""

    def __init__(
        self,
        rig: Host,
        codec: Codec = JSON,
        *,
        access: Any = None,
        is_open: bool = True,
        **how: Any,
    ) -> None:
        self.rig = rig
        self.codec = codec
        self.access = access if access is not None else FakeAccess()
        self.transport = FakeTransport()
        self.receiver = BidirectionalReceiver(rig.node, self.transport, codec, self.access, **how)
        self.seen_count = 0
        if is_open:
            self.receiver.receive_open()

    @property
    def client(self) -> Client:
        """What the server holds of it."""
        return self.receiver.client

    def hand_over(self, frame: str | bytes) -> Awaitable[None] | None:
        """Have a frame received as the carrier does."""
        if isinstance(frame, str):
            return self.receiver.receive_text(frame)
        return self.receiver.receive_bytes(frame)

    async def say(self, *commands: Any) -> None:
        """Send one frame, and wait until it is handled."""
        await (self.hand_over(encode_frame(self.codec, *commands)) or turns(0))
        await turns()

    async def begin(self, *commands: Any) -> asyncio.Task[None]:
        """Send one frame that will have to wait."""

        async def work() -> None:
            await (self.hand_over(encode_frame(self.codec, *commands)) or turns(0))

        task = asyncio.create_task(work())
        await turns()
        return task

    async def ask(self, *commands: Any) -> list[Any]:
        """Send one frame, and return what came since the last question."""
        await self.say(*commands)
        return self.news()

    async def connect(self, **request: Any) -> dict[str, Any]:
        """Connect, and return the result."""
        (reply,) = await self.ask({"id": 1, "connect": request})
        return dict(reply["connect"])

    def news(self) -> list[Any]:
        """Return what came since the last question."""
        messages = self.messages
        news, self.seen_count = messages[self.seen_count :], len(messages)
        return news

    async def wait_news(self) -> list[Any]:
        """Let the tick end, and return what came."""
        await turns()
        return self.news()

    @property
    def messages(self) -> list[Any]:
        """All that came, in order."""
        return [item for frame in self.transport.messages for item in decode_frame(frame)]

    @property
    def closed(self) -> list[tuple[int, str]]:
        """Why it was closed."""
        return self.transport.closed

    async def leave(self) -> None:
        """End the link."""
        self.receiver.receive_eof()
        await turns()
