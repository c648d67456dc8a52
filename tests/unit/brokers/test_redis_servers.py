"""Which servers the Redis broker takes."""

from __future__ import annotations

import asyncio

import pytest

from wirebell.broker_options import RedisOptions
from wirebell.brokers.redis.addresses import Address, read_places
from wirebell.brokers.redis.broker import RedisBroker
from wirebell.brokers.redis.presence import RedisPresenceStore
from wirebell.brokers.redis.scripts import HISTORY, PRESENCE, PUBLISH, RENEW
from wirebell.brokers.redis.servers import PARTITION_COUNT, Servers, check_server, create_servers
from wirebell.brokers.redis.wire import ServerInfo
from wirebell.errors import BrokerClosed, BrokerUnavailable, ConfigError
from wirebell.model import ChannelOptions, ClientInfo, Publication

pytestmark = pytest.mark.anyio

WHERE = Address("h", 1)
GOOD = ServerInfo((7, 0, 15), "standalone", "master")


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        (GOOD, "single"),
        (GOOD, "sentinel"),
        (ServerInfo((9, 1, 2), "cluster", "master"), "cluster"),
    ],
)
def test_the_right_server(info: ServerInfo, kind: str) -> None:
    """A server that is what the URL says is taken."""
    check_server(WHERE, info, kind)


@pytest.mark.parametrize(
    ("info", "kind", "says"),
    [
        (ServerInfo((6, 2, 5), "standalone", "master"), "single", "is 6.2.5, needed is 7.0"),
        (ServerInfo((0, 0, 0), "standalone", "master"), "single", "is older than 6"),
        (ServerInfo((7, 0), "cluster", "master"), "single", r"write redis\+cluster://"),
        (ServerInfo((7, 0), "sentinel", "master"), "single", r"write redis\+sentinel://"),
        (GOOD, "cluster", "write redis://"),
        (ServerInfo((7, 0), "other", "master"), "single", "is other"),
        (ServerInfo((7, 0), "standalone", "replica"), "single", "is a replica"),
    ],
)
def test_the_wrong_server(info: ServerInfo, kind: str, says: str) -> None:
    """Any other is refused with what to do."""
    with pytest.raises(ConfigError, match=says):
        check_server(WHERE, info, kind)


def test_a_master_that_was() -> None:
    """Where Sentinels named a replica the next answer may be another one."""
    with pytest.raises(BrokerUnavailable, match="not the master any more"):
        check_server(WHERE, ServerInfo((7, 0), "standalone", "replica"), "sentinel")


async def test_one_server_is_itself() -> None:
    """One server has everything, and there is no other."""
    (place,) = read_places(RedisOptions(addresses=("h:1",)))
    servers = create_servers(place, "w")

    assert (1, WHERE) == (servers.partition_count, await servers.find())
    servers.forget()
    assert WHERE == await servers.find()


async def test_one_question_for_all() -> None:
    """Who waits meanwhile shares the question and its failure; the next one asks again."""
    away = BrokerUnavailable("away")
    answers: list[list[Address] | Exception] = [away, [WHERE, Address("h", 2)], away]

    async def ask() -> list[Address]:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    servers = Servers(ask, 2)

    refused = await asyncio.gather(*(servers.find() for _ in range(3)), return_exceptions=True)
    found = await asyncio.gather(servers.find(0), servers.find(1))

    assert [BrokerUnavailable] * 3 == [type(each) for each in refused]
    assert [WHERE, Address("h", 2)] == list(found)
    with pytest.raises(BrokerUnavailable):
        await servers.refresh()
    assert WHERE == await servers.find()


def test_partitions_never_change() -> None:
    """Where a cluster's channels lie depends on their number."""
    (place,) = read_places(RedisOptions(cluster_addresses=(("h:1",),)))

    assert 32 == PARTITION_COUNT == create_servers(place, "w").partition_count


def test_scripts_have_names_of_their_own() -> None:
    """Redis knows a script by its text, and refuses it before it runs where it may not write."""
    writing = (PUBLISH, RENEW, PRESENCE)

    assert 4 == len({script.sha for script in (*writing, HISTORY)})
    assert all(script.body.startswith("#!lua\n") for script in writing)
    assert HISTORY.body.startswith("#!lua flags=allow-oom\n")


async def test_used_before_start() -> None:
    """What was not started says so; closing it is allowed."""
    broker, store = RedisBroker(RedisOptions()), RedisPresenceStore(RedisOptions())

    with pytest.raises(BrokerClosed):
        await broker.publish("a", Publication(b""), ChannelOptions())
    with pytest.raises(BrokerClosed):
        await broker.check()
    with pytest.raises(BrokerClosed):
        await store.add("a", ClientInfo("1"), ttl_seconds=1)
    assert not broker.is_connected
    assert 0 == broker.reconnect_count
    await broker.aclose()
    await store.aclose()
