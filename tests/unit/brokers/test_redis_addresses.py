"""URLs and options of Redis."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.services.redis import certificates
from wirebell.broker_options import BrokerTLS, RedisOptions
from wirebell.brokers.redis.addresses import Address, Place, read_places, read_url
from wirebell.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def places(url: str) -> tuple[Place, ...]:
    """Read a URL into places."""
    return read_places(read_url(url))


def test_one_server() -> None:
    """Host, port, user, password and database; what is left out has its default."""
    (plain,) = places("redis://localhost")
    (full,) = places("redis://ann:p%40ss,word%2F@[::1]:7000/3?client_name=me&io_timeout=0.5")

    assert ("single", (Address("localhost", 6379),)) == (plain.kind, plain.addresses)
    assert (Address("::1", 7000),) == full.addresses
    assert ("ann", "p@ss,word/", 3) == (full.access.user, full.access.password, full.access.db)
    assert ("me", 0.5) == (full.access.client_name, full.access.io_seconds)
    assert "[::1]:7000" == str(full)


def test_password_alone() -> None:
    """A password without a user is the default user's."""
    (place,) = places("redis://:secret@h")

    assert ("", "secret") == (place.access.user, place.access.password)
    assert "secret" not in repr(place)


def test_several_hosts_share_everything() -> None:
    """Hosts behind one scheme are shards with the same access."""
    found = places("redis://:pw@a,b:7001,c/2")

    assert ["a:6379", "b:7001", "c:6379"] == [str(place) for place in found]
    assert {("pw", 2)} == {(place.access.password, place.access.db) for place in found}


def test_several_urls() -> None:
    """URLs behind each other are shards with their own access, in their order."""
    found = places("redis://:one@a/1,rediss://ann:two@b:7001,redis+unix:///run/r.sock")

    assert ["a:6379", "b:7001", "/run/r.sock"] == [str(place) for place in found]
    assert ["one", "two", ""] == [place.access.password for place in found]
    assert [False, True, False] == [place.access.tls is not None for place in found]
    assert [1, 0, 0] == [place.access.db for place in found]


def test_unix_socket() -> None:
    """A path, and its database behind it."""
    (place,) = places("redis+unix:///run/redis.sock?db=2")

    assert (Address("/run/redis.sock", 0), 2) == (place.addresses[0], place.access.db)
    assert place.addresses[0].is_unix


def test_sentinels() -> None:
    """Sentinels, the master's name, and who enters which of them."""
    (place,) = places(
        "redis+sentinel://:pw@a,b:26380/main/4?sentinel_user=watch&sentinel_password=dog"
    )

    assert ("sentinel", "main") == (place.kind, place.master_name)
    assert (Address("a", 26379), Address("b", 26380)) == place.addresses
    assert ("pw", 4) == (place.access.password, place.access.db)
    assert ("watch", "dog", 0) == (
        place.sentinel_access.user,
        place.sentinel_access.password,
        place.sentinel_access.db,
    )
    assert "'main' of the Sentinels a:26379, b:26380" == str(place)


def test_sentinels_with_tls() -> None:
    """A URL with TLS means the Sentinels, too."""
    (plain,), (place,) = places("redis+sentinel://a/m"), places("rediss+sentinel://a/m")

    assert plain.access.tls is None is plain.sentinel_access.tls
    assert place.access.tls is not None
    assert place.sentinel_access.tls is not None


def test_clusters() -> None:
    """Nodes of one cluster; several clusters are shards."""
    (one,) = places("redis+cluster://a:7000,b:7001")
    two = places("redis+cluster://a:7000,redis+cluster://b,c")

    assert ("cluster", (Address("a", 7000), Address("b", 7001))) == (one.kind, one.addresses)
    assert [1, 2] == [len(place.addresses) for place in two]


def test_tls(tmp_path: Path) -> None:
    """Certificates come from files or as text; nobody is believed without a reason."""
    made = certificates(tmp_path)
    query = f"tls_ca={made.authority}&tls_cert={made.certificate}&tls_key={made.key}"
    texts = BrokerTLS(
        authorities=(tmp_path / "authority.pem").read_text(),
        certificate=(tmp_path / "certificate.pem").read_text(),
        key=(tmp_path / "key.pem").read_text(),
        server_name="redis.example",
    )

    (from_files,) = places(f"rediss://h?{query}")
    (from_texts,) = read_places(RedisOptions(addresses=("h",), tls=texts))
    (blind,) = places("rediss://h?tls_skip_verify=true")

    assert from_files.access.tls is not None
    assert ssl.CERT_REQUIRED == from_files.access.tls.verify_mode
    assert 1 == len(from_files.access.tls.get_ca_certs())
    assert from_texts.access.tls is not None
    assert "redis.example" == from_texts.access.server_name
    assert blind.access.tls is not None
    assert ssl.CERT_NONE == blind.access.tls.verify_mode


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis:h", "has no '://'"),
        ("redis://", "names no host"),
        ("redis://h:port", "'h:port' is no host:port"),
        ("redis://:s3cret@h:99999", "'h:99999' is no host:port"),
        ("redis://[h", "cannot be read"),
        ("redis://h/first", "database of Redis is a number, got 'first'"),
        ("redis://h?prefixx=a", "says 'prefixx', known are: client_name"),
        ("redis://h?io_timeout=soon", "io_timeout is a number of seconds"),
        ("redis://h?io_timeout=0", "io_timeout_seconds is above 0"),
        ("redis://h?tls_ca=x", "of TLS without rediss://"),
        ("rediss://h?tls_ca=/nowhere.pem", "certificate for Redis cannot be read"),
        ("redis://h?prefix=a%20b", "prefix has 1 to 64 bytes"),
        ("redis://h?prefix={a}", "prefix has 1 to 64 bytes"),
        ("redis://h?client_name=a%20b", "client_name has printable ASCII"),
        ("redis+sentinel://h", "names the master"),
        ("redis+cluster://h/1", "a cluster has only database 0"),
        ("redis+cluster://h?db=1", "a Redis Cluster has only database 0"),
        ("redis+other://h", "has the scheme 'redis\\+other'"),
        ("redis://a,redis+sentinel://b/m", "several URLs are all"),
    ],
)
def test_what_cannot_be(url: str, says: str) -> None:
    """What is not understood is refused by name, and no password is shown."""
    with pytest.raises(ConfigError, match=says) as caught:
        places(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (RedisOptions(addresses=()), "no address of Redis is given"),
        (RedisOptions(db=-1), "db is 0 or more"),
        (RedisOptions(addresses=("http://h",)), "has the scheme 'http'"),
        (RedisOptions(addresses=("user@h",)), "'h' is no host:port"),
        (RedisOptions(sentinel_addresses=("h",)), "sentinel_master_name is missing"),
    ],
)
def test_options_that_cannot_be(options: RedisOptions, says: str) -> None:
    """A configuration's tree is held to the same bounds."""
    with pytest.raises(ConfigError, match=says):
        read_places(options)


def test_addresses_of_a_tree() -> None:
    """An address may be a host alone, or a URL whose words count before those of the tree."""
    options = RedisOptions(
        addresses=("a", "redis://:own@b:1/2", "unix:///s?db=3"), password="shared", db=1
    )

    found = read_places(options)

    assert ["shared", "own", "shared"] == [place.access.password for place in found]
    assert [1, 2, 3] == [place.access.db for place in found]
