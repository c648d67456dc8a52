"""The broker of NATS: what the engine asks, in words of subjects and streams."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable

import msgspec

from wirebell.broker_options import NATSOptions
from wirebell.brokers.nats.addresses import read_place
from wirebell.brokers.nats.chains import Item
from wirebell.brokers.nats.faults import Declined, explain
from wirebell.brokers.nats.frames import (
    CLAIM,
    KEPT,
    UNKEPT,
    decode_frame,
    decode_heard,
    encode_heard,
    encode_unkept,
    word_of,
    words_of,
)
from wirebell.brokers.nats.link import Link
from wirebell.brokers.nats.publisher import Publisher
from wirebell.brokers.nats.reading import Question, Reader
from wirebell.brokers.nats.streams import Streams
from wirebell.brokers.nats.wire import Receive, Wire
from wirebell.errors import BadRequest, BrokerClosed
from wirebell.history import StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelOptions,
    History,
    Membership,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.patterns import is_pattern
from wirebell.records import UnknownRecord, decode_item, encode_membership, encode_publication

__all__ = ("NATSBroker",)

logger = logging.getLogger(__name__)

CONTROL_BYTES_MAX = 1024 * 1024
UNKNOWN_LOG_SECONDS = 60.0


class NATSBroker:
    """A `wirebell.interfaces.Broker` through NATS with JetStream.

    Mutable state: the channels that are received with the position that was delivered last. To be
    used on the loop that called `start`.

    Args:
        options: Where NATS is.

    Attributes:
        has_patterns: A name may be a pattern, and stands for many channels then.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """

    def __init__(self, options: NATSOptions) -> None:
        self.place = read_place(options)
        self.prefix = self.place.prefix.encode()
        self.has_patterns = options.allows_wildcards
        self.listener: BrokerListener | None = None
        self.reconnects = 0
        self.seen: dict[str, tuple[str, int]] = {}
        self.unknown_logged_at = -UNKNOWN_LOG_SECONDS
        self._connect_anew()

    def _connect_anew(self) -> None:
        """Make the parts of a broker that was not started."""
        node = secrets.token_hex(8).encode()
        self.link = Link(self.place, self._prepare, self._handle_back)
        self.streams = Streams(self.place, self.link, node)
        self.publisher = Publisher(self.link, self.streams)
        self.reader = Reader(self.streams, self._read_record)

    @property
    def is_connected(self) -> bool:
        """Whether what other nodes publish arrives at this moment."""
        return self.listener is not None and self.link.is_connected

    @property
    def reconnect_count(self) -> int:
        """How often the link was lost and came back."""
        return self.reconnects

    # Life

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Connect, and begin to deliver to ``listener``."""
        self._connect_anew()
        self.listener = listener
        try:
            await self.link.start()
            await self.streams.probe()
            for name in ("", node_id or secrets.token_hex(16)):
                await self.link.subscribe(self._node_subject(name), self._receive_control)
        except Declined as error:
            await self.aclose()
            raise explain(error).at_start(self.place) from error
        except BaseException:
            await self.aclose()
            raise

    async def check(self) -> None:
        """Have the server store something, and tell whether the link stands."""
        self._running()
        if not self.link.is_connected:
            raise self.link.unavailable()
        try:
            await self.streams.probe()
        except Declined as error:
            raise explain(error).at(self.place) from error

    async def aclose(self) -> None:
        """Stop; idempotent. What was published before is still carried, within its bound."""
        self.listener = None
        await self.publisher.aclose()
        await self.link.aclose()
        self.seen.clear()

    async def _prepare(self, wire: Wire) -> None:
        """See on a new wire that everything is there."""
        self.publisher.chains.handle_back()
        await self.streams.prepare(wire)

    def _handle_back(self) -> None:
        """Tell that the link stands again."""
        listener = self.listener
        if listener is not None:
            self.reconnects += 1
            listener.handle_reconnect()

    # Channels

    async def subscribe(self, channel: str) -> None:
        """Receive what is put into a channel from now on; NATS has confirmed it then."""
        self._running()
        if self._is_pattern(channel):
            receive = self._create_pattern_receive(channel)
        else:
            receive = self._create_receive(channel, word_of(channel))
        await self.link.subscribe(self._subject(channel), receive)

    async def unsubscribe(self, channel: str) -> None:
        """Receive nothing of a channel any more, from now on."""
        self._running()
        self.link.unsubscribe(self._subject(channel))
        self.seen.pop(channel, None)

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Awaitable[Published]:
        """Append to history, where the channel has one, and deliver: with this turn's write."""
        word, history, heard = self._word(channel), options.history, None
        record = encode_publication(publication)
        if how is not None:
            if how.skip_history:
                history = None
            if not how.idempotency_key and (not how.version or history is None):
                how = None
        if history is None:
            if self.has_patterns and (words := words_of(channel)):
                heard = self.prefix + b".w." + words, encode_heard(channel, record)
            record = encode_unkept(record)
        return self.publisher.add(Item(self.streams.live(word), word, record, history, how, heard))

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Deliver a join or a leave."""
        word = self._word(channel)
        record = encode_unkept(encode_membership(membership))
        await self.publisher.add(Item(self.streams.live(word), word, record))

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell all nodes something, or one of them."""
        self._running()
        if len(data) > CONTROL_BYTES_MAX:
            raise ValueError(f"a control message has {len(data)} bytes, limit {CONTROL_BYTES_MAX}")
        await self.publisher.add(Item(self._node_subject(node_id), b"", data))

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read what is kept."""
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, got {limit}")
        word = self._word(channel)
        offset = None if since is None else since.offset
        question = Question(word, options.history or History(), offset, limit, reverse)
        try:
            return await self.reader.read(question)
        except (Declined, UnknownRecord) as error:
            raise explain(error).at(self.place) from error

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept; offsets count on in the same epoch."""
        try:
            await self.publisher.remove(self._word(channel))
        except (Declined, UnknownRecord) as error:
            raise explain(error).at(self.place) from error

    # What arrives

    def _create_receive(self, channel: str, word: bytes) -> Receive:
        """Create what takes a channel's messages."""

        def receive(_: bytes, __: bytes, headers: bytes, data: bytes) -> None:
            listener = self.listener
            if listener is None:
                return
            try:
                kind = data[0] if data else 0
                if kind == UNKEPT:
                    listener.handle_item(channel, decode_item(data[1:]))
                elif kind == KEPT:
                    self._take_frame(listener, channel, word, headers, data)
                elif kind > CLAIM:
                    self._note_unknown(
                        f"a message of NATS is of the kind {kind}: upgrade this node"
                    )
            except UnknownRecord as error:
                self._note_unknown(str(error))

        return receive

    def _create_pattern_receive(self, pattern: str) -> Receive:
        """Create what takes what a pattern hears."""

        def receive(_: bytes, __: bytes, ___: bytes, data: bytes) -> None:
            listener = self.listener
            if listener is None:
                return
            try:
                channel, record = decode_heard(data)
                item = decode_item(record)
            except UnknownRecord as error:
                self._note_unknown(str(error))
                return
            if isinstance(item, Publication):
                listener.handle_item(pattern, msgspec.structs.replace(item, channel=channel))

        return receive

    def _take_frame(
        self, listener: BrokerListener, channel: str, word: bytes, headers: bytes, data: bytes
    ) -> None:
        """Hand on the publications of a frame, unless they were here before."""
        frame = decode_frame(data)
        self.publisher.chains.handle_frame(word, headers, frame)
        epoch = frame.epoch
        seen = self.seen.get(channel)
        if not frame.records or (seen is not None and seen[0] == epoch and seen[1] >= frame.top):
            return
        self.seen[channel] = epoch, frame.top
        for offset, record in enumerate(frame.records, frame.offset):
            publication = self._read_record(record, offset, epoch)
            if publication is not None:
                listener.handle_item(channel, publication)

    def _read_record(self, record: bytes, offset: int, epoch: str) -> Publication | None:
        """Read what is kept; what cannot be read is left out, and the hole shows."""
        try:
            item = decode_item(record, offset, epoch)
        except UnknownRecord as error:
            self._note_unknown(str(error))
            return None
        return item if isinstance(item, Publication) else None

    def _receive_control(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        """Take what a node told."""
        listener = self.listener
        if listener is not None:
            listener.handle_control(data)

    # Inside

    def _note_unknown(self, error: str) -> None:
        """Log what could not be read, at most once a minute."""
        now = time.monotonic()
        if now - self.unknown_logged_at >= UNKNOWN_LOG_SECONDS:
            self.unknown_logged_at = now
            logger.error("left out: %s", error)

    def _running(self) -> None:
        """Raise `BrokerClosed` unless it runs."""
        if self.listener is None:
            raise BrokerClosed("the NATS broker is not running")

    def _is_pattern(self, name: str) -> bool:
        """Tell whether a name stands for many channels."""
        return self.has_patterns and is_pattern(name)

    def _word(self, channel: str) -> bytes:
        """Return a channel's word, for as long as the broker runs.

        Raises:
            BadRequest: It is a pattern.
        """
        self._running()
        if self._is_pattern(channel):
            raise BadRequest(f"{channel!r} is a pattern: it can only be subscribed to")
        return word_of(channel)

    def _subject(self, name: str) -> bytes:
        """Return where a channel, or a pattern, is received.

        Raises:
            BadRequest: The pattern is too long.
        """
        if not self._is_pattern(name):
            return self.streams.live(word_of(name), b"*")
        words = words_of(name)
        if not words:
            raise BadRequest(f"a pattern of {len(name)} characters is too long for NATS")
        return self.prefix + b".w." + words

    def _node_subject(self, node_id: str) -> bytes:
        """Return where a node is told something, or all."""
        return self.prefix + (b".n.one." + word_of(node_id) if node_id else b".n.all")
