"""Where NATS is and how it is entered: URLs and options in, a place out. Connects to nothing.

A password never stands in a message: an address is named by its host and port.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

from wirebell.broker_options import BrokerTLS, NATSOptions
from wirebell.broker_tls import create_tls
from wirebell.brokers.nats.credentials import read_credentials
from wirebell.errors import ConfigError

__all__ = ("Address", "Place", "read_place", "read_url")

PORT = 4222
PREFIX_BYTES_MAX = 32
REPLICAS_MAX = 5
SECONDS_MAX = 60.0
# Of a URL, where nothing else is said: as every broker's.
IO_SECONDS = 4.0

# Name in a URL → name in the options.
QUERY_SECONDS = {
    "connect_timeout": "connect_timeout_seconds",
    "io_timeout": "io_timeout_seconds",
}
QUERY_TLS = {
    "tls_ca": "authorities",
    "tls_cert": "certificate",
    "tls_key": "key",
    "tls_server_name": "server_name",
}
QUERY_TEXTS = ("credentials", "prefix")
QUERY_FLAGS = {"allow_wildcards": "allows_wildcards", "tls_skip_verify": "skip_verify"}
FLAGS = {"true": True, "1": True, "false": False, "0": False}
KNOWN = tuple(sorted((*QUERY_SECONDS, *QUERY_TLS, *QUERY_TEXTS, *QUERY_FLAGS, "replicas")))


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and how it is entered.

    Attributes:
        host: Its name.
        port: Its port.
        user: Empty for none; without a password it is a token.
        password: Empty for none.
        credentials: The path of a file that has them; empty for none.
        tls: ``None`` speaks without, unless the server asks for it.
        server_name: That its certificate must have; empty for the host.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    credentials: str = ""
    tls: ssl.SSLContext | None = None
    server_name: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Place:
    """Servers of one cluster, or one alone.

    Attributes:
        addresses: Some of them; the others are learned.
        prefix: Of all subjects and streams.
        connect_seconds: To connect.
        io_seconds: For an answer.
        replicas: Of each stream; 0 leaves it to what the server is.
    """

    addresses: tuple[Address, ...]
    prefix: str
    connect_seconds: float
    io_seconds: float
    replicas: int

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))


def read_url(url: str) -> NATSOptions:
    """Read ``nats://[user:password@]host[:port][,host…][?…]``; ``tls://`` speaks TLS only.

    Raises:
        ConfigError: It says what is not understood. The message does not show a password.
    """
    urls = re.split(r",(?=(?:nats|tls)://)", url)
    parts = _split(urls[-1])
    if parts.path.strip("/"):
        raise ConfigError(f"broker_url of NATS ends after its hosts, got {parts.path!r}")
    changes = _read_query(parts.query)
    hosts = []
    for each in urls:
        split = _split(each)
        userinfo, at, names = split.netloc.rpartition("@")
        for name in filter(None, names.split(",")):
            _read_host(name)
            hosts.append(f"{split.scheme}://{userinfo}{at}{name}")
    if not hosts:
        raise ConfigError("broker_url of NATS names no host")
    changes.setdefault("io_timeout_seconds", IO_SECONDS)
    return NATSOptions(urls=tuple(hosts), **changes)  # type: ignore[arg-type]  # each of its kind


def read_place(options: NATSOptions) -> Place:
    """Turn options into a place.

    Raises:
        ConfigError: A value is out of its bounds, or a file cannot be read.
    """
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{PREFIX_BYTES_MAX}}}", options.prefix):
        raise ConfigError(
            f"prefix of NATS has 1 to {PREFIX_BYTES_MAX} letters, digits, '_' and '-', "
            f"got {options.prefix!r}"
        )
    for name in ("connect_timeout_seconds", "io_timeout_seconds"):
        if not 0 < getattr(options, name) <= SECONDS_MAX:
            raise ConfigError(
                f"{name} is above 0 and at most {SECONDS_MAX:g}, got {getattr(options, name)}"
            )
    if not 0 <= options.replicas <= REPLICAS_MAX:
        raise ConfigError(f"replicas is 0 to {REPLICAS_MAX}, got {options.replicas}")
    if not options.urls:
        raise ConfigError("no URL of NATS is given")
    if options.credentials:
        # Each connect reads them anew; what is wrong with them is told before the first.
        read_credentials(options.credentials)
    return Place(
        tuple(_read_address(url, options) for url in options.urls),
        options.prefix,
        options.connect_timeout_seconds,
        options.io_timeout_seconds,
        options.replicas,
    )


def _read_address(url: str, options: NATSOptions) -> Address:
    """Read one URL of `NATSOptions.urls`."""
    parts = _split(url if "://" in url else f"nats://{url}")
    userinfo, _, name = parts.netloc.rpartition("@")
    host, port = _read_host(name)
    user, _, password = userinfo.partition(":")
    if user and options.credentials:
        raise ConfigError(f"NATS at {name} is given a user and credentials: which of them counts?")
    tls = options.tls or (BrokerTLS() if parts.scheme == "tls" else None)
    return Address(
        host,
        port,
        unquote(user),
        unquote(password),
        options.credentials,
        None if tls is None else create_tls(tls, "NATS", ssl.SSLContext),
        "" if tls is None else tls.server_name,
    )


def _split(url: str) -> SplitResult:
    """Split a URL."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"broker_url of NATS cannot be read: {error}") from None
    if parts.scheme not in {"nats", "tls"}:
        raise ConfigError(f"a URL of NATS begins with nats:// or tls://, got {parts.scheme!r}")
    return parts


def _read_host(text: str) -> tuple[str, int]:
    """Read ``host:port``."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
        # As whoever looks it up will write it.
        host.encode("idna")
    except ValueError as error:
        raise ConfigError(f"{text!r} is no host:port: {error}") from None
    if not host:
        raise ConfigError(f"{text!r} is no host:port")
    return host, port or PORT


def _read_query(query: str) -> dict[str, object]:
    """Read what stands behind the question mark: name of an option → value."""
    changes: dict[str, object] = {}
    tls: dict[str, object] = {}
    for name, values in parse_qs(query, keep_blank_values=True).items():
        value = values[-1]
        if name in QUERY_TEXTS:
            changes[name] = value
        elif name in QUERY_SECONDS:
            changes[QUERY_SECONDS[name]] = _read_value(name, value, float, "a number of seconds")
        elif name == "replicas":
            changes[name] = _read_value(name, value, int, "a whole number")
        elif name in QUERY_TLS:
            tls[QUERY_TLS[name]] = value
        elif name in QUERY_FLAGS:
            target = tls if name.startswith("tls_") else changes
            target[QUERY_FLAGS[name]] = _read_value(name, value, FLAGS.__getitem__, "true or false")
        else:
            raise ConfigError(f"broker_url of NATS says {name!r}, known are: {', '.join(KNOWN)}")
    if tls:
        changes["tls"] = msgspec.convert(tls, BrokerTLS)
    return changes


def _read_value(name: str, text: str, read: Callable[[str], object], kind: str) -> object:
    """Read what stands behind a word."""
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{name} in broker_url of NATS is {kind}, got {text!r}") from None
