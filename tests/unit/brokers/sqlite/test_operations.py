"""How what crosses workers is packed, and how large operations are."""

from __future__ import annotations

import pytest

from wirebell.brokers.sqlite.operations import (
    CONTROL,
    ITEM,
    Add,
    Entry,
    Operation,
    Probe,
    Publish,
    Tell,
    TellNodes,
    pack,
    size_of,
    unpack,
)
from wirebell.model import ClientInfo, Membership, Publication
from wirebell.records import UnknownRecord

ENTRIES: list[Entry] = [
    (ITEM, "späť \x00", 2**40, "e", b"\x01\xff\x00"),
    (CONTROL, "", 0, "", b""),
]


def test_packing() -> None:
    """What is packed comes out as it was."""
    assert ENTRIES == unpack(pack(ENTRIES))


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x01", b"\x01\x91\x00", pack(ENTRIES)[:-3]])
def test_what_cannot_be_unpacked(data: bytes) -> None:
    """What is damaged, or packed by a newer release, is said to be unknown."""
    with pytest.raises(UnknownRecord, match="sqlite broker's log"):
        unpack(data)


@pytest.mark.parametrize(
    ("operation", "size"),
    [
        (Publish("abc", Publication(b"x"), b"12345", None, None, 0), 8 + 64),
        (Tell("abc", Membership(ClientInfo("c"), joined=True), b"12", 0), 5 + 64),
        (TellNodes("", b"1234", 0), 4 + 64),
        (Add("abc", "c", b"1234", 1, 0), 4 + 64),
        (Probe(0), 64),
    ],
)
def test_sizes(operation: Operation, size: int) -> None:
    """An operation has the size of what it carries, and something for its row."""
    assert size == size_of(operation)
