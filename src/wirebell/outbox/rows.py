"""What a row of the outbox holds: a publication and its options, as bytes with a schema version.

Publications are written as in brokers (`wirebell.records`). Options are one byte, the schema's
version, and a MessagePack map: fields that a release does not know it leaves out.
"""

from __future__ import annotations

import msgspec

from wirebell.model import Publication, PublishOptions
from wirebell.outbox.tables import WaitingRow
from wirebell.records import SCHEMA, UnknownRecord, decode_item

__all__ = ("decode_row", "encode_options", "is_newer")

OPTIONS_SCHEMA = 1

_decoder = msgspec.msgpack.Decoder(PublishOptions)
_NOTHING = PublishOptions()


def encode_options(how: PublishOptions | None) -> bytes | None:
    """Write what holds for one publication; ``None`` for nothing."""
    return None if how is None else bytes((OPTIONS_SCHEMA,)) + msgspec.msgpack.encode(how)


def is_newer(row: WaitingRow) -> bool:
    """Tell whether a newer release wrote the row: not this one can publish it, but others can."""
    options = row.options or b"\x01"
    return row.publication[:1] > bytes((SCHEMA,)) or options[:1] > bytes((OPTIONS_SCHEMA,))


def decode_row(row: WaitingRow) -> tuple[Publication, PublishOptions]:
    """Read what is to be published, and how.

    The row's own id is the idempotency key where the application gave none, so that it is
    published once however often it is tried; and the origin, by which history shows that it was.

    Raises:
        UnknownRecord: It is damaged, or of a newer schema.
    """
    item = decode_item(row.publication)
    if not isinstance(item, Publication):
        raise UnknownRecord("a row of the outbox is no publication")
    how = _NOTHING
    if row.options is not None:
        try:
            how = _decoder.decode(memoryview(row.options)[1:])
        except msgspec.MsgspecError as error:
            raise UnknownRecord(f"options of the outbox cannot be read: {error}") from error
    key = how.idempotency_key or row.uid
    return (
        msgspec.structs.replace(item, origin=row.uid),
        msgspec.structs.replace(how, idempotency_key=key),
    )
