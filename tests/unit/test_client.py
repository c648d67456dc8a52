"""A client's commands on a real node, in both encodings."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.unit.clients import CODECS, FakeAccess, Peer, disconnected, load
from tests.unit.clocks import turns
from tests.unit.nodes import Rig, running
from wirebell.access import ConnectGrant
from wirebell.errors import (
    BrokerUnavailable,
    Denied,
    DisconnectCode,
    ErrorCode,
    ProtocolError,
)
from wirebell.model import ServerSubscribe
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def grant(*channels: str, **how: Any) -> ConnectGrant:
    """Grant a connection, with server-side subscriptions."""
    return ConnectGrant(channels=dict.fromkeys(channels, ServerSubscribe()), **how)


def assert_nothing_left(rig: Rig) -> None:
    """Check that the node has forgotten everybody."""
    hub = rig.node.hub
    assert ({}, {}, {}) == (rig.node.connections, rig.node.users, rig.store.presence.channels)
    assert ({}, {}, {}, {}, {}, {}) == (
        hub.live,
        hub.catching_up,
        hub.replies,
        hub.backlogs,
        hub.bases,
        hub.tops,
    )


@both
async def test_connect(codec: Codec) -> None:
    """The result says who one is, and how often one is pinged."""
    async with running() as rig:
        peer = Peer(rig, codec)
        peer.access.connect_grant = ConnectGrant("ann", info=b'{"a":1}', data=b'{"b":2}')

        result = await peer.connect(name="js", version="1" * 99)

        assert {"b": 2} == load(result.pop("data"))
        assert {"client": peer.client.client_id, "version": result["version"]} == {
            key: result[key] for key in ("client", "version")
        }
        assert (25, True, "js", 64) == (
            result["ping"],
            result["pong"],
            peer.client.name,
            len(peer.client.version),
        )
        assert {"client", "version", "ping", "pong"} == set(result)
        assert {peer.client.client_id} == set(rig.node.users[peer.client.user_id])
        assert b'{"a":1}' == peer.client.connection.conn_info


@both
async def test_connect_that_expires_and_tells_the_time(codec: Codec) -> None:
    """A token's end is announced in seconds, at most a year; the time where it is asked for."""
    async with running() as rig:
        peer, far, silent = Peer(rig, codec), Peer(rig, codec), Peer(rig, codec)
        now = time.time()
        peer.access.tells_time = True
        peer.access.connect_grant = ConnectGrant(expires_at=now + 60, is_refreshed_by_client=True)
        far.access.connect_grant = ConnectGrant(expires_at=now + 1e9, is_refreshed_by_client=True)
        silent.access.connect_grant = ConnectGrant(expires_at=now + 60)

        result = await peer.connect()

        assert (True, 60) == (result["expires"], result["ttl"])
        assert abs(result["time"] / 1000 - now) < 10
        assert (await far.connect())["ttl"] == 31_536_000
        assert "ttl" not in await silent.connect()


@both
async def test_connect_is_refused(codec: Codec) -> None:
    """An error is answered, what is behind it in the frame is not, and nothing more is read."""
    async with running() as rig:
        peer = Peer(rig, codec)
        peer.access.failures["connect"] = ProtocolError(ErrorCode.TOKEN_EXPIRED)

        news = await peer.ask({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "a"}})

        assert [{"id": 1, "error": {"code": 109, "message": "token expired"}}] == news
        assert [] == await peer.ask({"id": 3, "connect": {}})
        await peer.leave()
        assert "disconnected" not in peer.access.told
        assert_nothing_left(rig)


@both
async def test_connect_and_subscribe_in_one_frame(codec: Codec) -> None:
    """Answers come in order, before the publications that were held meanwhile."""
    async with running() as rig:
        peer = Peer(rig, codec)
        gate = peer.access.hold("connect")

        task = await peer.begin(
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "a"}},
            {"id": 3, "publish": {"channel": "a", "data": {}}},
            {"id": 4, "rpc": {"data": 1}},
        )
        assert [] == peer.news()
        gate.set()
        await task
        news = await peer.wait_news()

        assert [1, 2, "a", 3, 4] == [
            item["push"]["channel"] if "push" in item else item["id"] for item in news
        ]


@both
async def test_what_connecting_brings(codec: Codec) -> None:
    """Server-side subscriptions are in the result, with their positions; live ones follow."""
    async with running() as rig:
        await rig.publish("h", "1", "2")
        peer = Peer(rig, codec)
        peer.access.connect_grant = grant("h", "a")
        gate = rig.gates.hold("history")

        task = await peer.begin(
            {"id": 1, "connect": {"subs": {"h": {"recover": True, "offset": 1}}}}
        )
        await rig.publish("h", "3")
        gate.set()
        await task
        reply, live = await peer.wait_news()

        sub = reply["connect"]["subs"]["h"]
        assert (1, True, [2]) == (
            sub["offset"],
            sub["recovered"],
            [item["offset"] for item in sub["publications"]],
        )
        assert {} == reply["connect"]["subs"]["a"]
        assert 3 == live["push"]["pub"]["offset"]


async def test_a_connect_that_fails_half_way_leaves_nothing() -> None:
    """A channel that cannot be had takes those before it along: no push comes afterwards."""
    async with running() as rig:
        peer = Peer(rig)
        peer.access.connect_grant = grant("a", "p", "unknown")

        (reply,) = await peer.ask({"id": 1, "connect": {}})
        await rig.publish("a", "1")

        assert 102 == reply["error"]["code"]
        assert [] == await peer.wait_news()
        assert {} == peer.client.connection.channels
        await peer.leave()
        assert_nothing_left(rig)


async def test_a_position_that_is_gone_is_no_reason_to_refuse_a_connection() -> None:
    """The flag that rejects an unrecoverable position is for subscriptions of the client's own."""
    async with running() as rig:
        await rig.publish("h", "1")
        peer = Peer(rig)
        peer.access.connect_grant = grant("h")

        result = await peer.connect(
            subs={"h": {"recover": True, "offset": 1, "epoch": "other", "flag": 2}}
        )

        assert (None, True) == (
            result["subs"]["h"].get("recovered"),
            result["subs"]["h"]["was_recovering"],
        )


async def test_too_many_channels_by_connecting() -> None:
    """More than a connection may have end it: 3505."""
    async with running(Settings(channels_per_connection_max=1)) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = grant("a", "b")

        assert [] == await peer.ask({"id": 1, "connect": {}})
        assert [(3505, "channel limit")] == peer.closed


async def test_too_many_connections_of_a_user() -> None:
    """The limit of a user's connections ends the one too many: 3504."""
    async with running(Settings(connections_per_user_max=1)) as rig:
        peers = [Peer(rig), Peer(rig)]
        for peer in peers:
            peer.access.connect_grant = ConnectGrant("ann")
            await peer.say({"id": 1, "connect": {}})

        assert [[], [(3504, "connection limit")]] == [peer.closed for peer in peers]


@pytest.mark.parametrize("name", ["connect", "history"])
async def test_leaving_while_connecting(name: str) -> None:
    """Who leaves before it is answered leaves nothing behind, and is told nothing."""
    async with running() as rig:
        peer = Peer(rig)
        peer.access.connect_grant = grant("a", "hp", user_id="ann")
        gate = peer.access.hold(name) if name == "connect" else rig.gates.hold(name)
        task = await peer.begin({"id": 1, "connect": {}}, {"id": 2, "rpc": {}})

        await peer.leave()
        gate.set()
        await task
        await turns()

        assert [] == peer.messages
        assert "disconnected" not in peer.access.told
        assert ({}, {}) == (rig.node.connections, rig.store.presence.channels)
        assert {} == rig.node.hub.catching_up


@both
async def test_subscribe(codec: Codec) -> None:
    """Publications follow the reply, those of before do not come."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        await rig.publish("h", "1")

        (reply,) = await peer.ask({"id": 2, "subscribe": {"channel": "h"}})
        await rig.publish("h", "2")
        (push,) = await peer.wait_news()

        assert {"recoverable", "positioned", "epoch", "offset"} == set(reply["subscribe"])
        assert (1, 2) == (reply["subscribe"]["offset"], push["push"]["pub"]["offset"])


@both
async def test_subscribe_hears_its_own_join(codec: Codec) -> None:
    """The reply goes first, then the join, one's own too (section 1.6)."""
    async with running() as rig:
        peer, other = Peer(rig, codec), Peer(rig, codec)
        for who in (peer, other):
            await who.connect()
        await other.ask({"id": 2, "subscribe": {"channel": "p", "join_leave": True}})

        news = await peer.ask({"id": 2, "subscribe": {"channel": "p", "join_leave": True}})

        assert [2, "join"] == [
            "join" if "push" in item and "join" in item["push"] else item["id"] for item in news
        ]
        assert peer.client.client_id == other.news()[0]["push"]["join"]["info"]["client"]
        await peer.ask({"id": 3, "unsubscribe": {"channel": "p"}})
        await peer.leave()
        (leave,) = other.news()
        assert peer.client.client_id == leave["push"]["leave"]["info"]["client"]


@both
async def test_a_subscription_that_is_refused(codec: Codec) -> None:
    """Errors are answered; the connection stays."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        peer.access.failures["subscribe"] = Denied("not you")

        (reply,) = await peer.ask({"id": 2, "subscribe": {"channel": "a"}})

        assert {"id": 2, "error": {"code": 103, "message": "not you"}} == reply
        assert ([], {}) == (peer.closed, peer.client.connection.channels)


@both
async def test_an_unrecoverable_position(codec: Codec) -> None:
    """It is told, or refused with 112 where the client wants that; then nothing follows."""
    async with running() as rig:
        await rig.publish("h", "1")
        peer = Peer(rig, codec)
        await peer.connect()
        wish = {"channel": "h", "recover": True, "offset": 1, "epoch": "_"}

        (refused,) = await peer.ask({"id": 2, "subscribe": {**wish, "flag": 2}})
        await rig.publish("h", "2")
        assert [] == await peer.wait_news()
        (told,) = await peer.ask({"id": 3, "subscribe": wish})

        assert 112 == refused["error"]["code"]
        assert (2, True) == (told["subscribe"]["offset"], told["subscribe"]["was_recovering"])
        assert "recovered" not in told["subscribe"]


@both
async def test_patches(codec: Codec) -> None:
    """The first publication goes in full and the next as a patch, also after a recovery."""
    text = "x" * 200
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        wish = {"channel": "hD", "delta": "fossil"}
        (reply,) = await peer.ask({"id": 2, "subscribe": wish})
        publish = {"channel": "hD", "data": {"text": text}}
        live = []
        for number in range(3):
            live += await peer.ask({"id": 3 + number, "publish": publish})
        await peer.say({"id": 6, "unsubscribe": {"channel": "hD"}})
        peer.news()
        back = {"recover": True, "offset": 1, "epoch": reply["subscribe"]["epoch"]}
        (again,) = await peer.ask({"id": 7, "subscribe": {**wish, **back}})
        after = await peer.ask({"id": 8, "publish": publish})

        deltas = [item["push"]["pub"].get("delta", False) for item in live if "push" in item]
        assert (True, [False, True, True]) == (reply["subscribe"]["delta"], deltas)
        recovered = [item.get("delta", False) for item in again["subscribe"]["publications"]]
        assert ([False, True], True) == (recovered, after[0]["push"]["pub"]["delta"])


async def test_leaving_while_subscribing() -> None:
    """Whatever is waited for, who leaves leaves nothing behind."""
    for name in ("subscribe", "history", "add", "join", "access"):
        async with running() as rig:
            peer = Peer(rig)
            await peer.connect()
            gate = peer.access.hold("subscribe") if name == "access" else rig.gates.hold(name)
            task = await peer.begin(
                {"id": 2, "subscribe": {"channel": "hp"}}, {"id": 3, "rpc": {"data": 1}}
            )

            await peer.leave()
            gate.set()
            await task
            await turns()

            assert [] == peer.news(), name
            assert ({}, {}) == (rig.node.connections, rig.store.presence.channels), name
            assert ({}, {}) == (rig.node.hub.live, rig.node.hub.catching_up), name
            assert "rpc" not in peer.access.told


async def test_a_cancelled_subscribe() -> None:
    """A handler that the carrier cancels leaves the client out of the channel."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        rig.gates.hold("history")
        task = await peer.begin({"id": 2, "subscribe": {"channel": "hp"}})

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert ({}, {}) == (peer.client.connection.channels, rig.node.hub.catching_up)
        await peer.leave()


async def test_unsubscribed_by_the_server_while_subscribing() -> None:
    """The client is told both, and is not subscribed."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        gate = rig.gates.hold("history")
        task = await peer.begin({"id": 2, "subscribe": {"channel": "hpD", "delta": "fossil"}})

        peer.client.unsubscribe("hpD", 2000, "server unsubscribe")
        gate.set()
        await task
        push, reply = await peer.wait_news()

        assert 2000 == push["push"]["unsubscribe"]["code"]
        assert 103 == reply["error"]["code"]
        assert ({}, {}) == (peer.client.connection.channels, peer.client.unreleased)
        assert {} == rig.store.presence.channels


async def test_unsubscribed_by_the_server_while_connecting() -> None:
    """Nothing comes before the result, and the result leaves the channel out."""
    async with running() as rig:
        peer = Peer(rig)
        peer.access.connect_grant = grant("a", "h", "b")
        gate = rig.gates.hold("history")
        task = await peer.begin({"id": 1, "connect": {}})

        for channel in ("a", "h"):
            peer.client.unsubscribe(channel, 2000, "server unsubscribe")
        peer.client.refresh(time.time() + 60)
        await peer.client.subscribe("c", ServerSubscribe())
        gate.set()
        await task
        (reply,) = await peer.wait_news()

        assert {"b"} == set(reply["connect"]["subs"])
        assert {"b"} == set(peer.client.connection.channels)
        assert () == peer.client.deadlines.planned


async def test_closed_by_the_server_while_connecting() -> None:
    """A connection that is ended meanwhile never counts as connected."""
    async with running() as rig:
        for name in ("connect", "history"):
            peer = Peer(rig)
            peer.access.connect_grant = grant("h")
            gate = peer.access.hold(name) if name == "connect" else rig.gates.hold(name)
            task = await peer.begin({"id": 1, "connect": {}})

            peer.receiver.receive_shutdown()
            gate.set()
            await task
            await turns()

            assert ([], [(3001, "shutdown")]) == (peer.messages, peer.closed)
            assert not peer.client.is_connected
            await peer.leave()


async def test_subscribed_by_the_server_while_the_application_is_asked() -> None:
    """The client's own subscribe is then one too many: 105."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        gate = peer.access.hold("subscribe")
        task = await peer.begin({"id": 2, "subscribe": {"channel": "a"}})

        await peer.client.subscribe("a", ServerSubscribe())
        gate.set()
        await task
        push, reply = await peer.wait_news()

        assert ("subscribe", 105) == (list(push["push"])[1], reply["error"]["code"])
        assert peer.client.is_subscribed("a")


@both
async def test_unsubscribe(codec: Codec) -> None:
    """It is answered, whether there was a subscription or not."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        await peer.say({"id": 2, "subscribe": {"channel": "a"}})
        peer.news()

        news = await peer.ask(
            {"id": 3, "unsubscribe": {"channel": "a"}}, {"id": 4, "unsubscribe": {"channel": "b"}}
        )
        await rig.publish("a", "1")

        assert [{"id": 3, "unsubscribe": {}}, {"id": 4, "unsubscribe": {}}] == news
        assert [] == await peer.wait_news()
        assert ["unsubscribed a 0 client"] == [
            told for told in peer.access.told if told.startswith("unsub")
        ]


@both
async def test_publish(codec: Codec) -> None:
    """One's own publication comes before the reply, and tells who published it."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        await peer.say({"id": 2, "subscribe": {"channel": "h"}})
        peer.news()

        push, reply = await peer.ask({"id": 3, "publish": {"channel": "h", "data": {"a": 1}}})

        assert {"id": 3, "publish": {}} == reply
        assert {"a": 1} == load(push["push"]["pub"]["data"])
        assert peer.client.client_id == push["push"]["pub"]["info"]["client"]


@both
async def test_publish_that_has_to_wait(codec: Codec) -> None:
    """Whoever checks may take its time, and handle the publication itself."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        gate = rig.gates.hold("publish")
        task = await peer.begin(
            {"id": 2, "publish": {"channel": "a", "data": 1}}, {"id": 3, "rpc": {"data": 1}}
        )
        assert [] == peer.news()
        gate.set()
        await task
        peer.access.is_slow_publish = True

        news = await peer.wait_news() + await peer.ask(
            {"id": 4, "publish": {"channel": "a", "data": 1}},
            {"id": 5, "publish": {"channel": "a", "data": None}},
            {"id": 6, "publish": {"channel": "swallow", "data": 1}},
        )

        assert [2, 3, 4, 5, 6] == [item["id"] for item in news]
        assert 2 == rig.node.statistics.published_count


async def test_publish_that_is_handled_already() -> None:
    """A publication that whoever checks took for itself is answered all the same."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()

        news = await peer.ask({"id": 2, "publish": {"channel": "swallow", "data": 1}})

        assert [{"id": 2, "publish": {}}] == news
        assert 0 == rig.node.statistics.published_count


@pytest.mark.parametrize("is_slow", [False, True])
async def test_publish_that_fails(is_slow: bool) -> None:
    """A refusal is answered with its code, what broke with 100; ends end the connection."""
    name = "publish_later" if is_slow else "publish"
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        peer.access.is_slow_publish = is_slow
        command = {"id": 2, "publish": {"channel": "a", "data": 1}}

        peer.access.failures[name] = Denied("no")
        (denied,) = await peer.ask(command)
        peer.access.failures[name] = RuntimeError("broken")
        (broken,) = await peer.ask(command)
        peer.access.failures[name] = disconnected(DisconnectCode.NOT_AVAILABLE)
        assert [] == await peer.ask(command)

        assert {"code": 103, "message": "no"} == denied["error"]
        assert {
            "code": 100,
            "message": "internal server error",
            "temporary": True,
        } == broken["error"]
        assert [(3508, "not available")] == peer.closed


@pytest.mark.parametrize(
    "command",
    [
        {"publish": {"channel": "a", "data": 1}},
        {"subscribe": {"channel": "hp"}},
        {"history": {"channel": "h"}},
    ],
)
async def test_a_broker_that_does_not_answer(
    command: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is a temporary error: the connection stays, and the client tries again."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        for name in ("publish", "subscribe", "history"):
            rig.gates.failures[name] = BrokerUnavailable("away")

        (failed,) = await peer.ask({"id": 2, **command})
        rig.gates.failures.clear()
        (done,) = await peer.ask({"id": 3, **command})

        assert (100, True) == (failed["error"]["code"], failed["error"]["temporary"])
        assert ("error" in done, peer.closed) == (False, [])
        assert "away" in caplog.text


async def test_publication_over_the_limit() -> None:
    """Too long a payload is 107."""
    async with running(Settings(publication_bytes_max=3)) as rig:
        peer = Peer(rig)
        await peer.connect()

        (reply,) = await peer.ask({"id": 2, "publish": {"channel": "a", "data": 12345}})

        assert 107 == reply["error"]["code"]


async def test_what_breaks_while_connecting() -> None:
    """An application that breaks is a temporary error: the client comes back later."""
    async with running() as rig:
        peer = Peer(rig, access=FakeAccess())
        peer.access.failures["connect"] = RuntimeError("broken")

        (reply,) = await peer.ask({"id": 1, "connect": {}}, {"id": 2, "rpc": {}})

        assert (100, True) == (reply["error"]["code"], reply["error"]["temporary"])
        assert not peer.closed
        assert JSON is peer.client.codec
