"""Where PostgreSQL is and how it is entered: URLs and options in, arguments out. Connects nowhere.

A password never stands in a message: a server is named by its host, port and database.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from wirebell.broker_options import BrokerTLS, PostgreSQLOptions
from wirebell.broker_tls import create_tls
from wirebell.errors import ConfigError

__all__ = ("Place", "read_place", "read_url")

PREFIX_BYTES_MAX = 32
SHARDS_MAX = 1024

NUMBERS = {
    "pool_size": "pool_size",
    "shard_count": "shard_count",
    "lookahead_days": "lookahead_days",
    "partition_retention_days": "partition_retention_days",
}
SECONDS = {
    "cleanup_interval": "cleanup_interval_seconds",
    "retention": "retention_seconds",
    "io_timeout": "io_timeout_seconds",
}
"""Name in a URL → name in the options."""

# What the driver understands; it would take everything else for a setting of the server.
DRIVER = frozenset(
    (
        *("host", "port", "user", "database", "dbname", "password", "passfile", "sslmode"),
        *("sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
        *("krbsrvname", "gsslib", "service", "servicefile"),
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """A database, and how it is entered.

    Attributes:
        name: For messages: host, port and database.
        arguments: Of the driver's ``connect``.
        io_seconds: For an answer.
        is_pooled: A pooler stands between: what belongs to a connection does not last.
    """

    name: str
    arguments: dict[str, Any] = field(repr=False)
    io_seconds: float = 4.0
    is_pooled: bool = False

    def __str__(self) -> str:
        return self.name


def read_url(url: str) -> PostgreSQLOptions:
    """Read ``postgresql://user:password@host:port/database``, with options behind ``?``.

    Options are those of libpq, and our own: ``pool_size``, ``shard_count``, ``prefix``,
    ``io_timeout``, ``retention`` and ``cleanup_interval`` (seconds), ``lookahead_days``,
    ``partition_retention_days``, ``skip_schema_init``, ``listen_dsn``.

    Raises:
        ConfigError: It says what is not understood. The message does not show a password.
    """
    try:
        parts = urlsplit(url)
        words = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError(
            "broker_url of PostgreSQL cannot be read: is every special character in the password "
            "written as %XX?"
        ) from None
    rest: list[tuple[str, str]] = []
    changes: dict[str, Any] = {}
    for name, value in words:
        if name in NUMBERS:
            if not value.isdecimal():
                raise ConfigError(f"{name} in broker_url is a number, got {value!r}")
            changes[NUMBERS[name]] = int(value)
        elif name in SECONDS:
            changes[SECONDS[name]] = _read_seconds(name, value)
        elif name == "prefix":
            changes["table_prefix"] = value
        elif name == "listen_dsn":
            changes["listen_dsn"] = value
        elif name == "skip_schema_init" and value in {"true", "false", "1", "0"}:
            changes["skip_schema_init"] = value in {"true", "1"}
        elif name in DRIVER:
            rest.append((name, value))
        else:
            known = ", ".join(
                sorted({*NUMBERS, *SECONDS, *DRIVER, "prefix", "listen_dsn", "skip_schema_init"})
            )
            raise ConfigError(f"broker_url of PostgreSQL says {name!r}, known are: {known}")
    dsn = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(rest), ""))
    return PostgreSQLOptions(dsn=dsn, **changes)


def read_place(options: PostgreSQLOptions, *, listens: bool = False) -> Place:
    """Turn options into how a database is entered.

    Args:
        options: Any.
        listens: The connection is for listening.

    Raises:
        ConfigError: A value is out of its bounds, or a certificate cannot be read.
    """
    _check(options)
    dsn = options.listen_dsn if listens and options.listen_dsn else options.dsn
    name = _describe(dsn)
    is_pooled = bool(options.listen_dsn) and not listens
    arguments: dict[str, Any] = {
        "dsn": dsn,
        "timeout": options.io_timeout_seconds,
        # A pooler gives each transaction another connection; what was prepared stays behind.
        "statement_cache_size": 0 if is_pooled else 100,
        "server_settings": {"application_name": "wirebell"},
    }
    if options.tls is not None:
        arguments["ssl"] = _create_tls(options.tls)
    return Place(name, arguments, options.io_timeout_seconds, is_pooled)


def _check(options: PostgreSQLOptions) -> None:
    """Refuse what cannot be.

    Raises:
        ConfigError: Likewise.
    """
    if not re.fullmatch(rf"[a-z_][a-z0-9_]{{0,{PREFIX_BYTES_MAX - 1}}}", options.table_prefix):
        raise ConfigError(
            f"table_prefix has 1 to {PREFIX_BYTES_MAX} lower-case letters, digits and underscores "
            f"and begins with no digit, got {options.table_prefix!r}"
        )
    for name, most in (
        ("pool_size", 1000),
        ("shard_count", SHARDS_MAX),
        ("lookahead_days", 366),
        ("partition_retention_days", 36_500),
    ):
        if not 1 <= getattr(options, name) <= most:
            raise ConfigError(f"{name} is 1 to {most}, got {getattr(options, name)}")
    for name, longest in (
        ("io_timeout_seconds", 60.0),
        ("cleanup_interval_seconds", 86_400.0),
        ("retention_seconds", 86_400.0 * 36_500),
    ):
        if not 0 < getattr(options, name) <= longest:
            raise ConfigError(f"{name} is above 0, at most {longest}, got {getattr(options, name)}")
    if options.retention_seconds > options.partition_retention_days * 86_400.0:
        raise ConfigError(
            f"partition_retention_days ({options.partition_retention_days}) are shorter than "
            f"retention_seconds ({options.retention_seconds}): partitions would be dropped before"
        )


def _describe(dsn: str) -> str:
    """Name a server without its password.

    Raises:
        ConfigError: It is no such URL.
    """
    try:
        parts = urlsplit(dsn)
        words = dict(parse_qsl(parts.query))
    except ValueError:
        parts, words = urlsplit(""), {}
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ConfigError(
            "a DSN of PostgreSQL is postgresql://user:password@host:port/database, with special "
            "characters of the password written as %XX"
        )
    hosts = unquote(parts.netloc.rpartition("@")[2]) or words.get("host", "localhost")
    for host in hosts.split(","):
        if not re.fullmatch(r"(\[[^]]*\]|[^:@]*)(:[0-9]{1,5})?", host):
            # Part of a password may stand there.
            raise ConfigError(
                "a DSN of PostgreSQL has no host:port behind the '@': is every special character "
                "in the password written as %XX?"
            )
    database = unquote(parts.path.lstrip("/")) or words.get("dbname", "")
    return f"{hosts}/{database}"


def _read_seconds(name: str, text: str) -> float:
    """Read seconds."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name} in broker_url is a number of seconds, got {text!r}") from None


class _NamedContext(ssl.SSLContext):
    """Checks a certificate for another name than the host's, which the driver cannot be told."""

    server_name = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the standard library's
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin with the name that was given."""
        name = self.server_name or server_hostname
        return super().wrap_bio(incoming, outgoing, server_side, name, session)


def _create_tls(tls: BrokerTLS) -> ssl.SSLContext:
    """Make what a link is encrypted with."""
    context = create_tls(tls, "PostgreSQL", _NamedContext)
    context.server_name = tls.server_name
    return context
