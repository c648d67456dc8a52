"""Which broker and which presence store a configuration comes to, and what it says of the rest."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from wirebell.broker_options import (
    BrokerTLS,
    MemoryOptions,
    NATSOptions,
    PostgreSQLOptions,
    RedisOptions,
    SQLiteOptions,
)
from wirebell.configuration import ServeConfiguration, load
from wirebell.errors import ConfigError

PEM = "-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n"
DSN = "postgresql://wirebell:secret@db/app"


def read(**flags: Any) -> ServeConfiguration:
    """Load what flags say; in their names ``__`` is a dot."""
    return load(None, {}, {name.replace("__", "."): value for name, value in flags.items()})


def test_memory_is_the_default() -> None:
    """Without a word there is one process, as ``broker_url`` says."""
    configuration = read()

    assert (None, None) == (configuration.broker, configuration.presence)
    assert configuration.settings.broker_url == "memory://"


def test_an_engine_is_both() -> None:
    """Redis as the engine keeps presence too, with the reference's times and our prefix."""
    configuration = read(engine__type="redis")

    assert configuration.broker == RedisOptions()
    assert configuration.presence is None
    assert () == configuration.warnings


def test_every_key_of_redis() -> None:
    """What the section says of Redis arrives in its options."""
    section = {
        "address": "redis://a:1 redis://b:2/3",
        "user": "ann",
        "password": "secret",
        "db": "4",
        "client_name": "web",
        "connect_timeout": "2s",
        "io_timeout": "500ms",
        "force_resp2": True,
        "prefix": "shop-wirebell",
        "tls.enabled": True,
        "tls.server_ca_pem": PEM,
        "tls.server_name": "redis.example",
        "tls.insecure_skip_verify": True,
    }

    configuration = read(
        engine__type="redis", **{f"engine.redis.{name}": value for name, value in section.items()}
    )

    assert configuration.broker == RedisOptions(
        addresses=("redis://a:1", "redis://b:2/3"),
        user="ann",
        password="secret",
        db=4,
        client_name="web",
        connect_timeout_seconds=2.0,
        io_timeout_seconds=0.5,
        force_resp2=True,
        prefix="shop-wirebell",
        tls=BrokerTLS(authorities=PEM, server_name="redis.example", skip_verify=True),
    )
    assert configuration == pickle.loads(pickle.dumps(configuration))  # noqa: S301


def test_an_environment_of_the_reference() -> None:
    """What made a Centrifugo node use Redis makes a Wirebell node use it, under other names."""
    environ = {
        "CENTRIFUGO_ENGINE_TYPE": "redis",
        "CENTRIFUGO_ENGINE_REDIS_ADDRESS": "redis://10.0.0.1:6379 redis://10.0.0.2:6379",
        "CENTRIFUGO_ENGINE_REDIS_PASSWORD": "secret",
        "CENTRIFUGO_ENGINE_REDIS_PREFIX": "centrifugo",
        "CENTRIFUGO_ENGINE_REDIS_PRESENCE_TTL": "90s",
        "CENTRIFUGO_NODE_NAME": "one",
    }

    configuration = load(None, environ, {}, prefix="CENTRIFUGO")

    assert configuration.broker == RedisOptions(
        addresses=("redis://10.0.0.1:6379", "redis://10.0.0.2:6379"),
        password="secret",
    )
    assert configuration.settings.presence_ttl_seconds == 90.0
    assert configuration.server.node_name == "one"
    assert () == configuration.warnings


def test_a_file_of_the_reference(tmp_path: Path) -> None:
    """A file with Sentinels runs as it is; what is not there yet is named once."""
    path = tmp_path / "config.json"
    redis = {
        "sentinel_address": ["10.0.0.1:26379,10.0.0.2:26379"],
        "sentinel_master_name": "mymaster",
        "sentinel_password": "hidden",
        "sentinel_tls": {"enabled": True},
        "replica_client": {"enabled": True},
        "presence_user_mapping": True,
    }
    path.write_text(json.dumps({"engine": {"type": "redis", "redis": redis}}))

    configuration = load(path, {}, {})

    assert configuration.broker == RedisOptions(
        sentinel_addresses=("10.0.0.1:26379", "10.0.0.2:26379"),
        addresses=RedisOptions().addresses,
        sentinel_master_name="mymaster",
        sentinel_password="hidden",
        sentinel_tls=BrokerTLS(),
    )
    assert (
        "engine.redis.replica_client.enabled: not there yet, ignored",
        "engine.redis.presence_user_mapping: not there yet, ignored",
    ) == configuration.warnings


def test_nats() -> None:
    """The broker may be NATS; what keeps presence is then the broker, or the engine's Redis."""
    nats = {
        "broker__enabled": True,
        "broker__type": "nats",
        "broker__nats__url": "nats://a:4222, nats://b:4222",
        "broker__nats__dial_timeout": "3s",
        "broker__nats__write_timeout": "2s",
        "broker__nats__replicas": 3,
        "broker__nats__credentials": "app.creds",
        "broker__nats__allow_wildcards": True,
        "broker__nats__prefix": "shop",
        "broker__nats__tls__enabled": True,
    }

    alone, beside = read(**nats), read(**nats, engine__type="redis")

    assert alone.broker == beside.broker
    assert alone.broker == NATSOptions(
        urls=("nats://a:4222", "nats://b:4222"),
        prefix="shop-wirebell",
        connect_timeout_seconds=3.0,
        io_timeout_seconds=2.0,
        tls=BrokerTLS(),
        replicas=3,
        credentials="app.creds",
        allows_wildcards=True,
    )
    assert (None, RedisOptions()) == (alone.presence, beside.presence)


def test_postgresql() -> None:
    """Every key of PostgreSQL arrives; what changes nothing is taken without a word."""
    configuration = read(
        broker__enabled=True,
        broker__type="postgres",
        **{
            f"broker.postgres.{name}": value
            for name, value in {
                "dsn": DSN,
                "pool_size": 4,
                "num_shards": 2,
                "cleanup_interval": "30s",
                "stream_retention": "48h",
                "partition_lookahead_days": 3,
                "partition_retention_days": 8,
                "table_prefix": "shop",
                "skip_schema_init": True,
                "notify_dsn": DSN + "2",
                "use_notify": True,
                "outbox.batch_size": 5,
            }.items()
        },
    )

    assert configuration.broker == PostgreSQLOptions(
        dsn=DSN,
        pool_size=4,
        shard_count=2,
        cleanup_interval_seconds=30.0,
        retention_seconds=172_800.0,
        lookahead_days=3,
        partition_retention_days=8,
        table_prefix="shop_wirebell",
        skip_schema_init=True,
        listen_dsn=DSN + "2",
    )
    assert () == configuration.warnings


@pytest.mark.parametrize("flags", [{"engine__type": "sqlite"}, {"broker__type": "sqlite"}])
def test_sqlite(flags: dict[str, Any]) -> None:
    """A file of this machine can be engine and broker."""
    section = next(iter(flags)).partition("__")[0]
    enabled = {"broker__enabled": True} if section == "broker" else {}

    configuration = read(**flags, **enabled, **{f"{section}.sqlite.path": "/var/lib/x.db"})

    assert configuration.broker == SQLiteOptions(path="/var/lib/x.db")
    assert () == configuration.warnings


def test_presence_of_its_own() -> None:
    """Presence may be kept elsewhere than the broker's data, in another Redis or in memory."""
    manager = {"presence_manager__enabled": True, "engine__type": "redis"}
    other = {"presence_manager__redis__address": "b:6379", "presence_manager__type": "redis"}

    assert read(**manager, **other).presence == RedisOptions(addresses=("b:6379",))
    assert read(**manager).presence == MemoryOptions()
    assert read(**manager, presence_manager__type="redis").presence is None


def test_the_short_form_wins() -> None:
    """``broker_url`` counts before engine and broker, which is told when they differ."""
    redis = {"engine__type": "redis"}
    sqlite = {"engine__type": "sqlite", "engine__sqlite__path": "/x.db"}

    differs = read(broker_url="redis://other", **redis, engine__redis__db=1)
    agrees = read(broker_url="sqlite:////x.db", **sqlite)
    wrong = read(broker_url="carrier-pigeon://", **redis)

    assert (None, None) == (differs.broker, differs.presence)
    told = "--engine.type: ignored with its section, --broker_url wins"
    assert (told,) == differs.warnings
    assert () == agrees.warnings
    assert (told,) == wrong.warnings
    assert () == read(broker_url="memory://", broker__nats__url="nats://a:1").warnings


def test_the_short_form_leaves_presence_its_place() -> None:
    """A presence manager that is enabled counts beside ``broker_url``; the engine does not."""
    configuration = read(
        broker_url="nats://127.0.0.1",
        presence_manager__enabled=True,
        presence_manager__type="redis",
        presence_manager__redis__presence_ttl="50s",
    )
    engine = read(
        broker_url="nats://127.0.0.1", engine__type="redis", engine__redis__presence_ttl="50s"
    )

    assert configuration.presence == RedisOptions()
    assert (50.0, 60.0) == (
        configuration.settings.presence_ttl_seconds,
        engine.settings.presence_ttl_seconds,
    )


def test_our_name_for_how_long_presence_is_kept_wins() -> None:
    """Two keys for one thing are told when they differ."""
    flags = {"engine__type": "redis", "engine__redis__presence_ttl": "50s"}

    assert () == read(**flags, presence_ttl_seconds="50").warnings
    configuration = read(**flags, presence_ttl_seconds="70")

    assert configuration.settings.presence_ttl_seconds == 70.0
    told = "--engine.redis.presence_ttl: ignored, --presence_ttl_seconds wins"
    assert (told,) == configuration.warnings


def test_keys_that_another_one_switches_off() -> None:
    """A section that does not count says so for each key that somebody took the trouble to set."""
    engine = {"engine__redis__address": "a:1", "engine__redis__connect_timeout": "1s"}
    broker = {"broker__type": "nats", "broker__nats__url": "nats://a:1"}
    manager = {"presence_manager__type": "redis"}

    told = "has no effect, because"
    assert (f"--engine.redis.address: {told} engine.type is 'memory'",) == read(**engine).warnings
    assert (
        f"--broker.type: {told} broker.enabled is false",
        f"--broker.nats.url: {told} broker.enabled is false",
        f"--presence_manager.type: {told} presence_manager.enabled is false",
    ) == read(**broker, **manager).warnings
    assert (f"--engine.redis.address: {told} broker and presence_manager are enabled",) == read(
        **engine, **broker, **manager, broker__enabled=True, presence_manager__enabled=True
    ).warnings
    assert (f"--presence_manager.type: {told} presence_manager.enabled is false",) == read(
        **manager, broker_url="sqlite:///x.db"
    ).warnings


def test_what_is_wrong_is_said_in_our_name_for_it() -> None:
    """Where our key says how long presence is kept, its error names our key."""
    flags = {"engine__type": "redis", "engine__redis__presence_ttl": "50s"}

    with pytest.raises(ConfigError, match=r"must be below --presence_ttl_seconds \(20"):
        read(**flags, presence_ttl_seconds="20")


@pytest.mark.parametrize(
    ("section", "key", "given", "expected"),
    [
        ("redis", "prefix", "", "wirebell"),
        ("redis", "prefix", "centrifugo", "wirebell"),
        ("redis", "prefix", "wirebell", "wirebell"),
        ("redis", "prefix", "shop", "shop-wirebell"),
        ("nats", "prefix", "centrifugo", "wirebell"),
        ("postgres", "table_prefix", "cf", "wirebell"),
        ("postgres", "table_prefix", "shop", "shop_wirebell"),
    ],
)
def test_prefixes_are_never_the_reference_s(
    section: str, key: str, given: str, expected: str
) -> None:
    """Both servers write under the same names, so no configuration leads them to one prefix."""
    broker = read(
        broker__enabled=True,
        broker__type=section,
        broker__postgres__dsn=DSN,
        **{f"broker.{section}.{key}": given},
    ).broker

    assert isinstance(broker, RedisOptions | NATSOptions | PostgreSQLOptions)
    found = broker.table_prefix if isinstance(broker, PostgreSQLOptions) else broker.prefix
    assert expected == found


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"engine.type": "tarantool"}, r"--engine\.type must be one of memory, redis, sqlite"),
        ({"engine.type": "sqlite"}, r"engine\.type 'sqlite' needs engine\.sqlite\.path"),
        ({"broker.type": "nats", "broker.nats.url": " , "}, r"--broker\.nats\.url is missing"),
        (
            {"broker.type": "postgres", "broker.postgres.dsn": "secret"},
            r"^--broker\.postgres\.dsn must be postgresql://",
        ),
        ({"broker.type": "postgres"}, r"broker\.type 'postgres' needs broker\.postgres\.dsn"),
        (
            {"engine.type": "redis", "engine.redis.connect_timeout": "2m"},
            r"--engine\.redis\.connect_timeout must be at most 60s, got '2m'",
        ),
        (
            {"engine.type": "redis", "engine.redis.db": "-1"},
            r"--engine\.redis\.db must be at least 0, got '-1'",
        ),
        (
            {"engine.type": "redis", "engine.redis.prefix": "p" * 56},
            r"--engine\.redis\.prefix must be at most 64 bytes with the ending '-wirebell'",
        ),
        (
            {"engine.type": "redis", "engine.redis.presence_ttl": "20s"},
            r"^client\.presence_update_interval must be below --engine\.redis\.presence_ttl \(20",
        ),
        (
            {
                "engine.type": "redis",
                "engine.redis.tls.enabled": True,
                "engine.redis.tls.cert_pem": PEM,
            },
            r"engine\.redis\.tls\.cert_pem and engine\.redis\.tls\.key_pem are set both or none",
        ),
        (
            {
                "engine.type": "redis",
                "engine.redis.tls.enabled": True,
                "engine.redis.tls.server_ca_pem": "/nowhere",
            },
            r"--engine\.redis\.tls\.server_ca_pem is neither PEM nor a file",
        ),
        (
            {
                "broker.type": "postgres",
                "broker.postgres.dsn": DSN,
                "broker.postgres.stream_retention": "200h",
            },
            r"must be at most broker\.postgres\.partition_retention_days \(168h\), got 200h",
        ),
        (
            {"broker.type": "postgres", "broker.postgres.dsn": DSN, "broker.postgres.pool_size": 0},
            r"--broker\.postgres\.pool_size must be at least 1, got 0",
        ),
    ],
)
def test_what_is_refused(flags: dict[str, Any], told: str) -> None:
    """An error names the key, the bound and the value."""
    with pytest.raises(ConfigError, match=told) as caught:
        load(None, {}, {"broker.enabled": "broker.type" in flags, **flags})

    assert "secret" not in str(caught.value)
