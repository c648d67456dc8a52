"""URLs and options of PostgreSQL."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.services.redis import certificates
from wirebell.broker_options import BrokerTLS, PostgreSQLOptions
from wirebell.brokers.postgresql.addresses import read_place, read_url
from wirebell.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

DSN = "postgresql://ann:s3cret@h:6432/d"


def test_url_with_everything() -> None:
    """Our own words become options; libpq's stay in the DSN."""
    options = read_url(
        "postgresql://ann:p%40ss@h1:1,h2:2/d?sslmode=require&target_session_attrs=read-write"
        "&pool_size=3&shard_count=16&prefix=mine&io_timeout=0.5&retention=60&cleanup_interval=5"
        "&lookahead_days=4&partition_retention_days=9&skip_schema_init=1"
        "&listen_dsn=postgresql%3A%2F%2Fann%40h3%2Fd"
    )

    assert (
        PostgreSQLOptions(
            dsn="postgresql://ann:p%40ss@h1:1,h2:2/d?sslmode=require&target_session_attrs=read-write",
            pool_size=3,
            shard_count=16,
            table_prefix="mine",
            io_timeout_seconds=0.5,
            retention_seconds=60.0,
            cleanup_interval_seconds=5.0,
            lookahead_days=4,
            partition_retention_days=9,
            skip_schema_init=True,
            listen_dsn="postgresql://ann@h3/d",
        )
        == options
    )
    assert "h1:1,h2:2/d" == str(read_place(options))
    assert "h3/d" == str(read_place(options, listens=True))


def test_pooler() -> None:
    """Beside ``listen_dsn`` the other DSN leads to a pooler: nothing is prepared there."""
    options = PostgreSQLOptions(dsn=DSN, listen_dsn="postgresql://h/d")
    pooled, direct = read_place(options), read_place(options, listens=True)

    assert (True, 0) == (pooled.is_pooled, pooled.arguments["statement_cache_size"])
    assert (False, 100) == (direct.is_pooled, direct.arguments["statement_cache_size"])
    assert not read_place(PostgreSQLOptions(dsn=DSN)).is_pooled


def test_socket() -> None:
    """A socket's folder is a host."""
    assert "/run/postgresql/d" == str(read_place(read_url("postgresql:///d?host=/run/postgresql")))


@pytest.mark.parametrize(
    "url",
    [
        f"{DSN}?pool_size=many",
        f"{DSN}?io_timeout=soon",
        f"{DSN}?colour=red",
        f"{DSN}?skip_schema_init=perhaps",
        f"{DSN}?=",
        "postgresql://ann:s3cret@[h/d",
    ],
)
def test_bad_url(url: str) -> None:
    """What is not understood is named, and the password is not."""
    with pytest.raises(ConfigError) as caught:
        read_url(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"dsn": "mysql://ann:s3cret@h/d"},
        {"dsn": "postgresql://ann:x@s3cret:y@h/d"},
        {"dsn": "postgresql://ann:s3cret@h:port/d"},
        {"dsn": "postgresql://ann:s3cret@[h/d"},
        {"pool_size": 0},
        {"shard_count": 1025},
        {"lookahead_days": 0},
        {"partition_retention_days": 0},
        {"io_timeout_seconds": 0.0},
        {"cleanup_interval_seconds": -1.0},
        {"retention_seconds": 0.0},
        {"retention_seconds": 8 * 86_400.0},
        {"table_prefix": ""},
        {"table_prefix": "Robert'); DROP TABLE"},
        {"table_prefix": "1st"},
        {"table_prefix": "p" * 33},
    ],
)
def test_bad_options(changes: dict[str, Any]) -> None:
    """A value that cannot be is refused before anything is connected."""
    options = PostgreSQLOptions(**{"dsn": DSN, **changes})
    if changes.get("dsn") == "postgresql://ann:x@s3cret:y@h/d":
        # The last '@' ends the password: this one is fine.
        assert "h/d" == str(read_place(options))
        return
    with pytest.raises(ConfigError) as caught:
        read_place(options)

    assert "s3cret" not in str(caught.value)


def test_tls(tmp_path: Path) -> None:
    """Certificates are files or their text; another name than the host's can be asked for."""
    made = certificates(tmp_path)
    texts = BrokerTLS(
        certificate=(tmp_path / "certificate.pem").read_text(),
        key=(tmp_path / "key.pem").read_text(),
        authorities=(tmp_path / "authority.pem").read_text(),
        server_name="other.example",
    )
    paths = BrokerTLS(certificate=made.certificate, key=made.key, authorities=made.authority)
    contexts = [
        read_place(PostgreSQLOptions(dsn=DSN, tls=tls)).arguments["ssl"]
        for tls in (texts, paths, BrokerTLS(skip_verify=True))
    ]

    assert [True, True, False] == [context.check_hostname for context in contexts]
    assert ssl.CERT_NONE == contexts[2].verify_mode
    link = contexts[0].wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="h")
    assert "other.example" == link.server_hostname


def test_missing_certificate() -> None:
    """A certificate that cannot be read is said so."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_place(PostgreSQLOptions(dsn=DSN, tls=BrokerTLS(authorities="/nowhere.pem")))
