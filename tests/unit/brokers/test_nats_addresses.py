"""URLs and options of NATS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.services.redis import certificates
from wirebell.broker_options import BrokerTLS, NATSOptions
from wirebell.brokers import create_broker
from wirebell.brokers.nats import NATSBroker, NATSPresenceStore
from wirebell.brokers.nats.addresses import Place, read_place, read_url
from wirebell.errors import ConfigError
from wirebell.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def place(url: str) -> Place:
    """Read a URL into a place."""
    return read_place(read_url(url))


def test_one_server() -> None:
    """Host, port, user and password; what is left out has its default."""
    plain = place("nats://localhost")
    full = place("nats://ann:p%40ss,word%2F@[::1]:7000?prefix=app&io_timeout=0.5&replicas=3")

    assert ("localhost:4222", "wirebell", 4.0, 0) == (
        str(plain),
        plain.prefix,
        plain.io_seconds,
        plain.replicas,
    )
    (address,) = full.addresses
    assert ("::1", 7000, "ann", "p@ss,word/") == (
        address.host,
        address.port,
        address.user,
        address.password,
    )
    assert ("app", 0.5, 3) == (full.prefix, full.io_seconds, full.replicas)
    assert "[::1]:7000" == str(full)
    assert "p@ss" not in repr(full)


def test_several_hosts() -> None:
    """Hosts behind one scheme share user and password; several URLs have their own."""
    shared = place("nats://ann:pw@a,b:7001,c")
    own = place("nats://one@a,tls://ann:two@b:7001?tls_skip_verify=true")

    assert "a:4222, b:7001, c:4222" == str(shared)
    assert {("ann", "pw")} == {(each.user, each.password) for each in shared.addresses}
    assert [("one", ""), ("ann", "two")] == [(each.user, each.password) for each in own.addresses]


def test_tls(tmp_path: Path) -> None:
    """``tls://`` encrypts; certificates may be files or texts, and a name may be asked for."""
    made = certificates(tmp_path)
    (plain,) = place("nats://h").addresses
    (bare,) = place("tls://h").addresses
    files = f"tls_ca={made.authority}&tls_cert={made.certificate}&tls_key={made.key}"
    (full,) = place(f"tls://h?{files}&tls_server_name=name").addresses
    texts = BrokerTLS(
        authorities=(tmp_path / "authority.pem").read_text(),
        certificate=(tmp_path / "certificate.pem").read_text(),
        key=(tmp_path / "key.pem").read_text(),
        skip_verify=True,
    )
    (own,) = read_place(NATSOptions(urls=("h:4223",), tls=texts)).addresses

    assert plain.tls is None
    assert bare.tls is not None
    assert bare.tls.verify_mode == ssl.CERT_REQUIRED
    assert full.tls is not None
    assert "name" == full.server_name
    assert own.tls is not None
    assert own.tls.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://", "names no host"),
        ("nats://h/path", "ends after its hosts"),
        ("nats://h:port", "no host:port"),
        ("nats://[h", "cannot be read"),
        ("nats://:4222", "no host:port"),
        ("nats://h?what=1", "says 'what'"),
        ("nats://h?io_timeout=x", "is a number"),
        ("nats://h?io_timeout=0", "above 0 and at most 60"),
        ("nats://h?connect_timeout=61", "above 0 and at most 60"),
        ("nats://h?prefix=a.b", "prefix of NATS"),
        ("nats://h?prefix=", "prefix of NATS"),
        (f"nats://h?prefix={'a' * 33}", "prefix of NATS"),
        ("nats://h?replicas=6", "replicas is 0 to 5"),
        ("tls://h?tls_ca=/nowhere", "cannot be read"),
    ],
)
def test_refused(url: str, words: str) -> None:
    """What is not understood is refused, in words that show no password."""
    with pytest.raises(ConfigError, match=words):
        place(url)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (NATSOptions(urls=()), "no URL"),
        (NATSOptions(urls=("redis://h",)), "begins with nats://"),
    ],
)
def test_refused_options(options: NATSOptions, words: str) -> None:
    """Options are held against the same bounds."""
    with pytest.raises(ConfigError, match=words):
        read_place(options)


def test_longest_prefix() -> None:
    """A prefix may have 32 bytes."""
    assert "a" * 32 == place(f"nats://h?prefix={'a' * 32}").prefix


def test_create() -> None:
    """``nats://`` and ``tls://`` are this broker."""
    for scheme in ("nats", "tls"):
        broker, store = create_broker(Settings(broker_url=f"{scheme}://h"))
        assert isinstance(broker, NATSBroker)
        assert isinstance(store, NATSPresenceStore)
