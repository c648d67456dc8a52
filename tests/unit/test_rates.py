"""Token buckets of commands."""

from __future__ import annotations

import pytest

from wirebell.errors import ConfigError
from wirebell.rates import CommandBuckets, CommandRates


def test_a_second_holds_so_many() -> None:
    """As many as a second allows may come at once, and one more as soon as its time is over."""
    buckets = CommandBuckets({"publish": 2.0})

    assert [True, True, False] == [buckets.take("publish", 10.0) for _ in range(3)]
    assert [False, True, False] == [buckets.take("publish", now) for now in (10.4, 10.5, 10.9)]


def test_a_bucket_does_not_overflow() -> None:
    """After a long silence it is one second's commands, and no more."""
    buckets = CommandBuckets({"publish": 2.0})

    assert buckets.take("publish", 0.0)
    assert [True, True, False] == [buckets.take("publish", 900.0) for _ in range(3)]


def test_less_than_one_in_a_second() -> None:
    """A limit below one lets one pass, then waits for as long as it says."""
    buckets = CommandBuckets({"rpc": 0.5})

    assert [True, False, True] == [buckets.take("rpc", now) for now in (0.0, 1.9, 3.9)]


def test_what_is_not_named_has_no_limit() -> None:
    """Other commands pass, and cost nothing."""
    buckets = CommandBuckets({"rpc": 1.0})

    assert all(buckets.take("publish", 0.0) for _ in range(100))
    assert {} == buckets.left


def test_a_clock_that_goes_back() -> None:
    """Time that goes back neither gives nor takes commands."""
    buckets = CommandBuckets({"rpc": 1.0})

    assert [True, False, False, True] == [buckets.take("rpc", now) for now in (5.0, 4.0, 5.5, 6.0)]


def test_no_limits() -> None:
    """Where nothing has a limit a connection has no buckets."""
    assert CommandRates({}).create_buckets() is None


def test_each_connection_has_its_own() -> None:
    """What one connection sends takes nothing from another."""
    rates = CommandRates({"rpc": 1.0})
    ours, theirs = rates.create_buckets(), rates.create_buckets()

    assert ours is not None
    assert theirs is not None
    assert [True, False, True] == [each.take("rpc", 0.0) for each in (ours, ours, theirs)]


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        ({"unknown": 1.0}, "no 'unknown', only connect, "),
        ({"rpc": 0.0}, "of 'rpc' is above 0, got 0"),
        ({"rpc": float("nan")}, "got nan"),
    ],
)
def test_bad_limits(per_second: dict[str, float], text: str) -> None:
    """An unknown command and a limit that lets nothing pass are refused by name."""
    with pytest.raises(ConfigError, match=text):
        CommandRates(per_second)
