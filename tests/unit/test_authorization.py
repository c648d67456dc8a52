"""Who connects, and for how long: tokens, headers, the application, refreshing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI

from tests.unit.clients import CODECS, load
from tests.unit.clocks import pass_time, turns
from tests.unit.courts import connection_token, court, error_of, sign, subscription_token
from wirebell import Denied, Identity, Settings
from wirebell.options import PersonalChannel
from wirebell.protocol.codec import Codec

pytestmark = pytest.mark.anyio

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


# Connecting


@both
async def test_a_token(codec: Codec) -> None:
    """It says who it is, what others see, which channels, and until when."""
    async with court() as it:
        peer = it.peer(codec)
        other = await it.ann(codec, user_id="bob")
        await other.say({"id": 2, "subscribe": {"channel": "open:1"}})
        other.news()

        result = await peer.connect(
            token=connection_token(
                info={"name": "Ann"},
                channels=["open:2"],
                subs={
                    "closed:1": {},
                    "open:1": {
                        "info": {"role": 1},
                        "data": {"hi": 1},
                        "override": {"force_recovery": {"value": True}},
                    },
                },
            )
        )

        assert (True, {"closed:1", "open:1"}) == (result["expires"], set(result["subs"]))
        assert 59 <= result["ttl"] <= 3600
        assert {"hi": 1} == load(result["subs"]["open:1"]["data"])
        assert (True, None) == (
            result["subs"]["open:1"]["recoverable"],
            result["subs"]["closed:1"].get("recoverable"),
        )
        (reply,) = await other.ask({"id": 3, "presence": {"channel": "open:1"}})
        info = reply["presence"]["presence"][peer.client.client_id]
        assert ({"name": "Ann"}, {"role": 1}) == (
            load(info["conn_info"]),
            load(info["chan_info"]),
        )


@pytest.mark.parametrize(
    ("claims", "error", "close"),
    [
        ({"exp": 1}, 109, []),
        ({"nbf": 4_102_444_800}, 109, []),
        ({"expire_at": 1}, 110, []),
        ({"channel": "a"}, 0, [3500]),
        ({"sub": ""}, 0, [3507]),
        ({"channels": ["nope:1"]}, 102, []),
        ({"channels": [f"open:{n}" for n in range(129)]}, 0, [3505]),
        ({"channels": ["open:\x00"]}, 107, []),
    ],
)
async def test_a_token_that_is_not_taken(
    claims: dict[str, Any], error: int, close: list[int]
) -> None:
    """Each reason has its code."""
    async with court(clients={"disallow_anonymous_connection_tokens": True}) as it:
        peer = it.peer()

        assert (error, close) == await error_of(peer, connect={"token": connection_token(**claims)})
        assert {} == peer.client.connection.channels


@pytest.mark.parametrize("token", ["x", "a.b.c", sign(sub="ann")[:-2] + "xx"])
async def test_a_token_that_is_none(token: str) -> None:
    """Malformed or signed by somebody else: 3500."""
    async with court() as it:
        assert (0, [3500]) == await error_of(it.peer(), connect={"token": token})


async def test_no_credentials() -> None:
    """They are needed, unless anonymous peers may connect; a token without a key is refused."""
    async with court() as it:
        assert (0, [3501]) == await error_of(it.peer(), connect={})
    async with court(clients={"allow_anonymous_connect_without_token": True}) as it:
        peer = it.peer()
        assert "expires" not in await peer.connect()
        assert "" == peer.client.user_id
    async with court(tokens=None) as it:
        assert (0, [3500]) == await error_of(it.peer(), connect={"token": "x"})
        assert (0, [3501]) == await error_of(it.peer(), connect={})


async def test_insecure_mode() -> None:
    """Everybody may do everything but read private channels, and tokens do not end."""
    async with court(clients={"insecure": True}) as it:
        peer, named = it.peer(), it.peer()
        await peer.connect()

        assert "expires" not in await named.connect(token=connection_token(expire_at=1))
        for command in (
            {"subscribe": {"channel": "closed:1"}},
            {"publish": {"channel": "closed:1", "data": 1}},
            {"history": {"channel": "closed:1"}},
            {"presence": {"channel": "closed:1"}},
        ):
            assert (0, []) == await error_of(peer, **command)
        assert (103, []) == await error_of(peer, subscribe={"channel": "$closed:1"})
        assert [{"id": 2, "refresh": {}}] == await named.ask(
            {"id": 2, "refresh": {"token": connection_token(expire_at=1)}}
        )
    async with court(tokens=None, clients={"insecure": True}) as it:
        assert (0, []) == await error_of(it.peer(), connect={"token": "whatever"})


async def test_a_header_names_the_user() -> None:
    """A proxy's header counts where it is configured; without it the other ways are asked."""
    async with court(tokens=None, clients={"user_id_http_header": "X-User"}) as it:
        peer = it.peer(headers=((b"x-user", b"ann"),))
        await peer.connect()

        assert "ann" == peer.client.user_id
        assert (0, [3501]) == await error_of(it.peer(), connect={})


async def test_the_application_says_who_connects() -> None:
    """Its dependency gives the user, the info and the end; without a grace."""
    async with court(tokens=None) as it:
        end = datetime.now(UTC) + timedelta(seconds=10)

        @it.rt.authenticate
        async def who() -> Identity:
            return Identity("ann", end, {"a": 1})

        it.rt.permissions.join(FastAPI())
        peer = it.peer()
        result = await peer.connect()
        await pass_time(11)

        assert ("ann", b'{"a":1}') == (peer.client.user_id, peer.client.connection.conn_info)
        assert "expires" not in result
        assert [(3005, "connection expired")] == peer.closed


@pytest.mark.parametrize(
    ("answer", "error", "close"), [(Denied("no"), 0, [3500]), (RuntimeError("broken"), 100, [])]
)
async def test_the_application_refuses_or_breaks(
    answer: Exception, error: int, close: list[int]
) -> None:
    """Refused is 3500, broken is a temporary error."""
    async with court(tokens=None) as it:

        @it.rt.authenticate
        async def who() -> Identity:
            raise answer

        it.rt.permissions.join(FastAPI())

        assert (error, close) == await error_of(it.peer(), connect={})


async def test_channels_that_a_client_asks_for_by_connecting() -> None:
    """It gets those that it may have, once, and the others are left out in silence."""
    async with court() as it:
        peer = it.peer()

        result = await peer.connect(
            token=connection_token(channels=["closed:1"]),
            subs={
                "closed:1": {},
                "closed:2": {},
                "open:1": {"recoverable": True},
                "closed:3": {"token": subscription_token("closed:3")},
                "closed:4": {"token": sign(sub="ann", channel="closed:4", exp=1)},
            },
        )

        assert {"closed:1", "open:1", "closed:3"} == set(result["subs"])
        assert True is result["subs"]["open:1"]["recoverable"]


@pytest.mark.parametrize("channel", ["nope:1", "open:é", "regex:A", "regex:a\nb", "x" * 256, ""])
async def test_names_that_a_client_must_not_ask_for_by_connecting(channel: str) -> None:
    """An unknown namespace or a name that no subscribe would take ends it: 3501."""
    async with court() as it:
        command = {"token": connection_token(), "subs": {channel: {}}}

        assert (0, [3501]) == await error_of(it.peer(), connect=command)


async def test_somebody_elses_token_by_connecting() -> None:
    """A subscription token of another user ends the connection here too."""
    async with court() as it:
        token = subscription_token("closed:1", "bob")
        command = {"token": connection_token(), "subs": {"closed:1": {"token": token}}}

        assert (0, [3500]) == await error_of(it.peer(), connect=command)


async def test_a_hook_leaves_a_channel_out_of_a_connect() -> None:
    """What `on_subscribe` denies is left out; the connection stands."""
    async with court() as it:

        @it.rt.on_subscribe
        def deny(caller: object, channel: str) -> None:
            if channel == "open:2":
                raise Denied("no")

        result = await it.peer().connect(
            token=connection_token(), subs={"open:1": {}, "open:2": {}}
        )

        assert {"open:1"} == set(result["subs"])


# A channel of one's own


async def test_a_personal_channel() -> None:
    """Every user is in one; nobody anonymous is; an id that would let others in is refused."""
    clients = {
        "personal": PersonalChannel(namespace="me"),
        "allow_anonymous_connect_without_token": True,
    }
    async with court(clients=clients) as it:
        named, anonymous = it.peer(), it.peer()

        assert {"me:#ann"} == set((await named.connect(token=connection_token()))["subs"])
        assert "subs" not in await anonymous.connect()
    async with court(clients={"personal": PersonalChannel(namespace="pair")}) as it:
        token = connection_token("ann,bob")
        assert (103, []) == await error_of(it.peer(), connect={"token": token})


async def test_a_single_connection() -> None:
    """The newest ends the older ones with 3504, whoever is refused ends nobody."""
    clients = {"personal": PersonalChannel(namespace="me", single_connection=True)}
    async with court(clients=clients) as it:
        denied: list[str] = []

        @it.rt.on_connect
        def ask(caller: object) -> None:
            if denied:
                raise Denied(denied[0])

        first, bob = await it.ann(), await it.ann(user_id="bob")
        denied.append("no")
        refused = it.peer()
        assert (103, []) == await error_of(refused, connect={"token": connection_token()})
        assert [] == first.closed
        denied.clear()
        await it.ann()

        assert ([(3504, "connection limit")], []) == (first.closed, bob.closed)


@pytest.mark.parametrize(
    ("limits", "channels", "close"),
    [
        ({"connections_per_user_max": 1}, [], 3504),
        ({"channels_per_connection_max": 2}, ["open:1", "open:2"], 3505),
    ],
)
async def test_a_single_connection_within_limits(
    limits: dict[str, int], channels: list[str], close: int
) -> None:
    """Whoever a limit refuses ends nobody: else nobody would be left."""
    clients = {"personal": PersonalChannel(namespace="me", single_connection=True)}
    async with court(Settings.model_validate(limits), clients=clients) as it:
        first, second = await it.ann(), it.peer()

        token = connection_token(channels=channels)
        assert (0, [close]) == await error_of(second, connect={"token": token})
        assert [] == first.closed


async def test_two_single_connections_at_once() -> None:
    """Of two that connect at the same time one stays."""
    clients = {"personal": PersonalChannel(namespace="me", single_connection=True)}
    async with court(clients=clients) as it:
        gate = asyncio.Event()

        @it.rt.on_connect
        async def ask(caller: object) -> None:
            await gate.wait()

        peers = [it.peer(), it.peer()]
        tasks = [
            await peer.begin({"id": 1, "connect": {"token": connection_token()}}) for peer in peers
        ]
        gate.set()
        await asyncio.gather(*tasks)
        await turns()

        assert [[3504], []] == [[code for code, _ in peer.closed] for peer in peers]


# Refreshing


async def test_refresh() -> None:
    """A new token of the same user lengthens the life."""
    async with court() as it:
        peer = await it.ann(channels=["closed:1"])

        (reply,) = await peer.ask(
            {"id": 2, "refresh": {"token": connection_token(channels=["closed:1"])}}
        )

        assert True is reply["refresh"]["expires"]


@pytest.mark.parametrize(
    ("claims", "close"),
    [
        ({"exp": 1}, [3005]),
        ({"expire_at": 1}, [3005]),
        ({"sub": "bob"}, [3500]),
        ({"channel": "a"}, [3500]),
        ({"channels": ["closed:1"]}, [3010]),
        ({"subs": {"closed:1": {}}}, [3010]),
    ],
)
async def test_a_refresh_that_is_not_taken(claims: dict[str, Any], close: list[int]) -> None:
    """Each reason ends the connection with its code."""
    async with court() as it:
        peer = await it.ann()

        token = connection_token(**claims)
        assert (0, close) == await error_of(peer, refresh={"token": token})


async def test_a_refresh_where_there_are_no_tokens() -> None:
    """Nobody could check it: 3500."""
    async with court(tokens=None, clients={"allow_anonymous_connect_without_token": True}) as it:
        peer = it.peer()
        await peer.connect()

        assert (0, [3500]) == await error_of(peer, refresh={"token": "x"})


@pytest.mark.parametrize(
    ("user_id", "seconds", "code"),
    [("ann", 1_000, None), ("ann", None, None), ("ann", -1, 3005), ("bob", 1_000, 3005)],
)
async def test_the_application_renews(
    user_id: str, seconds: float | None, code: int | None
) -> None:
    """It may let the same user live on, and nobody else."""
    async with court() as it:

        @it.rt.on_refresh
        async def renew(caller: Any) -> Identity:
            assert "ann" == caller.user_id
            end = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
            return Identity(user_id, end)

        peer = await it.ann(exp=int(time.time()) + 10)
        await pass_time(16)

        assert ([code] if code else []) == [closed[0] for closed in peer.closed]
