"""Frames of publications: a tick's messages as bytes, once for all who read the same.

What was encoded is remembered in `wirebell.model.Frames` itself, so that it lives as long as the
tick, and parts of several ticks' frames are joined without being encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from wirebell.model import Frames
from wirebell.websocket.deflate import compress
from wirebell.websocket.frames import Opcode, encode_frame, encode_texts

__all__ = ("deflate_wire", "encode_wire")


def encode_wire(frames: Frames) -> bytes:
    """Encode frames once for all; returns their bytes."""
    if frames.wire is None:
        if frames.parts:
            frames.wire = b"".join(part.wire or encode_wire(part) for part in frames.parts)
        else:
            try:
                # Mostly all are texts; whatever else there is says so here.
                texts = [*map(str.encode, cast("Sequence[str]", frames.messages))]
            except TypeError:
                frames.wire = _encode_mixed(frames.messages)
            else:
                frames.wire = encode_texts(texts)
    return frames.wire


def deflate_wire(frames: Frames, window_bits: int, bytes_min: int) -> bytes:
    """Compress what is long enough, once for all who have the same window."""
    if frames.deflated is None:
        frames.deflated = {}
    wire = frames.deflated.get(window_bits)
    if wire is None:
        parts = (
            (deflate_wire(part, window_bits, bytes_min) for part in frames.parts)
            if frames.parts
            else (_deflate_message(part, window_bits, bytes_min) for part in frames.messages)
        )
        wire = frames.deflated[window_bits] = b"".join(parts)
    return wire


def _encode_mixed(messages: Sequence[str | bytes]) -> bytes:
    """Encode messages: text as text frames, bytes as binary ones."""
    return b"".join(encode_frame(*_take_apart(message)) for message in messages)


def _deflate_message(message: str | bytes, window_bits: int, bytes_min: int) -> bytes:
    """Encode one message, compressed if that is allowed and shorter."""
    opcode, payload = _take_apart(message)
    if len(payload) >= bytes_min:
        compressed = compress(payload, window_bits)
        if len(compressed) < len(payload):
            return encode_frame(opcode, compressed, is_compressed=True)
    return encode_frame(opcode, payload)


def _take_apart(message: str | bytes) -> tuple[Opcode, bytes]:
    """Give a message's opcode and bytes."""
    if isinstance(message, str):
        return Opcode.TEXT, message.encode()
    return Opcode.BINARY, message
