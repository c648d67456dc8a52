"""How publications, memberships and members stand in a broker: bytes with a schema version. Pure.

A record is one byte, the schema's version, and a MessagePack array. A later field is added at an
array's end: who does not know it leaves it out, and who misses it takes its default. So nodes of
two releases share a broker while one replaces the other. Only what cannot be read that way gets
another version, and a node that does not know it says so instead of guessing.
"""

from __future__ import annotations

import msgspec

from wirebell.errors import UnknownRecord
from wirebell.model import ChannelItem, ClientInfo, Membership, PayloadFormat, Publication

__all__ = (
    "SCHEMA",
    "UnknownRecord",
    "decode_info",
    "decode_item",
    "encode_info",
    "encode_membership",
    "encode_publication",
)

SCHEMA = 1
"""The newest version that this release reads, and the one that it writes."""


class _Info(msgspec.Struct, array_like=True, gc=False):
    """A ClientInfo."""

    client_id: str
    user_id: str = ""
    conn_info: bytes = b""
    chan_info: bytes = b""


class _Publication(msgspec.Struct, array_like=True, tag=0, gc=False):
    """A Publication without its position, which is the broker's."""

    data: bytes
    format: str = "text"
    key: str = ""
    info: _Info | None = None
    tags: dict[str, str] | None = None
    has_delta: bool = False
    version: int = 0
    exclude: str = ""
    origin: str = ""


class _Membership(msgspec.Struct, array_like=True, tag=1, gc=False):
    """A Membership."""

    info: _Info
    joined: bool


_VERSION = bytes((SCHEMA,))
_encode = msgspec.msgpack.Encoder().encode
_decode_item = msgspec.msgpack.Decoder(_Publication | _Membership).decode
_decode_info = msgspec.msgpack.Decoder(_Info).decode
# Calling an Enum costs more than decoding a small record.
_FORMATS = {each.value: each for each in PayloadFormat}


def encode_publication(publication: Publication) -> bytes:
    """Write a publication; its offset and epoch are left out."""
    info = publication.info
    return _VERSION + _encode(
        _Publication(
            publication.data,
            publication.format.value,
            publication.key,
            None if info is None else _pack(info),
            None if publication.tags is None else dict(publication.tags),
            publication.has_delta,
            publication.version,
            publication.exclude,
            publication.origin,
        )
    )


def encode_membership(membership: Membership) -> bytes:
    """Write a join or a leave."""
    return _VERSION + _encode(_Membership(_pack(membership.info), membership.joined))


def encode_info(info: ClientInfo) -> bytes:
    """Write a member of a channel."""
    return _VERSION + _encode(_pack(info))


def decode_item(data: bytes, offset: int = 0, epoch: str = "") -> ChannelItem:
    """Read a publication or a membership.

    Args:
        data: A record.
        offset: Of the publication, as the broker keeps it.
        epoch: Likewise.

    Raises:
        UnknownRecord: It is damaged, or of a newer schema.
    """
    try:
        item = _decode_item(_body(data))
        if isinstance(item, _Membership):
            return Membership(_unpack(item.info), item.joined)
        return Publication(
            item.data,
            _FORMATS[item.format],
            offset,
            epoch,
            item.key,
            None if item.info is None else _unpack(item.info),
            item.tags,
            item.has_delta,
            item.version,
            item.exclude,
            item.origin,
        )
    except (msgspec.MsgspecError, KeyError) as error:
        raise UnknownRecord(f"a record of the broker cannot be read: {error}") from error


def decode_info(data: bytes) -> ClientInfo:
    """Read a member of a channel.

    Raises:
        UnknownRecord: It is damaged, or of a newer schema.
    """
    try:
        return _unpack(_decode_info(_body(data)))
    except msgspec.MsgspecError as error:
        raise UnknownRecord(f"a record of the broker cannot be read: {error}") from error


def _body(data: bytes) -> bytes:
    """Return what stands behind the version, copied: up to kilobytes a view costs more."""
    if not data or not 1 <= data[0] <= SCHEMA:
        version = data[0] if data else "none"
        raise UnknownRecord(
            f"a record of the broker has the schema version {version}, this release reads up to "
            f"{SCHEMA}: upgrade this node too"
        )
    return data[1:]


def _pack(info: ClientInfo) -> _Info:
    """Turn a member into what is written."""
    return _Info(info.client_id, info.user_id, info.conn_info, info.chan_info)


def _unpack(info: _Info) -> ClientInfo:
    """Turn what was written into a member."""
    return ClientInfo(info.client_id, info.user_id, info.conn_info, info.chan_info)
