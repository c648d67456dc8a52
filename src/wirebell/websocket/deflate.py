"""Compression of messages: permessage-deflate of RFC 7692, without context takeover.

Neither side keeps a window from one message to the next. So an idle connection costs no memory for
compression, and one compressed publication serves every subscriber that agreed on the same window.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from wirebell.errors import Corrupt, TooLong

__all__ = (
    "Corrupt",
    "Deflate",
    "Inflater",
    "TooLong",
    "compress",
    "negotiate",
    "parse_extensions",
)

# What a sender removes from the end of a message, and a receiver adds (RFC 7692 7.2.1 and 7.2.2).
TAIL = b"\x00\x00\xff\xff"
# RFC 7692 7.2.3.6: an empty message is one empty block without compression, less `TAIL`.
EMPTY = b"\x00"
# zlib writes raw deflate with windows of 512 bytes (9 bits) to 32 KiB.
WINDOW_BITS_MIN = 9
WINDOW_BITS_MAX = 15
# A block marked as last may stand in the middle of a message (RFC 7692 7.2.1), and each needs a new
# inflater, about 2 µs. Senders that cannot flush otherwise make one a message or fragment.
FINAL_BLOCKS_MAX = 1_024
# What follows a last block is copied by zlib. In slices this size that copying stays linear.
SLICE_BYTES = 16_384

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
SPACE = rb"[ \t]*"
VALUE = rb"(" + TOKEN + rb')|"((?:[^"\\]|\\.)*)"'
# One parameter or name with what ends it. No two parts match the same byte: the time is linear.
PART = re.compile(
    rb"(%b)%b(?:(=)%b(?:%b)%b)?(;|,|\Z)" % (TOKEN, SPACE, SPACE, VALUE, SPACE), re.DOTALL
)
GAP = re.compile(rb"[ \t,]*")
BLANK = re.compile(SPACE)
ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
WINDOW_BITS = re.compile(rb"[89]|1[0-5]")

Extension = tuple[bytes, list[tuple[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class Deflate:
    """What both sides agreed on.

    Attributes:
        server_window_bits: Window of our compressor, 9 to 15 (512 bytes to 32 KiB).
        client_window_bits: Window our inflater needs for what the client sends, 9 to 15.
    """

    server_window_bits: int = WINDOW_BITS_MAX
    client_window_bits: int = WINDOW_BITS_MAX


def parse_extensions(values: Sequence[bytes]) -> list[Extension]:
    """Read the values of all ``Sec-WebSocket-Extensions`` headers.

    Returns:
        Name and parameters of each extension, in the order of the client's preference. A parameter
        without a value has an empty one. Empty elements of a list are skipped (RFC 9110 5.6.1.2).

    Raises:
        ValueError: A value does not follow the grammar.

    Source:
        RFC 6455 9.1.
    """
    extensions: list[Extension] = []
    for value in values:
        at = _skip(GAP, value, 0)
        is_name = True
        while at < len(value):
            part = PART.match(value, at)
            if part is None:
                raise ValueError(f"malformed Sec-WebSocket-Extensions at byte {at}")
            token, has_value, plain, quoted, end = part.groups()
            if is_name:
                if has_value:
                    raise ValueError("an extension's name has no value")
                extensions.append((token, []))
            else:
                extensions[-1][1].append((token, _read_value(plain, quoted)))
            is_name = end != b";"
            at = _skip(GAP if is_name else BLANK, value, part.end())
        if not is_name:
            raise ValueError("Sec-WebSocket-Extensions ends where a parameter is expected")
    return extensions


def _skip(gap: re.Pattern[bytes], value: bytes, at: int) -> int:
    found = gap.match(value, at)
    assert found is not None, "a gap may be empty"
    return found.end()


def _read_value(plain: bytes | None, quoted: bytes | None) -> bytes:
    if quoted is None:
        return plain or b""
    value = ESCAPED.sub(rb"\1", quoted)
    # RFC 6455 9.1: "the value after quoted-string unescaping MUST conform to the 'token' ABNF".
    if not re.fullmatch(TOKEN, value):
        raise ValueError("a quoted value of Sec-WebSocket-Extensions is no token")
    return value


def negotiate(offers: Sequence[bytes]) -> tuple[Deflate, bytes] | None:
    """Choose the first offer of permessage-deflate that we can keep.

    We always answer that neither side keeps its window (a server may, RFC 7692 7.1.1). An offer
    with an unknown parameter, one that comes twice, or a bad value is declined, and so is a window
    of 256 bytes for the server (8 bits), which zlib cannot write; the next offer is tried then.

    Args:
        offers: The values of all ``Sec-WebSocket-Extensions`` headers.

    Returns:
        What was agreed on and the value to answer, or None: no compression.

    Source:
        RFC 7692 5.1 and 7.1.
    """
    try:
        extensions = parse_extensions(offers)
    except ValueError:
        return None
    for name, parameters in extensions:
        if name.lower() == b"permessage-deflate":
            answer = _accept(parameters)
            if answer is not None:
                return answer
    return None


def _accept(parameters: list[tuple[bytes, bytes]]) -> tuple[Deflate, bytes] | None:
    """Answer one offer; None declines it."""
    given = dict(parameters)
    if len(given) < len(parameters):
        return None
    server_bits = client_bits = WINDOW_BITS_MAX
    answer = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    for name, value in parameters:
        match name:
            case b"server_no_context_takeover" | b"client_no_context_takeover":
                if value:
                    return None
            case b"server_max_window_bits" if WINDOW_BITS.fullmatch(value):
                server_bits = int(value)
                if server_bits < WINDOW_BITS_MIN:
                    return None
                # RFC 7692 7.1.2.1: an accepted offer is answered with the same or a smaller value.
                answer += b"; server_max_window_bits=%d" % server_bits
            case b"client_max_window_bits" if not value:
                # A hint that we might limit the client's window. It exists during a message only.
                pass
            case b"client_max_window_bits" if WINDOW_BITS.fullmatch(value):
                # RFC 7692 7.1.2.2: the client will not use more, whatever we answer. An inflater of
                # 9 bits reads 8; then no answer, since it must not be more than the client said.
                client_bits = max(int(value), WINDOW_BITS_MIN)
                if client_bits == int(value):
                    answer += b"; client_max_window_bits=%d" % client_bits
            case _:
                return None
    return Deflate(server_bits, client_bits), answer


def compress(payload: bytes, window_bits: int) -> bytes:
    """Compress one message, so that it can be read without those before it.

    A new compressor each time: with 120 bytes it takes 6.4 µs, a copy of one that was kept 12.7 µs,
    and one that is told to forget its window 5.6 µs, for which it would have to be guarded from
    other threads.

    Args:
        payload: The whole message.
        window_bits: Size of the window, 9 to 15.

    Returns:
        The payload of a frame with RSV1 set; never empty.

    Source:
        RFC 7692 7.2.1.
    """
    if not payload:
        return EMPTY
    compressor = zlib.compressobj(wbits=-window_bits)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(TAIL)
    return data[: -len(TAIL)]


class Inflater:
    """Inflates one message after the other, each in one or more pieces; keeps nothing between them.

    Args:
        window_bits: Size of the sender's window, 9 to 15.
    """

    __slots__ = ("_decompressor", "_final_blocks_count", "_window_bits")

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decompressor: zlib._Decompress | None = None
        self._final_blocks_count = 0

    def inflate(self, data: bytes, bytes_max: int, *, is_last: bool) -> bytes:
        """Inflate the next piece of a message.

        Args:
            data: Compressed bytes as they came; may be empty.
            bytes_max: How many bytes this piece may become. One more is inflated at most.
            is_last: The message ends with ``data``.

        Raises:
            TooLong: The piece becomes more than ``bytes_max`` bytes.
            Corrupt: The piece is no deflate data.

        Source:
            RFC 7692 7.2.2.
        """
        if is_last:
            data += TAIL
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(-self._window_bits)
        parts: list[bytes] = []
        left = bytes_max
        try:
            for at in range(0, len(data), SLICE_BYTES):
                left = self._inflate_slice(data[at : at + SLICE_BYTES], left, parts)
                if left < 0:
                    raise TooLong(f"more than {bytes_max} bytes after inflating")
        except zlib.error as error:
            raise Corrupt(str(error)) from error
        if is_last:
            self._decompressor = None
            self._final_blocks_count = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflate_slice(self, data: bytes, left: int, parts: list[bytes]) -> int:
        """Add what a slice becomes to ``parts``; return how many bytes may follow, or below 0."""
        assert self._decompressor is not None
        while True:
            # zlib takes 0 for "no limit"; a limit that was lowered meanwhile may be passed already.
            part = self._decompressor.decompress(data, max(left, 0) + 1)
            parts.append(part)
            left -= len(part)
            if left < 0 or not self._decompressor.eof:
                return left
            # What stands behind a last block starts anew, without a window, as browsers read it.
            data = self._decompressor.unused_data
            self._decompressor = zlib.decompressobj(-self._window_bits)
            self._final_blocks_count += 1
            if self._final_blocks_count > FINAL_BLOCKS_MAX:
                raise Corrupt(f"more than {FINAL_BLOCKS_MAX} blocks are marked as the last")
            if not data:
                return left
