"""What a node asks of the database, and how what it tells others is packed. Pure.

Everything that one transaction tells is one row: reading it is one step, however much is in it,
and Python's lock is let go of and waited for once instead of once for each publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from wirebell.model import (
    History,
    Membership,
    Publication,
    PublishOptions,
)
from wirebell.records import UnknownRecord

__all__ = (
    "CONTROL",
    "ITEM",
    "Add",
    "Entry",
    "OpenStream",
    "Operation",
    "Probe",
    "Publish",
    "Remove",
    "RemoveHistory",
    "Tell",
    "TellNodes",
    "pack",
    "size_of",
    "unpack",
)

PACKING = 1
"""Version of how a row is packed; it stands in its first byte."""

ITEM = 0
"""Kind of an entry: a publication or a membership, whose record says which."""

CONTROL = 1
"""Kind of an entry: what a node tells others; its name is the node's, or empty for all."""

# What a row and its keys take besides: an estimate, for bounds only.
OVERHEAD_BYTES = 64


@dataclass(slots=True)
class Publish:
    """Put a publication into a channel."""

    channel: str
    publication: Publication
    record: bytes
    history: History | None
    how: PublishOptions | None
    deadline: float


@dataclass(slots=True)
class Tell:
    """Deliver a membership to those who subscribed."""

    channel: str
    membership: Membership
    record: bytes
    deadline: float


@dataclass(slots=True)
class TellNodes:
    """Tell all nodes something, or one of them."""

    node_id: str
    data: bytes
    deadline: float


@dataclass(slots=True)
class OpenStream:
    """Give a channel an epoch, if it has none: somebody asked for it."""

    channel: str
    history: History
    deadline: float


@dataclass(slots=True)
class RemoveHistory:
    """Forget what is kept of a channel."""

    channel: str
    deadline: float


@dataclass(slots=True)
class Add:
    """Write an entry of presence, or renew it."""

    channel: str
    client_id: str
    info: bytes
    ttl_seconds: float
    deadline: float


@dataclass(slots=True)
class Remove:
    """Remove an entry of presence."""

    channel: str
    client_id: str
    deadline: float


@dataclass(slots=True)
class Probe:
    """Do nothing but find out whether the database can be written."""

    deadline: float


Operation = Publish | Tell | TellNodes | OpenStream | RemoveHistory | Add | Remove | Probe

Entry = tuple[int, str, int, str, bytes]
"""Kind, channel or node, offset, epoch, record."""

_VERSION = bytes((PACKING,))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


def pack(entries: Sequence[Entry]) -> bytes:
    """Write what a transaction tells."""
    return _VERSION + _encode(entries)


def unpack(data: bytes) -> list[Entry]:
    """Read what a transaction told.

    Raises:
        UnknownRecord: It is damaged, or packed by a newer release.
    """
    if data[:1] != _VERSION:
        raise UnknownRecord(
            f"the sqlite broker's log has the version {data[:1].hex() or 'none'}, this release "
            f"reads {PACKING}: upgrade this node too"
        )
    try:
        return _decode(memoryview(data)[1:])
    except msgspec.MsgspecError as error:
        raise UnknownRecord(f"the sqlite broker's log cannot be read: {error}") from error


def size_of(operation: Operation) -> int:
    """Estimate the bytes that an operation writes."""
    match operation:
        case Publish() | Tell():
            return len(operation.record) + len(operation.channel) + OVERHEAD_BYTES
        case TellNodes():
            return len(operation.data) + OVERHEAD_BYTES
        case Add():
            return len(operation.info) + OVERHEAD_BYTES
        case _:
            return OVERHEAD_BYTES
