"""Uvicorn's protocol class: pings, and sockets that are taken over."""

from __future__ import annotations

import pytest
from uvicorn.protocols.utils import ClientDisconnected

from tests.unit.clocks import pass_time, turns
from tests.unit.sockets import PING, PONG, close_of, closed, masked, said
from tests.unit.uvicorn.endpoints import DEFLATE, Served, opened
from wirebell.takeover import Successor
from wirebell.websocket.deflate import Deflate

pytestmark = pytest.mark.anyio


async def test_pong() -> None:
    """A peer's ping is answered with its data; its pong is nothing."""
    served = await opened()

    served.socket.receive(masked(PING, b"data"), masked(PONG, b"data"))

    assert [(PONG, b"data")] == served.frames


async def test_no_pong_for_a_peer_that_does_not_read() -> None:
    """To a peer that does not read no pong is written: it would only add to what waits."""
    served = await opened()
    served.socket.get_stuck()

    served.socket.receive(masked(PING, b"data"))

    assert [] == served.frames


async def test_pings() -> None:
    """A peer is pinged in uvicorn's interval, and one that answers stays."""
    served = await opened(ws_ping_interval=20.0, ws_ping_timeout=20.0)

    for _ in range(5):
        await pass_time(20)
        served.socket.receive(masked(PONG))

    assert {(PING, b"")} == set(served.frames)
    assert 4 <= len(served.frames) <= 5
    assert not served.socket.is_closing()


async def test_silence() -> None:
    """A peer that does not answer in uvicorn's time is given up, and the ring stops with it."""
    served = await opened(ws_ping_interval=20.0, ws_ping_timeout=20.0)

    await pass_time(41)

    assert close_of(1011, "keepalive ping timeout") == served.frames[-1]
    assert 1 == len([frame for frame in served.frames if frame[0] == 8])
    assert "websocket.disconnect" == (await served.endpoint.receive())["type"]
    await pass_time(21)
    assert not served.protocol.host.is_ringing


async def test_silence_of_a_peer_that_is_closed_already() -> None:
    """Who was sent a close frame already is only dropped."""
    served = await opened()
    await served.endpoint.send({"type": "websocket.close"})

    served.protocol.handle_silence()

    assert ([close_of(1000)], True) == (served.frames, served.socket.is_closing())


async def test_who_is_not_pinged() -> None:
    """A peer that does not read, or is being closed, is not pinged."""
    stuck, closing = await opened(), await opened()
    stuck.socket.get_stuck()
    await closing.endpoint.send({"type": "websocket.close"})

    stuck.protocol.send_ping()
    closing.protocol.send_ping()

    assert ([], [close_of(1000)]) == (stuck.frames, closing.frames)


async def test_who_was_not_pinged_is_not_silent() -> None:
    """A peer that was paused when its turn came, and reads again, has nothing to answer."""
    served = await opened(ws_ping_interval=20.0, ws_ping_timeout=5.0)
    served.socket.get_stuck()
    await pass_time(20.1)

    served.socket.flow()
    await pass_time(9)

    assert [] == [frame for frame in served.frames if frame[0] == 8]


async def test_who_we_do_not_read_is_not_silent() -> None:
    """A peer whose pongs we leave in the socket, behind a full inbox, cannot answer."""
    served = await opened(ws_ping_interval=20.0, ws_ping_timeout=5.0, ws_max_queue=1)
    served.socket.receive(said("1"))
    assert not served.socket.is_reading()

    await pass_time(50)

    assert [] == [frame for frame in served.frames if frame[0] == 8]


# The take-over


class FakeSuccessor(Successor):
    """A protocol that notes what it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.calls: list[str] = []

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        self.calls.append("lost")

    def shutdown(self) -> None:
        """Note it."""
        self.calls.append("shutdown")


async def test_take_over() -> None:
    """The socket goes with what was read of it; the old protocol is forgotten."""
    served = await opened(DEFLATE, ws_ping_interval=20.0, ws_max_queue=3)
    half = said("3")
    ping = masked(PING, b"owed")
    served.socket.receive(said("1"), masked(2, b"2"), half[:4])
    served.socket.get_stuck()
    served.socket.receive(half[4:], ping, half[:4])
    successor = FakeSuccessor()

    taken = served.endpoint.scope["extensions"]["wirebell.takeover"].take_over(successor)
    served.socket.receive(half[4:])

    assert taken is not None
    assert ["1", b"2", "3"] == taken.events
    assert (True, b"owed", Deflate()) == (taken.is_paused, taken.late_pong, taken.deflate)
    assert (served.socket, ["3"]) == (taken.transport, taken.reader.receive_data(successor.data))
    ring = served.protocol.host.ring
    assert ring is not None
    assert ([successor], 0) == (list(served.protocol.host.connections), ring.peer_count)
    await served.endpoint.end()
    assert (False, True) == (served.socket.is_closing(), served.is_done)


async def test_after_the_take_over() -> None:
    """The endpoint can neither receive nor send any more, and its failure harms nobody."""
    served = await opened()
    taken = served.protocol.take_over(FakeSuccessor())

    assert taken is not None
    assert "websocket.disconnect" == (await served.endpoint.receive())["type"]
    with pytest.raises(ClientDisconnected):
        await served.say("late")
    await served.endpoint.end(ValueError("broken"))
    assert ([], False) == (served.frames, served.socket.is_closing())


async def test_told_of_the_end_after_the_take_over() -> None:
    """The old protocol has no part in the end of a socket that it handed over."""
    served = await opened()
    served.protocol.take_over(FakeSuccessor())

    served.protocol.connection_lost(None)

    assert not served.socket.is_closing()


async def test_cancelled_after_the_take_over() -> None:
    """An endpoint that is cancelled after it handed its socket over does not drop it."""
    served = await opened()
    served.protocol.take_over(FakeSuccessor())

    for task in served.state.tasks:
        task.cancel()
    await turns()

    assert (False, True) == (served.socket.is_aborted, served.is_done)


@pytest.mark.parametrize("how", ["not accepted", "closed", "closing", "lost"])
async def test_take_over_of_a_socket_that_is_not_open(how: str) -> None:
    """Only an open socket can be taken over."""
    served = Served(ws_ping_interval=None)
    await served.ask()
    if how != "not accepted":
        await served.endpoint.send({"type": "websocket.accept"})
    if how == "closed":
        served.socket.receive(closed())
    elif how == "closing":
        served.socket.is_closed = True
    elif how == "lost":
        served.socket.lose()
        await turns()

    assert served.protocol.take_over(FakeSuccessor()) is None


async def test_take_over_while_draining() -> None:
    """A socket that is taken over while the server stops is told of it, too."""
    served = await opened()
    served.protocol.host.drain_count = 1
    served.protocol.host.drain_step_seconds = 1.0
    served.protocol.shutdown()
    successor = FakeSuccessor()

    served.protocol.take_over(successor)
    await pass_time(2)

    assert ["shutdown"] == successor.calls


@pytest.mark.parametrize("is_offered", [True, False])
async def test_offer_compression(is_offered: bool) -> None:
    """Whoever takes a socket over decides about compression, whatever uvicorn's flag says."""
    served = Served(ws_per_message_deflate=not is_offered)
    await served.ask(DEFLATE)
    takeover = served.endpoint.scope["extensions"]["wirebell.takeover"]

    takeover.offer_compression(is_offered=is_offered)
    await served.endpoint.send({"type": "websocket.accept"})

    assert is_offered == (b"sec-websocket-extensions" in served.headers)
