"""What each server can do for `Realtime.attach` is what `abilities` says, and so does the page."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.abilities import ABILITIES, JUDGED, cannot, insert, main
from tests.integration.clients import (
    OPCODES,
    connect,
    eventually,
    http,
    raw,
    receive,
    samples,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.attach_app:app"
PAGE = Path(__file__).parents[2] / "docs" / "servers.md"
ENV = {
    "WIREBELL_PING_INTERVAL_SECONDS": "0.5",
    "WIREBELL_PONG_TIMEOUT_SECONDS": "4",
    "WIREBELL_MESSAGE_BYTES_MAX": "65536",
    "WIREBELL_SEND_QUEUE_BYTES_MAX": "262144",
    "WIREBELL_CLOSE_TIMEOUT_SECONDS": "0.5",
    "WIREBELL_TCP_USER_TIMEOUT_SECONDS": "7",
    "WIREBELL_DRAIN_WINDOW_SECONDS": "2",
    "WIREBELL_COMPRESSION": "true",
}
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


async def within(seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
    """Tell whether `condition` comes true in time."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)  # between two polls, not to make sure of anything
    return True


async def takes_over(server: Server) -> bool:
    """Tell whether a dependency ends while its socket is served."""
    name = uuid.uuid4().hex
    async with connect(server, f"/holds/{name}") as ws, http(server) as client:
        await ws.send("x")
        assert await receive(ws) == f"{name} x"

        async def released() -> bool:
            return name in (await client.get("/released")).json()

        can = await within(0.3, released)
        await ws.send("y")
        assert await receive(ws) == f"{name} y"
        return can


async def has_no_task(server: Server) -> bool:
    """Tell whether ten idle connections leave the number of tasks as it was."""
    async with http(server) as client:
        before = (await client.get("/tasks")).json()
        crowd = [await connect(server, "/sync") for _ in range(10)]

        async def none_more() -> bool:
            return bool((await client.get("/tasks")).json() <= before)

        can = await within(0.3, none_more)
        await asyncio.gather(*(ws.close() for ws in crowd))
        return can


async def pings(server: Server) -> bool:
    """Tell whether a peer is pinged, and dropped when it does not answer."""
    async with raw(server, "/sync") as ws:
        try:
            async with asyncio.timeout(1):
                assert (await ws.read_frame())[0] == OPCODES["ping"]
        except TimeoutError:
            return False
        # No answer: the link ends, and not because a test timed out.
        await ws.read_until_end()
        return True


async def refuses_early(server: Server) -> bool:
    """Tell whether the head of a message that is too long is enough to be refused."""
    async with raw(server, "/sync") as ws:
        ws.send(ws.frame(OPCODES["binary"], b"x" * 65_537)[:100])
        try:
            async with asyncio.timeout(0.5):
                return await ws.read_until_end() == 1009
        except TimeoutError:
            return False


async def sets_user_timeout(server: Server) -> bool:
    """Tell whether the socket has the option that our setting asks for."""
    async with connect(server, "/sync") as ws, http(server) as client:
        await ws.send("x")
        await receive(ws)
        found = (await client.get("/sockets")).json()
        return bool(found[str(ws.local_address[1])] == 7_000)


async def aborts(server: Server) -> bool:
    """Tell whether a peer that reads nothing loses its link soon after it was cut."""
    name = uuid.uuid4().hex
    async with (
        http(server) as client,
        raw(server, f"/listen/{name}", receive_buffer_bytes=4_096) as ws,
    ):
        port = str(ws.writer.get_extra_info("sockname")[1])
        # Nothing is read from here on: the pause keeps asyncio from reading ahead.
        ws.writer.transport.pause_reading()  # type: ignore[attr-defined]

        async def cut() -> bool:
            await client.post(f"/burst/{name}", params={"count": 50, "size": 20_000})
            found = await samples(client)
            return any("3008" in key for key in found)

        async def gone() -> bool:
            return port not in (await client.get("/sockets")).json()

        await eventually(cut, "the slow reader is cut")
        return await within(1.5, gone)


async def compresses_once(server: Server) -> bool:
    """Tell whether two peers get the same compressed bytes, and get them again for a repeat."""
    name = uuid.uuid4().hex
    async with (
        http(server) as client,
        raw(server, f"/listen/{name}", headers=DEFLATE) as one,
        raw(server, f"/listen/{name}", headers=DEFLATE) as two,
    ):
        frames = []
        for _ in range(2):
            await client.post(f"/publish/{name}", params={"text": "compress me " * 200})
            for ws in (one, two):
                first, payload = await ws.read_first_byte_and_payload()
                while first & 0x0F == OPCODES["ping"]:
                    first, payload = await ws.read_first_byte_and_payload()
                frames.append((first, payload))
        return len(set(frames)) == 1 and frames[0][0] == 0xC1


async def takes_empty_subprotocol(server: Server) -> bool:
    """Tell whether the handshake is answered by 101."""
    async with raw(server, "/sync", headers="Sec-WebSocket-Protocol: \r\n") as ws:
        return ws.status == 101


async def names_bad_text(server: Server) -> bool:
    """Tell whether the close frame has 1007."""
    async with raw(server, "/sync") as ws:
        ws.send(ws.frame(OPCODES["text"], b"\xff\xfe"))
        return await ws.read_until_end() == 1007


CHECKS: dict[str, Callable[[Server], Awaitable[bool]]] = {
    "takeover": takes_over,
    "no task": has_no_task,
    "pings": pings,
    "early bound": refuses_early,
    "user timeout": sets_user_timeout,
    "abort": aborts,
    "compress once": compresses_once,
    "empty subprotocol": takes_empty_subprotocol,
    "code 1007": names_bad_text,
}


@pytest.fixture(scope="module", params=JUDGED)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    """Serve the app under one kind of server, with its kind."""
    kind = str(request.param)
    with servers.serve(APP, kind, env=ENV, path="/realtime/health") as server:
        yield kind, server


@pytest.mark.parametrize("ability", CHECKS)
async def test_a_server_can_do_what_the_table_says(
    running: tuple[str, Server], ability: str
) -> None:
    """Whoever can does, and whoever is excused still cannot."""
    kind, server = running

    assert await CHECKS[ability](server) is not cannot(kind, ability)


async def test_a_stop_is_what_the_table_says(running: tuple[str, Server]) -> None:
    """Fifty sockets learn the code, spread over half a second where the server can."""
    kind, server = running
    crowd = [await connect(server, "/sync") for _ in range(50)]
    arrivals: list[float] = []

    async def leave(number: int) -> int | None:
        ended = await until_closed(crowd[number])
        arrivals.append(time.monotonic())
        return ended.code

    endings = [asyncio.create_task(leave(number)) for number in range(50)]
    await asyncio.to_thread(server.stop)
    codes = {await ending for ending in endings}

    assert (codes == {1012}) is not cannot(kind, "code at stop"), codes
    assert (max(arrivals) - min(arrivals) > 0.3) is not cannot(kind, "spread stop")


def test_the_table_is_whole_and_on_its_page() -> None:
    """Every ability is checked, and the page holds what the table says now."""
    assert {*CHECKS, "code at stop", "spread stop"} == set(ABILITIES)
    assert 0 == main([str(PAGE), "--check"])


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    """The check compares, and writing mends what it found."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().replace("| yes |", "| no |", 1))

    assert 1 == main([str(page), "--check"])
    assert 0 == main([str(page)])
    assert page.read_text() == PAGE.read_text() == insert(page.read_text())
    with pytest.raises(ValueError, match="abilities:begin"):
        insert("no markers")
