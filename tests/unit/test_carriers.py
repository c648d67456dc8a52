"""Which carrier a socket gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.fakes import FakePeer
from tests.unit.sockets import FakeTakeover
from wirebell.carriers import create_carrier, create_portable
from wirebell.liveness import PingRing
from wirebell.portable import Writers
from wirebell.settings import Settings
from wirebell.transports.asgi_websocket import ASGIWebSocket
from wirebell.transports.engine_websocket import EngineWebSocket

pytestmark = pytest.mark.anyio

RING = PingRing(25.0, 8.0)


def create(scope: dict[str, Any]) -> ASGIWebSocket | EngineWebSocket:
    """Create a carrier."""
    peer = FakePeer()
    return create_carrier(scope, peer.receive, peer.send, Settings(), RING, Writers())


async def test_taken_over() -> None:
    """Where the server lets a socket go it is taken over."""
    takeover = FakeTakeover()

    assert isinstance(create({"extensions": {"wirebell.takeover": takeover}}), EngineWebSocket)


@pytest.mark.parametrize("scope", [{}, {"extensions": None}, {"extensions": {}}])
async def test_through_the_server(scope: dict[str, Any]) -> None:
    """Everywhere else it is written through the server."""
    assert isinstance(create(scope), ASGIWebSocket)


class Protocol:
    """A server's protocol class that owns its transport, as Uvicorn's do."""

    def __init__(self, transport: object) -> None:
        self.transport = transport

    async def receive(self) -> None:
        """Give the application nothing."""


@pytest.mark.parametrize(
    ("transport", "is_found"),
    [(SimpleNamespace(abort=lambda: None), True), (SimpleNamespace(), False), (None, False)],
)
async def test_dropping_the_link(transport: object, is_found: bool) -> None:
    """The link can be dropped where the server's transport is within reach, wrapped or not."""
    server, peer = Protocol(transport), FakePeer()

    direct = create_portable({}, server.receive, peer.send, Settings(), Writers())
    wrapped = create_portable(
        {}, peer.receive, peer.send, Settings(), Writers(), raw_receive=server.receive
    )

    assert (is_found, is_found) == (direct.abort is not None, wrapped.abort is not None)
