"""How a broker is reached: what a URL says in short, and a configuration's tree in full.

Defaults are those of the configuration's tree, where one thing is one key there. Every bound is
checked where the options are made; nothing is connected here.
"""

from __future__ import annotations

import msgspec

__all__ = (
    "BrokerOptions",
    "BrokerTLS",
    "MemoryOptions",
    "NATSOptions",
    "PostgreSQLOptions",
    "RedisOptions",
    "SQLiteOptions",
)


class BrokerTLS(msgspec.Struct, frozen=True, kw_only=True):
    """How the link to a broker is encrypted.

    Attributes:
        certificate: Ours, where the broker asks for one: PEM, or the path of such a file.
        key: Of that; likewise.
        authorities: Who signs the broker's certificate; likewise. Empty is the system's list.
        server_name: That the certificate must have; empty for the host that is connected to.
        skip_verify: Take any certificate. For development only.
    """

    certificate: str = ""
    key: str = ""
    authorities: str = ""
    server_name: str = ""
    skip_verify: bool = False


class MemoryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The broker of one process.

    Attributes:
        allows_workers: Run it in several workers all the same, each for itself.
    """

    allows_workers: bool = False


class SQLiteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The broker of several workers on one machine.

    Attributes:
        path: Of the database's file; its folder must exist, on a disk of this machine.
    """

    path: str


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Redis, one or several; one of the three lists of addresses counts.

    Attributes:
        addresses: ``host:port``, ``redis://…``, ``rediss://…`` or ``unix://…``. Channels are
            shared out among several; they must be the same ones, in the same order, on all nodes.
        cluster_addresses: Some nodes of a Redis Cluster; several clusters are separate items of
            the outer list.
        sentinel_addresses: Sentinels that know ``sentinel_master_name``.
        sentinel_master_name: What they call it.
        sentinel_user: For the Sentinels themselves.
        sentinel_password: Likewise.
        sentinel_client_name: Likewise.
        sentinel_tls: Likewise; ``None`` speaks without.
        user: Of an access list; empty for none. What an address says counts before this and the
            four below.
        password: Empty for none.
        db: Number of the database; a cluster has only 0.
        tls: ``None`` speaks without.
        client_name: As ``CLIENT LIST`` shows it.
        prefix: Of all keys and channels; at most 64 bytes.
        connect_timeout_seconds: To connect, above 0.
        io_timeout_seconds: For an answer, above 0.
        force_resp2: Speak the older protocol.
    """

    addresses: tuple[str, ...] = ("redis://127.0.0.1:6379",)
    cluster_addresses: tuple[tuple[str, ...], ...] = ()
    sentinel_addresses: tuple[str, ...] = ()
    sentinel_master_name: str = ""
    sentinel_user: str = ""
    sentinel_password: str = ""
    sentinel_client_name: str = ""
    sentinel_tls: BrokerTLS | None = None
    user: str = ""
    password: str = ""
    db: int = 0
    tls: BrokerTLS | None = None
    client_name: str = ""
    prefix: str = "wirebell"
    connect_timeout_seconds: float = 1.0
    io_timeout_seconds: float = 4.0
    force_resp2: bool = False


class NATSOptions(msgspec.Struct, frozen=True, kw_only=True):
    """NATS with JetStream.

    Attributes:
        urls: ``nats://[user:password@]host:port``, ``tls://…``; of one cluster.
        credentials: The path of a file with a user's JWT and seed (``.creds``), or with a seed;
            empty for none.
        prefix: Of all subjects, streams and buckets.
        connect_timeout_seconds: To connect, above 0.
        io_timeout_seconds: For an answer, above 0.
        tls: ``None`` speaks without, unless the URL says so.
        allows_wildcards: Channels without history may be subscribed to by a pattern: ``*`` between
            dots stands for one word, ``>`` at the end for one or more. The same on all nodes.
        replicas: Servers of a cluster that keep each stream, 1 to 5; 0 takes 3 in a cluster, and
            1 on a server alone.
    """

    urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    credentials: str = ""
    prefix: str = "wirebell"
    connect_timeout_seconds: float = 1.0
    io_timeout_seconds: float = 1.0
    tls: BrokerTLS | None = None
    allows_wildcards: bool = False
    replicas: int = 0


class PostgreSQLOptions(msgspec.Struct, frozen=True, kw_only=True):
    """PostgreSQL.

    Attributes:
        dsn: ``postgresql://user:password@host:port/database``.
        tls: ``None`` leaves it to the DSN.
        pool_size: Connections of this process, besides the one that listens; 1 or more.
        shard_count: Locks by which writers of one channel wait for each other; the same on all
            nodes, 1 to 1024.
        cleanup_interval_seconds: How often what has ended is removed.
        retention_seconds: How long a publication is kept at most, whatever its channel says.
        table_prefix: Of all tables: lower-case letters, digits and underscores.
        skip_schema_init: The tables are there: this role may not make any.
        listen_dsn: Where to listen, when ``dsn`` leads to a pooler that cannot; empty for ``dsn``.
        lookahead_days: Partitions made ahead, 1 or more.
        partition_retention_days: Partitions older than this are dropped, 1 or more.
        io_timeout_seconds: For an answer, above 0.
    """

    dsn: str
    tls: BrokerTLS | None = None
    pool_size: int = 16
    shard_count: int = 8
    cleanup_interval_seconds: float = 60.0
    retention_seconds: float = 86_400.0
    table_prefix: str = "wirebell"
    skip_schema_init: bool = False
    listen_dsn: str = ""
    lookahead_days: int = 2
    partition_retention_days: int = 7
    io_timeout_seconds: float = 4.0


BrokerOptions = MemoryOptions | SQLiteOptions | RedisOptions | NATSOptions | PostgreSQLOptions
"""Any broker's."""
