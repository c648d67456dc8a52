"""What a row of the outbox holds."""

from __future__ import annotations

import msgspec
import pytest

from wirebell.model import ClientInfo, Membership, PayloadFormat, Publication, PublishOptions
from wirebell.outbox.rows import decode_row, encode_options, is_newer
from wirebell.outbox.tables import WaitingRow
from wirebell.records import UnknownRecord, encode_membership, encode_publication

SAID = Publication(b"{}", PayloadFormat.JSON, key="k", tags={"a": "b"}, version=3, exclude="c")


def row(publication: bytes, options: bytes | None = None) -> WaitingRow:
    """Return a row."""
    return WaitingRow(1, "uid", "a", publication, options, 0.0)


def test_round_trip() -> None:
    """A row gives back what was published, with its id as origin and as idempotency key."""
    how = PublishOptions(version=2**64 - 1, version_epoch="e", skip_history=True)

    decoded = decode_row(row(encode_publication(SAID), encode_options(how)))

    assert msgspec.structs.replace(SAID, origin="uid") == decoded[0]
    assert msgspec.structs.replace(how, idempotency_key="uid") == decoded[1]


def test_no_options() -> None:
    """Without options there is the id alone; a key of the application's own stays."""
    own = encode_options(PublishOptions(idempotency_key="own"))
    record = encode_publication(SAID)

    assert None is encode_options(None)
    assert PublishOptions(idempotency_key="uid") == decode_row(row(record))[1]
    assert "own" == decode_row(row(record, own))[1].idempotency_key


@pytest.mark.parametrize(
    ("publication", "options"),
    [
        (b"", None),
        (b"\x01\xc1", None),
        (encode_membership(Membership(ClientInfo("c"), joined=True)), None),
        (encode_publication(SAID), b"\x01\xc1"),
        (encode_publication(SAID), b""),
    ],
)
def test_damaged(publication: bytes, options: bytes | None) -> None:
    """What cannot be read says so, and no newer release could."""
    damaged = row(publication, options)

    with pytest.raises(UnknownRecord):
        decode_row(damaged)
    assert not is_newer(damaged)


def test_newer() -> None:
    """A newer release's row is told apart from a damaged one."""
    assert is_newer(row(b"\x02rest"))
    assert is_newer(row(encode_publication(SAID), b"\x02rest"))
    assert not is_newer(row(encode_publication(SAID), encode_options(PublishOptions())))
