"""What the server does to a client: subscribe, unsubscribe, refresh, expire, end; and calls."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.unit.clients import CODECS, Peer, disconnected, load
from tests.unit.clocks import pass_time, turns
from tests.unit.nodes import running
from wirebell.access import ConnectGrant, RefreshGrant
from wirebell.errors import BrokerUnavailable, Denied, DisconnectCode, ErrorCode, ProtocolError
from wirebell.model import PayloadFormat, Publication, ServerSubscribe, StreamPosition
from wirebell.protocol.codec import Codec
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)

QUICK = Settings(expired_close_delay_seconds=5.0, expired_sub_close_delay_seconds=5.0)


def expiring(seconds: float, **how: Any) -> ConnectGrant:
    """Grant a connection that ends so many seconds from now."""
    return ConnectGrant(expires_at=time.time() + seconds, **how)


@both
async def test_the_server_subscribes(codec: Codec) -> None:
    """The push tells the position; publications follow it, those of meanwhile too."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        await rig.publish("h", "1")
        gate = rig.gates.hold("history")
        work = asyncio.create_task(peer.client.subscribe("h", ServerSubscribe(data=b'{"a":1}')))
        await turns()
        await rig.publish("h", "2")
        gate.set()
        await work
        push, live = await peer.wait_news()

        subscribed = push["push"]["subscribe"]
        assert ("h", 1, True, True) == (
            push["push"]["channel"],
            subscribed["offset"],
            subscribed["positioned"],
            subscribed["recoverable"],
        )
        assert {"a": 1} == load(subscribed["data"])
        assert 2 == live["push"]["pub"]["offset"]


async def test_the_server_subscribes_again_and_since() -> None:
    """From a position, what was missed follows the push; a second time only the push goes."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        await rig.publish("h", "1", "2")

        await peer.client.subscribe("h", ServerSubscribe(since=StreamPosition(1, "")))
        await peer.client.subscribe("h", ServerSubscribe(data=b"1"))
        first, missed, second = await peer.wait_news()

        assert 1 == first["push"]["subscribe"]["offset"]
        assert 2 == missed["push"]["pub"]["offset"]
        assert {"data": 1} == second["push"]["subscribe"]


async def test_commands_are_limited() -> None:
    """A command that comes too soon is answered with 111, and one without an answer ends it."""
    limits = {"rpc": 1.0, "send": 1.0}
    async with running(Settings(commands_per_second_max=limits)) as rig:
        peer = Peer(rig)
        await peer.connect()

        _, second = await peer.ask({"id": 2, "rpc": {}}, {"id": 3, "rpc": {}})
        await peer.ask({"send": {}}, {"send": {}})

        assert {"code": 111, "message": "too many requests", "temporary": True} == second["error"]
        assert [(3013, "too many requests")] == peer.closed


async def test_the_server_subscribes_who_has_too_many() -> None:
    """The limit, an unknown channel, and a broker that is away are told to the caller."""
    async with running(Settings(channels_per_connection_max=1)) as rig:
        peer = Peer(rig)
        await peer.connect()

        with pytest.raises(ProtocolError, match="unknown channel"):
            await peer.client.subscribe("unknown", ServerSubscribe())
        rig.gates.failures["subscribe"] = BrokerUnavailable("away")
        with pytest.raises(BrokerUnavailable):
            await peer.client.subscribe("a", ServerSubscribe())
        del rig.gates.failures["subscribe"]
        await peer.client.subscribe("a", ServerSubscribe())
        with pytest.raises(ProtocolError, match="limit exceeded"):
            await peer.client.subscribe("b", ServerSubscribe())
        assert {"a"} == set(peer.client.connection.channels)


async def test_the_server_subscribes_who_leaves() -> None:
    """Nothing happens, whether it leaves before, meanwhile, or is taken out meanwhile."""
    async with running() as rig:
        for how in ("gone", "leaves", "unsubscribed"):
            peer = Peer(rig)
            await peer.connect()
            if how == "gone":
                await peer.leave()
            gate = rig.gates.hold("history")
            work = asyncio.create_task(peer.client.subscribe("hp", ServerSubscribe()))
            await turns()
            if how == "leaves":
                await peer.leave()
            else:
                peer.client.unsubscribe("hp", 2000, "server unsubscribe")
            gate.set()
            await work

            news = await peer.wait_news()
            assert ["unsubscribe"] * (how == "unsubscribed") == [
                list(item["push"])[1] for item in news
            ]
            assert ({}, {}) == (peer.client.connection.channels, rig.store.presence.channels)
            await peer.leave()


@both
async def test_the_server_unsubscribes(codec: Codec) -> None:
    """It is pushed once; where there is no subscription nothing happens."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        await peer.say({"id": 2, "subscribe": {"channel": "a"}})
        peer.news()

        for _ in range(2):
            peer.client.unsubscribe("a", 2000, "server unsubscribe")
        await rig.publish("a", "1")

        assert [
            {
                "push": {
                    "channel": "a",
                    "unsubscribe": {"code": 2000, "reason": "server unsubscribe"},
                }
            }
        ] == await peer.wait_news()
        assert "unsubscribed a 2000 server unsubscribe" in peer.access.told


async def test_a_gap_of_the_clients_own_subscription() -> None:
    """It is told 2500, and recovers."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        await peer.say({"id": 2, "subscribe": {"channel": "h"}})
        peer.news()

        rig.node.handle_item("h", Publication(b"1", PayloadFormat.JSON, 7, "other"))
        (push,) = await peer.wait_news()

        assert {"code": 2500, "reason": "insufficient state"} == push["push"]["unsubscribe"]
        assert [] == peer.closed


async def test_a_gap_of_a_server_side_subscription() -> None:
    """The connection ends with 3010; where there is no subscription nothing happens."""
    async with running() as rig:
        peer = Peer(rig)
        peer.access.connect_grant = ConnectGrant(channels={"h": ServerSubscribe()})
        await peer.connect()

        peer.client.handle_gap("other")
        assert [] == peer.closed
        peer.client.handle_gap("h")

        assert [(3010, "insufficient state")] == peer.closed


async def test_the_server_ends_it() -> None:
    """Any code and reason may be told."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()

        peer.client.close(disconnected(DisconnectCode.FORCE_RECONNECT).disconnect)

        assert [(3011, "force reconnect")] == peer.closed


@both
async def test_the_server_refreshes(codec: Codec) -> None:
    """The new end is pushed and holds; an end that is taken away is pushed too."""
    async with running(QUICK) as rig:
        peer = Peer(rig, codec)
        await peer.connect()

        peer.client.refresh(time.time() + 60)
        (push,) = await peer.wait_news()
        peer.client.refresh(None)
        (never,) = await peer.wait_news()
        await pass_time(100)

        assert {"expires": True, "ttl": 60} == push["push"]["refresh"]
        assert {} == never["push"]["refresh"]
        assert [] == peer.closed


@pytest.mark.parametrize(("is_refreshed", "expected"), [(False, 15.0), (True, None)])
async def test_the_end_of_credentials(is_refreshed: bool, expected: float | None) -> None:
    """They end the connection after the grace, unless new ones are shown."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = expiring(10, grace_seconds=5.0, is_refreshed_by_client=True)
        await peer.connect()
        peer.access.refresh_grant = RefreshGrant(time.time() + 1_000)

        await pass_time(12)
        if is_refreshed:
            (reply,) = await peer.ask({"id": 2, "refresh": {"token": "t"}})
            assert {"expires": True, "ttl": 1_000} == reply["refresh"]
        assert [] == peer.closed
        await pass_time(4)

        assert ([] if is_refreshed else [(3005, "connection expired")]) == peer.closed
        assert expected is None or "renew" in peer.access.told


async def test_refresh_to_no_end() -> None:
    """A token without an end lets the connection live."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = expiring(10)
        await peer.connect()

        assert [{"id": 2, "refresh": {}}] == await peer.ask({"id": 2, "refresh": {"token": "t"}})
        await pass_time(100)

        assert [] == peer.closed


async def test_refresh_with_other_channels() -> None:
    """Server-side subscriptions of the new token must be there already: else 3010."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = ConnectGrant(channels={"a": ServerSubscribe()})
        await peer.connect()
        await peer.say({"id": 2, "subscribe": {"channel": "b"}})
        peer.news()

        peer.access.refresh_grant = RefreshGrant(None, frozenset("a"))
        assert [{"id": 3, "refresh": {}}] == await peer.ask({"id": 3, "refresh": {"token": "t"}})
        peer.access.refresh_grant = RefreshGrant(None, frozenset("ab"))
        assert [] == await peer.ask({"id": 4, "refresh": {"token": "t"}})

        assert [(3010, "insufficient state")] == peer.closed


@pytest.mark.parametrize(
    ("renewal", "failure", "code"),
    [
        (RefreshGrant(time.time() + 100_000), None, None),
        (RefreshGrant(None), None, None),
        (RefreshGrant(1.0), None, 3005),
        (None, None, 3005),
        (None, RuntimeError("broken"), 3005),
    ],
)
async def test_the_application_renews(
    renewal: RefreshGrant | None, failure: Exception | None, code: int | None
) -> None:
    """Whom it lets live is told so; otherwise, or where it breaks, the connection ends."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = expiring(10)
        await peer.connect()
        peer.access.renewal = renewal
        if failure is not None:
            peer.access.failures["renew"] = failure

        await pass_time(11)

        assert ([code] if code else []) == [closed[0] for closed in peer.closed]
        assert ([] if code else ["refresh"]) == [next(iter(push["push"])) for push in peer.news()]


async def test_an_application_that_does_not_answer() -> None:
    """Credentials that have ended are not held up for ever by whoever is asked to renew them."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = expiring(10)
        await peer.connect()
        peer.access.hold("renew")

        await pass_time(11)
        assert [] == peer.closed
        await pass_time(5)

        assert [(3005, "connection expired")] == peer.closed


async def test_a_refresh_while_the_application_is_asked() -> None:
    """Credentials that come meanwhile count, whatever the application says then."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = expiring(10)
        await peer.connect()
        gate = peer.access.hold("renew")
        peer.access.refresh_grant = RefreshGrant(time.time() + 1_000)
        await pass_time(11)

        await peer.say({"id": 2, "refresh": {"token": "t"}})
        gate.set()
        await turns()

        assert [] == peer.closed
        await peer.leave()


@pytest.mark.parametrize("name", ["renew", "refresh"])
async def test_leaving_while_credentials_are_renewed(name: str) -> None:
    """Who is gone is not closed, not counted, and leaves no deadline."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        peer.access.connect_grant = expiring(10)
        await peer.connect()
        gate = peer.access.hold(name)
        peer.access.refresh_grant = RefreshGrant(time.time() + 1_000)
        await pass_time(11 if name == "renew" else 1)
        task = await peer.begin({"id": 2, "refresh": {"token": "t"}})

        await peer.leave()
        gate.set()
        await task
        await turns()

        assert ([], ()) == (peer.closed, peer.client.deadlines.planned)
        assert {} == rig.node.statistics.disconnect_counts
        assert 1 == peer.access.told.count("disconnected")


async def test_a_failing_end_of_a_peer_that_left() -> None:
    """A command that ends a connection which is gone already leaves no trace of it."""
    async with running() as rig:
        peer = Peer(rig)
        gate = peer.access.hold("connect")
        peer.access.failures["connect"] = disconnected(DisconnectCode.INVALID_TOKEN)
        task = await peer.begin({"id": 1, "connect": {}})

        await peer.leave()
        gate.set()
        await task

        assert ([], {}) == (peer.closed, rig.node.hub.taken)
        assert {} == rig.node.statistics.disconnect_counts


@both
async def test_the_end_of_a_subscription(codec: Codec) -> None:
    """It is pushed after the grace, unless a new token came or the client left the channel."""
    async with running(QUICK) as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        end = time.time() + 10
        peer.access.subscribe_grant = ServerSubscribe(expires_at=end, data=b'"hi"')
        (reply,) = await peer.ask({"id": 2, "subscribe": {"channel": "a"}})
        await peer.say({"id": 3, "subscribe": {"channel": "b"}})
        await peer.say({"id": 4, "subscribe": {"channel": "c"}})
        await peer.say({"id": 5, "unsubscribe": {"channel": "c"}})
        peer.access.subscribe_grant = ServerSubscribe()
        await peer.say({"id": 6, "subscribe": {"channel": "c"}})
        peer.access.sub_expires_at = time.time() + 1_000
        peer.news()
        (refreshed,) = await peer.ask({"id": 7, "sub_refresh": {"channel": "b", "token": "t"}})

        await pass_time(14)
        assert [] == peer.news()
        await pass_time(2)

        assert (True, 10) == (reply["subscribe"]["expires"], reply["subscribe"]["ttl"])
        assert {"expires": True, "ttl": 1_000} == refreshed["sub_refresh"]
        (push,) = peer.news()
        assert {"code": 2501, "reason": "subscription expired"} == push["push"]["unsubscribe"]
        assert {"b", "c"} == set(peer.client.connection.channels)


async def test_the_end_of_a_server_side_subscription() -> None:
    """The connection ends with it: 3006."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        how = ServerSubscribe(expires_at=time.time() + 10)
        peer.access.connect_grant = ConnectGrant(channels={"a": how})
        await peer.connect()

        await pass_time(16)

        assert [(3006, "subscription expired")] == peer.closed


async def test_sub_refresh_to_no_end_and_of_nothing() -> None:
    """A token without an end lets the subscription live; without a subscription it is 103."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        await peer.connect()
        peer.access.subscribe_grant = ServerSubscribe(expires_at=time.time() + 10)
        await peer.say({"id": 2, "subscribe": {"channel": "a"}})
        peer.news()

        news = await peer.ask(
            {"id": 3, "sub_refresh": {"channel": "a", "token": "t"}},
            {"id": 4, "sub_refresh": {"channel": "b", "token": "t"}},
        )
        await pass_time(20)

        assert {"id": 3, "sub_refresh": {}} == news[0]
        assert 103 == news[1]["error"]["code"]
        assert [] == peer.news()


# Commands that change nothing


@both
async def test_history(codec: Codec) -> None:
    """It is read in pages, both ways, within a bound; 0 asks for the position alone."""
    async with running(Settings(history_publications_max=3)) as rig:
        await rig.publish("h", *"12345")
        peer = Peer(rig, codec)
        await peer.connect()

        async def read(**how: Any) -> list[int]:
            (reply,) = await peer.ask({"id": 2, "history": {"channel": "h", **how}})
            assert 5 == reply["history"]["offset"]
            return [item["offset"] for item in reply["history"].get("publications", [])]

        assert [] == await read()
        assert [1, 2, 3] == await read(limit=-1)
        assert [1, 2, 3] == await read(limit=100)
        assert [3, 4] == await read(limit=2, since={"offset": 2})
        assert [5, 4] == await read(limit=2, reverse=True)


async def test_history_of_another_epoch_and_of_nothing() -> None:
    """A position of another stream is 112; where nothing is kept it is 108."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()

        other, nothing = await peer.ask(
            {"id": 2, "history": {"channel": "h", "limit": 1, "since": {"epoch": "other"}}},
            {"id": 3, "history": {"channel": "a"}},
        )

        assert (112, 108) == (other["error"]["code"], nothing["error"]["code"])


@both
async def test_presence(codec: Codec) -> None:
    """Who is there, and how many: clients, and people by their ids."""
    async with running() as rig:
        peers = [Peer(rig, codec) for _ in range(3)]
        for peer, user_id in zip(peers, ("ann", "ann", ""), strict=True):
            peer.access.connect_grant = ConnectGrant(user_id)
            peer.access.subscribe_grant = ServerSubscribe(info=b'{"c":1}')
            await peer.connect()
            await peer.say({"id": 2, "subscribe": {"channel": "p"}})
        peers[0].news()

        presence, stats, nothing = await peers[0].ask(
            {"id": 3, "presence": {"channel": "p"}},
            {"id": 4, "presence_stats": {"channel": "p"}},
            {"id": 5, "presence": {"channel": "a"}},
        )

        members = presence["presence"]["presence"]
        assert {peer.client.client_id for peer in peers} == set(members)
        assert ["ann", "ann", ""] == [
            members[peer.client.client_id].get("user", "") for peer in peers
        ]
        assert {"num_clients": 3, "num_users": 2} == stats["presence_stats"]
        assert 108 == nothing["error"]["code"]


@both
async def test_rpc(codec: Codec) -> None:
    """The answer is the application's; what it refuses and what breaks are errors."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()

        (reply,) = await peer.ask({"id": 2, "rpc": {"method": "echo", "data": {"a": 1}}})
        peer.access.failures["rpc"] = Denied("no")
        (denied,) = await peer.ask({"id": 3, "rpc": {"data": 1}})
        peer.access.failures["rpc"] = ValueError("broken")
        (broken,) = await peer.ask({"id": 4, "rpc": {"data": 1}})

        assert {"a": 1} == load(reply["rpc"]["data"])
        assert {"id": 3, "error": {"code": 103, "message": "no"}} == denied
        assert (100, True) == (broken["error"]["code"], broken["error"]["temporary"])
        assert [] == peer.closed


@both
@pytest.mark.parametrize(
    "failure", [Denied("no"), ValueError("broken"), ProtocolError(ErrorCode.INTERNAL)]
)
async def test_send(codec: Codec, failure: Exception) -> None:
    """A message has no answer, whatever becomes of it: a reply without an id would be a ping."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()

        await peer.say({"send": {"data": {"a": 1}}}, {"id": 9, "send": {"data": 2}})
        peer.access.failures["send"] = failure
        await peer.say({"send": {"data": 3}}, {"id": 10, "send": {"data": 4}})
        news = await peer.ask({"id": 2, "rpc": {"data": 1}})

        told = [load(text.removeprefix("message ")) for text in peer.access.told if "mess" in text]
        assert [{"a": 1}, 2] == told
        assert [2] == [item["id"] for item in news]
        assert [] == peer.closed


async def test_send_that_nobody_takes() -> None:
    """It ends the connection: 3508."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        peer.access.failures["send"] = disconnected(DisconnectCode.NOT_AVAILABLE)

        assert [] == await peer.ask({"send": {"data": 1}}, {"id": 2, "rpc": {"data": 1}})
        assert [(3508, "not available")] == peer.closed
