"""Which stream keeps what, and the epochs of channels without anything."""

from __future__ import annotations

import pytest

from wirebell.broker_options import NATSOptions
from wirebell.brokers.nats.addresses import read_place
from wirebell.brokers.nats.link import Link
from wirebell.brokers.nats.reading import Question, bounds_of
from wirebell.brokers.nats.streams import Streams, epoch_of
from wirebell.model import History

pytestmark = pytest.mark.anyio


async def create_streams() -> Streams:
    """Make the streams of a place that nobody reaches."""

    async def prepare(_: object) -> None:
        """Do nothing."""

    place = read_place(NATSOptions())
    return Streams(place, Link(place, prepare, lambda: None), b"node")


@pytest.mark.parametrize(
    ("size", "meta_ttl", "name"),
    [
        (1, 600.0, b"wirebell-h-1-10"),
        (2, 511.0, b"wirebell-h-2-9"),
        (3, 512.0, b"wirebell-h-4-10"),
        (100, 30 * 86400.0, b"wirebell-h-128-22"),
        (128, 1.0, b"wirebell-h-128-9"),
        (129, 1.0, b"wirebell-h-256-9"),
    ],
)
async def test_kept(size: int, meta_ttl: float, name: bytes) -> None:
    """Sizes and ages are rounded up to powers of two; the same ones share a stream."""
    streams = await create_streams()

    stream = streams.kept(History(size, min(1.0, meta_ttl), meta_ttl))

    assert name == stream.name
    assert stream is streams.kept(History(size, min(1.0, meta_ttl), meta_ttl))
    assert stream is streams.known(name)
    assert stream.config["max_msgs_per_subject"] >= size
    assert stream.config["max_age"] >= meta_ttl * 1e9


async def test_known() -> None:
    """A stream is known by its name, also before anything was published; others are not."""
    streams = await create_streams()

    stream = streams.known(b"wirebell-h-64-22")

    assert stream is not None
    assert b"wirebell-h-64-22" == stream.name
    assert stream is streams.kept(History(size=50))
    assert streams.known(b"wirebell-h-x-1") is None
    assert streams.known(b"wirebell-h-1") is None


def test_epochs() -> None:
    """An epoch is the same everywhere, and another after the meta ttl, or in another stream."""
    one = epoch_of("life", b"a", 100.0, 1000.0)

    assert 8 == len(one)
    assert one != epoch_of("life", b"b", 100.0, 1000.0)
    assert one != epoch_of("other", b"a", 100.0, 1000.0)
    for seconds in (100.0, 150.0, 1000.0):
        assert one != epoch_of("life", b"a", 100.0, 1000.0 + seconds)
    # It changes once within that time.
    assert 2 == len({epoch_of("life", b"a", 100.0, 1000.0 + each) for each in range(100)})


@pytest.mark.parametrize(
    ("since", "limit", "reverse", "expected"),
    [
        (None, 100, False, (11, 20)),
        (15, 100, False, (16, 20)),
        (5, 100, False, (11, 20)),
        (20, 100, False, (21, 20)),
        (2**64 - 1, 1, False, (2**64, 20)),
        (None, 2, True, (19, 20)),
        (15, 2, True, (13, 14)),
        (12, 5, True, (11, 11)),
        (0, 5, True, (11, -1)),
        (None, 0, False, (1, 0)),
    ],
)
def test_bounds(since: int | None, limit: int, reverse: bool, expected: tuple[int, int]) -> None:
    """What is asked for lies between the size, what was removed, and a position."""
    question = Question(b"a", History(size=10), since, limit, reverse)

    assert expected == bounds_of(question, 20, 1)
    assert bounds_of(question, 20, 15)[0] >= (15 if limit else 1)
