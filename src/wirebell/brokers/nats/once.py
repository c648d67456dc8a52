"""Idempotency keys: who publishes under one, and where that went.

Strategy: whoever comes first claims the key, by a message that the stream takes once. What is kept
nowhere is that message itself, which is then delivered. For what is kept the claim names the frame
that is to come; when it was stored its position replaces the claim. Where that did not happen, the
frame is looked for in the channel's chain; it is either there, or its claim is taken over once its
publisher must have given up.
"""

from __future__ import annotations

import hashlib

from wirebell.brokers.nats.faults import WRONG_LAST
from wirebell.brokers.nats.frames import (
    CLAIM,
    decode_claim,
    decode_frame,
    decode_key,
    encode_claim,
    encode_key,
)
from wirebell.brokers.nats.link import Link, error_of, read_ack
from wirebell.brokers.nats.messages import Message
from wirebell.brokers.nats.streams import Stream, Streams
from wirebell.model import Published, StreamPosition

__all__ = ("Once", "digest_of")

# The longest time for which a publish may be told to wait, and a little more.
CLAIM_SECONDS = 75.0
# Frames that are looked at for the one that a claim names.
FRAMES_MAX = 256
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

    async def read(self, word: bytes, deadline: float) -> Message | None:
        """Read what stands under a key: a claim, or what became of it."""
        keys = self.streams.keys
        await self.streams.open(keys, deadline=deadline)
        return await self.streams.get(
            keys, {"last_by_subj": (keys.subject + word).decode()}, deadline
        )

    async def find(
        self, found: Message, stream: Stream | None, word: bytes, deadline: float
    ) -> Published | None:
        """Return what became of a key.

        Args:
            found: What stands under it.
            stream: Of the channel's history; ``None`` where it keeps nothing.
            word: The channel's.
            deadline: Of the loop's clock.

        Returns:
            ``None`` where that is not known, or not yet.
        """
        if found.data[:1] != bytes((CLAIM,)):
            return Published(StreamPosition(*decode_key(found.data)), is_suppressed=True)
        if stream is None:
            return None
        ident = decode_claim(found.data)
        await self.streams.open(stream, deadline=deadline)
        question: dict[str, object] = {"last_by_subj": (stream.subject + word).decode()}
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

    def has_ended(self, found: Message) -> bool:
        """Tell whether the publisher of a claim must have given up."""
        return self.streams.now() - found.time.timestamp() > CLAIM_SECONDS

    async def claim(
        self, word: bytes, payload: bytes, found: Message | None, deadline: float
    ) -> bool:
        """Write under a key, in place of what was found there; tells whether it was us.

        Where the answer was lost, the message tells whose it is.
        """
        keys = self.streams.keys
        expected = 0 if found is None else found.seq
        headers = EXPECTED + b"%d\r\n" % expected
        if self.link.is_cluster:
            headers += b"Nats-Msg-Id: %b.%d\r\n" % (word, expected)
        body = await self.streams.send(keys, word, payload, headers + b"\r\n", deadline)
        ack = read_ack(b"", body)
        if ack is not None and ack.error is None and not ack.duplicate:
            return True
        if ack is not None and ack.error is not None:
            fault = error_of(ack.error)
            if fault.code != WRONG_LAST:
                raise fault
        now = await self.read(word, deadline)
        # A record does not tell; two of them that are equal are as good as one.
        return now is not None and now.data == payload

    async def note(self, word: bytes, position: StreamPosition, deadline: float) -> None:
        """Write where the publication of our claim went."""
        payload = encode_key(position.offset, position.epoch)
        body = await self.streams.send(self.streams.keys, word, payload, b"", deadline)
        ack = read_ack(b"", body)
        if ack is not None and ack.error is not None:
            raise error_of(ack.error)

    @staticmethod
    def claim_of(ident: bytes) -> bytes:
        """Return a claim for a frame."""
        return encode_claim(ident)


def digest_of(key: str) -> bytes:
    """Write an idempotency key as one word of a subject."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest().encode()
