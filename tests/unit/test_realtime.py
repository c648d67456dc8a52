"""Wirebell inside an application, driven through ASGI without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket

from tests.unit.clocks import turns
from tests.unit.fakes import FakePeer
from wirebell import (
    APIOptions,
    BadRequest,
    ConfigError,
    Denied,
    History,
    Identity,
    NotRunning,
    Realtime,
    Settings,
)
from wirebell.broker_options import MemoryOptions
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.process import PROCESS

pytestmark = pytest.mark.anyio

FOREIGN = "http://evil.example"


@asynccontextmanager
async def running(settings: Settings | None = None) -> AsyncIterator[tuple[Realtime, FastAPI]]:
    """Run an application with Wirebell mounted."""
    rt = Realtime(settings or Settings())
    app = FastAPI()
    rt.mount(app, "/realtime")
    async with rt.lifespan(app):
        yield rt, app


def scope_of(path: str, *, origin: str | None = None, kind: str = "websocket") -> dict[str, Any]:
    """Make the scope of a handshake, or of a request."""
    headers = [(b"host", b"app.example")]
    if origin is not None:
        headers.append((b"origin", origin.encode("latin-1")))
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("10.0.0.1", 1),
        "server": ("app.example", 80),
        "subprotocols": [],
    }


def socket_of(peer: FakePeer, origin: str | None = None) -> WebSocket:
    """Give an endpoint its socket."""
    return WebSocket(scope_of("/ws", origin=origin), peer.receive, peer.send)


async def test_outside_the_lifespan() -> None:
    """Everything says how to run it, before and after it ran."""
    rt = Realtime(Settings())
    async with rt.lifespan(FastAPI()):
        assert rt.node() is rt.running

    for work in (rt.publish("a", "x"), rt.presence("a"), rt.history("a")):
        with pytest.raises(NotRunning, match=r"lifespan=rt\.lifespan"):
            await work
    with pytest.raises(NotRunning):
        rt.publish_from_thread("a", "x")


async def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings the environment gives them; a broker that nobody knows is refused."""
    monkeypatch.setenv("WIREBELL_BROKER_URL", "rabbit://h")
    rt = Realtime()

    with pytest.raises(ConfigError, match="rabbit"):
        await rt.lifespan(FastAPI()).__aenter__()


async def test_options_instead_of_a_url() -> None:
    """The broker may be given by its options, and presence be kept elsewhere."""
    rt = Realtime(
        Settings(broker_url="sqlite:///never-made.db"),
        broker=MemoryOptions(allows_workers=True),
        presence=MemoryOptions(),
    )

    async with rt.lifespan(FastAPI()):
        node = rt.node()
        assert isinstance(node.broker, MemoryBroker)
        assert node.broker.allows_workers
        assert isinstance(node.presence_store, MemoryPresenceStore)


@pytest.mark.parametrize("path", ["realtime", "/realtime/", "/"])
def test_mount_path(path: str) -> None:
    """A path that would not work is refused."""
    with pytest.raises(ValueError, match="path begins with a slash"):
        Realtime(Settings()).mount(FastAPI(), path)


@pytest.mark.parametrize("path", ["", "api", "/api/", "/"])
def test_path_of_the_api(path: str) -> None:
    """It answers everything below its path, so it needs one of its own."""
    rt = Realtime(Settings(), api=APIOptions(path=path))

    with pytest.raises(ValueError, match="the path of the server API begins with a slash"):
        rt.mount(FastAPI(), "/realtime")


def test_one_function_each() -> None:
    """Where there can be one function only, a second one is refused and not forgotten."""
    rt = Realtime(Settings())
    room = rt.channel("room")

    takers: dict[str, Callable[[Any], Any]] = {
        "authenticate": rt.authenticate,
        "on_refresh": rt.on_refresh,
        "on_message": rt.on_message,
        "channel 'room'": room.authorize,
    }
    for name, give in takers.items():
        give(lambda: None)
        with pytest.raises(ConfigError, match=f"{name} has "):
            give(lambda: None)


async def test_mount_at_the_root() -> None:
    """An empty path puts the routes where clients look for them without a prefix."""
    rt, app, peer = Realtime(Settings()), FastAPI(), FakePeer()
    rt.mount(app, "")
    peer.say("{}")

    async with rt.lifespan(app):
        task = asyncio.create_task(serve(app, peer, "/connection/uni_websocket"))
        await turns(20)
        peer.leave()
        await task

    assert ["connect"] == list(json.loads(peer.texts[0]))


async def test_attach() -> None:
    """An attached socket is accepted and hears its channels; at its end the call returns."""
    async with running() as (rt, _):
        peer = FakePeer()
        task = asyncio.create_task(rt.attach(socket_of(peer), channels=["a"], subprotocol="x"))
        await turns()

        await rt.publish("a", "1")
        await rt.publish("a", {"b": 2})
        await turns()
        peer.leave()
        await task

        assert {"type": "websocket.accept", "subprotocol": "x"} == peer.sent[0]
        assert ["1", '{"b":2}'] == peer.texts
        assert 0 == rt.node().hub.channel_count


async def test_attach_takes_one_of_two() -> None:
    """Publishing and handling what a peer sends exclude each other."""
    async with running() as (rt, _):
        with pytest.raises(ValueError, match="give publish or on_text, not both"):
            await rt.attach(socket_of(FakePeer()), publish="a", on_text=lambda text: None)


async def test_refused_attach() -> None:
    """Who cannot be attached is accepted, told why, closed and counted."""
    async with running() as (rt, _):
        peer = FakePeer()
        task = asyncio.create_task(rt.attach(socket_of(peer), channels=[""]))
        await turns()
        peer.leave()
        await task

        ((code, reason),) = peer.closes
        assert {"error": {"code": 4400, "message": reason}} == json.loads(peer.texts[0])
        assert (4400, {4400: 1}) == (code, rt.node().statistics.disconnect_counts)


async def test_refuse() -> None:
    """An endpoint can say why a peer cannot stay."""
    async with running() as (rt, _):
        peer = FakePeer()
        task = asyncio.create_task(rt.refuse(socket_of(peer), 4401, "sign in first"))
        await turns()
        peer.leave()
        await task

        assert [(4401, "sign in first")] == peer.closes


async def test_foreign_origin() -> None:
    """A foreign page is refused before the handshake."""
    async with running() as (rt, _):
        peer = FakePeer()

        await rt.attach(socket_of(peer, FOREIGN))

        assert ["websocket.close"] == [message["type"] for message in peer.sent]


@pytest.mark.parametrize(
    "origin",
    [FOREIGN, "http://" + "é" * 70, "http://x" + "é" * 70],
    ids=["plain", "even", "odd"],
)
async def test_foreign_origin_on_an_accepted_socket(origin: str) -> None:
    """Where the endpoint accepted already, a foreign page is told why and closed."""
    async with running() as (rt, _):
        peer = FakePeer()
        websocket = socket_of(peer, origin)
        await websocket.accept()

        task = asyncio.create_task(rt.attach(websocket))
        await turns()
        peer.leave()
        await task

        assert [4403] == [code for code, _ in peer.closes]


async def test_stuck_peer_is_aborted() -> None:
    """Where the server lets us reach its link, a peer that takes nothing loses it."""

    class Server(FakePeer):
        """A server that passes a bound method and owns a transport, as uvicorn's do."""

        def __init__(self) -> None:
            super().__init__()
            self.aborts: list[str] = []
            self.transport = self

        def get_write_buffer_size(self) -> int:
            """Say that bytes wait."""
            return 1

        def is_closing(self) -> bool:
            """Say that it was told to close."""
            return True

        def abort(self) -> None:
            """Drop the link."""
            self.aborts.append("abort")

    before = PROCESS.aborted_count
    async with running() as (rt, _):
        server = Server()

        await rt.refuse(socket_of(server), 4401, "sign in first")

        assert (["abort"], 1) == (server.aborts, PROCESS.aborted_count - before)


async def test_presence_and_history() -> None:
    """Declared channels keep what they were told to keep."""
    async with running() as (rt, _):
        room = rt.channel("room:{room_id}", history=History(), presence=True)
        await room(7).publish("x")
        peer = FakePeer()
        task = asyncio.create_task(rt.attach(socket_of(peer), channels=["room:7"], user_id="ann"))
        await turns()

        members = await rt.presence("room:7")
        part = await rt.history("room:7")
        peer.leave()
        await task

        assert ["ann"] == [info.user_id for info in members.values()]
        assert [b"x"] == [publication.data for publication in part.publications]
        assert {} == await room(7).presence()
        assert part == await room(7).history()
        with pytest.raises(BadRequest):
            await rt.presence("hall")


async def test_publish_on_the_loop() -> None:
    """On the loop's own thread the blocking call would wait for itself, and says so."""
    async with running() as (rt, _):
        with pytest.raises(RuntimeError, match=r"await rt\.publish"):
            rt.publish_from_thread("a", "x")


async def serve(app: FastAPI, peer: FakePeer, path: str, origin: str | None = None) -> None:
    """Serve a socket to its end."""
    await app(scope_of(path, origin=origin), peer.receive, peer.send)


async def connect(app: FastAPI, *messages: object) -> tuple[FakePeer, list[Any]]:
    """Connect to the live connection, say something, and leave; return what was heard."""
    peer = FakePeer()
    for message in messages:
        peer.say(json.dumps(message))
    task = asyncio.create_task(serve(app, peer, "/realtime/connection/uni_websocket"))
    await turns(20)
    peer.leave()
    await task
    return peer, [json.loads(text) for text in peer.texts]


async def test_live_connection() -> None:
    """A public channel can be subscribed to by anybody."""
    async with running() as (rt, app):
        rt.channel("news", public=True, history=History())
        await rt.publish("news", "1")

        _, pushes = await connect(app, {"subs": {"news": {"recover": True}}})

        subscription = pushes[0]["connect"]["subs"]["news"]
        epoch = subscription["epoch"]
        assert [{"data": "1", "offset": 1, "epoch": epoch}] == subscription["publications"]


@pytest.mark.parametrize("channel", ["undeclared", "closed"])
async def test_live_connection_denied(channel: str) -> None:
    """What is not declared, or neither public nor authorised, is left out of what it wished for."""
    async with running() as (rt, app):
        rt.channel("closed")
        rt.channel("open", public=True)

        peer, pushes = await connect(app, {"subs": {channel: {}, "open": {}}})

        assert ({"open"}, []) == (pushes[0]["connect"]["subs"].keys(), peer.closes)


async def test_live_connection_to_an_unknown_namespace() -> None:
    """Who wishes for a channel of a namespace that there is not made a mistake."""
    async with running() as (_, app):
        peer, _ = await connect(app, {"subs": {"no:where": {}}})

        assert [(3501, "bad request")] == peer.closes


async def test_authenticate() -> None:
    """The authenticator says who connects; a denial, or no identity, ends the connection."""
    async with running() as (rt, app):
        answers: list[object] = [Identity("ann"), Denied("unknown"), "no identity"]
        rt.channel("room", public=True, presence=True)

        @rt.authenticate
        async def who() -> object:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        _, named = await connect(app, {"subs": {"room": {}}})
        refused, _ = await connect(app, {})
        mistaken, _ = await connect(app, {})

        assert "ann" == named[-1]["join"]["info"]["user"]
        assert [(3500, "invalid token")] == refused.closes
        assert [(3004, "internal server error")] == mistaken.closes


async def test_live_connection_limit() -> None:
    """At a limit a client of the protocol is refused before its handshake is answered."""
    async with running(Settings(connections_max=1)) as (rt, app):
        first = FakePeer()
        task = asyncio.create_task(rt.attach(socket_of(first)))
        await turns()

        peer, _ = await connect(app)
        first.leave()
        await task

        assert ["websocket.close"] == [message["type"] for message in peer.sent]


async def test_live_connection_of_a_foreign_page() -> None:
    """A foreign page cannot open the live connection."""
    async with running() as (_, app):
        peer = FakePeer()

        await serve(app, peer, "/realtime/connection/uni_websocket", FOREIGN)

        assert ["websocket.close"] == [message["type"] for message in peer.sent]
