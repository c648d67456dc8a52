"""What a client writes, right or wrong, built by hand from RFC 6455 5.2."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from wirebell.websocket.frames import Event, FrameReader

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = bytes.fromhex("37fa213d")  # of the RFC's examples


def encode_client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    is_final: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    length_bits: int | None = None,
) -> bytes:
    """Write a frame as a client does.

    Args:
        opcode: Any number of four bits.
        payload: Not masked yet.
        is_final: FIN.
        reserved: RSV1, RSV2 and RSV3 as one number: 4 is RSV1.
        mask: None leaves it out.
        length_bits: 7, 16 or 64, and the fewest that do unless told.
    """
    size = len(payload)
    if length_bits is None:
        length_bits = 7 if size < 126 else 16 if size < 65_536 else 64
    first = is_final << 7 | reserved << 4 | opcode
    masked = (mask is not None) << 7
    if length_bits == 7:
        head = struct.pack("!BB", first, masked | size)
    elif length_bits == 16:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def chop(data: bytes, size: int) -> list[bytes]:
    """Cut bytes into pieces of ``size``."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def read_all(reader: FrameReader, pieces: Iterable[bytes]) -> list[Event]:
    """Give a reader one piece after the other; return all it found."""
    return [event for piece in pieces for event in reader.receive_data(piece)]
