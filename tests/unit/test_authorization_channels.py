"""What a client may do in channels, and what the application's own functions say to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
import pytest
from fastapi import FastAPI

from tests.unit.clients import CODECS, load
from tests.unit.clocks import pass_time, turns
from tests.unit.courts import connection_token, court, error_of, subscription_token
from wirebell import Caller, Denied, Settings
from wirebell.model import History, ServerSubscribe
from wirebell.protocol.codec import Codec
from wirebell.tokens import TokenKeys

pytestmark = pytest.mark.anyio

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


# Channels


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("open:1", 0),
        ("closed:1", 103),
        ("$open:1", 103),
        ("nope:1", 102),
        ("later:1", 108),
        ("open:é", 107),
        ("regex:A", 107),
        ("regex:a", 0),
        ("x" * 256, 107),
        ("open:\x07", 107),
        ("pair:1#ann,bob", 0),
        ("pair:1#bob", 103),
        ("pair:1#", 103),
        ("none", 103),
    ],
)
async def test_subscribing_without_a_token(channel: str, code: int) -> None:
    """The namespace decides; by default nobody may."""
    async with court(unavailable=("later",)) as it:
        peer = await it.ann()

        assert (code, []) == await error_of(peer, subscribe={"channel": channel})


async def test_somebody_anonymous() -> None:
    """Anonymous peers need a permission of their own."""
    async with court(clients={"allow_anonymous_connect_without_token": True}) as it:
        peer = it.peer()
        await peer.connect()

        assert (103, []) == await error_of(peer, subscribe={"channel": "open:1"})
        assert (0, []) == await error_of(peer, subscribe={"channel": "anyone:1"})
        assert (103, []) == await error_of(peer, subscribe={"channel": "pair:1#"})


async def test_twice_and_too_often() -> None:
    """Already subscribed is 105, one channel too many 106; a bad name comes first."""
    async with court(Settings(channels_per_connection_max=1)) as it:
        peer = await it.ann()
        await peer.ask({"id": 2, "subscribe": {"channel": "open:1"}})

        assert (105, []) == await error_of(peer, subscribe={"channel": "open:1"})
        assert (106, []) == await error_of(peer, subscribe={"channel": "open:2"})
        assert (107, []) == await error_of(peer, subscribe={"channel": "open:é"})


@both
async def test_a_subscription_token(codec: Codec) -> None:
    """It lets into private channels, says what others see, and when it ends."""
    async with court() as it:
        peer = await it.ann(codec)
        token = subscription_token(
            "$closed:1",
            client=peer.client.client_id,
            info={"a": 1},
            override={"join_leave": {"value": True}, "force_push_join_leave": {"value": True}},
        )

        reply, join = await peer.ask(
            {"id": 2, "subscribe": {"channel": "$closed:1", "token": token}}
        )

        assert True is reply["subscribe"]["expires"]
        assert {"a": 1} == load(join["push"]["join"]["info"]["chan_info"])


@pytest.mark.parametrize(
    ("claims", "error", "close"),
    [
        ({"exp": 1}, 109, []),
        ({"expire_at": 1}, 110, []),
        ({"channel": ""}, 103, []),
        ({"channel": "closed:2"}, 0, [3500]),
        ({"sub": "bob"}, 0, [3500]),
        ({"client": "another"}, 0, [3500]),
    ],
)
async def test_a_subscription_token_that_is_not_taken(
    claims: dict[str, Any], error: int, close: list[int]
) -> None:
    """Of another it ends the connection; otherwise it is an error."""
    async with court() as it:
        peer = await it.ann()
        command = {"channel": "closed:1", "token": subscription_token("closed:1", **claims)}

        assert (error, close) == await error_of(peer, subscribe=command)


async def test_subscription_tokens_have_their_own_keys() -> None:
    """Where they are given they alone count; without any keys no token does."""
    other = "another-secret-0123456789abcdef01234"
    async with court(subscription_tokens=TokenKeys(hmac_secret_key=other)) as it:
        peer = await it.ann()
        good = jwt.encode({"sub": "ann", "channel": "closed:1"}, other, "HS256")
        bad = subscription_token("closed:2")

        assert (0, []) == await error_of(peer, subscribe={"channel": "closed:1", "token": good})
        assert (103, []) == await error_of(peer, subscribe={"channel": "closed:2", "token": bad})
    async with court(tokens=None, clients={"allow_anonymous_connect_without_token": True}) as it:
        peer = it.peer()
        await peer.connect()
        command = {"channel": "anyone:1", "token": "x"}
        assert (103, []) == await error_of(peer, subscribe=command)
        await peer.ask({"id": 2, "subscribe": {"channel": "anyone:1"}})
        assert (0, [3500]) == await error_of(peer, sub_refresh=command)


@pytest.mark.parametrize(
    ("command", "error", "close"),
    [
        ({"channel": "closed:1", "token": subscription_token("closed:1")}, 0, []),
        ({"token": subscription_token("closed:1")}, 0, []),
        ({"channel": "closed:1"}, 107, []),
        ({}, 0, [3501]),
        ({"token": "x"}, 0, [3501]),
        ({"channel": "closed:1", "token": "x"}, 0, [3500]),
        ({"channel": "closed:2", "token": subscription_token("closed:2")}, 103, []),
        ({"token": subscription_token("closed:2")}, 103, []),
        ({"channel": "closed:1", "token": subscription_token("closed:1", exp=1)}, 109, []),
        ({"channel": "closed:1", "token": subscription_token("closed:1", expire_at=1)}, 110, []),
        ({"channel": "closed:1", "token": subscription_token("closed:1", "bob")}, 0, [3500]),
        ({"channel": "closed:1", "token": subscription_token("closed:3")}, 0, [3500]),
    ],
)
async def test_sub_refresh(command: dict[str, Any], error: int, close: list[int]) -> None:
    """A new token of the same lengthens the subscription; each other reason has its code."""
    async with court() as it:
        peer = await it.ann()
        first = {"channel": "closed:1", "token": subscription_token("closed:1")}
        await peer.ask({"id": 2, "subscribe": first})

        assert (error, close) == await error_of(peer, sub_refresh=command)


# Publications, presence, history


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "open:1", "data": 1}, 0),
        ({"channel": "open:2", "data": 1}, 103),
        ({"channel": "closed:1", "data": 1}, 103),
        ({"channel": "nope:1", "data": 1}, 102),
        ({"channel": "open:1"}, 107),
        ({"channel": "open:1", "data": 1, "type": 1}, 103),
        ({"channel": "open:1", "data": 1, "key": "k"}, 103),
        ({"channel": "object:1", "data": 1}, 107),
        ({"channel": "object:1", "data": {}}, 0),
        ({"channel": "x" * 256, "data": 1}, 107),
    ],
)
@both
async def test_publish(codec: Codec, request_: dict[str, Any], code: int) -> None:
    """Who is subscribed may, where the namespace says so; the data is what the channel takes."""
    async with court() as it:
        peer = await it.ann(codec)
        await peer.ask({"id": 2, "subscribe": {"channel": "open:1"}})

        assert (code, []) == await error_of(peer, publish=request_)


@pytest.mark.parametrize("name", ["presence", "presence_stats", "history"])
@pytest.mark.parametrize(
    ("channel", "code"),
    [("open:1", 0), ("open:2", 103), ("closed:1", 103), ("bare:1", 108), ("nope:1", 102)],
)
async def test_reading(name: str, channel: str, code: int) -> None:
    """What is not kept is 108, what is not allowed 103."""
    async with court() as it:
        peer = await it.ann()
        await peer.ask({"id": 2, "subscribe": {"channel": "open:1"}})

        assert (code, []) == await error_of(peer, **{name: {"channel": channel}})


# The application's own


async def test_hooks_are_told_who_it_is() -> None:
    """Each of them gets the client, the user and the handshake."""
    async with court() as it:
        told: list[tuple[Any, ...]] = []

        @it.rt.on_connect
        async def connecting(caller: Any) -> None:
            told.append(("connect", caller.user_id, caller.handshake.url.path))

        @it.rt.on_subscribe
        def subscribing(caller: Any, channel: str) -> None:
            told.append(("subscribe", caller.user_id, channel))

        @it.rt.on_unsubscribe
        async def unsubscribed(caller: Any, channel: str, code: int, reason: str) -> None:
            told.append(("unsubscribe", caller.client_id, channel, code, reason))

        @it.rt.on_disconnect
        def gone(caller: Any) -> None:
            told.append(("disconnect", caller.client_id))

        peer = await it.ann()
        await peer.ask({"id": 2, "subscribe": {"channel": "open:1"}})
        await peer.ask({"id": 3, "subscribe": {"channel": "open:2"}})
        await peer.ask({"id": 4, "unsubscribe": {"channel": "open:1"}})
        peer.client.unsubscribe("open:2", 2000, "server unsubscribe")
        await peer.leave()
        await peer.leave()

        client_id = peer.client.client_id
        assert [
            ("connect", "ann", "/"),
            ("subscribe", "ann", "open:1"),
            ("subscribe", "ann", "open:2"),
            ("unsubscribe", client_id, "open:1", 0, "client"),
            ("unsubscribe", client_id, "open:2", 2000, "server unsubscribe"),
            ("disconnect", client_id),
        ] == told


async def test_hooks_refuse() -> None:
    """`Denied` is an error with its message; what breaks is a temporary one."""
    async with court() as it:
        failure: list[Exception] = [Denied("not you")]

        @it.rt.on_subscribe
        def ask(caller: object, channel: str) -> None:
            raise failure[0]

        peer = await it.ann()
        (denied,) = await peer.ask({"id": 2, "subscribe": {"channel": "open:1"}})
        failure[0] = RuntimeError("broken")
        (broken,) = await peer.ask({"id": 3, "subscribe": {"channel": "open:1"}})

        assert {"code": 103, "message": "not you"} == denied["error"]
        assert (100, True) == (broken["error"]["code"], broken["error"]["temporary"])
        assert {} == peer.client.connection.channels


async def test_rpc() -> None:
    """Without handlers it is 108, of an unknown method 104; the ping method answers nothing."""
    async with court() as it:
        peer = await it.ann()
        assert (108, []) == await error_of(peer, rpc={"method": "add"})

        @it.rt.rpc("add")
        async def add(caller: Any, data: Any) -> Any:
            return {"sum": sum(data), "by": caller.user_id}

        peer = await it.ann()
        (reply,) = await peer.ask({"id": 2, "rpc": {"method": "add", "data": [1, 2]}})
        assert {"sum": 3, "by": "ann"} == reply["rpc"]["data"]
        assert (104, []) == await error_of(peer, rpc={"method": "sub"})
    async with court(clients={"rpc_ping_method": "ping"}) as it:
        peer = await it.ann()
        assert [{"id": 2, "rpc": {}}] == await peer.ask({"id": 2, "rpc": {"method": "ping"}})
        assert (104, []) == await error_of(peer, rpc={"method": "other"})


async def test_messages() -> None:
    """They are handed over; where nobody takes them the connection ends with 3508."""
    async with court() as it:
        heard: list[Any] = []
        other = await it.ann()
        assert (0, [3508]) == await error_of(other, send={"data": 1})

        @it.rt.on_message
        def hear(caller: Any, data: Any) -> None:
            heard.append((caller.user_id, data))

        peer = await it.ann()
        await peer.say({"send": {"data": {"a": 1}}})

        assert [("ann", {"a": 1})] == heard
        assert [] == peer.closed


# Declarations


async def test_declared_channels() -> None:
    """A declaration's own function decides, and nothing else; tokens and namespaces do not."""
    async with court() as it:
        it.rt.channel("open:news", public=True)
        room = it.rt.channel("room:{name}", history=History())
        it.rt.channel("secret")

        @room.authorize
        async def ask(name: str) -> None:
            if name != "ours":
                raise Denied(f"{name} is not ours")

        it.rt.permissions.join(FastAPI())
        peer = await it.ann()
        (denied,) = await peer.ask({"id": 2, "subscribe": {"channel": "room:theirs"}})

        assert {"code": 103, "message": "theirs is not ours"} == denied["error"]
        assert (0, []) == await error_of(peer, subscribe={"channel": "room:ours"})
        assert (0, []) == await error_of(peer, subscribe={"channel": "open:news"})
        assert (103, []) == await error_of(peer, subscribe={"channel": "secret"})
        assert (0, []) == await error_of(peer, history={"channel": "room:ours"})
        # Declared later: what was decided before does not count any more.
        it.rt.channel("bare:1")
        assert (103, []) == await error_of(peer, subscribe={"channel": "bare:1"})


async def test_leaving_while_the_application_is_asked() -> None:
    """Who leaves while a hook takes its time is in no channel, and in nobody's presence."""
    async with court() as it:
        gate = asyncio.Event()

        @it.rt.on_subscribe
        async def ask(caller: object, channel: str) -> None:
            await gate.wait()

        peer = await it.ann()
        task = await peer.begin({"id": 2, "subscribe": {"channel": "open:1"}})
        await peer.leave()
        gate.set()
        await task
        await turns()

        assert ({}, {}) == (it.rig.store.presence.channels, it.rig.node.hub.catching_up)


async def test_the_server_subscribes_to_what_there_is() -> None:
    """The server needs no permission, and a namespace."""
    async with court() as it:
        peer = await it.ann()

        await peer.client.subscribe("closed:1", ServerSubscribe())

        assert ["closed:1"] == [push["push"]["channel"] for push in await peer.wait_news()]


# What was not kept, and what is not looked up


async def test_functions_that_come_after_a_client() -> None:
    """A client whose handshake nobody wanted comes back with another when somebody does."""
    async with court() as it:
        peers = [await it.ann() for _ in range(4)]
        asked: list[str] = []

        @it.rt.rpc("ask")
        def ask(caller: Caller, data: Any) -> None:
            asked.append(caller.handshake.url.hostname or "")

        it.rt.on_message(lambda caller, data: asked.append("message"))
        it.rt.on_subscribe(lambda caller, channel: asked.append(channel))
        room = it.rt.channel("room")
        room.authorize(lambda: asked.append("room"))
        commands: list[dict[str, Any]] = [
            {"rpc": {"method": "ask"}},
            {"send": {"data": 1}},
            {"subscribe": {"channel": "open:1"}},
            {"subscribe": {"channel": "room"}},
        ]
        for peer, command in zip(peers, commands, strict=True):
            assert (0, [3011]) == await error_of(peer, **command)
        assert [] == asked

        assert (0, []) == await error_of(await it.ann(), **commands[0])
        assert ["app.example"] == asked


async def test_a_renewal_that_comes_after_a_client() -> None:
    """Whose handshake is not there any more is not asked about: it ends, and comes back."""
    async with court() as it:
        asked: list[Caller] = []
        peer = await it.ann(exp=int(time.time()) + 10)
        it.rt.on_refresh(asked.append)

        await pass_time(16)

        assert ([], [3005]) == (asked, [code for code, _ in peer.closed])


@pytest.mark.parametrize(
    "command",
    [
        {"subscribe": {"channel": "room:" + "x" * 251}},
        {"publish": {"channel": "room:" + "x" * 251, "data": 1}},
        {"presence": {"channel": "x" * 60_000}},
        {"history": {"channel": "room:" + "x" * 60_000}},
    ],
)
async def test_names_that_are_too_long(command: dict[str, Any]) -> None:
    """They are refused with 107 before they are looked up, which would remember them."""
    async with court() as it:
        it.rt.channel("room:{name}", public=True, allow_publish_for_client=True)
        peer = await it.ann()
        remembered = set(it.rt.registry.known_options)

        assert (107, []) == await error_of(peer, **command)
        assert remembered == set(it.rt.registry.known_options)


async def test_wishing_for_too_many_channels() -> None:
    """Who asks for more channels by connecting than it may have is not asked about each."""
    async with court() as it:
        asked: list[str] = []

        @it.rt.on_subscribe
        def ask(caller: Caller, channel: str) -> None:
            asked.append(channel)
            raise Denied("no")

        token = connection_token()
        for count, closes in ((128, []), (129, [3505])):
            asked.clear()
            wishes: dict[str, Any] = {f"open:{number}": {} for number in range(count)}
            connect = {"token": token, "subs": wishes}
            assert (0, closes) == await error_of(it.peer(), connect=connect)
            assert (0 if closes else count) == len(asked)
