"""Commands of a stream that come to another node than the one that has the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.unit.clients import FakeAccess
from tests.unit.clocks import turns
from tests.unit.exchange import Site, joined
from wirebell import live
from wirebell.control import QUESTION_BYTES_MAX
from wirebell.errors import HandshakeError
from wirebell.live import Live, OriginPolicy
from wirebell.options import ClientOptions, TransportOptions
from wirebell.portable import Writers

pytestmark = pytest.mark.anyio


class Stream:
    """A carrier whose peer speaks by other requests; its handler waits when told."""

    def __init__(self) -> None:
        self.received: list[str | bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def receive_message(self, data: str | bytes) -> None:
        """Note a message."""
        self.received.append(data)
        await self.gate.wait()


def create_live(site: Site) -> Live:
    """Create the live endpoints of a node."""
    live = Live(
        lambda: site.node,
        site.node.settings,
        TransportOptions.create_all(),
        ClientOptions(),
        OriginPolicy((), is_standalone=False, setting="X"),
        lambda _: FakeAccess(),
        Writers(),
    )
    live.answer_for(site.node)
    return live


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Site, Live, Site, Live]]:
    """Run two nodes with their live endpoints."""
    async with joined("a", "b") as (a, b):
        yield a, create_live(a), b, create_live(b)


async def test_forwarded() -> None:
    """Commands reach the stream on whichever node it is, in the order of their coming."""
    async with two() as (_, here, b, there):
        stream = Stream()
        there._sessions().add("s", stream)
        stream.gate.clear()
        answers = [
            await here.deliver(b.node.node_id, "s", text, is_binary)
            for text, is_binary in ((b"1", False), (b"2", True), (b"3", False))
        ]
        await turns()

        assert [True, True, True] == answers
        assert ["1", b"2", "3"] == stream.received
        stream.gate.set()


async def test_of_this_node() -> None:
    """Commands of a stream of this node stay here."""
    async with two() as (a, here, _, _there):
        stream = Stream()
        here._sessions().add("s", stream)
        calls = len(a.link.calls)

        assert await here.deliver(a.node.node_id, "s", b"1", False)
        assert (["1"], calls) == (stream.received, len(a.link.calls))


async def test_unknown() -> None:
    """A node that nobody knows is told apart from a session that has ended (404 and 204)."""
    async with two() as (_, here, b, _there):
        assert not await here.deliver("nobody", "s", b"1", False)
        assert await here.deliver(b.node.node_id, "ended", b"1", False)


async def test_too_long() -> None:
    """What no broker would carry is refused: 413."""
    async with two() as (_, here, b, _there):
        with pytest.raises(HandshakeError, match="at most 1000000 bytes") as raised:
            await here.deliver(b.node.node_id, "s", bytes(QUESTION_BYTES_MAX), True)

        assert 413 == raised.value.status


async def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for other nodes are bounded, so that orders to these go on: 503."""
    monkeypatch.setattr(live, "FORWARDING_MAX", 1)
    async with two() as (a, here, b, _there):
        b.link.is_slow = True
        first = asyncio.create_task(here.deliver(b.node.node_id, "s", b"1", False))
        await turns()
        with pytest.raises(HandshakeError, match="1 requests wait for other nodes"):
            await here.deliver(b.node.node_id, "s", b"2", False)
        b.link.let_go()

        assert await first
        assert (0, True) == (here.forwarding_count, a.link.is_connected)


async def test_no_answer() -> None:
    """A node that does not answer in time, or cannot be asked: 503."""
    async with two() as (a, here, b, _there):
        b.link.is_slow = True
        with pytest.raises(HandshakeError, match="no answer within 3 s of: b") as raised:
            await here.deliver(b.node.node_id, "s", b"1", False)
        a.link.cut()
        with pytest.raises(HandshakeError, match="away") as cut:
            await here.deliver(b.node.node_id, "s", b"1", False)

        assert (503, 503) == (raised.value.status, cut.value.status)
