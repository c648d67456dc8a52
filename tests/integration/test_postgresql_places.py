"""PostgreSQL as it may be found: refusing, read-only, full, behind a pooler, taken over, swept."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from tests.integration.postgresql_links import (
    KEPT,
    PASSWORD,
    broker_at,
    publish,
    refusal_of,
    store_at,
)
from tests.servers import free_port
from tests.services import postgresql, redis
from wirebell.broker_options import BrokerTLS
from wirebell.brokers.postgresql import (
    PostgreSQLBroker,
    read_url,
)
from wirebell.brokers.postgresql.keeper import TURN
from wirebell.errors import BrokerUnavailable, ConfigError
from wirebell.model import ChannelOptions, ClientInfo, History, PublishOptions
from wirebell.testing import RecordingListener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wirebell.broker_options import PostgreSQLOptions

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

UNKEPT = ChannelOptions()


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.PostgreSQLServer]:
    """A server with some roles."""
    with postgresql.server() as started:
        started.sql(
            f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}';"
            f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}';"
            "ALTER ROLE reader SET default_transaction_read_only = on;"
            f"CREATE ROLE serial LOGIN PASSWORD '{PASSWORD}';"
            "ALTER ROLE serial SET default_transaction_isolation = 'serializable';"
        )
        yield started


# Refusals at the start


@pytest.mark.parametrize(
    ("user", "password", "database", "query", "words"),
    [
        ("plain", "wr0ng", "postgres", "", "refuses the user or the password"),
        ("nobody", PASSWORD, "postgres", "", "refuses the user or the password"),
        ("plain", PASSWORD, "nowhere", "", "CREATE DATABASE"),
        ("plain", PASSWORD, "postgres", "", "may not do what is needed"),
        ("reader", PASSWORD, "postgres", "", "read-only"),
        ("serial", PASSWORD, "postgres", "", "default_transaction_isolation"),
        ("plain", PASSWORD, "postgres", "sslmode=require", "TLS failed"),
        ("plain", PASSWORD, "postgres", "skip_schema_init=1&prefix=none", "start once without"),
        ("plain", PASSWORD, "postgres", "target_session_attrs=standby", "read-only"),
    ],
)
async def test_refusal(
    server: postgresql.PostgreSQLServer,
    user: str,
    password: str,
    database: str,
    query: str,
    words: str,
) -> None:
    """What somebody has to change is said at the start, with what to do."""
    error = await refusal_of(f"{server.url_of(user, password, database)}?{query}".rstrip("?"))

    assert isinstance(error, ConfigError), repr(error)
    assert words in str(error)


async def test_nobody_there() -> None:
    """Where nobody listens, or nobody answers, that is said with host and port."""
    port = free_port()
    error = await refusal_of(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/d")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port_of_silent = silent.getsockname()[1]
        waited = await refusal_of(
            f"postgresql://u:{PASSWORD}@127.0.0.1:{port_of_silent}/d?io_timeout=0.3"
        )

    assert isinstance(error, BrokerUnavailable)
    assert f"127.0.0.1:{port}" in str(error)
    assert isinstance(waited, BrokerUnavailable)
    assert "in time" in str(waited)


async def test_another_kind_of_server() -> None:
    """A port behind which something else speaks is no reason to hang."""
    with redis.single() as other:
        error = await refusal_of(f"postgresql://u:{PASSWORD}@127.0.0.1:{other.port}/d?io_timeout=1")

    assert isinstance(error, (BrokerUnavailable, ConfigError))
    assert f"127.0.0.1:{other.port}" in str(error)


async def test_tables_of_others(server: postgresql.PostgreSQLServer) -> None:
    """Tables of a newer release, or for another number of shards, are refused, and stay."""
    async with broker_at(f"{server.url}?prefix=theirs"):
        pass
    shards = await refusal_of(f"{server.url}?prefix=theirs&shard_count=4")
    server.sql("UPDATE theirs_meta SET version = 99")
    newer = await refusal_of(f"{server.url}?prefix=theirs")

    assert isinstance(shards, ConfigError)
    assert "made for shard_count 8, got 4" in str(shards)
    assert isinstance(newer, ConfigError)
    assert "upgrade this node too" in str(newer)
    assert "99" == server.sql("SELECT version FROM theirs_meta").strip()


async def test_role_without_tables_of_its_own(server: postgresql.PostgreSQLServer) -> None:
    """A role that may make nothing works with what docs/brokers.md grants it."""
    async with broker_at(f"{server.url}?prefix=granted"):
        pass
    server.sql(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON granted_meta, granted_log, granted_streams, "
        "granted_results, granted_batches, granted_presence, granted_shards TO plain;"
        "GRANT USAGE, SELECT, UPDATE ON SEQUENCE granted_ids TO plain;"
        "GRANT EXECUTE ON FUNCTION granted_partitions_1 TO plain;"
    )
    url = f"{server.url_of('plain', PASSWORD)}?prefix=granted&skip_schema_init=true"
    async with broker_at(url) as running, store_at(url) as store:
        await running.broker.subscribe("a")
        await publish(running, "a", b"1")
        await running.listener.wait_count("a", 1)
        server.sql(
            "DROP TABLE granted_log_"
            + server.sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").strip()
        )
        # It may have today's partition made, which belongs to the owner.
        await publish(running, "a", b"2")
        await running.broker.keeper.sweep()
        await store.add("a", ClientInfo("c"), ttl_seconds=60)
        assert {"c"} == set(await store.members("a"))


async def test_several_nodes_start_at_once(server: postgresql.PostgreSQLServer) -> None:
    """Nodes that all find no tables make them once."""
    brokers = [PostgreSQLBroker(read_url(f"{server.url}?prefix=atonce")) for _ in range(5)]
    try:
        await asyncio.gather(*(each.start(RecordingListener()) for each in brokers))
        assert 1 == len({each.reader.instance for each in brokers})
    finally:
        for each in brokers:
            await each.aclose()


# How long things stay


async def test_ttl_by_the_servers_clock(server: postgresql.PostgreSQLServer) -> None:
    """History ends with its ttl, and offsets and epoch with theirs; publishing renews both."""
    options = ChannelOptions(history=History(ttl_seconds=0.3, meta_ttl_seconds=0.8))
    async with broker_at(server.url) as running:
        first = (await publish(running, "ttl", b"1", options)).position
        kept = await running.broker.history("ttl", options, since=None, limit=9)
        await asyncio.sleep(0.35)
        ended = await running.broker.history("ttl", options, since=None, limit=9)
        second = (await publish(running, "ttl", b"2", options)).position
        again = await running.broker.history("ttl", options, since=None, limit=9)
        await asyncio.sleep(0.85)
        anew = await running.broker.history("ttl", options, since=None, limit=9)
        third = (await publish(running, "ttl", b"3", options)).position

    assert (1, first) == (len(kept.publications), kept.top)
    assert (0, first) == (len(ended.publications), ended.top)
    assert (2, first.epoch) == (second.offset, second.epoch)
    assert [2] == [each.offset for each in again.publications]
    assert 0 == anew.top.offset
    assert anew.top.epoch != first.epoch
    assert (1, anew.top.epoch) == (third.offset, third.epoch)


async def test_keys_end(server: postgresql.PostgreSQLServer) -> None:
    """An idempotency key lives five minutes; then it publishes again."""
    once = PublishOptions(idempotency_key="k")
    async with broker_at(f"{server.url}?prefix=keyed") as running:
        await publish(running, "a", b"1", how=once)
        lives = (
            "SELECT extract(epoch FROM expires_at - now()) BETWEEN 280 AND 300 FROM keyed_results"
        )
        assert "t" == server.sql(lives).strip()
        assert (await publish(running, "a", b"2", how=once)).is_suppressed
        server.sql("UPDATE keyed_results SET expires_at = now()")
        again = await publish(running, "a", b"3", how=once)

    assert (2, False) == (again.position.offset, again.is_suppressed)


async def test_retention(server: postgresql.PostgreSQLServer) -> None:
    """No publication is handed out after ``retention_seconds``, whatever its channel says."""
    async with broker_at(f"{server.url}?retention=0.3") as running:
        before = (await publish(running, "retained", b"1")).position
        await asyncio.sleep(0.35)
        await publish(running, "retained", b"2")
        part = await running.broker.history("retained", KEPT, since=None, limit=9)

    assert [2] == [each.offset for each in part.publications]
    assert (2, before.epoch) == (part.top.offset, part.top.epoch)


async def test_partitions(server: postgresql.PostgreSQLServer) -> None:
    """Partitions are made ahead and dropped when they are old; a missing one is no catastrophe."""
    days = "SELECT to_char((now() AT TIME ZONE 'UTC')::date + {}, 'YYYYMMDD')"
    names = [server.sql(days.format(day)).strip() for day in (-40, -1, 0, 1, 2, 3)]
    async with broker_at(f"{server.url}?prefix=parted&lookahead_days=3") as running:
        server.sql(
            f"CREATE TABLE parted_log_{names[0]} PARTITION OF parted_log FOR VALUES "
            "FROM (now() - interval '40 days') TO (now() - interval '39 days')"
        )
        await running.broker.keeper.make_partitions()
        listed = server.sql(
            "SELECT relname FROM pg_class WHERE relname ~ '^parted_log_[0-9]{8}$' ORDER BY 1"
        )
        server.sql(f"DROP TABLE parted_log_{names[2]}")
        await running.broker.subscribe("a")
        await publish(running, "a", b"1")
        await running.listener.wait_count("a", 1)

    assert [f"parted_log_{name}" for name in names[1:]] == listed.split()


async def test_partitions_beside_a_long_transaction(server: postgresql.PostgreSQLServer) -> None:
    """While somebody reads for hours partitions are made, and who publishes does not wait."""
    tomorrow = server.sql(
        "SELECT to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')"
    ).strip()
    async with broker_at(f"{server.url}?prefix=long") as running:
        server.sql(
            f"DROP TABLE long_log_{tomorrow}; CREATE TABLE long_log_20200101 PARTITION OF long_log "
            "FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')"
        )
        dump = await asyncpg.connect(server.url)
        await dump.execute("BEGIN; LOCK TABLE long_log IN ACCESS SHARE MODE")
        making = asyncio.ensure_future(running.broker.keeper.make_partitions())
        started = time.monotonic()
        while not making.done():
            await publish(running, "a", b"1", UNKEPT)
        await making
        took = time.monotonic() - started
        await dump.close()
        names = server.sql("SELECT relname FROM pg_class WHERE relname ~ '^long_log_[0-9]+$'")
        await running.broker.keeper.make_partitions()

    assert f"long_log_{tomorrow}" in names
    # Only what is too old waits for its turn.
    assert "long_log_20200101" in names
    assert (
        "0"
        == server.sql("SELECT count(*) FROM pg_class WHERE relname = 'long_log_20200101'").strip()
    )
    assert took < 1.5


async def test_one_node_cleans_up(server: postgresql.PostgreSQLServer) -> None:
    """Of all nodes one at a time has the turn to clean up, also when the clock was set back."""
    async with broker_at(server.url) as one, broker_at(server.url) as other:
        server.sql("UPDATE wirebell_meta SET swept_at = now() + interval '1 hour'")
        turns = [await each.broker.link.ask(TURN, 60.0) for each in (one, other)]

    assert [1, 0] == [len(rows) for rows in turns]


async def test_sweep(server: postgresql.PostgreSQLServer) -> None:
    """What has ended is removed, one node at a time; what is kept stays, and so does the new."""
    url = f"{server.url}?prefix=swept"
    short = ChannelOptions(history=History(ttl_seconds=0.05, meta_ttl_seconds=0.1))
    async with broker_at(url) as running, store_at(url) as store:
        for number in range(15):
            await publish(running, "kept", b"%d" % number)
        await publish(running, "unkept", b"x", UNKEPT)
        await publish(running, "short", b"x", short)
        await publish(running, "kept", b"k", how=PublishOptions(idempotency_key="k"))
        await store.add("a", ClientInfo("gone"), ttl_seconds=0.05)
        await store.add("a", ClientInfo("here"), ttl_seconds=60)
        await asyncio.sleep(0.15)
        keeper = running.broker.keeper
        await keeper.sweep()
        assert "18" == server.sql("SELECT count(*) FROM swept_log").strip()
        keeper.transport_seconds = 0.0
        await keeper.sweep()
        counts = server.sql(
            "SELECT (SELECT count(*) FROM swept_log), (SELECT count(*) FROM swept_streams), "
            "(SELECT count(*) FROM swept_batches), (SELECT count(*) FROM swept_results), "
            "(SELECT count(*) FROM swept_presence)"
        )
        part = await running.broker.history("kept", KEPT, since=None, limit=99)

    assert "10|1|0|1|1" == counts.strip()
    assert list(range(7, 17)) == [each.offset for each in part.publications]


async def test_upkeep_goes_on(server: postgresql.PostgreSQLServer) -> None:
    """The keeper does its work by itself, and says once that it cannot."""
    async with broker_at(f"{server.url}?prefix=upkept&cleanup_interval=0.05") as running:
        running.broker.keeper.transport_seconds = 0.0
        await publish(running, "a", b"1", UNKEPT)
        async with asyncio.timeout(10):
            while server.sql("SELECT count(*) FROM upkept_log").strip() != "0":  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_node_that_stood_still(server: postgresql.PostgreSQLServer) -> None:
    """A node that did not read for so long that something may be swept is told to look."""
    async with broker_at(server.url) as running:
        running.broker.reader.read_at -= 10_000
        await running.broker.check()
        await running.listener.wait_reconnect()


# Other places


@pytest.fixture
def disk(server: postgresql.PostgreSQLServer) -> Iterator[Path]:
    """A disk of 4 MB, a quarter of which is a file named ``space``."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a disk that is soon full")
    path = server.folder / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], check=True)
    try:
        shutil.chown(path, "postgres", "postgres")
        server.sql(f"CREATE TABLESPACE small LOCATION '{path}'")
        (path / "space").write_bytes(bytes(1_000_000))
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


async def test_full_disk(server: postgresql.PostgreSQLServer, disk: Path) -> None:
    """A disk without space: who publishes is told at once, and when there is some, all goes on."""
    server.sql("ALTER ROLE wirebell SET default_tablespace = 'small'")
    async with broker_at(f"{server.url}?prefix=full&io_timeout=2") as running:
        await running.broker.subscribe("full")
        results = await asyncio.gather(
            *(publish(running, "full", os.urandom(100_000)) for _ in range(100)),
            return_exceptions=True,
        )
        refused = results[-1]
        assert isinstance(refused, BrokerUnavailable)
        assert "disk is full" in str(refused)
        (disk / "space").unlink()
        await publish(running, "full", b"there is space")
        await running.listener.wait_until(lambda: b"there is space" in running.delivered("full"))
        assert running.broker.is_connected
    tables = ["meta", "log", "streams", "results", "batches", "presence", "shards"]
    server.sql(
        "ALTER ROLE wirebell RESET default_tablespace; "
        f"DROP TABLE {', '.join(f'full_{name}' for name in tables)}"
    )
    server.sql("DROP TABLESPACE small")


async def test_pooler(server: postgresql.PostgreSQLServer) -> None:
    """Through PgBouncer, with ``listen_dsn`` beside it, everything is as without."""
    with postgresql.pgbouncer(server) as pooler:
        url = f"{pooler.url}?listen_dsn={server.url}"
        async with broker_at(url) as running, broker_at(url) as other, store_at(url) as store:
            for each in (running, other):
                await each.broker.subscribe("pooled")
            for number in range(20):
                await asyncio.gather(
                    publish(running, "pooled", b"%d" % number),
                    publish(other, "pooled", b"%d" % number, UNKEPT),
                    running.broker.history("pooled", KEPT, since=None, limit=3),
                    store.add("pooled", ClientInfo(f"{number}"), ttl_seconds=60),
                )
            for each in (running, other):
                await each.listener.wait_count("pooled", 40)
            await running.broker.check()
            assert 20 == len(await store.members("pooled"))


async def test_tls(tmp_path: Path) -> None:
    """TLS by URL and by options; an unknown authority, or a link without, is refused."""
    made = redis.certificates(tmp_path)
    with postgresql.server() as server:
        server.put(made.certificate, "server.crt")
        server.put(made.key, "server.key")
        server.sql("ALTER SYSTEM SET ssl_cert_file = '../server.crt'")
        server.sql("ALTER SYSTEM SET ssl_key_file = '../server.key'")
        server.sql("ALTER SYSTEM SET ssl = on")
        rules = server.data / "pg_hba.conf"
        rules.write_text("hostssl all wirebell 127.0.0.1/32 trust\nlocal all wirebell trust\n")
        server.sql("SELECT pg_reload_conf()")
        async with broker_at(
            f"{server.url}?sslmode=verify-full&sslrootcert={made.authority}"
        ) as one:
            await publish(one, "a", b"1")
        options = read_url(server.url)
        by_options = PostgreSQLBroker(_with_tls(options, BrokerTLS(authorities=made.authority)))
        await by_options.start(RecordingListener())
        await by_options.check()
        await by_options.aclose()
        named = PostgreSQLBroker(
            _with_tls(options, BrokerTLS(authorities=made.authority, server_name="other.example"))
        )
        with pytest.raises(ConfigError, match="TLS failed"):
            await named.start(RecordingListener())
        strangers = PostgreSQLBroker(_with_tls(options, BrokerTLS()))
        with pytest.raises(ConfigError, match="TLS failed"):
            await strangers.start(RecordingListener())
        without = await refusal_of(f"{server.url}?sslmode=disable")
    assert isinstance(without, ConfigError)
    assert "pg_hba.conf" in str(without)


def _with_tls(options: PostgreSQLOptions, tls: BrokerTLS) -> PostgreSQLOptions:
    """Return options with TLS."""
    return msgspec.structs.replace(options, tls=tls)
