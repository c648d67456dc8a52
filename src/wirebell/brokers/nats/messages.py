"""What JetStream answers: acknowledgements, messages, and why not. Pure."""

from __future__ import annotations

import datetime as dt
import re

import msgspec

from wirebell.brokers.nats.faults import NOBODY, Declined, TooLarge
from wirebell.brokers.nats.wire import LOST, NO_RESPONDERS, TOO_LARGE

__all__ = ("Ack", "Answer", "Got", "Message", "read_ack", "read_direct")

_DIRECT = re.compile(rb"\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: (\S+)\r\n")


class Problem(msgspec.Struct, frozen=True):
    """What JetStream says when it says no."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What JetStream answers."""

    error: Problem | None = None

    @property
    def fault(self) -> Declined | None:
        """Why not; ``None`` where it said yes."""
        error = self.error
        return None if error is None else Declined(error.err_code or error.code, error.description)


class Ack(Answer, frozen=True):
    """What a stream answers to who publishes."""

    seq: int = 0
    duplicate: bool = False


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

    @property
    def stored_at(self) -> float:
        """When it was stored, in seconds since 1970."""
        return self.time.timestamp()


class Got(Answer, frozen=True):
    """A message that was asked for."""

    message: Message | None = None


_decode_ack = msgspec.json.Decoder(Ack).decode


def read_ack(head: bytes, body: bytes) -> Ack | Declined | None:
    """Read what a stream answered; ``None`` where the answer was lost."""
    if head == LOST:
        return None
    if head == TOO_LARGE:
        return TooLarge(0, body.decode())
    if head.startswith(NO_RESPONDERS):
        return Declined(NOBODY, "no responders")
    try:
        ack = _decode_ack(body)
    except msgspec.MsgspecError as error:
        return Declined(0, f"it answers what cannot be read: {error}")
    return ack.fault or ack


def read_direct(head: bytes, body: bytes) -> Message | None:
    """Read a message that came past JetStream's queue; ``None`` where it is none."""
    found = _DIRECT.search(head)
    if found is None:
        return None
    return Message(int(found[1]), dt.datetime.fromisoformat(found[2].decode()), body)
