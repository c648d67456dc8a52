"""Idempotency keys: who publishes under one, and where that went.

Strategy: whoever comes first claims the key, by a message that the stream takes once. What is kept
nowhere is that message itself, which is then delivered. For what is kept the claim names the frame
that is to come; when it was stored its position replaces the claim. Where that did not happen, the
frame is looked for in the channel's chain; it is either there, or its claim is taken over once its
publisher must have given up.
"""

from __future__ import annotations

import asyncio
import hashlib

from wirebell.backoff import Backoff
from wirebell.brokers.nats.faults import Declined
from wirebell.brokers.nats.frames import CLAIM, decode_claim, decode_frame, decode_key, encode_key
from wirebell.brokers.nats.link import Link
from wirebell.brokers.nats.messages import Ack, Message
from wirebell.brokers.nats.streams import Stream, Streams
from wirebell.errors import BrokerUnavailable
from wirebell.model import Published, StreamPosition

__all__ = ("Once", "digest_of")

# The longest time for which a publish may be told to wait, and a little more.
CLAIM_SECONDS = 75.0
# Frames that are looked at for the one that a claim names.
FRAMES_MAX = 256
FIRST_RETRY_SECONDS = 0.001
LONGEST_RETRY_SECONDS = 0.1
EXPECTED = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: "


class Once:
    """The keys of a prefix.

    Args:
        link: Leads to the server.
        streams: Of the same.
    """

    def __init__(self, link: Link, streams: Streams) -> None:
        self.link = link
        self.streams = streams

    async def claim(
        self, word: bytes, payload: bytes, stream: Stream | None, channel: bytes, deadline: float
    ) -> Published | None:
        """Write under a key, unless somebody did.

        Args:
            word: The key's.
            payload: The claim, or what is kept nowhere.
            stream: Of the channel's history; ``None`` where it keeps nothing.
            channel: Its word.
            deadline: Of the loop's clock.

        Returns:
            What became of the key; ``None`` where it is ours.

        Raises:
            BrokerUnavailable: What became of it is not known in time.
            Declined: JetStream says no.
        """
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        found: Message | None = None
        is_doubtful = False
        while True:
            if found is None or self.streams.now() - found.stored_at > CLAIM_SECONDS:
                ack = await self._write(word, payload, found, deadline)
                if isinstance(ack, Ack) and not ack.duplicate:
                    return None
                is_doubtful = is_doubtful or ack is None
            found = await self._read(word, deadline)
            if found is not None:
                # A record does not tell whose it is; two that are equal are as good as one.
                if is_doubtful and found.data == payload:
                    return None
                known = await self._find(found, stream, channel, deadline)
                if known is not None:
                    return known
            delay = backoff.next_delay()
            if asyncio.get_running_loop().time() + delay >= deadline:
                raise BrokerUnavailable(
                    f"NATS at {self.link.place}: this idempotency key was used a moment ago, and "
                    "where its publication went is not known yet"
                )
            await asyncio.sleep(delay)

    async def note(self, word: bytes, position: StreamPosition, deadline: float) -> None:
        """Write where the publication of our claim went."""
        payload = encode_key(position.offset, position.epoch)
        await self.streams.send(self.streams.keys, word, payload, deadline)

    async def _write(
        self, word: bytes, payload: bytes, found: Message | None, deadline: float
    ) -> Ack | Declined | None:
        """Write under a key, in place of what was found there."""
        expected = 0 if found is None else found.seq
        headers = EXPECTED + b"%d\r\n" % expected
        if self.link.is_cluster:
            headers += b"Nats-Msg-Id: %b.%d\r\n" % (word, expected)
        ack = await self.streams.store(
            self.streams.keys, word, payload, headers + b"\r\n", deadline
        )
        if isinstance(ack, Declined) and not (ack.is_taken or ack.is_temporary):
            raise ack
        return ack

    async def _read(self, word: bytes, deadline: float) -> Message | None:
        """Read what stands under a key: a claim, or what became of it."""
        keys = self.streams.keys
        await self.streams.open(keys, deadline=deadline)
        return await self.streams.get(
            keys, {"last_by_subj": (keys.subject + word).decode()}, deadline
        )

    async def _find(
        self, found: Message, stream: Stream | None, channel: bytes, deadline: float
    ) -> Published | None:
        """Return what became of a key; ``None`` where that is not known, or not yet."""
        if found.data[:1] != bytes((CLAIM,)):
            return Published(StreamPosition(*decode_key(found.data)), is_suppressed=True)
        if stream is None:
            return None
        ident = decode_claim(found.data)
        await self.streams.open(stream, deadline=deadline)
        question: dict[str, object] = {"last_by_subj": (stream.subject + channel).decode()}
        for _ in range(FRAMES_MAX):
            message = await self.streams.get(stream, question, deadline)
            if message is None or message.time < found.time:
                return None
            frame = decode_frame(message.data)
            if frame.ident == ident:
                return Published(StreamPosition(frame.top, frame.epoch), is_suppressed=True)
            if not frame.previous:
                return None
            question = {"seq": frame.previous}
        return None


def digest_of(key: str) -> bytes:
    """Write an idempotency key as one word of a subject."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest().encode()
