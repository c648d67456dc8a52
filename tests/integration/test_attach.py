"""`Realtime.attach` on every server: one suite, the same messages, order, limits and codes.

Our class on both loops and with each HTTP implementation, uvicorn's own classes, and two other
servers. What one of them truly cannot do stands in `abilities`, proven by a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING

import pytest
import websockets

from tests import servers
from tests.integration.abilities import cannot
from tests.integration.clients import (
    OPCODES,
    connect,
    eventually,
    gauges,
    http,
    our_failures,
    raw,
    receive,
    refused,
    samples,
    told,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.attach_app:app"
ENV = {
    "WIREBELL_HEARTBEAT_INTERVAL_SECONDS": "0.3",
    "WIREBELL_FIRST_MESSAGE_TIMEOUT_SECONDS": "0.5",
    "WIREBELL_SEND_QUEUE_BYTES_MAX": "262144",
    "WIREBELL_MESSAGE_BYTES_MAX": "65536",
    "WIREBELL_CONNECTIONS_PER_USER_MAX": "2",
}
KINDS = servers.SERVER_KINDS


def fresh() -> str:
    """Return a name that no other test uses."""
    return uuid.uuid4().hex[:8]


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    """Serve the app under one kind of server, with its kind."""
    kind = str(request.param)
    with servers.serve(APP, kind, env=ENV, path="/realtime/health") as server:
        yield kind, server


@pytest.fixture
def kind(running: tuple[str, Server]) -> str:
    """Name the server under test."""
    return running[0]


@pytest.fixture
def server(running: tuple[str, Server]) -> Iterator[Server]:
    """Hand out the server, and check that no test made it log an unexpected error."""
    server = running[1]
    failures = our_failures(server)
    yield server
    assert server.process.poll() is None, server.log()
    assert our_failures(server) == failures, server.log()[-4_000:]


async def publish(server: Server, name: str, text: str) -> None:
    """Publish by HTTP, and require that it worked."""
    async with http(server) as client:
        answer = await client.post(f"/publish/{name}", params={"text": text})
        assert answer.status_code == 200, answer.text


async def test_publish_form_sends_to_everybody_as_it_is(server: Server) -> None:
    """With ``publish=`` the peer's text reaches all, the sender too, unchanged."""
    name = fresh()
    async with connect(server, f"/room/{name}") as one, connect(server, f"/room/{name}") as two:
        await one.send("ünï ☃ {}")
        first = [await receive(ws) for ws in (one, two)]
        await two.send("")
        second = [await receive(ws) for ws in (one, two)]

        assert first == ["ünï ☃ {}"] * 2
        assert second == [""] * 2


@pytest.mark.parametrize("path", ["sync", "async"])
async def test_handler_form_answers_in_order_to_the_sender(server: Server, path: str) -> None:
    """With ``on_text=`` what the handler returns is sent back, in order, handler by handler."""
    async with connect(server, f"/{path}") as ws, connect(server, f"/{path}") as other:
        for number in range(200):
            await ws.send(str(number))
        answers = [await receive(ws) for _ in range(200)]
        await other.send("marker")
        await ws.send("and on")

        assert answers == [f"{path} {number}" for number in range(200)]
        assert await receive(other) == f"{path} marker"
        assert await receive(ws) == f"{path} and on"


async def test_a_handler_publishes_and_answers_in_that_order(server: Server) -> None:
    """A publication to one's own channel arrives before the answer that was given after it."""
    name = fresh()
    async with connect(server, f"/both/{name}") as ws, connect(server, f"/listen/{name}") as other:
        for number in range(20):
            await ws.send(str(number))
        heard = [await receive(ws) for _ in range(40)]
        published = [await receive(other) for _ in range(20)]

    assert heard == [f"{word} {n}" for n in range(20) for word in ("published", "answered")]
    assert published == [f"published {number}" for number in range(20)]


async def test_a_handler_has_the_context_variables_of_its_endpoint(server: Server) -> None:
    """What the endpoint set, its handlers read, also long after it has returned."""
    one, two = fresh(), fresh()
    async with (
        connect(server, f"/context/{one}") as ws,
        connect(server, f"/context/{two}") as other,
    ):
        for _ in range(3):
            await ws.send("who?")
            await other.send("who?")
            assert await receive(ws) == one
            assert await receive(other) == two


async def test_a_handler_may_answer_nothing_and_may_refuse(server: Server) -> None:
    """``None`` sends nothing; `Denied` is told and closes with 4403."""
    async with connect(server, "/odd") as ws:
        for number in ("1", "2", "3"):
            await ws.send(number)
        await ws.send("-1")
        ended = await until_closed(ws)

    assert ended.texts[:2] == ["1", "3"]
    assert ended.texts[2:] == ['{"error": {"code": 4403, "message": "minus one is not welcome"}}']
    assert (ended.code, ended.reason) == (4403, "minus one is not welcome")


async def test_a_broken_handler_ends_its_own_socket_only(running: tuple[str, Server]) -> None:
    """An exception is logged, told as an internal error without details, and closed 1011."""
    server = running[1]
    async with connect(server, "/odd") as other, connect(server, "/odd") as ws:
        await ws.send("no number at all")
        reason = await told(ws, 1011)
        await other.send("7")

        assert await receive(other) == "7"
    assert "no number" not in reason
    assert "ValueError" in server.log()


async def test_refused_form_tells_why_and_closes_1008(server: Server) -> None:
    """With neither form a peer that speaks is told that nobody listens."""
    async with connect(server, f"/listen/{fresh()}") as ws:
        await ws.send("hello?")

        assert await told(ws, 1008)


async def test_binary_is_told_why_and_closed_1003(server: Server) -> None:
    """A plain socket speaks text."""
    async with connect(server, f"/room/{fresh()}") as ws:
        await ws.send(b"\x00")

        assert await told(ws, 1003)


async def test_an_accepted_socket_can_be_attached(server: Server) -> None:
    """The endpoint's own accept and greeting come first, then the room."""
    name = fresh()
    async with connect(server, f"/accepted/{name}") as ws:
        await ws.send("mine")
        texts = [await receive(ws), await receive(ws)]

    assert texts == ["hello", "mine"]


async def test_a_socket_may_hear_several_channels(server: Server) -> None:
    """Publications of each channel arrive in the channel's order."""
    one, two = fresh(), fresh()
    async with connect(server, f"/two/{one}/{two}") as ws:
        for number in range(5):
            await publish(server, one, f"one {number}")
            await publish(server, two, f"two {number}")
        heard = [await receive(ws) for _ in range(10)]

    assert [text for text in heard if text[0] == "o"] == [f"one {n}" for n in range(5)]
    assert [text for text in heard if text[0] == "t"] == [f"two {n}" for n in range(5)]


async def test_the_subprotocol_is_answered(server: Server) -> None:
    """The chosen subprotocol is in the handshake's answer."""
    async with connect(server, "/subprotocol", subprotocols=["chat.v1", "chat.v2"]) as ws:
        await ws.send("x")

        assert ws.subprotocol == "chat.v2"
        assert await receive(ws) == "x"


async def test_the_first_text_signs_in(server: Server) -> None:
    """After the right first text the socket is in the room; before it hears nothing."""
    name = fresh()
    async with connect(server, f"/sign-in/{name}") as ws:
        await publish(server, name, "too early")
        await ws.send("sesame")
        await ws.send("in")

        assert await receive(ws) == "in"


async def test_a_wrong_first_text_is_told_why_and_closed_4401(server: Server) -> None:
    """What `Denied` said reaches the peer."""
    async with connect(server, f"/sign-in/{fresh()}") as ws:
        await ws.send("open")

        assert await told(ws, 4401) == "wrong password"


async def test_a_silent_peer_is_told_why_and_closed_4401(server: Server) -> None:
    """Past ``first_message_timeout_seconds`` (0.5 s here) the wait is over."""
    async with connect(server, f"/sign-in/{fresh()}") as ws:
        assert await told(ws, 4401)


@pytest.mark.parametrize("milliseconds", [300, -5_000])
async def test_an_expired_welcome_is_told_why_and_closed_4401(
    server: Server, milliseconds: int
) -> None:
    """``expires_at`` ends the socket, at once when it lies in the past."""
    async with connect(server, f"/expires/{milliseconds}") as ws:
        assert await told(ws, 4401) == "token expired"


async def test_the_heartbeat_is_sent_again_and_again(server: Server) -> None:
    """The given text arrives every ``heartbeat_interval_seconds`` beside the answers."""
    async with connect(server, "/heartbeat") as ws:
        await ws.send("x")

        assert [await receive(ws) for _ in range(4)] == ["x", "thump", "thump", "thump"]


async def test_on_close_runs_once_however_the_peer_left(server: Server) -> None:
    """Closed, vanished and refused peers are each reported once, after they left the channel."""
    names = [fresh() for _ in range(3)]
    async with connect(server, "/listen/closing") as watcher, http(server) as client:
        polite = await connect(server, f"/closing/{names[0]}")
        await polite.close()
        rude = await connect(server, f"/closing/{names[1]}")
        rude.transport.abort()
        talker = await connect(server, f"/closing/{names[2]}")
        await talker.send("not allowed")
        ended = await until_closed(talker)
        heard = sorted([await receive(watcher) for _ in range(3)])
        left = (await client.get("/left")).json()

    assert heard == sorted(f"{name} left" for name in names)
    assert [left.count(name) for name in names] == [1, 1, 1]
    assert ended.code == 1008
    assert not [text for text in ended.texts if text.startswith(names[2])]


async def test_a_message_over_the_limit_gets_1009(server: Server) -> None:
    """65,536 bytes pass, one more closes with 1009."""
    async with connect(server, "/sync") as ws:
        await ws.send("x" * 65_536)
        assert await receive(ws) == "sync " + "x" * 65_536
        await ws.send("x" * 65_537)

        assert (await until_closed(ws)).code == 1009


async def test_text_that_is_not_utf8_gets_1007(server: Server, kind: str) -> None:
    """The socket ends, and the peer's mistake is named by its code where the server can."""
    async with raw(server, "/sync") as ws:
        ws.send(ws.frame(OPCODES["text"], b"\xff\xfe"))
        code = await ws.read_until_end()

        assert OPCODES["text"] not in [opcode for opcode, _ in ws.frames]
        assert (code == 1007) is not cannot(kind, "code 1007"), code


async def test_a_limit_of_one_user_is_told_why_and_closed_1013(server: Server) -> None:
    """The third socket of one user is refused; another user's is not."""
    name = fresh()
    async with connect(server, f"/user/{name}"), connect(server, f"/user/{name}"):
        async with connect(server, f"/user/{name}") as third:
            assert await told(third, 1013)
        async with connect(server, f"/user/{fresh()}") as other:
            await other.send("x")
            assert await receive(other) == "x"


async def test_a_foreign_origin_is_403(server: Server) -> None:
    """A foreign page is refused at the handshake; the body names the setting."""
    status, body = await refused(server, "/sync", origin="https://evil.example")

    assert status == 403
    assert "allowed_origins" in body.lower()
    async with connect(server, "/sync", origin=server.url) as own:
        await own.send("x")
        assert await receive(own) == "sync x"


async def test_whoever_has_seen_the_101_misses_nothing(server: Server) -> None:
    """A text published at once after the handshake's answer arrives, 200 times out of 200."""
    async with http(server) as client:
        for number in range(200):
            name = fresh()
            async with raw(server, f"/listen/{name}") as ws:
                assert b" 101 " in ws.response
                await client.post(f"/publish/{name}", params={"text": str(number)})

                assert await ws.read_text() == str(number)


async def test_a_thousand_publications_keep_their_order(server: Server) -> None:
    """Three subscribers get 1,000 publications each, in one order, none lost."""
    name = fresh()
    async with (
        http(server) as client,
        connect(server, f"/listen/{name}") as one,
        connect(server, f"/listen/{name}") as two,
        connect(server, f"/room/{name}") as three,
    ):
        posting = asyncio.create_task(client.post(f"/burst/{name}", params={"count": 1_000}))
        heard = await asyncio.gather(*(read_many(ws, 1_000) for ws in (one, two, three)))
        assert (await posting).json() == 1_000

    assert heard == [[f"{number} " for number in range(1_000)]] * 3


async def read_many(ws: websockets.ClientConnection, count: int) -> list[str]:
    """Read `count` texts."""
    return [await receive(ws) for _ in range(count)]


async def test_a_slow_reader_is_cut_and_nobody_waits(server: Server) -> None:
    """20 MB into its channel: the others get them at once, it is cut with 3008 and counted.

    Bursts stay below what may wait for a peer that reads, and the next one follows as soon as both
    have read the last: whoever publishes has no other way to know how fast its peers are.
    """
    name, bursts, each = fresh(), 100, 5
    slowest = 0.0
    async with (
        http(server) as client,
        raw(server, f"/listen/{name}", receive_buffer_bytes=4_096),
        connect(server, f"/listen/{name}") as one,
        connect(server, f"/listen/{name}") as two,
    ):
        before = await samples(client)
        for _ in range(bursts):
            started = time.monotonic()
            answer = await client.post(f"/burst/{name}", params={"count": each, "size": 40_000})
            heard = await asyncio.gather(read_many(one, each), read_many(two, each))
            slowest = max(slowest, time.monotonic() - started)

            assert answer.status_code == 200
            for texts in heard:
                assert [text.split(" ")[0] for text in texts] == [str(n) for n in range(each)]

        async def counted() -> bool:
            after = await samples(client)
            return sum(after[key] - before.get(key, 0) for key in after if "3008" in key) == 1

        await eventually(counted, "the slow reader is counted with code 3008")

    assert slowest < 2, "seconds that a healthy peer waited for a burst"


async def test_publishing_never_fails_because_of_a_dead_peer(server: Server) -> None:
    """While peers vanish by reset, every publication is answered and reaches who is left."""
    name = fresh()
    async with http(server) as client, connect(server, f"/listen/{name}") as stays:
        for number in range(20):
            async with raw(server, f"/listen/{name}") as dying:
                dying.abort()
                answer = await client.post(f"/publish/{name}", params={"text": str(number)})
                assert answer.status_code == 200
        heard = await read_many(stays, 20)

    assert heard == [str(number) for number in range(20)]


async def test_the_dead_leave_nothing_behind(server: Server) -> None:
    """After 30 sockets have closed or died, the gauges stand where they stood."""
    name = fresh()
    async with http(server) as client:

        async def nobody() -> bool:
            return set((await gauges(client)).values()) == {0.0}

        await eventually(nobody, "connections of earlier tests are forgotten")
        crowd = [await connect(server, f"/room/{name}") for _ in range(30)]
        during = await gauges(client)
        for ws in crowd[:15]:
            ws.transport.abort()
        for ws in crowd[15:]:
            await ws.close()

        await eventually(nobody, "all gauges are 0 again")
        assert 30.0 in during.values()


async def test_a_stop_does_not_hang_on_open_sockets(running: tuple[str, Server]) -> None:
    """SIGTERM with open sockets ends the process; nobody is left connected.

    The last test of this file: it ends the server of all the others.
    """
    kind, server = running
    async with contextlib.AsyncExitStack() as stack:
        paths = ["/room/x", "/listen/x", "/sync", "/heartbeat", "/closing/x"]
        crowd = [await stack.enter_async_context(connect(server, path)) for path in paths]
        endings = [asyncio.create_task(until_closed(ws, 20)) for ws in crowd]
        seconds = await asyncio.to_thread(server.stop)
        codes = {(await ending).code for ending in endings}

    assert seconds < 12
    assert (codes == {1012}) is not cannot(kind, "code at stop"), codes
