"""The quick groups of the Autobahn test suite; `scripts/conformance` runs all of them."""

from __future__ import annotations

from tests.conformance.autobahn import PASSED, run

QUICK = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
"""Framing, pings, reserved bits, opcodes, fragments, UTF-8, closing; not the long and deflate."""
QUICK_COUNT = 247


def test_our_class_passes_the_quick_groups() -> None:
    """No case fails, neither in what happens nor in how it closes."""
    outcomes = run("wirebell-uvloop-httptools", QUICK, seconds=100)

    assert {} == {case: found for case, found in outcomes.items() if found not in PASSED}
    assert QUICK_COUNT == len(outcomes)


def test_a_failure_is_seen() -> None:
    """Uvicorn's own class fails one case of group 7, so a pass means something."""
    outcomes = run("uvicorn-websockets-sansio", ("7.1.5", "7.1.6"), seconds=100)

    assert {"7.1.5"} == {case for case, found in outcomes.items() if found not in PASSED}
