"""Limits of how many."""

from __future__ import annotations

import pytest

from wirebell.admission import Admission, Limit, Refusal
from wirebell.settings import Settings


def test_no_limit() -> None:
    """Without limits everybody is admitted."""
    admission = Admission(Settings())

    refusals = {admission.admit("a", 0.0) for _ in range(100)}

    assert {None} == refusals
    assert admission.connection_count == 100
    assert admission.admit_user("ann") is None


def test_connections_max() -> None:
    """One connection more than the limit is refused until one leaves."""
    admission = Admission(Settings(connections_max=1))

    assert admission.admit("a", 0.0) is None
    reason = "connection limit of 1 reached, try again later"
    assert admission.admit("b", 0.0) == Refusal(Limit.CONNECTIONS, reason)
    admission.release("a")
    assert admission.admit("b", 0.0) is None


def test_per_address() -> None:
    """An address has a limit of its own; others, and an unknown one, are not touched."""
    admission = Admission(Settings(connections_per_address_max=1))

    assert admission.admit("a", 0.0) is None
    refusal = admission.admit("a", 0.0)
    reason = "limit of 1 connections per address reached, try again later"
    assert refusal == Refusal(Limit.ADDRESS, reason)
    assert [None, None, None] == [admission.admit(name, 0.0) for name in ("b", "", "")]


def test_per_second() -> None:
    """New connections are limited within a second, and the next one starts at none."""
    admission = Admission(Settings(connections_per_second_max=1))

    assert admission.admit("a", 7.0) is None
    refusal = admission.admit("a", 7.9)
    reason = "limit of 1 new connections per second reached, try again later"
    assert refusal == Refusal(Limit.RATE, reason)
    assert admission.admit("a", 8.0) is None


def test_refused_is_not_counted() -> None:
    """Who was refused takes no place, neither in all nor in the second."""
    admission = Admission(Settings(connections_per_address_max=1, connections_per_second_max=2))
    admission.admit("a", 0.0)

    refusals = [admission.admit("a", 0.0) for _ in range(5)]

    assert None not in refusals
    assert (1, 1) == (admission.connection_count, admission.second_count)
    assert admission.admit("b", 0.0) is None


def test_per_user() -> None:
    """A user has a limit over all addresses."""
    admission = Admission(Settings(connections_per_user_max=2))

    assert [None, None] == [admission.admit_user("ann"), admission.admit_user("ann")]
    refusal = admission.admit_user("ann")
    reason = "limit of 2 connections per user reached, try again later"
    assert refusal == Refusal(Limit.USER, reason)
    admission.release_user("ann")
    assert admission.admit_user("ann") is None


def test_nothing_is_left_behind() -> None:
    """When all have left there is no entry of any address or user."""
    admission = Admission(Settings())
    for _ in range(2):
        admission.admit("a", 0.0)
        admission.admit_user("ann")

    for _ in range(2):
        admission.release("a")
        admission.release_user("ann")

    assert (0, {}, {}) == (admission.connection_count, admission.by_address, admission.by_user)


def test_release_is_owed_once() -> None:
    """Releasing what was never admitted is a bug, and is found."""
    admission = Admission(Settings())

    with pytest.raises(AssertionError):
        admission.release("a")
    with pytest.raises(AssertionError):
        admission.release_user("ann")
