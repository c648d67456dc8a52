"""The outbox's statements, on SQLite; the integration tests run them on PostgreSQL as well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, inspect, text, update

from tests.unit.outbox.outboxes import Database, database
from wirebell.model import ClientInfo, Membership, PayloadFormat, Publication, PublishOptions
from wirebell.outbox.tables import (
    LEASE,
    METADATA,
    OUTBOX,
    Measured,
    Settled,
    WaitingRow,
    claim,
    create_tables,
    decode_row,
    encode_options,
    find_missing,
    has_waiting,
    is_newer,
    measure,
    release,
    settle,
)
from wirebell.records import UnknownRecord, encode_membership, encode_publication

SAID = Publication(b"{}", PayloadFormat.JSON, key="k", tags={"a": "b"}, version=3, exclude="c")


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Database]:
    """Make a database with an outbox."""
    with database(tmp_path) as made:
        yield made


def take(found: Database, holder: str, rows_max: int = 10) -> list[WaitingRow] | None:
    """Claim the lease for a minute."""
    return found.now(lambda link: claim(link, holder, lease_seconds=60, rows_max=rows_max))


NOTHING = Settled()


def finish(
    found: Database,
    holder: str,
    settled: Settled = NOTHING,
    *,
    rows_max: int = 10,
    skipped: tuple[str, ...] = (),
) -> list[int]:
    """Settle, and return the ids that were read."""
    rows = found.now(
        lambda link: settle(
            link, holder, settled, lease_seconds=60, rows_max=rows_max, skipped=skipped
        )
    )
    return [row.id for row in rows]


def test_create_tables_again(found: Database) -> None:
    """Making what is there changes nothing; what is missing is named."""
    found.write(("a", "1"))
    found.now(create_tables)
    before = found.now(find_missing)
    found.now(lambda link: link.execute(text("DROP TABLE wirebell_outbox_lease")))

    assert ([], ["wirebell_outbox_lease"]) == (before, found.now(find_missing))
    assert ["a"] == found.waiting()
    names = {"wirebell_outbox_waiting", "wirebell_outbox_aside"}
    indexes = inspect(found.engine).get_indexes("wirebell_outbox")
    assert names == {each["name"] for each in indexes}
    assert ["wirebell_outbox", "wirebell_outbox_lease"] == sorted(METADATA.tables)


def test_one_holder(found: Database) -> None:
    """Who has the lease can take it again, others cannot before it ends or is given back."""
    found.write(("a", "1"))
    mine, again = take(found, "one"), take(found, "one")
    theirs = take(found, "two")
    found.now(lambda link: release(link, "two"))
    still = take(found, "two")
    found.now(lambda link: link.execute(update(LEASE).values(expires_at=time.time() - 1)))
    late = take(found, "two")

    assert [None, None] == [theirs, still]
    assert 1 == len(mine or ()) == len(again or ()) == len(late or ())


def test_rows_are_read_in_order(found: Database) -> None:
    """The oldest ids come first, at most so many, with what was written."""
    found.write(("a", "1"), ("b", "2"), ("a", "3"))
    rows = take(found, "one", rows_max=2) or []

    assert [(1, "a"), (2, "b")] == [(row.id, row.channel) for row in rows]
    assert all(0 <= row.age_seconds < 60 and len(row.uid) == 32 for row in rows)
    assert rows[0].options is None


def test_nothing_to_read_gives_the_lease_back(found: Database) -> None:
    """Whoever finds nothing has no lease afterwards."""
    empty = take(found, "one")

    assert [] == empty == take(found, "two")
    assert not found.now(has_waiting)


def test_settle(found: Database) -> None:
    """Published rows go, others are put aside with a reason, and what follows is read."""
    found.write(*((f"{number}", "x") for number in range(1, 6)))
    take(found, "one")
    left = finish(found, "one", Settled([1, 2], [(3, "too long")]))
    skipping = finish(found, "one", skipped=("4",))
    nothing = finish(found, "one", rows_max=0)
    after = take(found, "two")

    assert ([4, 5], [5], []) == (left, skipping, nothing)
    assert {"3": "too long", "4": None, "5": None} == found.reasons()
    assert [4, 5] == [row.id for row in after or ()]


def test_settle_without_the_lease(found: Database) -> None:
    """What was published is removed all the same; nothing more is read."""
    found.write(("a", "1"), ("a", "2"))
    take(found, "one")
    found.now(lambda link: link.execute(update(LEASE).values(holder="two")))

    assert [] == finish(found, "one", Settled([1]))
    assert ["a"] == found.waiting()
    assert None is take(found, "one")


def test_measure(found: Database) -> None:
    """Waiting and set aside rows are counted, and the oldest waiting one has an age."""
    empty = found.now(measure)
    found.write(("a", "1"), ("a", "2"), ("a", "3"))
    aged = update(OUTBOX).where(OUTBOX.c.id == 2).values(created_at=time.time() - 100)
    found.now(lambda link: link.execute(aged))
    take(found, "one")
    finish(found, "one", Settled((), [(1, "x")]))
    measured = found.now(measure)

    assert Measured(0, 0.0, 0) == empty
    assert (2, 1) == (measured.waiting_count, measured.aside_count)
    assert 100 <= measured.oldest_seconds < 160


def test_ids_do_not_come_again(found: Database) -> None:
    """An id that was used is not used again, even of the newest row."""
    found.write(("a", "1"))
    found.now(lambda link: link.execute(delete(OUTBOX)))
    found.write(("a", "2"))

    assert [2] == [row.id for row in take(found, "one") or ()]


def test_without_a_row_of_the_lease(found: Database) -> None:
    """Migrations make no row, and somebody may empty the tables: the second try has the lease."""
    found.write(("a", "1"))
    found.now(lambda link: link.execute(delete(LEASE)))
    first, second = take(found, "one"), take(found, "one")

    assert (None, 1) == (first, len(second or ()))


def row(publication: bytes, options: bytes | None = None) -> WaitingRow:
    """Return a row."""
    return WaitingRow(1, "uid", "a", publication, options, 0.0)


def test_a_row_round_trip() -> None:
    """A row gives back what was published, with its id as origin and as idempotency key."""
    how = PublishOptions(version=2**64 - 1, version_epoch="e", skip_history=True)

    decoded = decode_row(row(encode_publication(SAID), encode_options(how)))

    assert msgspec.structs.replace(SAID, origin="uid") == decoded[0]
    assert msgspec.structs.replace(how, idempotency_key="uid") == decoded[1]


def test_a_row_without_options() -> None:
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
def test_a_damaged_row(publication: bytes, options: bytes | None) -> None:
    """What cannot be read says so, and no newer release could."""
    damaged = row(publication, options)

    with pytest.raises(UnknownRecord):
        decode_row(damaged)
    assert not is_newer(damaged)


def test_a_newer_row() -> None:
    """A newer release's row is told apart from a damaged one."""
    assert is_newer(row(b"\x02rest"))
    assert is_newer(row(encode_publication(SAID), b"\x02rest"))
    assert not is_newer(row(encode_publication(SAID), encode_options(PublishOptions())))
