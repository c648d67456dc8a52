"""Keys of what joins nodes: ``engine``, ``broker`` and ``presence_manager`` of the tree.

Three sections have the same keys for Redis; five links have the same keys for TLS. What becomes
of them is in `brokers`, because one section in use decides which others count.
"""

from __future__ import annotations

from wirebell.configuration.key import Key, count, flag, seconds, text
from wirebell.configuration.values import Kind

__all__ = ("BROKER_KEYS", "REDIS_SECTIONS", "TLS_NAMES")

REDIS_SECTIONS = ("engine", "broker", "presence_manager")

# Key of a link's TLS section → field of `BrokerTLS`.
TLS_NAMES = {
    "cert_pem": "certificate",
    "key_pem": "key",
    "server_ca_pem": "authorities",
    "server_name": "server_name",
    "insecure_skip_verify": "skip_verify",
}
# Longer than any link should be waited for; the drivers' own bound.
WAIT_SECONDS_MAX = 60
DAY_SECONDS = 86_400
DATABASES_MAX = 2**16


def _tls_keys(section: str) -> tuple[Key, ...]:
    """Describe how a link is encrypted."""
    return (
        flag(f"{section}.enabled"),
        text(f"{section}.cert_pem", note="ours; PEM, base64 or a path"),
        text(f"{section}.key_pem", note="likewise", is_secret=True),
        text(f"{section}.server_ca_pem", note="who signs theirs; empty is the system's list"),
        text(f"{section}.server_name", note="that their certificate has, if not the host's"),
        flag(f"{section}.insecure_skip_verify", note="for development only"),
    )


def _redis_keys(owner: str) -> tuple[Key, ...]:
    """Describe one section of Redis."""
    section = f"{owner}.redis"
    return (
        Key(
            f"{section}.address",
            Kind.LIST,
            note="`host:port` or a URL; channels are shared out among several",
            is_secret=True,
        ),
        Key(
            f"{section}.cluster_address",
            Kind.LIST,
            note="or some nodes of a cluster, with commas between; several items are clusters that "
            "share the channels",
        ),
        Key(
            f"{section}.sentinel_address",
            Kind.LIST,
            note="or Sentinels, with commas between, in one item",
        ),
        text(f"{section}.sentinel_master_name", f"{section}.sentinel_master_name"),
        text(f"{section}.sentinel_user", f"{section}.sentinel_user"),
        text(f"{section}.sentinel_password", f"{section}.sentinel_password", is_secret=True),
        text(f"{section}.sentinel_client_name", f"{section}.sentinel_client_name"),
        *_tls_keys(f"{section}.sentinel_tls"),
        text(f"{section}.user", f"{section}.user"),
        text(f"{section}.password", f"{section}.password", is_secret=True),
        count(f"{section}.db", f"{section}.db", "a cluster has only 0", maximum=DATABASES_MAX),
        *_tls_keys(f"{section}.tls"),
        text(f"{section}.client_name", f"{section}.client_name"),
        text(f"{section}.prefix", note="see [prefixes](#a-configuration-of-centrifugo)"),
        seconds(
            f"{section}.connect_timeout",
            f"{section}.connect_timeout_seconds",
            maximum=WAIT_SECONDS_MAX,
        ),
        seconds(f"{section}.io_timeout", f"{section}.io_timeout_seconds", maximum=WAIT_SECONDS_MAX),
        flag(f"{section}.force_resp2", f"{section}.force_resp2"),
        *(
            (seconds(f"{section}.presence_ttl", note="`presence_ttl_seconds` wins"),)
            if owner != "broker"
            else ()
        ),
    )


NATS_KEYS = (
    text(
        "broker.nats.url", note="several servers of one cluster with commas between", is_secret=True
    ),
    text("broker.nats.prefix", note="see [prefixes](#a-configuration-of-centrifugo)"),
    seconds(
        "broker.nats.dial_timeout",
        "broker.nats.connect_timeout_seconds",
        maximum=WAIT_SECONDS_MAX,
    ),
    seconds(
        "broker.nats.write_timeout",
        "broker.nats.io_timeout_seconds",
        "for an answer",
        maximum=WAIT_SECONDS_MAX,
    ),
    text(
        "broker.nats.credentials",
        "broker.nats.credentials",
        "the path of a file with a user's JWT and seed (`.creds`), or with a seed",
        default="",
    ),
    flag(
        "broker.nats.allow_wildcards",
        "broker.nats.allows_wildcards",
        "channels without history may be subscribed to by [a pattern](brokers.md#nats)",
    ),
    count(
        "broker.nats.replicas",
        "broker.nats.replicas",
        "servers that keep each stream; 0 is 3 in a cluster, else 1",
        maximum=5,
        default=0,
    ),
    *_tls_keys("broker.nats.tls"),
)

POSTGRESQL_KEYS = (
    text(
        "broker.postgres.dsn",
        "broker.postgres.dsn",
        "`postgresql://user:password@host:port/database`",
        is_secret=True,
    ),
    *_tls_keys("broker.postgres.tls"),
    count(
        "broker.postgres.pool_size",
        "broker.postgres.pool_size",
        "connections of one process, besides one that listens",
        minimum=1,
        maximum=1000,
    ),
    count(
        "broker.postgres.num_shards",
        "broker.postgres.shard_count",
        "the same on all nodes",
        minimum=1,
        maximum=1024,
    ),
    seconds(
        "broker.postgres.cleanup_interval",
        "broker.postgres.cleanup_interval_seconds",
        maximum=DAY_SECONDS,
    ),
    seconds(
        "broker.postgres.stream_retention",
        "broker.postgres.retention_seconds",
        "no publication is kept for longer",
    ),
    count(
        "broker.postgres.partition_lookahead_days",
        "broker.postgres.lookahead_days",
        minimum=1,
        maximum=366,
    ),
    count(
        "broker.postgres.partition_retention_days",
        "broker.postgres.partition_retention_days",
        minimum=1,
        maximum=36_500,
    ),
    text("broker.postgres.table_prefix", note="see [prefixes](#a-configuration-of-centrifugo)"),
    flag(
        "broker.postgres.skip_schema_init",
        "broker.postgres.skip_schema_init",
        "the tables are there",
    ),
    text(
        "broker.postgres.notify_dsn",
        "broker.postgres.listen_dsn",
        "where to listen, if `dsn` leads to a pooler",
        is_secret=True,
    ),
)

BROKER_KEYS = (
    text(
        "engine.type",
        note="publications, history and presence, unless the next two say otherwise; "
        "`broker_url` wins over all of this",
        choices=("memory", "redis", "sqlite"),
    ),
    flag("broker.enabled", note="publications and history as `broker` says"),
    text("broker.type", choices=("memory", "redis", "nats", "postgres", "sqlite")),
    flag("presence_manager.enabled", note="presence as `presence_manager` says"),
    text("presence_manager.type", choices=("memory", "redis")),
    text("engine.sqlite.path", "engine.sqlite.path", "of the file", default=""),
    text("broker.sqlite.path", "broker.sqlite.path", "likewise", default=""),
    *(key for owner in REDIS_SECTIONS for key in _redis_keys(owner)),
    *NATS_KEYS,
    *POSTGRESQL_KEYS,
)
