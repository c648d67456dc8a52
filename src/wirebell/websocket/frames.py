"""Frames of RFC 6455: reads what a client sends, writes what a server sends.

A reader holds two numbers and a reference while nothing is unfinished. What is unfinished lives
in one object, which goes with the last byte of it.
"""

from __future__ import annotations

import struct
from codecs import utf_8_decode
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from wirebell.websocket.deflate import Corrupt, Inflater, TooLong

__all__ = (
    "Close",
    "Event",
    "Failure",
    "FrameReader",
    "Opcode",
    "Ping",
    "Pong",
    "apply_mask",
    "encode_close",
    "encode_frame",
    "encode_texts",
    "is_close_code",
    "mask_by_integer",
)


class Opcode(IntEnum):
    """What a frame carries (RFC 6455 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer asks for a pong with the same data, at most 125 bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answers a ping, or says by itself that it lives; at most 125 bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer closes. ``code`` is 1005 when its frame had none (RFC 6455 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke the protocol; our side must send a close frame with this code and reason.

    ``code`` is 1002 (protocol), 1007 (no UTF-8) or 1009 (too long).
    """

    code: int
    reason: str


Event: TypeAlias = str | bytes | Ping | Pong | Close | Failure

PROTOCOL_ERROR = 1002
NO_STATUS = 1005
INVALID_DATA = 1007
TOO_BIG = 1009

FIN = 0x80
RSV1 = 0x40
RSV23 = 0x30
MASKED = 0x80
CONTROL = 0x08
# RFC 6455 5.5: "All control frames MUST have a payload length of 125 bytes or less".
CONTROL_BYTES_MAX = 125
# Lengths of 7 bits that say how many follow (RFC 6455 5.2); 127 is the other.
LENGTH_16_BITS = 126
FIN_TEXT = FIN | Opcode.TEXT
FIN_BINARY = FIN | Opcode.BINARY
OPCODES = frozenset(Opcode)

_read_uint16 = struct.Struct("!H").unpack_from
_read_uint64 = struct.Struct("!Q").unpack_from


def mask_by_integer(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """Mask or unmask with one exclusive-or of two large integers (RFC 6455 5.3).

    64 KiB take about 260 µs, and C about 2 µs.
    """
    size = len(data)
    repeated = mask * (size // 4) + mask[: size % 4]
    masked = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return masked.to_bytes(size, "little")


try:
    from websockets.speedups import apply_mask
except ImportError:
    apply_mask = mask_by_integer


class _Broken(Exception):
    """The peer broke the protocol; ends up as a `Failure`."""


def _check_text(data: bytes) -> bytes:
    """Check a piece of text at once, not when all of it is there; return the start of a character.

    Raises:
        UnicodeDecodeError: However the text goes on, it is not UTF-8.

    Source:
        RFC 3629 4.
    """
    tail = data[utf_8_decode(data, "strict", False)[1] :]  # noqa: FBT003
    # Python waits for the third byte of a surrogate, which is wrong with the second: D800 to DFFF.
    if len(tail) == 2 and tail[0] == 0xED and tail[1] > 0x9F:
        raise UnicodeDecodeError("utf-8", tail, 0, 2, "surrogates not allowed")
    return tail


class _Message:
    """A data message of which something is still missing."""

    __slots__ = ("inflater", "is_text", "payload", "tail")

    def __init__(self, *, is_text: bool, inflater: Inflater | None) -> None:
        self.is_text = is_text
        self.inflater = inflater
        # What came, unmasked and inflated. A list of pieces of text could need 50 times the memory.
        self.payload = bytearray()
        # The start of a character whose end is missing, at most three bytes.
        self.tail = b""

    def receive_data(self, data: bytes, bytes_max: int, *, is_last: bool) -> str | bytes | None:
        """Take the next piece; return the message when it is whole."""
        payload = self.payload
        if self.inflater is not None:
            data = self.inflater.inflate(data, bytes_max - len(payload), is_last=is_last)
        if is_last and not payload:
            return data.decode() if self.is_text else data
        payload += data
        if is_last:
            return payload.decode() if self.is_text else bytes(payload)
        if self.is_text:
            self.tail = _check_text(self.tail + data)
        return None


class _Unfinished:
    """What was read of a frame or message that is not whole yet."""

    __slots__ = ("control", "first", "head", "left", "mask", "message")

    def __init__(self) -> None:
        # The start of a frame's header, up to 13 bytes.
        self.head = b""
        # The frame whose payload is being read, while `left` bytes of it are missing.
        self.first = 0
        self.left = 0
        self.mask = b""
        self.control = b""
        # The message whose frames are being read. Control frames may stand between them.
        self.message: _Message | None = None


# Stands for a reader that reads no more.
_ENDED = _Unfinished()


class FrameReader:
    """Reads what a client sends, in whatever pieces it comes.

    Args:
        message_bytes_max: The longest message that is taken, in bytes after inflating. May be
            changed between two calls; it counts from the next frame.
        inflates: permessage-deflate was agreed on.
        window_bits: The client's window, 9 to 15; only with ``inflates``.

    Source:
        RFC 6455 5 and 8.1, RFC 7692 6.
    """

    __slots__ = ("_unfinished", "_window_bits", "message_bytes_max")

    def __init__(
        self, message_bytes_max: int, *, inflates: bool = False, window_bits: int = 15
    ) -> None:
        self.message_bytes_max = message_bytes_max
        # 0: nothing may be compressed.
        self._window_bits = window_bits if inflates else 0
        self._unfinished: _Unfinished | None = None

    def receive_data(self, data: bytes) -> list[Event]:
        """Read the next bytes of the peer; never raises for what a peer can do.

        Returns:
            What is whole now, in order. After a `Close` or a `Failure` nothing is read any more.
        """
        # The usual case: one whole frame with a text below 64 KiB.
        size = len(data)
        if self._unfinished is None and size > 7 and data[0] == FIN_TEXT:
            length, at = data[1] - MASKED, 6
            if length == LENGTH_16_BITS:
                length, at = data[2] << 8 | data[3], 8
            is_minimal = (length > CONTROL_BYTES_MAX) == (at == 8)
            if size - at == length <= self.message_bytes_max and is_minimal:
                try:
                    return [apply_mask(data[at:], data[at - 4 : at]).decode()]
                except UnicodeDecodeError:
                    pass  # said below
        events: list[Event] = []
        if self._unfinished is not _ENDED:
            try:
                self._read(data, events)
            except _Broken as error:
                self._fail(events, PROTOCOL_ERROR, str(error))
            except UnicodeDecodeError:
                self._fail(events, INVALID_DATA, "text is not UTF-8")
            except TooLong:
                reason = f"message is longer than {self.message_bytes_max} bytes"
                self._fail(events, TOO_BIG, reason)
            except Corrupt:
                self._fail(events, PROTOCOL_ERROR, "compressed data is corrupt")
        return events

    def _fail(self, events: list[Event], code: int, reason: str) -> None:
        self._unfinished = _ENDED
        events.append(Failure(code, reason))

    def _read(self, data: bytes, events: list[Event]) -> None:
        """Read ``data`` to its end, or to where the peer closes."""
        at = 0
        unfinished = self._unfinished
        if unfinished is not None:
            if unfinished.left:
                at = self._continue_frame(unfinished, data, events)
            elif unfinished.head:
                data = unfinished.head + data
                unfinished.head = b""
                if unfinished.message is None:
                    self._unfinished = None
        size = len(data)
        while at < size and self._unfinished is not _ENDED:
            if self._unfinished is None:
                at = self._read_short_texts(data, at, size, events)
            payload_at, length = self._read_header(data, at, size)
            if not payload_at:
                if at < size:
                    self._require_unfinished().head = data[at:]
                return
            first = data[at]
            at = payload_at + length
            mask = data[payload_at - 4 : payload_at]
            if at > size:
                unfinished = self._start_frame(first, length, mask)
                self._continue_frame(unfinished, data[payload_at:], events)
                return
            self._handle_payload(first, apply_mask(data[payload_at:at], mask), events)

    def _read_short_texts(self, data: bytes, at: int, size: int, events: list[Event]) -> int:
        """Read whole text frames below 64 KiB, the most frequent; return where they end.

        Leaves everything that is not just that, wrong frames too, to `_read_header`.
        """
        while size - at >= 6 and data[at] == FIN_TEXT:
            length = data[at + 1] - MASKED
            payload_at = at + 6
            if length == LENGTH_16_BITS:
                length = data[at + 2] << 8 | data[at + 3]
                payload_at = at + 8
                if length < LENGTH_16_BITS:
                    break
            elif length < 0 or length > LENGTH_16_BITS:
                break
            until = payload_at + length
            if until > size or length > self.message_bytes_max:
                break
            payload = apply_mask(data[payload_at:until], data[payload_at - 4 : payload_at])
            events.append(payload.decode())
            at = until
        return at

    def _read_header(self, data: bytes, at: int, size: int) -> tuple[int, int]:
        """Check the header at ``at`` as far as it is there.

        Returns:
            Where the payload starts, 0 while that is not known, and its length.
        """
        if size - at < 2:
            return 0, 0
        first = data[at]
        length = data[at + 1] - MASKED
        if (first != FIN_TEXT and first != FIN_BINARY) or self._unfinished is not None:
            self._check_kind(first, length)
        if length < 0:
            raise _Broken("frame of a client is not masked")
        payload_at = at + 6
        if length > CONTROL_BYTES_MAX:
            payload_at += 2 if length == LENGTH_16_BITS else 8
            if size < payload_at - 4:
                return 0, 0
            length = _read_length(data, at + 2, length)
        if first & CONTROL == 0:
            self._check_length(first, length)
        if size < payload_at:
            return 0, 0
        return payload_at, length

    def _check_kind(self, first: int, length: int) -> None:
        """Check the two bytes that every frame starts with; ``length`` has 7 bits."""
        opcode = first & 0x0F
        message = None if self._unfinished is None else self._unfinished.message
        if first & RSV23 or (first & RSV1 and not self._window_bits):
            raise _Broken("reserved bit is set")
        if opcode not in OPCODES:
            raise _Broken(f"opcode {opcode} is reserved")
        if opcode & CONTROL:
            if not first & FIN:
                raise _Broken("control frame is fragmented")
            if length > CONTROL_BYTES_MAX:
                raise _Broken("control frame is longer than 125 bytes")
        elif opcode == Opcode.CONTINUATION and message is None:
            raise _Broken("continuation of no message")
        elif opcode != Opcode.CONTINUATION and message is not None:
            raise _Broken("message starts within another one")
        if first & RSV1 and (opcode & CONTROL or opcode == Opcode.CONTINUATION):
            # RFC 7692 6.1 and 6.2: only the first frame of a data message may say "compressed".
            raise _Broken("reserved bit is set")

    def _check_length(self, first: int, length: int) -> None:
        """Check a data frame's length, before any of its payload is taken."""
        unfinished = self._unfinished
        message = None if unfinished is None else unfinished.message
        bytes_max = self.message_bytes_max
        if first & RSV1 or (message is not None and message.inflater is not None):
            # Data that deflate cannot shrink grows, by less than a sixth (zlib's deflateBound).
            bytes_max += bytes_max // 6 + 64
        elif message is not None:
            bytes_max -= len(message.payload)
        if length > bytes_max:
            raise TooLong

    def _check_rest(self, bytes_count: int) -> None:
        """Check what a message will have when its running frame is whole."""
        if bytes_count > self.message_bytes_max:
            raise TooLong

    def _require_unfinished(self) -> _Unfinished:
        unfinished = self._unfinished
        if unfinished is None:
            unfinished = self._unfinished = _Unfinished()
        return unfinished

    def _start_frame(self, first: int, length: int, mask: bytes) -> _Unfinished:
        unfinished = self._require_unfinished()
        unfinished.first = first
        unfinished.left = length
        unfinished.mask = mask
        return unfinished

    def _require_message(self, first: int) -> _Message:
        """Return the message that a data frame belongs to, and open it with its first frame."""
        unfinished = self._require_unfinished()
        if unfinished.message is None:
            inflater = Inflater(self._window_bits) if first & RSV1 else None
            is_text = first & 0x0F == Opcode.TEXT
            unfinished.message = _Message(is_text=is_text, inflater=inflater)
        return unfinished.message

    def _continue_frame(self, unfinished: _Unfinished, data: bytes, events: list[Event]) -> int:
        """Take what is there of a frame's missing payload; return how many bytes that was."""
        first = unfinished.first
        mask = unfinished.mask
        message = unfinished.message
        is_plain = message is not None and message.inflater is None
        if message is not None and is_plain and not unfinished.first & CONTROL:
            # The limit may have been lowered since the header was read.
            self._check_rest(unfinished.left + len(message.payload))
        taken = min(unfinished.left, len(data))
        payload = apply_mask(data if taken == len(data) else data[:taken], mask)
        unfinished.left -= taken
        if unfinished.left:
            turn = taken % 4
            unfinished.mask = mask[turn:] + mask[:turn]
            if first & CONTROL:
                unfinished.control += payload
            else:
                message = self._require_message(first)
                message.receive_data(payload, self.message_bytes_max, is_last=False)
        elif first & CONTROL:
            payload = unfinished.control + payload
            unfinished.control = b""
            if unfinished.message is None:
                self._unfinished = None
            self._handle_control(first, payload, events)
        else:
            self._handle_data(first, payload, events)
        return taken

    def _handle_payload(self, first: int, payload: bytes, events: list[Event]) -> None:
        """Handle the whole payload of a frame."""
        if first & CONTROL:
            self._handle_control(first, payload, events)
        elif self._unfinished is not None or first & RSV1 or not first & FIN:
            self._handle_data(first, payload, events)
        else:
            events.append(payload.decode() if first == FIN_TEXT else payload)

    def _handle_data(self, first: int, payload: bytes, events: list[Event]) -> None:
        """Handle the last piece of a data frame."""
        message = self._require_message(first)
        is_last = first & FIN != 0
        whole = message.receive_data(payload, self.message_bytes_max, is_last=is_last)
        if whole is not None:
            events.append(whole)
            self._unfinished = None

    def _handle_control(self, first: int, payload: bytes, events: list[Event]) -> None:
        opcode = first & 0x0F
        if opcode == Opcode.PING:
            events.append(Ping(payload))
        elif opcode == Opcode.PONG:
            events.append(Pong(payload))
        else:
            events.append(_read_close(payload))
            self._unfinished = _ENDED


def _read_length(data: bytes, at: int, length: int) -> int:
    """Read a length that follows the first two bytes, with 16 or 64 bits as ``length`` says."""
    if length == LENGTH_16_BITS:
        (length,) = _read_uint16(data, at)
        is_minimal = length > 125
    else:
        (length,) = _read_uint64(data, at)
        is_minimal = length > 0xFFFF
    # RFC 6455 5.2: "the minimal number of bytes MUST be used to encode the length".
    if not is_minimal:
        raise _Broken("length of a frame is not encoded in the fewest bytes")
    # RFC 6455 5.2: "the most significant bit MUST be 0".
    if length >> 63:
        raise _Broken("length of a frame has more than 63 bits")
    return int(length)


def _read_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) == 1:
        raise _Broken("close frame has one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_close_code(code):
        raise _Broken(f"close code {code} is invalid")
    return Close(code, payload[2:].decode())


def is_close_code(code: int) -> bool:
    """Tell whether a close frame may carry this code.

    Source:
        RFC 6455 7.4 and IANA's registry of close codes: 1000 to 1003 and 1007 to 1014 have a
        meaning on the wire, 3000 to 4999 belong to libraries and applications.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def encode_frame(opcode: Opcode, payload: bytes, *, is_compressed: bool = False) -> bytes:
    """Write one whole frame of a server: not masked, FIN set.

    Args:
        opcode: What it carries; not `Opcode.CONTINUATION`.
        payload: At most 125 bytes in a control frame.
        is_compressed: ``payload`` comes from `wirebell.websocket.deflate.compress`.

    Source:
        RFC 6455 5.2, RFC 7692 6.
    """
    first = FIN | RSV1 | opcode if is_compressed else FIN | opcode
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    assert not opcode & CONTROL, "a control frame has at most 125 bytes"
    if length < 65_536:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


# Headers of texts of 0 to 125 bytes.
_TEXT_HEADERS = tuple(bytes((FIN_TEXT, length)) for length in range(126))


def encode_texts(messages: Sequence[bytes]) -> bytes:
    """Write one text frame for each message, joined, so that one write sends them all.

    Args:
        messages: UTF-8, not checked again.
    """
    parts: list[bytes] = []
    for message in messages:
        length = len(message)
        if length < 126:
            parts.append(_TEXT_HEADERS[length])
        elif length < 65_536:
            parts.append(struct.pack("!BBH", FIN_TEXT, 126, length))
        else:
            parts.append(struct.pack("!BBQ", FIN_TEXT, 127, length))
        parts.append(message)
    return b"".join(parts)


def encode_close(code: int, reason: str = "") -> bytes:
    """Write a close frame.

    Args:
        code: See `is_close_code`; 1005 writes a frame without code and reason.
        reason: Cut to 123 bytes of UTF-8, never within a character.

    Raises:
        ValueError: The code must not stand in a frame.

    Source:
        RFC 6455 5.5.1.
    """
    if code == NO_STATUS:
        return encode_frame(Opcode.CLOSE, b"")
    if not is_close_code(code):
        raise ValueError(f"close code {code} must not be sent")
    data = reason.encode(errors="replace")
    if len(data) > 123:
        data = data[:123].decode(errors="ignore").encode()
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + data)
