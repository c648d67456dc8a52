"""Fossil deltas: how one payload becomes the next, in fewer bytes (protocol document, section 1.9).

A delta is its target's size and a line feed, segments, the target's checksum and ``;``. A segment
is ``COUNT@OFFSET,`` (copy that much of the base) or ``COUNT:BYTES`` (take these). Numbers have
base 64, with digits of their own. The format is Fossil's, and its encoder's idea is kept: remember
each block of 16 bytes of the base, and look at every place of the target whether one stands there.

Strategy: what would be a step per byte is left to slices of `bytes`. What both payloads begin and
end with is compared first, because two publications of a channel mostly differ in one place. Only
what is between goes through a dictionary of blocks. Copies begin and end between characters, so
a delta of UTF-8 is UTF-8, and a JSON string can carry it.

Time is bounded by the lengths: a block has few candidates, a candidate is compared no further
than it reaches, and where nothing is found the steps grow.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

__all__ = ("apply_delta", "create_delta", "find_patch")

BLOCK_BYTES = 16
"""Shortest text that is looked for, and the distance of remembered blocks; Fossil's NHASH."""

CANDIDATES_MAX = 8
"""Places of one block that are compared. Fossil looks at 250, in C; JSON rarely has more than
a few equal blocks."""

COPY_BYTES_MIN = 12
"""Shortest copy. Up to 16 MiB its two numbers and marks are 7 bytes, and the count of the literal
that it interrupts is at most 5."""

COPIES_MAX = 1024
"""Blocks that are found before the rest is taken as it is. Each takes 5 to 20 µs: without a bound
128 KiB of traps would take 0.1 s, and with it 20 ms."""

PATIENCE_STEPS = 256
"""Places without a match after which the steps grow by two: text that has nothing in common with
its base is given up quickly, and what matches again is found at its next blocks."""

STRIDE_BYTES = 64
"""How far two texts are compared at first; each further step is twice as long."""

ALIKE = bytes(2 * BLOCK_BYTES)
"""Difference of twice two equal blocks."""

CHUNK_BYTES = 1024
"""How much of a text is added up at once. Measured: twice or half as much takes as long."""

SECOND_WORDS = int.from_bytes(b"\0\0\0\0\xff\xff\xff\xff" * (CHUNK_BYTES // 8), "big")

COLUMNS = struct.Struct(f">{CHUNK_BYTES // 8}Q")

CONTINUATION_BYTES_MAX = 3
"""Bytes of a character of UTF-8 after the first."""

TARGET_BYTES_MAX = 64 * 1024 * 1024
"""Longest text that `apply_delta` builds: a delta of some bytes can claim 4 GiB."""

PATCHES_MAX = 8
"""Patches that are remembered. A publication needs one, for as long as its tick is encoded."""

DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
VALUES = {digit: value for value, digit in enumerate(DIGITS)}

BLOCK = re.compile(rb"(?s).{%d}" % BLOCK_BYTES)
SEGMENT = re.compile(rb"([0-9A-Z_a-z~]{1,6})(?:@([0-9A-Z_a-z~]{1,6}),|([:;]))")
HEADER = re.compile(rb"([0-9A-Z_a-z~]{1,6})\n")


def create_delta(base: bytes, target: bytes) -> bytes:
    """Describe a payload by what it shares with another one.

    Args:
        base: What the receiver has.
        target: What it is to have.

    Returns:
        A delta with which `apply_delta` makes ``target`` of ``base``. It may be longer than
        ``target``; `find_patch` says so. It is valid UTF-8 when ``target`` is.

    Source:
        Fossil's "Delta Format" and "Delta Encoding Algorithm".
    """
    segments = [encode_number(len(target)), b"\n"]
    written = 0
    for start, end, offset in find_copies(base, target):
        if start > written:
            segments += (encode_number(start - written), b":", target[written:start])
        segments += (encode_number(end - start), b"@", encode_number(offset), b",")
        written = end
    if written < len(target):
        segments += (encode_number(len(target) - written), b":", target[written:])
    segments += (encode_number(calculate_checksum(target)), b";")
    return b"".join(segments)


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """Make a payload of another one and a delta.

    Args:
        base: What the delta was made against.
        delta: As `create_delta`, or any other encoder of the format, made it.

    Returns:
        The target.

    Raises:
        ValueError: The delta is malformed, belongs to another base, or its target would be longer
            than `TARGET_BYTES_MAX`.
    """
    header = HEADER.match(delta)
    if header is None:
        raise ValueError("delta has no size")
    size = decode_number(header[1])
    if size > TARGET_BYTES_MAX:
        raise ValueError(f"delta makes {size} bytes, limit {TARGET_BYTES_MAX}")
    pieces: list[bytes] = []
    made, place = 0, header.end()
    while segment := SEGMENT.match(delta, place):
        count, place = decode_number(segment[1]), segment.end()
        if segment[3] == b";":
            return check_target(b"".join(pieces), size=size, checksum=count)
        if segment[3] == b":":
            piece = delta[place : place + count]
            place += count
        else:
            offset = decode_number(segment[2])
            piece = base[offset : offset + count]
        made += count
        if len(piece) < count:
            raise ValueError(f"delta has a segment of {count} bytes that are not there")
        if made > size:
            raise ValueError(f"delta makes more than its {size} bytes")
        pieces.append(piece)
    raise ValueError(f"delta cannot be read at byte {place}")


@lru_cache(maxsize=PATCHES_MAX)
def find_patch(base: bytes, target: bytes) -> bytes | None:
    """Say how a payload follows from the one before, if that is shorter than to send it whole.

    The last answers are remembered, so that each encoding of a publication may ask.

    Args:
        base: What subscribers have.
        target: What is published.

    Returns:
        The delta, or ``None`` where ``target`` itself is as short.
    """
    delta = create_delta(base, target)
    return delta if len(delta) < len(target) else None


def find_copies(base: bytes, target: bytes) -> Iterable[tuple[int, int, int]]:
    """Find the parts of a payload that another one has as well.

    Returns:
        Start and end in ``target``, and start in ``base``; in the order of ``target``, without
        overlap.
    """
    length = min(len(base), len(target))
    head = count_equal(base, 0, target, 0, length)
    tail = count_equal_before(base, len(base), target, len(target), length - head)
    copies: list[tuple[int, int, int]] = []
    start, stop = 0, len(target)
    if head >= BLOCK_BYTES:
        start = align(target, head, -1) if head < stop else head
        copies.append((0, start, 0))
    if tail >= BLOCK_BYTES:
        stop = align(target, stop - tail, 1)
    if stop - start >= BLOCK_BYTES and len(base) >= BLOCK_BYTES:
        copies += find_block_copies(base, target, start, stop)
    if stop < len(target):
        copies.append((stop, len(target), len(base) - len(target) + stop))
    return copies


def find_block_copies(
    base: bytes, target: bytes, start: int, stop: int
) -> Iterable[tuple[int, int, int]]:
    """Find copies in a part of the target by the blocks of the base; shaped as `find_copies`."""
    first, later = index_blocks(base)
    find = first.get
    place, last = start, stop - BLOCK_BYTES
    misses = found = 0
    shift = 0  # of the last copy: place in the target less place in the base
    while place <= last and found < COPIES_MAX:
        gap = -1 if misses else count_changed(base, target, place, stop, shift)
        if gap >= 0:
            place += gap
            offset, before = place - shift, 0
            after = count_equal(base, offset, target, place, min(len(base) - offset, stop - place))
        elif (known := find(target[place : place + BLOCK_BYTES])) is not None:
            offset, after = find_longest(base, target, place, stop, (place - shift, known), later)
            before = count_equal_before(base, offset, target, place, min(offset, place - start))
        else:
            misses += 1
            # Odd steps, so that each distance to the blocks' places is tried.
            place += 1 + misses // PATIENCE_STEPS * 2
            continue
        shift = place - offset
        copy_start = align(target, place - before, 1) if place - before > start else start
        place += after
        copy_end = align(target, place, -1) if place < stop else stop
        if copy_end - copy_start >= COPY_BYTES_MIN:
            yield copy_start, copy_end, copy_start - shift
            start = copy_end
        found += 1
        misses = 0


def count_changed(base: bytes, target: bytes, place: int, stop: int, shift: int) -> int:
    """Count the bytes of a change that kept its length, as numbers and flags do.

    Args:
        base: What is changed.
        target: What becomes of it.
        place: In the target, where the change begins.
        stop: Where the part of the target ends that is looked at.
        shift: Place in the target less place in the base, before the change.

    Returns:
        After how many bytes both go on alike for two blocks, more than what rows of a table have
        in common anyway; -1 when they do not soon.
    """
    ours = base[place - shift : place - shift + STRIDE_BYTES]
    theirs = target[place : min(place + len(ours), stop)]
    ours = ours[: len(theirs)]
    difference = int.from_bytes(ours, "big") ^ int.from_bytes(theirs, "big")
    return difference.to_bytes(len(theirs), "big").find(ALIKE)


def find_longest(
    base: bytes,
    target: bytes,
    place: int,
    stop: int,
    offsets: tuple[int, int],
    later: dict[int, int],
) -> tuple[int, int]:
    """Choose the place of the base that goes on as the target does for longest.

    Args:
        base: Where to look.
        target: What to look for.
        place: Of a block in the target.
        stop: Where in the target a copy has to end.
        offsets: Where the base would go on if nothing had been put in or left out since the last
            copy, and the first place of the block.
        later: Place of a block → the next one with the same content.

    Returns:
        The place in the base, and how much is equal from there on.
    """
    offset, candidate = offsets
    after = 0
    if 0 <= offset < len(base) and offset != candidate:
        after = count_equal(base, offset, target, place, min(len(base) - offset, stop - place))
    for _ in range(CANDIDATES_MAX):
        # Whether it is better at all takes one comparison to find out.
        if base[candidate : candidate + after + 1] == target[place : place + after + 1]:
            limit = min(len(base) - candidate, stop - place)
            offset, after = candidate, count_equal(base, candidate, target, place, limit)
            if after == limit == stop - place:
                break
        if candidate not in later:
            break
        candidate = later[candidate]
    return offset, after


def index_blocks(base: bytes) -> tuple[dict[bytes, int], dict[int, int]]:
    """Remember where the blocks of a text are.

    Returns:
        Block → its first place, and place → the next place with the same block.
    """
    blocks: list[bytes] = BLOCK.findall(base)
    offsets = range(0, len(blocks) * BLOCK_BYTES, BLOCK_BYTES)
    # Backwards, so that the first place stays. In text that repeats itself it goes on for longest.
    first = dict(zip(reversed(blocks), reversed(offsets), strict=True))
    later: dict[int, int] = {}
    if len(first) < len(blocks):
        last: dict[bytes, int] = {}
        for block, offset in zip(blocks, offsets, strict=True):
            if block in last:
                later[last[block]] = offset
            last[block] = offset
    return first, later


def count_equal(first: bytes, i: int, second: bytes, j: int, limit: int) -> int:
    """Count equal bytes from ``first[i]`` and ``second[j]`` on, up to ``limit``."""
    equal, step = 0, STRIDE_BYTES
    while equal < limit:
        step = min(step, limit - equal)
        one, other = first[i : i + step], second[j : j + step]
        if one != other:
            return equal + step - count_digits(one, other, "big")
        equal, i, j = equal + step, i + step, j + step
        step *= 2
    return limit


def count_equal_before(first: bytes, i: int, second: bytes, j: int, limit: int) -> int:
    """Count equal bytes before ``first[i]`` and ``second[j]``, backwards, up to ``limit``."""
    equal, step = 0, STRIDE_BYTES
    while equal < limit:
        step = min(step, limit - equal)
        one, other = first[i - step : i], second[j - step : j]
        if one != other:
            return equal + step - count_digits(one, other, "little")
        equal, i, j = equal + step, i - step, j - step
        step *= 2
    return limit


def count_digits(one: bytes, other: bytes, order: Literal["big", "little"]) -> int:
    """Count the bytes of two texts' difference, as numbers: the equal ones before it are zeros."""
    difference = int.from_bytes(one, order) ^ int.from_bytes(other, order)
    return (difference.bit_length() + 7) // 8


def align(target: bytes, place: int, step: int) -> int:
    """Move a place out of the middle of a character of UTF-8.

    Args:
        target: UTF-8; or anything, of which nothing is promised.
        place: Between two of its bytes, and not at its end.
        step: 1 to move to the character's end, -1 to its start.
    """
    for _ in range(CONTINUATION_BYTES_MAX):
        # Bytes 10xxxxxx continue a character (RFC 3629, section 3).
        if not 0 < place < len(target) or target[place] & 0xC0 != 0x80:
            break
        place += step
    return place


def calculate_checksum(data: bytes) -> int:
    """Add up big-endian words of 32 bits, without carry; the last one is filled up with zeros.

    The words of a chunk are the digits of one large number, and so are all sums of words at the
    same place in their chunks: a fifth of the time of adding them one by one.
    """
    sums = 0
    for place in range(0, len(data), CHUNK_BYTES):
        chunk = int.from_bytes(data[place : place + CHUNK_BYTES].ljust(CHUNK_BYTES, b"\0"), "big")
        # Every second word each, so that a sum has 64 bits: enough for 2^31 chunks.
        sums += (chunk & SECOND_WORDS) + (chunk >> 32 & SECOND_WORDS)
    columns: tuple[int, ...] = COLUMNS.unpack(sums.to_bytes(CHUNK_BYTES, "big"))
    return sum(columns) & 0xFFFFFFFF


def check_target(target: bytes, *, size: int, checksum: int) -> bytes:
    """Return what a delta made, if it is what the delta says of it."""
    if len(target) != size:
        raise ValueError(f"delta makes {len(target)} bytes instead of {size}")
    if calculate_checksum(target) != checksum:
        raise ValueError("delta belongs to another base: the checksum differs")
    return target


def encode_number(number: int) -> bytes:
    """Write a number of 0 or more in base 64, most significant digit first."""
    if number < 64:
        return DIGITS[number : number + 1]
    if number < 64 * 64:
        return bytes((DIGITS[number >> 6], DIGITS[number & 63]))
    digits = bytearray()
    while number:
        digits.append(DIGITS[number & 63])
        number >>= 6
    digits.reverse()
    return bytes(digits)


def decode_number(digits: bytes) -> int:
    """Read a number of at most six digits."""
    number = 0
    for digit in digits:
        number = number << 6 | VALUES[digit]
    return number
