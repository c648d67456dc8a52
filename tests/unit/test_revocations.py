"""Which tokens are not good any more."""

from __future__ import annotations

import itertools

import pytest

from wirebell import revocations as revocations_module
from wirebell.revocations import PLACES, Marks, Revocation, Revocations, Told

ANN = Revocation("ann", "", 100.0, 1_000.0)
TOKEN = Revocation("", "t1", 0.0, 500.0)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (("ann", "", 99.0), True),
        (("ann", "", 100.0), True),
        (("ann", "", 100.5), False),
        (("ann", "", None), True),
        (("ben", "", 1.0), False),
        (("ben", "t1", 300.0), True),
        (("ann", "t1", 300.0), True),
        (("", "t1", None), True),
        (("", "t2", None), False),
        (("", "", None), False),
    ],
)
def test_refuses(token: tuple[str, str, float | None], expected: bool) -> None:
    """A user's tokens up to an instant are refused, undated ones too; a token by its id."""
    revocations = Revocations(10)
    revocations.add([ANN, TOKEN], now=200)

    assert expected == revocations.refuses(*token, now=200)


def test_nothing_is_revoked() -> None:
    """At first every token counts."""
    revocations = Revocations(10)

    assert (False, 0, []) == (
        revocations.refuses("ann", "t", None, 0),
        revocations.fingerprint,
        list(revocations),
    )


def test_ends() -> None:
    """What has ended does not count, and is forgotten in a while; what ended before is not kept."""
    revocations = Revocations(10)
    revocations.add([ANN, TOKEN], now=200)
    revocations.expire(500)
    counts = (revocations.refuses("", "t1", None, 500), len(revocations))
    revocations.expire(539)
    revocations.expire(1_000)

    assert (False, 1) == counts
    assert (0, 0) == (len(revocations), revocations.fingerprint)
    assert [] == revocations.add([ANN], now=1_000)


def test_joined() -> None:
    """What is about the same is joined to the wider; what says nothing new is not told."""
    revocations = Revocations(10)
    first = revocations.add([ANN], now=0)
    same = revocations.add([ANN, Revocation("ann", "", 50.0, 900.0)], now=0)
    wider = revocations.add([Revocation("ann", "", 50.0, 2_000.0)], now=0)

    assert ([ANN], []) == (first, same)
    assert [Revocation("ann", "", 100.0, 2_000.0)] == wider == list(revocations)


def test_order_does_not_matter() -> None:
    """Nodes that know the same have the same fingerprint, whatever came first."""
    entries = [ANN, TOKEN, Revocation("ann", "", 300.0, 400.0), Revocation("ben", "", 1.0, 900.0)]
    fingerprints = set()
    for order in itertools.permutations(entries):
        revocations = Revocations(10)
        for each in order:
            revocations.add([each], now=0)
        fingerprints.add(revocations.fingerprint)

    assert 1 == len(fingerprints)
    assert 0 < fingerprints.pop() < 1 << 63


def test_bound() -> None:
    """Past the bound the oldest is forgotten, and counted."""
    revocations = Revocations(2)
    for number in range(3):
        revocations.add([Revocation("", f"t{number}", 0.0, 10.0)], now=0)

    assert (True, 1) == (revocations.is_full, revocations.dropped_count)
    assert ["t1", "t2"] == [each.token_id for each in revocations]


def test_ends_everywhere_at_once() -> None:
    """What has ended goes at a full minute of the clock, whenever a node looked before."""
    nodes = [Revocations(10), Revocations(10)]
    for looked_at, revocations in zip((480, 535), nodes, strict=True):
        revocations.add([ANN, TOKEN], now=200)
        revocations.expire(looked_at)
        revocations.expire(541)

    assert [1, 1] == [len(revocations) for revocations in nodes]
    assert nodes[0].marks == nodes[1].marks


def test_tells_what_differs() -> None:
    """Only places with another mark are told, whole ones, and all of them to who knows nothing."""
    here, there = Revocations(1_000), Revocations(1_000)
    entries = [Revocation("", f"t{number}", 0.0, 500.0) for number in range(600)]
    here.add(entries, now=0)
    there.add(entries[1:], now=0)
    told = here.tell(Marks(tuple(there.marks)))
    everything = here.tell(Marks(()))

    assert entries[0] in told.revocations
    assert len(told.revocations) < 20
    assert (PLACES, PLACES) == (told.end, everything.end)
    assert {each.token_id for each in entries} == {each.token_id for each in everything.revocations}
    assert Told((), PLACES) == here.tell(Marks(tuple(here.marks)))
    assert there.add(told.revocations, now=0)
    assert here.fingerprint == there.fingerprint


def test_tells_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part ends behind a whole place, and the next begins there; an odd start is none."""
    monkeypatch.setattr(revocations_module, "TOLD_MAX", 10)
    here = Revocations(1_000)
    here.add([Revocation("", f"t{number}", 0.0, 500.0) for number in range(100)], now=0)
    start, parts = -5, []
    while start < PLACES:
        told = here.tell(Marks((), start))
        parts.append(len(told.revocations))
        start = told.end

    assert 100 == sum(parts)
    assert all(10 <= count < 20 for count in parts[:-1])
