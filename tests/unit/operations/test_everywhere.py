"""What is done on all nodes, seen from one of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain

import pytest

from tests.unit.clients import FakeAccess, Peer as ProtocolPeer
from tests.unit.clocks import pass_time, turns
from tests.unit.exchange import Exchange, Site
from tests.unit.stations import Station
from wirebell.access import ConnectGrant, RefreshGrant, ShownToken
from wirebell.errors import (
    BadRequest,
    BrokerUnavailable,
    LimitExceeded,
    NodesSilent,
    ProtocolError,
)
from wirebell.model import ServerSubscribe
from wirebell.operations.orders import end_predecessors
from wirebell.operations.users import ConnectionDetails
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

REVOKED = (3500, "invalid token")


@asynccontextmanager
async def stations(
    *names: str, settings: Settings | None = None
) -> AsyncIterator[list[Station[Site]]]:
    """Run nodes."""
    exchange = Exchange()
    found = [Station(Site(exchange, settings or Settings(), name)) for name in names]
    for station in found:
        await station.node().start()
    try:
        yield found
    finally:
        for station in found:
            station.site.link.failures.clear()
            station.site.link.is_cut = False
        for station in found:
            await station.node().aclose()


def shown(token_id: str = "", issued_at: float | None = None) -> ShownToken:
    """Create what a client showed."""
    return ShownToken(token_id, issued_at)


async def test_subscribe_and_unsubscribe() -> None:
    """A user's clients are subscribed on whichever node they are, and counted together."""
    async with stations("a", "b") as (a, b):
        ann, again = await a.connect("ann"), await b.connect("ann")
        options = ServerSubscribe(data=b'{"n":1}')
        subscribed = await a.subscribe("ann", "news", options=options)
        unsubscribed = await b.unsubscribe("ann", "news", code=2001, reason="bye")
        await turns()

        assert (2, 2) == (subscribed, unsubscribed)
        for peer in (ann, again):
            pushes = [message["push"] for message in peer.news()]
            assert {"n": 1} == pushes[0]["subscribe"]["data"]
            assert {"code": 2001, "reason": "bye"} == pushes[1]["unsubscribe"]


async def test_disconnect() -> None:
    """A user's connections end on all nodes, but for those that stay."""
    async with stations("a", "b", "c") as (a, b, c):
        peers = [await station.connect("ann") for station in (a, b, c)]
        other = await b.connect("ben")
        kept = peers[2].client.client_id
        count = await a.disconnect("ann", whitelist=[kept], code=4001, reason="out")

        assert 2 == count
        assert [[(4001, "out")], [(4001, "out")], [], []] == [
            peer.closed for peer in (*peers, other)
        ]


async def test_refresh() -> None:
    """Clients of other nodes expire when they are told to."""
    async with stations("a", "b") as (a, b):
        ann = await b.connect("ann")
        changed = await a.refresh("ann", expires_at=time.time() + 100, info=b'"x"')
        await turns()
        ended = await a.refresh("ann", expired=True)

        assert (1, 1) == (changed, ended)
        assert b'"x"' == ann.client.connection.conn_info
        assert 100 == ann.news()[0]["push"]["refresh"]["ttl"]
        assert [(3005, "connection expired")] == ann.closed


async def test_anonymous_clients() -> None:
    """A client id finds an anonymous client of any node; nobody's is an error."""
    async with stations("a", "b") as (a, b):
        nobody, ann = await b.connect(), await b.connect("ann")

        assert 0 == await a.disconnect("")
        assert 1 == await a.disconnect("", client_id=nobody.client.client_id)
        with pytest.raises(BadRequest, match="is no anonymous client: name its user"):
            await a.disconnect("", client_id=ann.client.client_id)
        assert [] == ann.closed


async def test_bad_orders_reach_nobody() -> None:
    """What is refused here is not given to others."""
    async with stations("a", "b") as (a, b):
        ann = await b.connect("ann")
        calls = len(a.site.link.calls)
        with pytest.raises(BadRequest, match="1000 to 1014"):
            await a.disconnect("ann", code=1)
        with pytest.raises(ProtocolError):
            await a.subscribe("ann", "nope:1")
        with pytest.raises(BadRequest, match="limit is 1 to 1000"):
            await a.connections(limit=0)

        assert ([], calls) == (ann.closed, len(a.site.link.calls))


async def test_limits_of_others() -> None:
    """A limit that a client of another node meets is told, and the rest is done."""
    settings = Settings(channels_per_connection_max=1)
    async with stations("a", "b", settings=settings) as (a, b):
        free, full = await a.connect("ann"), await b.connect("ann", "x")
        for station in (a, b):
            with pytest.raises(LimitExceeded, match="which is the limit"):
                await station.subscribe("ann", f"news {station.site.node.name}")

        assert free.client.is_subscribed("news a")
        assert ["x"] == list(full.client.connection.channels)


async def test_online() -> None:
    """Who is connected to any node is online, and connections are counted together."""
    async with stations("a", "b") as (a, b):
        await a.connect("ann")
        await b.connect("ann")
        await b.connect("ben")

        assert {"ann": 2, "ben": 1} == await a.online_users(["ann", "ben", "eve"])
        assert [True, True, False] == [await a.is_online(user) for user in ("ann", "ben", "eve")]


async def test_connections() -> None:
    """Pages go through the connections of all nodes in the order of their ids."""
    async with stations("a", "b", "c") as found:
        peers = [await station.connect("ann", "x") for station in found for _ in range(3)]
        await found[1].connect("ben")
        pages, after = [], ""
        while page := await found[0].connections("ann", after=after, limit=4):
            pages.append([each.client_id for each in page])
            after = page[-1].client_id
        everybody = await found[2].connections()

        assert [4, 4, 1] == [len(page) for page in pages]
        assert sorted(peer.client.client_id for peer in peers) == list(chain(*pages))
        assert (10, ("x",)) == (len(everybody), page_of(everybody, "ann").channels)


def page_of(connections: list[ConnectionDetails], user_id: str) -> ConnectionDetails:
    """Find a user's first connection."""
    return next(each for each in connections if each.user_id == user_id)


async def test_channels() -> None:
    """Subscribers of a channel are counted on all nodes."""
    async with stations("a", "b") as (a, b):
        await a.connect("ann", "news:1", "other")
        await b.connect("ben", "news:1", "news:2")

        assert {"news:1": 2, "news:2": 1} == await a.channels("news:*")
        assert {"news:1": 2, "news:2": 1, "other": 1} == await b.channels()


async def test_nodes() -> None:
    """Every node tells what it has to do; one that does not answer is marked."""
    async with stations("b", "a", "c") as (b, a, _c):
        await a.connect("ann", "x", "y")
        await pass_time(4)
        whole = await b.nodes()
        a.site.kill()
        marked = await b.nodes()
        b.site.link.cut()
        cut = await b.nodes()

        assert ["a", "b", "c"] == [each.name for each in whole]
        assert (1, 1, 2, 2) == (
            whole[0].client_count,
            whole[0].user_count,
            whole[0].subscription_count,
            whole[0].channel_count,
        )
        assert [(True, 1), (False, 0), (False, 0)] == [
            (each.is_silent, each.client_count) for each in marked
        ]
        assert [True, False, True] == [each.is_silent for each in cut]
        assert b.node().node_id == (await b.info()).node_id


async def test_who_does_not_answer() -> None:
    """An order that one node does not confirm says so, and is done on the others."""
    async with stations("a", "b", "c") as (a, b, c):
        ann, lost = await b.connect("ann"), await c.connect("ann")
        c.site.link.is_slow = True
        with pytest.raises(NodesSilent, match="no answer within 3 s of: c"):
            await a.disconnect("ann")
        with pytest.raises(NodesSilent):
            await a.channels()
        with pytest.raises(NodesSilent):
            await a.is_online("nobody")
        assert ([(3503, "force disconnect")], []) == (ann.closed, lost.closed)

        c.site.link.let_go()
        await turns()
        assert [(3503, "force disconnect")] == lost.closed


async def test_broker_is_away() -> None:
    """Where nobody can be asked the order is done here, and says so."""
    async with stations("a", "b") as (a, b):
        here, there = await a.connect("ann"), await b.connect("ann")
        a.site.link.cut()
        with pytest.raises(BrokerUnavailable):
            await a.disconnect("ann")

        assert ([(3503, "force disconnect")], []) == (here.closed, there.closed)


async def test_a_node_of_a_newer_release() -> None:
    """A question that cannot be read is refused, by whoever cannot read it."""
    async with stations("a", "b") as (a, b):
        with pytest.raises(Exception, match="disconnect of another node cannot be read"):
            await a.node().cluster.ask(b.node().node_id, "disconnect", b"\xc0")


async def test_revoke_a_user() -> None:
    """All tokens of a user are refused everywhere from now on, and their connections end."""
    async with stations("a", "b", "c") as (a, b, c):
        now = time.time()
        ann = await a.connect("ann", token=shown("t1", now - 10))
        undated = await b.connect("ann", token=shown())
        newer = await b.connect("ann", token=shown("t2", now + 100))
        cookie = await c.connect("ann")
        ben = await c.connect("ben", token=shown("t3", now - 10))
        count = await a.revoke("ann")

        assert 3 == count
        assert [[REVOKED]] * 3 == [peer.closed for peer in (ann, undated, cookie)]
        assert [[], []] == [newer.closed, ben.closed]
        for station in (a, b, c):
            refuses = station.node().cluster.revocations.refuses
            assert refuses("ann", "t1", now - 10, now)
            assert not refuses("ann", "t2", now + 100, now)
            assert not refuses("ben", "t3", now - 10, now)


async def test_revoke_a_token() -> None:
    """A token ends what it opened, and what it opens while somebody is asked."""
    async with stations("a", "b") as (a, b):
        ann = await b.connect("ann", token=shown("t1"))
        other = await b.connect("ann", token=shown("t2"))
        plain = b.site.listener("ann")
        count = await a.revoke(token_id="t1")

        access = FakeAccess()
        access.connect_grant = ConnectGrant("ann", token=shown("t1"))
        late = ProtocolPeer(b.site, access=access)
        await late.ask({"id": 1, "connect": {}})

        assert (1, [REVOKED], []) == (count, ann.closed, other.closed)
        assert ([REVOKED], []) == (late.closed, plain.transport.closed)


async def test_revoked_while_connecting() -> None:
    """Who is let in while the application is asked about it is refused, with a token or without."""
    async with stations("a", "b") as (a, b):
        access = FakeAccess()
        access.connect_grant = ConnectGrant("ann")
        gate = access.hold("connect")
        peer = ProtocolPeer(b.site, access=access)
        task = await peer.begin({"id": 1, "connect": {}})
        await a.revoke("ann")
        gate.set()
        await task
        await turns()
        later = await b.connect("ben")

        assert ([REVOKED], []) == (peer.closed, later.closed)


async def test_revoke_a_session() -> None:
    """A connection ends by its client id or its session, and its token is refused everywhere."""
    async with stations("a", "b") as (a, b):
        ann = await b.connect("ann", token=shown("t1"))
        again = await a.connect("ann", token=shown("t1"))
        cookie = await b.connect("ben", is_emulated=True)
        first = await a.revoke(session_id=ann.client.client_id)
        second = await a.revoke(session_id=cookie.client.session_id)
        third = await a.revoke(session_id="nobody")

        assert (2, 1, 0) == (first, second, third)
        assert [[REVOKED]] * 3 == [peer.closed for peer in (ann, again, cookie)]
        for station in (a, b):
            assert ["t1"] == [each.token_id for each in station.node().cluster.revocations]


async def test_revoke_a_plain_socket() -> None:
    """A socket without a protocol ends where its user is meant, and is told why."""
    async with stations("a", "b") as (a, b):
        plain = b.site.listener("ann")
        plain.connection.control = None
        count = await a.revoke("ann")

        assert (1, [REVOKED]) == (count, plain.transport.closed)


async def test_one_connection_of_a_user() -> None:
    """The newest connection of a user ends those on other nodes; of two at once the later stays."""
    async with stations("a", "b", "c") as (a, b, c):
        old, plain = await a.connect("ann"), a.site.listener("ann")
        plain.connection.control = None
        other = await a.connect("ben")
        new, later = await b.connect("ann"), await c.connect("ann")
        ahead = await c.connect("ann")
        later.client.connection.identified_at = time.time() + 1
        ahead.client.connection.identified_at = time.time() - 60
        await end_predecessors(b.node(), "ann", new.client.client_id)

        assert [[(3504, "connection limit")], [(3504, "connection limit")]] == [
            old.closed,
            ahead.closed,
        ]
        assert [[], [], [], []] == [
            new.closed, later.closed, other.closed, plain.transport.closed
        ]  # fmt: skip


async def test_one_connection_while_a_node_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """When a node does not answer the log says that there may be several."""
    async with stations("a", "b") as (a, b):
        b.site.link.is_slow = True
        await end_predecessors(a.node(), "ann", "c1")

    assert "user 'ann' may have several connections: no answer within 3 s of: b" in caplog.text


async def test_a_refreshed_token() -> None:
    """Whoever showed a new token lives by that one."""
    async with stations("a") as (a,):
        now = time.time()
        ann = await a.connect("ann", token=shown("t1", now - 10))
        ann.access.refresh_grant = RefreshGrant(token=shown("t2", now + 10))
        await ann.ask({"id": 9, "refresh": {"token": "x"}})

        assert 0 == await a.revoke(token_id="t1")
        assert 0 == await a.revoke("ann")
        assert 1 == await a.revoke(token_id="t2")
        assert [REVOKED] == ann.closed


async def test_revoked_while_refreshing() -> None:
    """A token that is revoked while the application is asked about it does not go on."""
    async with stations("a") as (a,):
        ann = await a.connect("ann", token=shown("t1"))
        ann.access.refresh_grant = RefreshGrant(token=shown("t2"))
        gate = ann.access.hold("refresh")
        task = await ann.begin({"id": 9, "refresh": {"token": "x"}})
        await a.revoke(token_id="t2")
        before = list(ann.closed)
        gate.set()
        await task
        await turns()

        assert ([], [REVOKED]) == (before, ann.closed)


async def test_revoked_before_this_node_heard() -> None:
    """What another node tells later ends who came before it, and not who came after."""
    async with stations("a", "b") as (a, b):
        before = await b.connect("ann")
        b.site.link.lost.clear()
        b.site.link.silenced.add(a.node().node_id)
        with pytest.raises(NodesSilent):
            await a.revoke("ann")
        after = b.site.listener("ann")
        after.connection.identified_at = time.time() + 60
        b.site.link.silenced.clear()
        await pass_time(5)

        assert [REVOKED] == before.closed
        assert [] == after.control.calls


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({}, "one of them only"),
        ({"user_id": "ann", "token_id": "t"}, "one of them only"),
        ({"user_id": "ann", "expires_at": 1.0}, "has passed: 1.0"),
    ],
)
async def test_revoke_out_of_bounds(how: dict[str, str], text: str) -> None:
    """One thing is revoked at a time, and not for the past."""
    async with stations("a") as (a,):
        with pytest.raises(BadRequest, match=text):
            await a.revoke(**how)  # type: ignore[arg-type]


async def test_how_long_revocations_last() -> None:
    """A revocation lasts as long as is said, or as the setting says."""
    async with stations("a", settings=Settings(revocation_ttl_seconds=50)) as (a,):
        now = time.time()
        await a.revoke("ann")
        await a.revoke("ben", expires_at=now + 9, issued_before=now - 5)
        ann, ben = list(a.node().cluster.revocations)

        assert now <= ann.until - 50 < now + 5
        assert now <= ann.issued_before < now + 5
        assert (now + 9, now - 5) == (ben.until, ben.issued_before)
