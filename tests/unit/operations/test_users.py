"""What may be done to users."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.unit.clocks import turns
from tests.unit.fakes import FakePeer
from tests.unit.orders import running
from tests.unit.test_realtime import socket_of
from wirebell import BadRequest, LimitExceeded, Settings, __version__
from wirebell.errors import ErrorCode, ProtocolError
from wirebell.model import ServerSubscribe
from wirebell.operations.users import create_close

pytestmark = pytest.mark.anyio


async def test_subscribe_and_unsubscribe() -> None:
    """Every client of a user is subscribed and told, and the same at the end."""
    async with running() as board:
        ann, again, ben = [await board.connect(user) for user in ("ann", "ann", "ben")]
        options = ServerSubscribe(data=b'{"n":1}')
        subscribed = await board.orders.subscribe("ann", "plain:1", options=options)
        await board.orders.publish("plain:1", "x")
        unsubscribed = await board.orders.unsubscribe("ann", "plain:1")
        again_unsubscribed = await board.orders.unsubscribe("ann", "plain:1")
        await turns()

        assert (2, 2, 0) == (subscribed, unsubscribed, again_unsubscribed)
        expected = [
            {"channel": "plain:1", "subscribe": {"data": {"n": 1}}},
            {"channel": "plain:1", "pub": {"data": "x"}},
            {"channel": "plain:1", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}},
        ]
        assert expected == ann.pushes() == again.pushes()
        assert [] == ben.pushes()


async def test_one_client_of_a_user() -> None:
    """A client id chooses one; with another user's nobody is found."""
    async with running() as board:
        ann, again = await board.connect("ann"), await board.connect("ann")
        orders = board.orders

        assert 1 == await orders.subscribe("ann", "plain:1", client_id=ann.client_id)
        assert 0 == await orders.subscribe("ben", "plain:1", client_id=ann.client_id)
        assert 0 == await orders.subscribe("ann", "plain:1", session_id="other")
        await turns()
        assert 1 == len(ann.pushes())
        assert [] == again.pushes()


async def test_anonymous_clients() -> None:
    """Nobody is meant without a user; a client id alone finds an anonymous client."""
    async with running() as board:
        nobody, ann = await board.connect(), await board.connect("ann")
        orders = board.orders

        assert 0 == await orders.disconnect("")
        assert 1 == await orders.subscribe("", "plain:1", client_id=nobody.client_id)
        with pytest.raises(BadRequest, match="is no anonymous client: name its user"):
            await orders.disconnect("", client_id=ann.client_id)
        with pytest.raises(BadRequest, match="session 's' is no anonymous client"):
            await orders.disconnect("", session_id="s")
        assert [] == ann.transport.closed


async def test_subscribe_where_nobody_may() -> None:
    """An unknown channel is an error whether the user is there or not."""
    async with running() as board:
        with pytest.raises(ProtocolError) as raised:
            await board.orders.subscribe("ann", "nope:1")

        assert ErrorCode.UNKNOWN_CHANNEL == raised.value.code
        assert 0 == await board.orders.subscribe("ann", "plain:1")


async def test_subscribe_above_the_limit() -> None:
    """A client that is full stays as it is, its others are subscribed, and the caller is told."""
    async with running(Settings(channels_per_connection_max=1)) as board:
        full, free = await board.connect("ann"), await board.connect("ann")
        await full.subscribe("plain:1")
        full.heard()
        with pytest.raises(LimitExceeded, match="has 1 channels, which is the limit") as raised:
            await board.orders.subscribe("ann", "plain:2")
        await turns()

        assert full.client_id in str(raised.value)
        assert ([], 1) == (full.pushes(), len(free.pushes()))
        assert [] == full.transport.closed


async def test_subscribe_with_a_name_for_servers_only() -> None:
    """What a client cannot be subscribed to is an error."""
    async with running() as board:
        await board.connect("ann")

        with pytest.raises(BadRequest, match="at most 255 bytes"):
            await board.orders.subscribe("ann", "plain:" + "x" * 300)


async def test_unsubscribe_out_of_bounds() -> None:
    """A channel and a code of the protocol are needed."""
    async with running() as board:
        with pytest.raises(BadRequest, match="needs a channel"):
            await board.orders.unsubscribe("ann", "")
        with pytest.raises(BadRequest, match="2000 to 2999, got 3000"):
            await board.orders.unsubscribe("ann", "plain:1", code=3000)


async def test_disconnect() -> None:
    """A user's clients are closed, but for those on the list."""
    async with running() as board:
        ann, kept = await board.connect("ann"), await board.connect("ann")
        first = await board.orders.disconnect("ann", whitelist=[kept.client_id])
        second = await board.orders.disconnect("ann", code=4001, reason="bye")

        # A client that is closing is not closed again.
        assert (1, 1) == (first, second)
        assert [(3503, "force disconnect")] == ann.transport.closed
        assert [(4001, "bye")] == kept.transport.closed


async def test_disconnect_a_plain_socket() -> None:
    """A socket of an endpoint is ended too, and told why as always."""
    async with running() as board:
        peer = FakePeer()
        task = asyncio.create_task(board.rt.attach(socket_of(peer), channels=["a"], user_id="ann"))
        await turns()
        listed = await board.orders.connections("ann")
        touched = await board.orders.subscribe("ann", "plain:1")
        closed = await board.orders.disconnect("ann", code=4500)
        await turns()
        peer.leave()
        await task

        assert ("plain", "text", ("a",)) == (
            listed[0].transport,
            listed[0].protocol,
            listed[0].channels,
        )
        assert (0, 1) == (touched, closed)
        assert '{"error":{"code":4500,"message":""}}' == peer.texts[-1]
        assert [(4500, "")] == peer.closes


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "x", (1000, "x")),
        (1014, None, (1014, "")),
        (3000, None, (3000, "connection closed")),
        (4999, "r" * 123, (4999, "r" * 123)),
        (4000, "r" * 124, (4000, "r" * 123)),
        (4000, "r" * 122 + "é", (4000, "r" * 122)),
        (4000, "\ud800", (4000, "?")),
    ],
)
def test_create_close(code: int, reason: str | None, expected: tuple[int, str]) -> None:
    """A reason is cut between two characters, so that a close frame can carry it."""
    disconnect = create_close(code, reason)

    assert expected == (disconnect.code, disconnect.reason)


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_create_close_out_of_bounds(code: int) -> None:
    """Codes that no close frame may carry are refused."""
    with pytest.raises(BadRequest, match=f"1000 to 1014 or 3000 to 4999, got {code}"):
        create_close(code, "")


async def test_refresh() -> None:
    """A client is told when it expires now; others see its new info."""
    async with running() as board:
        ann = await board.connect("ann")
        changed = await board.orders.refresh(
            "ann", expires_at=time.time() + 60, info=b'{"name":"Ann"}'
        )
        await board.orders.refresh("ann")
        await turns()
        await ann.subscribe("room:1")
        members = await board.orders.presence("room:1")
        expired = await board.orders.refresh("ann", expired=True)

        assert (1, 1) == (changed, expired)
        assert [{"refresh": {"expires": True, "ttl": 60}}, {"refresh": {}}] == [
            push for push in ann.pushes() if "refresh" in push
        ]
        assert b'{"name":"Ann"}' == members[ann.client_id].conn_info
        assert [(3005, "connection expired")] == ann.transport.closed


async def test_who_is_online() -> None:
    """A user is online while one of their connections is there."""
    async with running() as board:
        ann = await board.connect("ann")
        await board.connect("ann")
        before = (
            await board.orders.online_users(["ann", "ben"]),
            await board.orders.is_online("ann"),
        )
        await ann.leave()
        after = await board.orders.online_users(["ann"])
        await board.orders.disconnect("ann")

        assert ({"ann": 2}, True) == before
        assert {"ann": 1} == after
        assert not await board.orders.is_online("ben")


async def test_connections() -> None:
    """Connections are listed page by page, with what is known of them."""
    async with running() as board:
        started = time.time()
        for user, name in (("ann", "js"), ("ben", "py"), ("", "")):
            peer = await board.connect(user, name=name, version="1.0")
            await peer.subscribe("plain:1")
        everybody = await board.orders.connections()
        page = await board.orders.connections(limit=2)
        rest = await board.orders.connections(after=page[-1].client_id, limit=2)
        (ann,) = await board.orders.connections("ann")

        assert everybody == page + rest
        assert sorted(each.client_id for each in everybody) == [
            each.client_id for each in everybody
        ]
        assert ("ann", "10.0.0.1", "websocket", "json") == (
            ann.user_id,
            ann.address,
            ann.transport,
            ann.protocol,
        )
        assert ("js", "1.0", "", ("plain:1",)) == (
            ann.name,
            ann.version,
            ann.session_id,
            ann.channels,
        )
        assert started - 1 < ann.connected_at < time.time() + 1
        assert [] == await board.orders.connections("nobody")
        for limit in (0, 1001):
            with pytest.raises(BadRequest, match=f"1 to 1000, got {limit}"):
                await board.orders.connections(limit=limit)


async def test_info() -> None:
    """The node tells what it has to do, and what it takes."""
    async with running() as board:
        for user in ("ann", "ann", ""):
            peer = await board.connect(user)
            await peer.subscribe("plain:1")
        info = await board.orders.info()

        assert (3, 1, 3, 1) == (
            info.client_count,
            info.user_count,
            info.subscription_count,
            info.channel_count,
        )
        assert (board.rt.node().node_id, __version__) == (info.node_id, info.version)
        assert 3 == info.counters["connected_count"]
        assert min(info.uptime_seconds, info.processor_percent, info.resident_bytes) > 0
