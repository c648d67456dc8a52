"""The client protocol over real WebSockets, in both encodings, on every server: one suite."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import jwt
import pytest
import websockets

from tests import servers
from tests.integration.abilities import JUDGED
from tests.integration.clients import (
    OPCODES,
    WAIT_SECONDS,
    connect,
    eventually,
    http,
    open_connections,
    our_failures,
    raw,
    receive,
    refused,
    until_closed,
)
from tests.transcripts.framing import decode_frame
from tests.unit.clients import encode_frame, load
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.protobuf import PROTOBUF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.protocol_app:app"
SECRET = "secret-for-tests-0123456789abcdef0123"
PER_ADDRESS = 12
ENV = {
    "TOKEN_SECRET": SECRET,
    "WIREBELL_PING_INTERVAL_SECONDS": "1",
    "WIREBELL_PONG_TIMEOUT_SECONDS": "2",
    "WIREBELL_FIRST_MESSAGE_TIMEOUT_SECONDS": "2",
    "WIREBELL_EXPIRED_CLOSE_DELAY_SECONDS": "0.2",
    "WIREBELL_EXPIRED_SUB_CLOSE_DELAY_SECONDS": "0.2",
    "WIREBELL_CONNECTIONS_PER_ADDRESS_MAX": str(PER_ADDRESS),
    "WIREBELL_MESSAGE_BYTES_MAX": "65536",
}
WS, UNI = "/realtime/connection/websocket", "/realtime/connection/uni_websocket"
CODECS: dict[str, Codec] = {"json": JSON, "protobuf": PROTOBUF}


@pytest.fixture(scope="module", params=JUDGED)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Serve the app under one kind of server."""
    with servers.serve(APP, str(request.param), env=ENV, path="/realtime/health") as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """Hand out the server, and check that no test made it log an unexpected error."""
    failures = our_failures(running)
    yield running
    assert running.process.poll() is None, running.log()
    assert our_failures(running) == failures, running.log()[-4_000:]


@pytest.fixture(params=CODECS)
def encoding(request: pytest.FixtureRequest) -> str:
    """Name one of the two encodings."""
    return str(request.param)


def fresh(namespace: str = "plain") -> str:
    """Return a channel that no other test uses."""
    return f"{namespace}:{uuid.uuid4().hex[:8]}"


def token(**claims: Any) -> str:
    """Sign a token that is good for a minute."""
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 60} | claims, SECRET, "HS256")


class Client:
    """A client that answers pings, unless it is told not to, and keeps what it hears."""

    def __init__(self, server: Server, encoding: str = "json", path: str = WS, **how: Any) -> None:
        self.codec = CODECS[encoding]
        self.is_push = path.startswith(UNI)
        if not self.is_push:
            how = {"subprotocols": [f"centrifuge-{encoding}"]} | how
        self.opening = connect(server, path, **how)
        self.answers = True
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.frames: list[str | bytes] = []
        self.ping_count = 0
        self.count = 0

    async def __aenter__(self) -> Self:
        """Connect, and begin to listen."""
        self.ws = await self.opening
        self.listening = asyncio.create_task(self.listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        await self.ws.close()
        await self.listening

    async def listen(self) -> None:
        """Take what comes."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frame = await self.ws.recv()
                self.frames.append(frame)
                for message in decode_frame(frame, is_push=self.is_push):
                    if message:
                        self.heard.put_nowait(message)
                        continue
                    self.ping_count += 1
                    if self.answers and not self.is_push:
                        await self.send({})
        self.heard.put_nowait(None)

    async def send(self, *commands: Any) -> None:
        """Send one frame."""
        await self.ws.send(encode_frame(self.codec, *commands))

    async def next(self) -> Any:
        """Return the next message; ``None`` is the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.heard.get()

    async def ask(self, **request: Any) -> Any:
        """Send one command and return what comes next."""
        self.count += 1
        await self.send({"id": self.count, **request})
        return await self.next()

    async def ended(self) -> tuple[int | None, str | None]:
        """Wait for the end; return its code and its reason."""
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.shield(self.listening)
        return self.ws.close_code, self.ws.close_reason


async def publish(server: Server, channel: str, count: int = 1) -> int:
    """Publish by HTTP; return the last offset."""
    async with http(server) as client:
        answer = await client.post(f"/publish/{channel}", params={"count": count})
        assert answer.status_code == 200, answer.text
        return int(answer.json())


async def test_connect_and_subscribe_in_one_frame(server: Server, encoding: str) -> None:
    """Answers come in order, then publications; the subprotocol is answered."""
    channel = fresh()
    async with Client(server, encoding) as client:
        await client.send(
            {"id": 1, "connect": {"name": "test"}},
            {"id": 2, "subscribe": {"channel": channel}},
            {"id": 3, "rpc": {"method": "echo", "data": {"a": 1}}},
        )
        replies = [await client.next() for _ in range(3)]
        await publish(server, channel)
        push = await client.next()

        assert client.ws.subprotocol == f"centrifuge-{encoding}"
        assert [reply["id"] for reply in replies] == [1, 2, 3]
        assert replies[0]["connect"]["pong"] is True
        assert load(replies[2]["rpc"]["data"]) == {"a": 1}
        assert load(push["push"]["pub"]["data"]) == {"n": 0}


async def test_replies_and_pushes_keep_their_order(server: Server, encoding: str) -> None:
    """Each of 200 own publications arrives ahead of its reply, in the order of the commands."""
    channel = fresh()
    async with Client(server, encoding) as client:
        await client.ask(connect={})
        await client.ask(subscribe={"channel": channel})
        for number in range(0, 200, 10):
            await client.send(
                *(
                    {"id": 10 + n, "publish": {"channel": channel, "data": n}}
                    for n in range(number, number + 10)
                )
            )
        heard = [await client.next() for _ in range(400)]

    order = [
        message["id"] - 10 if "id" in message else load(message["push"]["pub"]["data"])
        for message in heard
    ]
    assert order == [n for n in range(200) for _ in range(2)]
    assert [("push" in message) for message in heard[:4]] == [True, False, True, False]


async def test_recovery_after_a_dropped_link(server: Server, encoding: str) -> None:
    """Who comes back gets what it missed once, then the live ones."""
    channel = fresh("kept")
    async with Client(server, encoding) as client:
        await client.ask(connect={})
        reply = await client.ask(subscribe={"channel": channel})
        client.ws.transport.abort()
    offset = await publish(server, channel, count=20)
    async with Client(server, encoding) as client:
        await client.ask(connect={})
        back = {"recover": True, "epoch": reply["subscribe"]["epoch"], "offset": 5}
        again = (await client.ask(subscribe={"channel": channel, **back}))["subscribe"]
        await publish(server, channel)
        live = await client.next()

    assert (offset, again["recovered"], again["offset"]) == (20, True, 5)
    assert [item["offset"] for item in again["publications"]] == list(range(6, 21))
    assert live["push"]["pub"]["offset"] == 21


async def test_presence_of_who_has_left(server: Server, encoding: str) -> None:
    """It is exact soon after a link was dropped."""
    channel = fresh("kept")
    async with Client(server, encoding) as client, Client(server, encoding) as other:
        for who in (client, other):
            await who.ask(connect={"token": token()})
            await who.ask(subscribe={"channel": channel})
        stats = await client.ask(presence_stats={"channel": channel})
        other.ws.transport.abort()

        async def alone() -> bool:
            reply = await client.ask(presence_stats={"channel": channel})
            return bool(reply["presence_stats"]["num_clients"] == 1)

        assert stats["presence_stats"] == {"num_clients": 2, "num_users": 1}
        await eventually(alone, "only one is left", seconds=2)


async def test_expiry(server: Server) -> None:
    """A token that is not refreshed ends the connection, one that is does not."""

    async def check(encoding: str) -> None:
        async with Client(server, encoding) as client, Client(server, encoding) as wise:
            for who in (client, wise):
                reply = await who.ask(connect={"token": token(exp=int(time.time()) + 2)})
                assert reply["connect"]["expires"] is True
            refreshed = await wise.ask(refresh={"token": token()})

            assert await client.ended() == (3005, "connection expired")
            assert refreshed["refresh"]["expires"] is True
            assert (await wise.ask(rpc={"method": "echo", "data": 1}))["id"] == 3

    await asyncio.gather(*map(check, CODECS))


async def test_the_end_of_a_subscription(server: Server) -> None:
    """It is pushed with 2501."""
    channel = fresh("closed")
    async with Client(server) as client:
        await client.ask(connect={"token": token()})
        end = int(time.time()) + 2
        reply = await client.ask(
            subscribe={"channel": channel, "token": token(channel=channel, exp=end)}
        )
        push = await client.next()

        assert reply["subscribe"]["expires"] is True
        assert push["push"]["unsubscribe"]["code"] == 2501


@pytest.mark.parametrize(
    ("claims", "error", "code"),
    [({"exp": 1}, 109, None), ({"channel": "a"}, None, 3500), ({"nbf": 4_102_444_800}, 109, None)],
)
async def test_tokens(
    server: Server, claims: dict[str, Any], error: int | None, code: int | None
) -> None:
    """Expired is an error, wrong ends the connection; what is behind is not answered."""
    async with Client(server) as client:
        await client.send(
            {"id": 1, "connect": {"token": token(**claims)}}, {"id": 2, "rpc": {"data": 1}}
        )
        answer = await client.next()

        if error is not None:
            assert answer["error"]["code"] == error
        else:
            assert answer is None
            assert (await client.ended())[0] == code


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "{}",
        '{"id":2,"connect":{}}',
        '{"id":2,"ping":{}}',
        '{"id":2,"subscribe":{}}',
        '{"id":2,"nothing":{}}',
        '{"id":2,"rpc":{}}\n\n{"id":3,"rpc":{}}',
        '{"id":-1,"rpc":{}}',
    ],
)
async def test_bad_input(server: Server, frame: str) -> None:
    """A frame that breaks the rules ends its own connection with 3501, and no other."""
    async with Client(server) as client, Client(server) as other:
        for who in (client, other):
            await who.ask(connect={})
        await client.ws.send(frame)

        assert await client.ended() == (3501, "bad request")
        assert (await other.ask(rpc={"method": "echo", "data": 1}))["id"] == 2


async def test_a_command_before_connect(server: Server, encoding: str) -> None:
    """Connect comes first: 3501."""
    async with Client(server, encoding) as client:
        await client.send({"id": 1, "subscribe": {"channel": "plain:1"}})

        assert await client.ended() == (3501, "bad request")


async def test_errors_do_not_end_it(server: Server) -> None:
    """Refused and unknown things are errors, and so is a call that broke."""
    async with Client(server) as client:
        await client.ask(connect={})
        codes = [
            (await client.ask(**command))["error"]["code"]
            for command in (
                {"subscribe": {"channel": "nope:1"}},
                {"subscribe": {"channel": "closed:1"}},
                {"subscribe": {"channel": "x" * 300}},
                {"rpc": {"method": "deny"}},
                {"rpc": {"method": "unknown"}},
                {"history": {"channel": "plain:1"}},
            )
        ]

        assert codes == [102, 103, 107, 103, 104, 108]


async def test_a_call_that_breaks(running: Server) -> None:
    """It is a temporary error with nothing of its details, and is in the log."""
    async with Client(running) as client:
        await client.ask(connect={})
        broken = await client.ask(rpc={"method": "break", "data": 1})
        fine = await client.ask(rpc={"method": "echo", "data": 1})

    assert broken["error"] == {"code": 100, "message": "internal server error", "temporary": True}
    assert fine["rpc"]["data"] == 1
    assert "broken on purpose" in running.log()


async def test_pings(server: Server) -> None:
    """Pings come at the announced interval, and pongs keep the connection."""

    async def check(encoding: str) -> None:
        async with Client(server, encoding) as client:
            reply = await client.ask(connect={})

            async def pinged() -> bool:
                return client.ping_count >= 3

            await eventually(pinged, "three pings came")
            assert reply["connect"]["ping"] == 1
            assert (await client.ask(rpc={"method": "echo", "data": 1}))["id"] == 2

    await asyncio.gather(*map(check, CODECS))


async def test_no_pong(server: Server) -> None:
    """Who does not answer is closed with 3012."""

    async def check(encoding: str) -> None:
        async with Client(server, encoding) as client:
            client.answers = False
            await client.ask(connect={})

            assert await client.ended() == (3012, "no pong")
            assert client.ping_count == 1

    await asyncio.gather(*map(check, CODECS))


async def test_native_pings(server: Server) -> None:
    """Who asks for native pings is told of no others, gets none, and lives."""
    async with Client(server, path=f"{WS}?cf_ws_frame_ping_pong=true") as client:
        reply = await client.ask(connect={})
        await asyncio.sleep(3.2)  # longer than a ping and the time for its answer

        assert "ping" not in reply["connect"]
        assert "pong" not in reply["connect"]
        assert (await client.ask(rpc={"method": "echo", "data": 1}))["id"] == 2
        assert client.ping_count == 0


async def test_stale(server: Server) -> None:
    """Who does not connect is closed with 3502."""
    async with Client(server) as client:
        assert await client.ended() == (3502, "stale")


async def test_a_message_over_the_limit(server: Server) -> None:
    """It ends the connection with 1009."""
    async with connect(server, WS) as ws:
        await ws.send('{"id":1,"connect":{"data":"' + "x" * 70_000 + '"}}')

        assert (await until_closed(ws)).code == 1009


async def test_the_choice_of_the_encoding(server: Server) -> None:
    """Without a subprotocol it is JSON, and the query may ask for protobuf."""
    frame = encode_frame(PROTOBUF, {"id": 1, "connect": {}})
    async with connect(server, WS) as ws, connect(server, f"{WS}?cf_protocol=protobuf") as binary:
        await ws.send('{"id":1,"connect":{}}')
        await binary.send(frame)

        assert json.loads(await receive(ws))["id"] == 1
        async with asyncio.timeout(WAIT_SECONDS):
            (reply,) = decode_frame(await binary.recv())
        assert reply["id"] == 1


async def test_a_foreign_origin(server: Server) -> None:
    """It is refused with 403, and told which setting would let it in; the own one is not."""
    for path in (WS, UNI):
        status, body = await refused(server, path, origin="https://evil.example")
        assert (status, "WIREBELL_ALLOWED_ORIGINS" in body) == (403, True)
    async with Client(server, origin=server.url) as client:
        assert (await client.ask(connect={}))["id"] == 1


async def test_the_limit_of_connections(server: Server) -> None:
    """One too many of an address is refused with 503; the places are free again afterwards."""
    address = ("127.0.0.9", 0)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(PER_ADDRESS):
            await stack.enter_async_context(Client(server, local_addr=address))
        status, body = await refused(server, WS, local_addr=address)

        assert (status, "limit" in body) == (503, True)

    async def free() -> bool:
        try:
            async with Client(server, local_addr=address) as client:
                return bool((await client.ask(connect={}))["id"] == 1)
        except websockets.InvalidStatus:
            return False

    await eventually(free, "a place is free")


async def test_a_request_that_is_no_handshake(server: Server) -> None:
    """A plain GET is answered 400."""
    async with http(server) as client:
        assert [(await client.get(path)).status_code for path in (WS, UNI)] == [400, 400]


async def test_a_unidirectional_socket(server: Server) -> None:
    """Pushes are bare, the first is the result; pings need no answer; pushes may be joined."""
    one, two = fresh(), fresh("kept")
    async with Client(server, path=UNI) as client:
        await client.ws.send(json.dumps({"token": token(), "subs": {one: {}, two: {}}}))
        result = (await client.next())["connect"]
        await publish(server, one, count=5)
        pushes = [await client.next() for _ in range(5)]

        async def pinged() -> bool:
            return client.ping_count >= 2

        await eventually(pinged, "two pings came")
        assert {one, two} == set(result["subs"])
        assert ("pong" in result, "node" in result) == (False, False)
        assert [push["pub"]["data"]["n"] for push in pushes] == list(range(5))
        assert len(client.frames) < 2 + 5 + client.ping_count


async def test_a_unidirectional_connect_in_the_query(server: Server) -> None:
    """It connects by itself; what cannot be read is refused."""
    wish = quote(json.dumps({"subs": {"plain:1": {}, "closed:1": {}}}))
    async with Client(server, path=f"{UNI}?cf_connect={wish}") as client:
        assert set((await client.next())["connect"]["subs"]) == {"plain:1"}
    assert (await refused(server, f"{UNI}?cf_connect=x"))[0] == 400


async def test_a_unidirectional_connect_that_fails(server: Server) -> None:
    """A push says why before the close."""
    async with Client(server, path=UNI) as client:
        await client.ws.send(json.dumps({"token": token(exp=1)}))

        assert await client.next() == {"disconnect": {"code": 3005, "reason": "connection expired"}}
        assert await client.ended() == (3005, "connection expired")


async def test_nothing_stays(server: Server) -> None:
    """After peers of all kinds have gone, however, no connection is counted."""
    for _ in range(3):
        async with raw(server, WS) as ws:
            ws.send(ws.frame(OPCODES["text"], b'{"id":1,"connect":{}}'))
            await ws.read_frame()
            ws.abort()
        async with Client(server) as client:
            await client.ask(connect={})
            await client.send({"id": 2, "subscribe": {"channel": fresh("kept")}})
    async with http(server) as client_http:

        async def nobody() -> bool:
            return await open_connections(client_http) == 0

        await eventually(nobody, "no connection is left")
