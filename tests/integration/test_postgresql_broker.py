"""The PostgreSQL broker on a real server: what is lost, cut, paused, killed and slow under it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from tests.integration.postgresql_links import (
    KEPT,
    LossyLink,
    Running,
    broker_at,
    publish,
    store_at,
)
from tests.services import postgresql
from wirebell.backoff import Backoff
from wirebell.brokers.memory import MemoryBroker
from wirebell.brokers.postgresql import PostgreSQLBroker, read_url
from wirebell.brokers.postgresql.batches import FOR_CHANNELS, shard_of
from wirebell.brokers.postgresql.schema import lock_key_of
from wirebell.errors import BrokerUnavailable
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Publication,
    PublishOptions,
    StreamPosition,
)
from wirebell.records import SCHEMA, encode_publication
from wirebell.settings import Settings
from wirebell.testing import RecordingListener

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

UNKEPT = ChannelOptions()


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.PostgreSQLServer]:
    """A server for those who leave it as it was."""
    with postgresql.server() as started:
        yield started


async def wait_disconnected(broker: PostgreSQLBroker) -> None:
    """Wait until a broker knows that its link is cut."""
    async with asyncio.timeout(15):
        while broker.is_connected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def channels_of(shard: int, count: int, name: str) -> list[str]:
    """Return channels of one shard."""
    found = [
        f"{name}:{number}"
        for number in range(count * 40)
        if shard_of(f"{name}:{number}".encode(), 8) == shard
    ]
    return found[:count]


# Lost answers and cut links


async def test_lost_answer_publishes_once(server: postgresql.PostgreSQLServer) -> None:
    """A call whose answer was lost is repeated, and happened once: in history and for nodes."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        await running.broker.subscribe("once")
        await publish(running, "once", b"1")
        link.lost_answers = 1
        second, third = await asyncio.gather(
            publish(running, "once", LossyLink.LOSES), publish(running, "once", b"3")
        )
        await publish(running, "once", b"4")
        await running.listener.wait_count("once", 4)

        assert 0 == link.lost_answers
        assert [2, 3] == [second.position.offset, third.position.offset]
        assert [b"1", LossyLink.LOSES, b"3", b"4"] == await running.payloads("once")
        assert [b"1", LossyLink.LOSES, b"3", b"4"] == running.delivered("once")


async def test_lost_answers_of_what_is_not_kept(server: postgresql.PostgreSQLServer) -> None:
    """Without history, too, what is repeated is delivered once; so is what nodes are told."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        await running.broker.subscribe("unkept")
        for _ in range(3):
            link.lost_answers = 1
            await publish(running, "unkept", LossyLink.LOSES, UNKEPT)
        link.lost_answers = 1
        await running.broker.publish_control(LossyLink.LOSES)
        await running.broker.check()

        assert 0 == link.lost_answers
        assert [LossyLink.LOSES] * 3 == running.delivered("unkept")
        assert [LossyLink.LOSES] == running.listener.controls


async def test_lost_answer_with_keys_and_versions(server: postgresql.PostgreSQLServer) -> None:
    """A repeated call gives what the first one gave, also to those who were left out."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        key = PublishOptions(idempotency_key="k")
        await publish(running, "told", b"0", how=key)
        link.lost_answers = 1
        again, new, old = await asyncio.gather(
            publish(running, "told", b"1", how=key),
            publish(running, "told", LossyLink.LOSES, how=PublishOptions(version=2)),
            publish(running, "told", b"2", how=PublishOptions(version=1)),
        )

        assert [True, False, True] == [each.is_suppressed for each in (again, new, old)]
        assert [1, 2, 2] == [each.position.offset for each in (again, new, old)]
        assert [b"0", LossyLink.LOSES] == await running.payloads("told")


async def test_cut_link_comes_back(
    server: postgresql.PostgreSQLServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a cut the node is told, and what was written meanwhile arrives; it is logged once."""
    caplog.set_level(logging.INFO, "wirebell.brokers.postgresql")
    async with (
        LossyLink(server.port) as link,
        broker_at(link.url) as running,
        broker_at(server.url) as other,
    ):
        await running.broker.subscribe("cut")
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        with pytest.raises(BrokerUnavailable, match="away"):
            await running.broker.check()
        # However long it was away, it is told once.
        running.broker.reader.read_at -= 10_000
        await publish(other, "cut", b"meanwhile", UNKEPT)
        await running.broker.subscribe("late")
        link.refuses = False
        await running.listener.wait_reconnect()
        await publish(other, "late", b"x", UNKEPT)
        await running.listener.wait_count("late", 1)

        assert [b"meanwhile"] == running.delivered("cut")
        assert running.broker.is_connected
        assert 1 == running.broker.reconnect_count
        await running.broker.check()
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == sum("is lost" in message for message in messages)
    assert 1 == sum("stands again" in message for message in messages)


async def test_one_of_several_connections_is_ended(server: postgresql.PostgreSQLServer) -> None:
    """Who finds that a connection was ended takes another one, which stands still."""
    async with broker_at(server.url) as running:
        link = running.broker.link
        await asyncio.gather(*(running.broker.remove_history(each) for each in "ab"))
        kept, ended = link.idle
        server.sql(f"SELECT pg_terminate_backend({ended.get_server_pid()})")
        async with asyncio.timeout(5):
            while not ended.is_closed():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await running.broker.remove_history("a")

        assert [kept] == link.idle


async def test_publishing_while_the_link_is_cut(server: postgresql.PostgreSQLServer) -> None:
    """Who publishes during a cut waits for the link; if it stays away, within the bound."""
    async with LossyLink(server.port) as link, broker_at(f"{link.url}&io_timeout=1") as running:
        link.refuses = True
        link.cut()
        waiting = asyncio.ensure_future(publish(running, "waits", b"1"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        link.refuses = False
        assert 1 == (await waiting).position.offset
        link.refuses = True
        link.cut()
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="PostgreSQL at"):
            await publish(running, "waits", b"2")
        assert time.monotonic() - started < 3


async def test_lost_notifications(server: postgresql.PostgreSQLServer) -> None:
    """Where notifications do not come, the node finds by itself what was published."""
    deaf = Running(PostgreSQLBroker(read_url(server.url)))
    deaf.broker.reader._wake = lambda *_: None  # type: ignore[method-assign]
    await deaf.broker.start(deaf.listener)
    try:
        await deaf.broker.subscribe("polled")
        await publish(deaf, "polled", b"1", UNKEPT)
        await deaf.listener.wait_count("polled", 1)
        await deaf.broker.check()
    finally:
        await deaf.broker.aclose()


async def test_lost_notifications_beside_others(server: postgresql.PostgreSQLServer) -> None:
    """Also where others come all the time a shard is looked at that none came for."""
    (quiet,), (busy,) = channels_of(2, 1, "beside"), channels_of(6, 1, "beside")
    deaf = Running(PostgreSQLBroker(read_url(server.url)))
    wake = deaf.broker.reader._wake
    deaf.broker.reader._wake = (  # type: ignore[method-assign]
        lambda *each: None if each[-1] == "2" else wake(*each)
    )
    await deaf.broker.start(deaf.listener)
    try:
        await deaf.broker.subscribe(quiet)
        await publish(deaf, quiet, b"1", UNKEPT)
        async with asyncio.timeout(5):
            while not deaf.listener.of(quiet):
                await publish(deaf, busy, b"1", UNKEPT)
    finally:
        await deaf.broker.aclose()


async def test_full_queue_of_notifications(server: postgresql.PostgreSQLServer) -> None:
    """A queue that some other session fills does not keep anybody from publishing."""
    # Filling the real one takes 8 GB: what the server would say stands ahead of its own functions.
    server.sql(
        "CREATE SCHEMA fulled; "
        "CREATE FUNCTION fulled.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql AS "
        "'SELECT 0.99::float8'; "
        "CREATE FUNCTION fulled.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'too many notifications' USING ERRCODE = '54000'; END $$; "
        "ALTER ROLE wirebell SET search_path = fulled, pg_catalog"
    )
    try:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("fulled")
            await publish(running, "fulled", b"1", UNKEPT)
            await running.listener.wait_count("fulled", 1)
    finally:
        server.sql("ALTER ROLE wirebell RESET search_path; DROP SCHEMA fulled CASCADE")


async def test_strange_notifications(server: postgresql.PostgreSQLServer) -> None:
    """What anybody may send as a notification is no more than a reason to look."""
    async with broker_at(server.url) as running:
        server.sql("SELECT pg_notify('wirebell_wake', '999,what,-1')")
        await running.broker.check()
        assert 0 == running.broker.reconnect_count


# Order


async def begin_slowly(connection: Any, channel: str, data: bytes) -> None:
    """Append a publication in a transaction that stays open."""
    key = channel.encode()
    shard = shard_of(key, 8)
    row = await connection.fetchrow(
        "SELECT * FROM wirebell_publish_1($1, gen_random_uuid(), false, NULL, 1000, "
        "$2, $3, $4, $2, ARRAY[1]::bigint[], ARRAY[10]::bigint[], ARRAY[60]::float8[], "
        "ARRAY[60]::float8[], ARRAY[1], ARRAY[1]::bigint[], $5, '{}', '{}', '{}', '{}')",
        lock_key_of("wirebell"),
        [shard],
        [FOR_CHANNELS],
        [key],
        [encode_publication(Publication(data))],
    )
    assert row["bases"] == [0]


async def test_slow_transaction_hides_nothing(server: postgresql.PostgreSQLServer) -> None:
    """Whose ids were taken first, and who commits last, is not read over; others wait."""
    slow, quick = channels_of(3, 2, "slow")
    (elsewhere,) = channels_of(4, 1, "slow")
    async with broker_at(server.url) as running, broker_at(server.url) as other:
        for channel in (slow, quick, elsewhere):
            await running.broker.subscribe(channel)
        connection = await asyncpg.connect(server.url)
        transaction = connection.transaction()
        await transaction.start()
        await begin_slowly(connection, slow, b"slow")
        waiting = asyncio.ensure_future(publish(running, quick, b"quick"))
        # Another shard waits for nobody.
        await publish(other, elsewhere, b"elsewhere")
        await running.listener.wait_count(elsewhere, 1)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert [] == running.listener.of(quick)
        await transaction.commit()
        await waiting
        await running.listener.wait_count(quick, 1)
        await connection.close()

        order = [channel for channel, _ in running.listener.items if channel != elsewhere]
        assert [slow, quick] == order


async def test_transaction_that_does_not_end(server: postgresql.PostgreSQLServer) -> None:
    """Whoever waits for a lock that is not let go of is told so within the bound."""
    slow, quick = channels_of(5, 2, "stuck")
    async with broker_at(f"{server.url}?io_timeout=0.5") as running:
        connection = await asyncpg.connect(server.url)
        transaction = connection.transaction()
        await transaction.start()
        await begin_slowly(connection, slow, b"slow")
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"too long|in time"):
            await publish(running, quick, b"1")
        assert time.monotonic() - started < 2
        await transaction.rollback()
        await connection.close()
        await publish(running, quick, b"2")
        assert [b"2"] == await running.payloads(quick)


async def test_many_writers(server: postgresql.PostgreSQLServer) -> None:
    """Nodes that write into all shards at once end each other's calls never, and all read all."""
    channels = [f"many:{number}" for number in range(24)]
    async with (
        broker_at(server.url) as one,
        broker_at(server.url) as two,
        broker_at(server.url) as three,
    ):
        nodes = (one, two, three)
        for node in nodes:
            for channel in channels:
                await node.broker.subscribe(channel)

        async def write(node: Running, name: int) -> None:
            chosen = random.Random(name)  # noqa: S311 - the same in every run
            for turn in range(10):
                shuffled = chosen.sample(channels, len(channels))
                text = b"%d:%d" % (name, turn)
                await asyncio.gather(*(publish(node, each, text) for each in shuffled))

        await asyncio.gather(*(write(node, number) for number, node in enumerate(nodes)))
        for node in nodes:
            for channel in channels:
                items = await node.listener.wait_count(channel, 30)
                offsets = [item.offset for item in items if isinstance(item, Publication)]
                assert list(range(1, 31)) == offsets


async def test_more_than_one_answer_holds(server: postgresql.PostgreSQLServer) -> None:
    """Who is far behind reads on part by part: by rows, and by bytes."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("rows")
        await running.broker.subscribe("bytes")
        await asyncio.gather(*(publish(running, "rows", b"%d" % each) for each in range(1_800)))
        large = [bytes([each]) * 400_000 for each in range(8)]
        await asyncio.gather(*(publish(running, "bytes", each, UNKEPT) for each in large))
        await running.listener.wait_count("rows", 1_800)
        await running.listener.wait_count("bytes", 8)

        assert [b"%d" % each for each in range(1_800)] == running.delivered("rows")
        assert large == running.delivered("bytes")


async def test_many_shards(server: postgresql.PostgreSQLServer) -> None:
    """More shards than one notification names are all read, and an answer stays as small."""
    channels = [f"sharded:{number}" for number in range(150)]
    async with broker_at(f"{server.url}?prefix=sharded&shard_count=100") as running:
        for channel in channels:
            await running.broker.subscribe(channel)
        for data in (b"1", b"2"):
            large = data * 30_000
            await asyncio.gather(*(publish(running, each, large, UNKEPT) for each in channels))
        for channel in channels:
            items = await running.listener.wait_count(channel, 2)
            assert [b"1", b"2"] == [
                each.data[:1] for each in items if isinstance(each, Publication)
            ]


async def test_as_the_memory_broker(server: postgresql.PostgreSQLServer) -> None:
    """Whatever comes in one call has the results that it has one by one in memory."""
    chosen = random.Random(7)  # noqa: S311 - the same in every run
    memory = MemoryBroker(Settings())
    await memory.start(RecordingListener())
    epochs: dict[str, str] = {}

    def same(position: StreamPosition) -> StreamPosition:
        """Return a position of PostgreSQL with the epoch that memory has for it."""
        return StreamPosition(position.offset, epochs.get(position.epoch, ""))

    async with broker_at(server.url) as running:
        for channel in ("same:a", "same:b"):
            ours = await running.broker.history(channel, KEPT, since=None, limit=0)
            theirs = await memory.history(channel, KEPT, since=None, limit=0)
            epochs[ours.top.epoch] = theirs.top.epoch
        for turn in range(40):
            asked = []
            for number in range(chosen.randrange(1, 12)):
                how = PublishOptions(
                    idempotency_key=chosen.choice(("", f"k{chosen.randrange(40)}", f"t{turn}")),
                    version=chosen.choice((0, 0, chosen.randrange(60))),
                    version_epoch=chosen.choice(("", "", "e")),
                    skip_history=chosen.random() < 0.2,
                )
                channel = chosen.choice(("same:a", "same:b"))
                data = b"%d.%d" % (turn, number)
                asked.append((channel, Publication(data), chosen.choice((KEPT, UNKEPT)), how))
            expected = [memory.publish(*each) for each in asked]
            results = await asyncio.gather(*(running.broker.publish(*each) for each in asked))
            for mine, reference, each in zip(results, expected, asked, strict=True):
                if reference.is_suppressed and each[3].version:
                    # Of one call, an old version is told the top after it.
                    assert mine.is_suppressed
                else:
                    assert (same(mine.position), mine.is_suppressed) == (
                        reference.position,
                        reference.is_suppressed,
                    )
        for channel in ("same:a", "same:b"):
            ours = await running.broker.history(channel, KEPT, since=None, limit=100)
            theirs = await memory.history(channel, KEPT, since=None, limit=100)
            assert [each.data for each in theirs.publications] == [
                each.data for each in ours.publications
            ]
            assert theirs.top == same(ours.top)
    await memory.aclose()


async def test_strange_words(server: postgresql.PostgreSQLServer) -> None:
    """Names, keys and numbers that no column of text or number would take harm nobody."""
    long = "n" * 5_000
    huge = History(size=10**30, ttl_seconds=1e300, meta_ttl_seconds=1e301)
    kept = ChannelOptions(history=huge)
    async with broker_at(server.url) as running, store_at(server.url) as store:
        for channel in ("nul\x00", long, "späť ☃"):
            await running.broker.subscribe(channel)
            how = PublishOptions(
                idempotency_key=f"{long}\x00", version=10**30, version_epoch="\x00"
            )
            results = await asyncio.gather(
                running.broker.publish(channel, Publication(b"1"), kept, how),
                publish(running, "neighbour", b"1"),
                running.broker.history(
                    channel, kept, since=StreamPosition(10**25, "e"), limit=10**30
                ),
                store.add(channel, ClientInfo(long, "\x00"), ttl_seconds=1e300),
            )
            assert 1 == results[0].position.offset
            assert () == results[2].publications
            await running.listener.wait_count(channel, 1)
            assert {long} == set(await store.members(channel))
            await running.broker.publish_control(b"x", long)


# Death and return


async def test_restart(server: postgresql.PostgreSQLServer) -> None:
    """A server that is restarted: who publishes meanwhile waits, and all goes on."""
    async with broker_at(f"{server.url}?io_timeout=10") as running:
        await running.broker.subscribe("restarted")
        before = (await publish(running, "restarted", b"1")).position
        await asyncio.to_thread(server.stop)
        await wait_disconnected(running.broker)
        waiting = asyncio.ensure_future(publish(running, "restarted", b"2"))
        await asyncio.to_thread(server.start)
        after = (await waiting).position
        await running.listener.wait_reconnect()
        await running.listener.wait_count("restarted", 2)

        assert StreamPosition(before.offset + 1, before.epoch) == after
        assert [b"1", b"2"] == running.delivered("restarted")


async def test_paused_server(server: postgresql.PostgreSQLServer) -> None:
    """A server that stands still: publishing fails in time and for good, and goes on later."""
    async with broker_at(f"{server.url}?io_timeout=0.5") as running:
        await running.broker.subscribe("paused")
        await publish(running, "paused", b"1")
        server.pause()
        try:
            started = time.monotonic()
            results = await asyncio.gather(
                publish(running, "paused", b"given up"),
                running.broker.check(),
                running.broker.history("paused", KEPT, since=None, limit=1),
                running.broker.remove_history("other"),
                return_exceptions=True,
            )
            took = time.monotonic() - started
            await wait_disconnected(running.broker)
        finally:
            server.resume()
        assert all(isinstance(result, BrokerUnavailable) for result in results), results
        assert took < 2
        await running.listener.wait_reconnect()
        await publish(running, "paused", b"2")
        await running.broker.check()

        # The call reached the server; it is refused there, because it comes too late.
        assert [b"1", b"2"] == await running.payloads("paused") == running.delivered("paused")


async def test_tables_that_were_dropped(server: postgresql.PostgreSQLServer) -> None:
    """Tables that somebody dropped are made anew after the next cut, and have other epochs."""
    async with broker_at(f"{server.url}?prefix=dropped") as running:
        await running.broker.subscribe("a")
        first = (await publish(running, "a", b"1")).position
        await running.listener.wait_count("a", 1)
        names = ("log", "meta", "streams", "results", "batches", "presence", "shards")
        server.sql(
            f"DROP TABLE {', '.join(f'dropped_{name}' for name in names)}; "
            "DROP SEQUENCE dropped_ids"
        )
        await running.listener.wait_reconnect()
        again = (await publish(running, "a", b"2")).position
        await running.listener.wait_count("a", 2)

        assert (1, 1) == (first.offset, again.offset)
        assert first.epoch != again.epoch


async def test_reading_that_fails(server: postgresql.PostgreSQLServer) -> None:
    """A link that stands, and on which nothing can be read, is tried later from time to time."""
    server.sql(
        "CREATE ROLE halfblind LOGIN PASSWORD 'x'; GRANT CREATE ON SCHEMA public TO halfblind"
    )
    url = f"{server.url_of('halfblind', 'x')}?prefix=blind"
    async with broker_at(url) as running:
        running.broker.reader.backoff = Backoff()
        server.sql(
            "REVOKE SELECT ON blind_log FROM halfblind; "
            "GRANT SELECT (shard, id, created_at) ON blind_log TO halfblind"
        )
        async with asyncio.timeout(10):
            while running.broker.reader.backoff.bound_seconds < 0.8:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        server.sql("GRANT SELECT ON blind_log TO halfblind")
        await running.broker.subscribe("a")
        await publish(running, "a", b"1", UNKEPT)
        await running.listener.wait_count("a", 1)


async def test_records_of_a_newer_release(
    server: postgresql.PostgreSQLServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a newer release wrote is left out with a word, and the gap shows."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("newer")
        for number in range(3):
            await publish(running, "newer", b"%d" % number)
        server.sql(
            "UPDATE wirebell_log SET record = '\\x09ff' WHERE channel = 'newer' AND \"offset\" = 2"
        )
        part = await running.broker.history("newer", KEPT, since=None, limit=10)

        assert [3] == [each.offset for each in part.publications]
        assert 3 == part.top.offset
    assert 1 == caplog.text.count("left out")
    assert "upgrade this node too" in caplog.text


async def test_beside_a_newer_release(server: postgresql.PostgreSQLServer) -> None:
    """What a newer release adds to tables and records leaves nodes of this one at work."""
    url = f"{server.url}?prefix=beside"
    later = msgspec.msgpack.decode(encode_publication(Publication(b"later"))[1:])
    record = bytes((SCHEMA,)) + msgspec.msgpack.encode([*later, "a field that it added"])
    shard = shard_of(b"a", 8)
    values = f"{shard}, nextval('beside_ids'), now(), %d, 'a', '', 0, '\\x{record.hex()}'"
    async with broker_at(url) as early, store_at(url) as store:
        await early.broker.subscribe("a")
        await publish(early, "a", b"before")
        names = ("log", "meta", "streams", "results", "batches", "presence", "shards")
        server.sql(
            ";".join(
                (
                    *(f"ALTER TABLE beside_{name} ADD later int DEFAULT 7" for name in names),
                    "CREATE FUNCTION beside_publish_2() RETURNS void LANGUAGE sql AS ''",
                    *(f"INSERT INTO beside_log VALUES ({values % kind})" for kind in (9, 0)),  # noqa: S608
                    f"SELECT pg_notify('beside_wake', '{shard}')",
                )
            )
        )
        async with broker_at(url) as late:
            key = PublishOptions(idempotency_key="k", version=2)
            await publish(late, "a", b"after", how=key)
            assert (await publish(early, "a", b"again", how=key)).is_suppressed
            await early.broker.keeper.make_partitions()
            await early.broker.keeper.sweep()
            await store.add("a", ClientInfo("c"), ttl_seconds=60)
            await early.listener.wait_count("a", 3)

            assert [b"before", b"after"] == await late.payloads("a")
            assert {"c"} == set(await store.members("a"))
        assert [b"before", b"later", b"after"] == early.delivered("a")
