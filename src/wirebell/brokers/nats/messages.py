"""What is read from streams: messages, the end of a channel's chain, and epochs. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import NamedTuple

import msgspec

from wirebell.brokers.nats.frames import CHAIN_MAX, Frame
from wirebell.brokers.nats.link import Answer

__all__ = ("Got", "Message", "Tail", "epoch_of", "read_direct")

_DIRECT = re.compile(rb"\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: (\S+)\r\n")


class Message(msgspec.Struct, frozen=True):
    """A message of a stream.

    Attributes:
        seq: Its sequence.
        time: When it was stored, by the server's clock.
        data: Its payload.
    """

    seq: int
    time: dt.datetime
    data: bytes = b""


class Got(Answer, frozen=True):
    """A message that was asked for."""

    message: Message | None = None


class Tail(NamedTuple):
    """Where a channel goes on: what its last frame says.

    Attributes:
        sequence: Of the frame in its stream.
        at: When it was stored, in seconds since 1970 by the server's clock.
        top: The offset of the newest publication so far.
        epoch: Of the channel.
        floor: As `Frame` has it; the next ones too.
        version: Likewise.
        version_epoch: Likewise.
        chain: Of the next frame.
    """

    sequence: int
    at: float
    top: int
    epoch: str
    floor: int
    version: int
    version_epoch: str
    chain: tuple[int, ...]

    @staticmethod
    def of(sequence: int, at: float, frame: Frame) -> Tail:
        """Return what a frame says to the next one."""
        return Tail(
            sequence,
            at,
            frame.top,
            frame.epoch,
            frame.floor,
            frame.version,
            frame.version_epoch,
            (sequence, *frame.chain[: CHAIN_MAX - 1]),
        )


def read_direct(head: bytes, body: bytes) -> Message | None:
    """Read a message that came past JetStream's queue; ``None`` where it is none."""
    found = _DIRECT.search(head)
    if found is None:
        return None
    return Message(int(found[1]), dt.datetime.fromisoformat(found[2].decode()), body)


def epoch_of(life: str, word: bytes, meta_ttl_seconds: float, now: float) -> str:
    """Return the epoch in which a channel begins.

    Args:
        life: Of its stream.
        word: Its name.
        meta_ttl_seconds: How long an epoch is remembered, at least.
        now: Seconds since 1970.
    """
    digest = hashlib.blake2b(word, digest_size=8).digest()
    # Not all channels at one instant.
    shift = int.from_bytes(digest) / 2**64 * meta_ttl_seconds
    era = int((now + shift) / meta_ttl_seconds)
    seed = f"{life} {era} ".encode() + word
    return hashlib.blake2b(seed, digest_size=4).hexdigest()
