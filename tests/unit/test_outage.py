"""What peers and callers are told while the broker is away."""

from __future__ import annotations

import logging

import pytest

from tests.unit.clients import Peer
from tests.unit.clocks import turns
from tests.unit.exchange import Site, joined
from tests.unit.fakes import FakeTransport
from tests.unit.orders import running
from wirebell.transports.plain import PlainOptions, PlainReceiver

pytestmark = pytest.mark.anyio

TEMPORARY = {"code": 100, "message": "internal server error", "temporary": True}


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the records that carry a traceback."""
    return [record.message for record in caplog.records if record.exc_info]


def create_plain(site: Site, transport: FakeTransport) -> PlainReceiver:
    """Create a plain socket that publishes what it says."""
    return PlainReceiver(site.node, transport, PlainOptions(channels=("x",), publish="x"))


async def test_a_client_publishes(caplog: pytest.LogCaptureFixture) -> None:
    """It is told that it may try again, and the log says once that the broker is away."""
    async with joined("a") as (a,):
        ann = Peer(a)
        await ann.connect()
        a.link.cut()
        command = {"channel": "x", "data": 1}
        answers = [await ann.ask({"id": 2, "publish": command}) for _ in range(3)]
        subscribed = await ann.ask({"id": 3, "subscribe": {"channel": "y"}})
        a.link.heal()
        again = await ann.ask({"id": 4, "publish": command})

        assert [[{"id": 2, "error": TEMPORARY}]] * 3 == answers
        assert [{"id": 3, "error": TEMPORARY}] == subscribed
        assert [{"id": 4, "publish": {}}] == again
        assert [] == ann.closed
        assert 3 == a.node.statistics.publish_error_count
    assert [] == tracebacks(caplog)
    assert 1 == sum("the broker failed" in text for text in caplog.messages)


async def test_a_plain_socket_publishes(caplog: pytest.LogCaptureFixture) -> None:
    """It is told so, and stays."""
    async with joined("a") as (a,):
        transport = FakeTransport()
        receiver = create_plain(a, transport)
        await receiver.connect("10.0.0.1")
        a.link.cut()
        work = receiver.receive_text("hello")
        if work is not None:
            await work
        await turns()

        assert ['{"error": {"code": 100, "message": "internal server error"}}'] == (
            transport.messages
        )
        assert [] == transport.closed
        receiver.receive_eof()
    assert [] == tracebacks(caplog)


async def test_a_caller_publishes(caplog: pytest.LogCaptureFixture) -> None:
    """The server API answers a temporary error, with a line in the log."""
    caplog.set_level(logging.WARNING)
    async with running() as board:
        await board.rt.node().broker.aclose()
        answer = await board.post("publish", {"channel": "news:1", "data": 1})

        assert {"error": TEMPORARY} == answer
        assert 1 == board.rt.node().statistics.publish_error_count
    assert [] == tracebacks(caplog)
    assert "publish of the server API failed: the memory broker is not running" in caplog.text
