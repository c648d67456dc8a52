"""What the sockets of one uvicorn server share: pings, the drain, the reserve of descriptors."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.unit.clocks import pass_time
from tests.unit.sockets import FakeLink, FakeSocket
from wirebell.process import PROCESS
from wirebell.settings import Settings
from wirebell.uvicorn.host import ServerHost, host_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _counters() -> Iterator[None]:
    """Put the process' counters back."""
    before = (PROCESS.drained_count, PROCESS.aborted_count)
    yield
    PROCESS.drained_count, PROCESS.aborted_count = before


class FakePeer:
    """A peer of the ring that answers all its pings."""

    def __init__(self) -> None:
        self.unheard_since: int | None = None
        self.ping_slot = -1
        self.pinged_at: list[float] = []

    def send_ping(self) -> None:
        """Note the time, and answer."""
        self.pinged_at.append(asyncio.get_running_loop().time())
        self.unheard_since = None

    def handle_silence(self) -> None:
        """Is never called."""
        raise AssertionError


def create(settings: Settings | None = None, *, connections: int = 0, **options: Any) -> ServerHost:
    """Make the host of a server that has so many connections."""
    state = ServerState()
    state.connections.update(object() for _ in range(connections))  # type: ignore[misc]
    config = uvicorn.Config("app:app", log_config=None, **options)
    return ServerHost(config, state, settings or Settings())


def test_one_host_for_a_server() -> None:
    """The connections of a server share one host; another server has its own."""
    config, one, two = uvicorn.Config("a:a", log_config=None), ServerState(), ServerState()

    host = host_of(config, one)

    assert host is host_of(config, one)
    assert host is not host_of(config, two)
    assert (one.tasks is host.tasks, one.connections is host.connections) == (True, True)


def test_host_goes_with_its_server() -> None:
    """A server that is gone leaves nothing behind."""
    import weakref

    state = ServerState()
    host = weakref.ref(host_of(uvicorn.Config("a:a", log_config=None), state))

    del state
    gc.collect()

    assert host() is None


# Pings


@pytest.mark.parametrize("interval", [None, 0.0])
def test_no_pings(interval: float | None) -> None:
    """Without an interval there is no ring, and nothing to turn."""
    host = create(ws_ping_interval=interval)

    host.start_pings()

    assert (None, False) == (host.ring, host.is_ringing)


@pytest.mark.parametrize(("timeout", "steps"), [(5.0, 50), (None, 36_000), (0.0, 36_000)])
def test_flags_of_uvicorn(timeout: float | None, steps: int) -> None:
    """The ring has uvicorn's times; without a time-out a peer has an hour."""
    host = create(ws_ping_interval=10.0, ws_ping_timeout=timeout)

    assert host.ring is not None
    assert steps == host.ring.timeout_steps
    assert pytest.approx(0.1) == host.ring.step_seconds


async def test_ring_turns_while_there_are_peers() -> None:
    """The ring turns in time as long as somebody stands in it, and again for the next."""
    host = create(ws_ping_interval=1.0)
    ring, one, two = host.ring, FakePeer(), FakePeer()
    assert ring is not None
    ring.add(one)
    host.start_pings()
    host.start_pings()
    await pass_time(3.01)
    was_ringing = host.is_ringing
    ring.remove(one)
    await pass_time(0.5)
    stopped_at, is_ringing = ring.number, host.is_ringing

    ring.add(two)
    host.start_pings()
    await pass_time(1.05)

    assert (True, False, 60) == (was_ringing, is_ringing, stopped_at)
    assert [pytest.approx(1.0)] * (len(one.pinged_at) - 1) == [
        later - earlier for earlier, later in zip(one.pinged_at, one.pinged_at[1:], strict=False)
    ]
    assert (3, 1) == (len(one.pinged_at), len(two.pinged_at))


# The drain


async def drain(host: ServerHost, count: int) -> list[float]:
    """Plan a drain, and return when each connection was closed, in seconds from its start."""
    loop = asyncio.get_running_loop()
    start, closed_at = loop.time(), list[float]()
    for _ in range(count):
        host.plan_drain(lambda: closed_at.append(loop.time() - start))
    await pass_time(20)
    return closed_at


async def test_a_few_connections_are_closed_soon() -> None:
    """Fewer than a hundred a second are not spread any thinner than that."""
    host = create(connections=5)

    assert [pytest.approx(0.01 * number, abs=1e-6) for number in range(5)] == await drain(host, 5)


async def test_many_connections_are_spread_over_the_window() -> None:
    """The last of many is closed at the end of the window, the first at once."""
    host = create(Settings(drain_window_seconds=2.0), connections=1_000)

    closed_at = await drain(host, 1_000)

    assert 0.0 == closed_at[0]
    assert pytest.approx(2.0, abs=0.003) == closed_at[-1]
    assert sorted(closed_at) == closed_at


@pytest.mark.parametrize(
    ("options", "window"),
    [({"timeout_graceful_shutdown": 2}, 1.0), ({"timeout_graceful_shutdown": 100}, 5.0)],
)
async def test_deadline_of_uvicorn(options: dict[str, Any], window: float) -> None:
    """The window ends well before uvicorn's own deadline, and is not longer for a late one."""
    host = create(connections=1_000, **options)

    closed_at = await drain(host, 1_000)

    assert pytest.approx(window, abs=0.01) == closed_at[-1]


@pytest.mark.parametrize(
    "host",
    [
        create(connections=1_000, reload=True),
        create(Settings(drain_window_seconds=0), connections=1_000),
        create(connections=1_000, timeout_graceful_shutdown=0),
    ],
    ids=["reload", "no window", "no time"],
)
async def test_drain_at_once(host: ServerHost) -> None:
    """Without a window, and for a developer's reload, everybody is closed at once."""
    closed: list[int] = []

    for number in range(10):
        host.plan_drain(lambda number=number: closed.append(number))  # type: ignore[misc]

    assert list(range(10)) == closed


async def test_drain_of_nobody() -> None:
    """A connection that is not counted any more is closed all the same; drained ones count."""
    host, before = create(), PROCESS.drained_count

    assert [0.0] == await drain(host, 1)
    assert 1 == PROCESS.drained_count - before


async def test_abort() -> None:
    """A link that did not end in time is cut and counted."""
    host, before = create(), PROCESS.aborted_count
    socket = FakeSocket(asyncio.Protocol())

    host.abort(socket)

    assert (True, 1) == (socket.is_aborted, PROCESS.aborted_count - before)


# Descriptors


@pytest.mark.parametrize(
    ("limit", "number", "is_free"),
    [(1_000, 20, True), (1_000, 935, True), (1_000, 936, False), (1_000, 999, False)],
)
def test_descriptors(
    limit: int, number: int, is_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose descriptor is among the last 64 is one too many."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    host = create(Settings(descriptors_spare=64))

    transport = FakeSocket(socket=FakeLink(number=number))

    assert is_free == host.has_descriptor(transport)


def test_a_small_limit_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit as small as the reserve a connection can still be served."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    host = create(Settings(descriptors_spare=64))

    assert host.has_descriptor(FakeSocket(socket=FakeLink(number=20)))


def test_no_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit, or without a socket to ask, there is room."""
    resource = pytest.importorskip("resource")
    host = create()
    assert host.has_descriptor(FakeSocket())

    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    assert host.has_descriptor(FakeSocket(socket=FakeLink(number=10_000_000)))
