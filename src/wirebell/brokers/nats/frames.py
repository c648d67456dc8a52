"""What stands in a message of NATS, and under which subject. Pure.

Subjects, behind a prefix (``wirebell``); a channel's name is written as one word:

- ``.c.<channel>.c``: what its subscribers receive, and is kept nowhere.
- ``.w.<word>.<word>…``: the same for those who subscribed to a pattern; here the channel's name has
  as many words as dots divide it into.
- ``.h.<size>_<age>.<life>.<channel>``: what is kept; published anew under ``.c.<channel>.h``.
- ``.k.<life>.<channel>.<key>``: of an idempotency key; anew under ``.c.<channel>.<key>``.
- ``.n.<node>``: what one node is told, and ``.n.all``.
- ``.p.<life>.<channel>.<client>``: presence.

The life of a stream is a word that nobody used before it was made.

A message is a byte that says its kind, and:

- `UNKEPT`: a record.
- `HEARD`: a channel's name and a record.
- `KEPT`: a **frame**, the publications of one turn of one process for one channel, whose position
  in the chain of frames its head tells. A frame without publications removes what was before.
- `KEY`: offset and epoch of what was published under an idempotency key.
- `CLAIM`: the ident of the frame that is to be published under an idempotency key.
- `LEASE`: how long it lasts in milliseconds, and a member's record.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from wirebell.errors import UnknownRecord

__all__ = (
    "CHAIN_MAX",
    "CLAIM",
    "HEARD",
    "KEPT",
    "KEY",
    "LEASE",
    "UNKEPT",
    "Frame",
    "decode_claim",
    "decode_frame",
    "decode_heard",
    "decode_key",
    "decode_lease",
    "encode_claim",
    "encode_frame",
    "encode_heard",
    "encode_key",
    "encode_lease",
    "encode_unkept",
    "word_of",
    "words_of",
)

UNKEPT, KEPT, KEY, LEASE, CLAIM, HEARD = 1, 2, 3, 4, 5, 6

CHAIN_MAX = 16
"""Frames before it that a frame names: so many are read at once."""

WORD_BYTES_MAX = 512
# A server takes lines of 4 KB.
WORDS_BYTES_MAX = 2048
WORDS_KNOWN_MAX = 20_000
"""Names whose words are remembered; about 300 bytes each."""

_HEAD = struct.Struct(">BQ8sQQ16sQBHH")
_LENGTH = struct.Struct(">I")
_KEY = struct.Struct(">BQ8s")
_LEASE = struct.Struct(">BQ")
_HEARD = struct.Struct(">BH")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_:/@!+-]")
_DISTANCE_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Frame:
    """A link of a channel's chain.

    Attributes:
        offset: Of its first publication.
        epoch: Eight characters.
        floor: The first offset of the channel that was not removed.
        version: The newest one so far; 0 for none.
        version_epoch: Of that.
        ident: Who wrote it: 16 bytes that no other frame has.
        chain: Sequences in the stream of the frames before it, the nearest first.
        records: Of its publications, by their offsets.
    """

    offset: int
    epoch: str
    floor: int
    version: int
    version_epoch: str
    ident: bytes
    chain: tuple[int, ...]
    records: Sequence[bytes]

    @property
    def top(self) -> int:
        """The offset of the newest publication so far."""
        return self.offset + len(self.records) - 1

    @property
    def previous(self) -> int:
        """The sequence of the frame before it; 0 for none."""
        return self.chain[0] if self.chain else 0


@lru_cache(WORDS_KNOWN_MAX)
def word_of(name: str) -> bytes:
    """Write a name as one word of a subject: what may not stand there is escaped.

    A very long name becomes its hash.
    """
    raw = name.encode()
    word = _UNSAFE.sub(lambda found: b"=%02x" % found[0][0], raw)
    if len(word) > WORD_BYTES_MAX:
        return b"==" + hashlib.blake2b(raw, digest_size=32).hexdigest().encode()
    return word or b"="


def words_of(name: str) -> bytes:
    """Write a name, or a pattern of names, as words of a subject.

    ``*`` as a word, and ``>`` as the last one, stay what they are to NATS. Empty for a name that is
    too long for a subject.
    """
    *words, last = name.split(".")
    written = [b"*" if word == "*" else word_of(word) for word in words]
    written.append(last.encode() if last in {"*", ">"} else word_of(last))
    joined = b".".join(written)
    return joined if len(joined) <= WORDS_BYTES_MAX else b""


def encode_unkept(record: bytes) -> bytes:
    """Write what is kept nowhere."""
    return b"\x01" + record


def encode_heard(channel: str, record: bytes) -> bytes:
    """Write what is kept nowhere, for those who subscribed to a pattern."""
    name = channel.encode()
    return _HEARD.pack(HEARD, len(name)) + name + record


def decode_heard(data: bytes) -> tuple[str, bytes]:
    """Read what a pattern hears: the channel, and the record.

    Raises:
        UnknownRecord: It is damaged, or of a newer release.
    """
    try:
        _check_kind(data, HEARD)
        _, size = _HEARD.unpack_from(data)
        end = _HEARD.size + size
        return data[_HEARD.size : end].decode(), data[end:]
    except (struct.error, UnicodeDecodeError) as error:
        raise UnknownRecord(f"a message of NATS cannot be read: {error}") from error


def encode_frame(frame: Frame) -> bytes:
    """Write a frame."""
    previous = frame.previous
    distances = []
    for sequence in frame.chain[1:]:
        if previous - sequence > _DISTANCE_MAX:
            break
        distances.append(previous - sequence)
    version_epoch = frame.version_epoch.encode()
    parts = [
        _HEAD.pack(
            KEPT,
            frame.offset,
            frame.epoch.encode(),
            frame.floor,
            frame.version,
            frame.ident,
            previous,
            len(distances),
            len(version_epoch),
            len(frame.records),
        ),
        struct.pack(f">{len(distances)}I", *distances),
        version_epoch,
    ]
    for record in frame.records:
        parts.append(_LENGTH.pack(len(record)))
        parts.append(record)
    return b"".join(parts)


def decode_frame(data: bytes) -> Frame:
    """Read a frame.

    Raises:
        UnknownRecord: It is damaged, or of a newer release.
    """
    try:
        _check_kind(data, KEPT)
        (_, offset, epoch, floor, version, ident, previous, chain_count, epoch_size, count) = (
            _HEAD.unpack_from(data)
        )
        at = _HEAD.size
        distances = struct.unpack_from(f">{chain_count}I", data, at)
        at += 4 * chain_count
        version_epoch = data[at : at + epoch_size].decode()
        at += epoch_size
        records = []
        for _ in range(count):
            (size,) = _LENGTH.unpack_from(data, at)
            at += 4
            records.append(data[at : at + size])
            at += size
        if at != len(data):
            raise UnknownRecord(f"a frame of NATS has {len(data)} bytes, and says {at}")
        chain = (previous, *(previous - each for each in distances)) if previous else ()
        return Frame(
            offset, epoch.decode(), floor, version, version_epoch, ident, chain, tuple(records)
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise UnknownRecord(f"a frame of NATS cannot be read: {error}") from error


def encode_key(offset: int, epoch: str) -> bytes:
    """Write what became of an idempotency key."""
    return _KEY.pack(KEY, offset, epoch.encode())


def decode_key(data: bytes) -> tuple[int, str]:
    """Read what became of an idempotency key: offset and epoch; of an unkept one, none.

    Raises:
        UnknownRecord: It is damaged, or of a newer release.
    """
    if data[:1] == b"\x01":
        return 0, ""
    try:
        _check_kind(data, KEY)
        _, offset, epoch = _KEY.unpack(data)
        return offset, epoch.decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise UnknownRecord(f"a key of NATS cannot be read: {error}") from error


def encode_claim(ident: bytes) -> bytes:
    """Write which frame is to come under an idempotency key."""
    return bytes((CLAIM,)) + ident


def decode_claim(data: bytes) -> bytes:
    """Read the ident of a frame.

    Raises:
        UnknownRecord: It is of a newer release.
    """
    _check_kind(data, CLAIM)
    return data[1:]


def encode_lease(milliseconds: int, record: bytes) -> bytes:
    """Write a member of a channel."""
    return _LEASE.pack(LEASE, milliseconds) + record


def decode_lease(data: bytes) -> tuple[int, bytes]:
    """Read a member of a channel: how long the lease lasts in milliseconds, and the record.

    Raises:
        UnknownRecord: It is damaged, or of a newer release.
    """
    try:
        _check_kind(data, LEASE)
        _, milliseconds = _LEASE.unpack_from(data)
    except struct.error as error:
        raise UnknownRecord(f"a lease of NATS cannot be read: {error}") from error
    return milliseconds, data[_LEASE.size :]


def _check_kind(data: bytes, kind: int) -> None:
    """Refuse what is of another kind."""
    if not data or data[0] != kind:
        found = data[0] if data else "nothing"
        raise UnknownRecord(
            f"a message of NATS is of the kind {found}, expected was {kind}: upgrade this node too"
        )
