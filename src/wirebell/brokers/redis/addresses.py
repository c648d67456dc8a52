"""Where Redis is and how it is entered: URLs and options in, places out. Connects to nothing.

A password never stands in a message: an address is named by its host and port.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

from wirebell.broker_options import BrokerTLS, RedisOptions
from wirebell.broker_tls import create_tls
from wirebell.errors import ConfigError

__all__ = ("Access", "Address", "Place", "read_places", "read_url")

PORT = 6379
SENTINEL_PORT = 26379
PREFIX_BYTES_MAX = 64

# Name in a URL → name in the options.
QUERY_TEXTS = {
    "client_name": "client_name",
    "prefix": "prefix",
    "sentinel_user": "sentinel_user",
    "sentinel_password": "sentinel_password",
    "sentinel_client_name": "sentinel_client_name",
}
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
QUERY_FLAGS = ("tls_skip_verify", "force_resp2")


@dataclass(frozen=True, slots=True)
class Address:
    """A server: host and port, or the path of a unix socket and port 0."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether ``host`` is a path."""
        return self.port == 0

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is entered.

    Attributes:
        user: Of an access list; empty for the default one.
        password: Empty for none.
        db: Number of the database.
        tls: ``None`` speaks without.
        server_name: That its certificate must have; empty for the host.
        client_name: As ``CLIENT LIST`` shows it; empty for none.
        connect_seconds: To connect.
        io_seconds: For an answer.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    client_name: str = ""
    connect_seconds: float = 1.0
    io_seconds: float = 4.0


@dataclass(frozen=True, slots=True)
class Place:
    """One shard: a server, what Sentinels call one, or a cluster.

    Attributes:
        kind: Which of them.
        addresses: The server; the Sentinels; some nodes of the cluster.
        access: To the server, or to each node of the cluster.
        sentinel_access: To the Sentinels.
        master_name: What the Sentinels call the server.
    """

    kind: Literal["single", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    access: Access
    sentinel_access: Access = Access()
    master_name: str = ""

    def __str__(self) -> str:
        names = ", ".join(map(str, self.addresses))
        if self.kind == "sentinel":
            return f"{self.master_name!r} of the Sentinels {names}"
        return names


def read_url(url: str) -> RedisOptions:
    """Read a URL of Redis.

    ``redis://``, ``rediss://`` (TLS) and ``redis+unix://`` lead to one server, and with commas to
    several that share the channels; ``redis+sentinel://host,host/name[/db]`` asks Sentinels, and
    ``redis+cluster://host,host`` a cluster (``rediss+…`` with TLS).

    Raises:
        ConfigError: It says what is not understood. The message does not show a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError("broker_url of Redis has no '://'")
    if len(urls := re.split(r",(?=[a-z+]+://)", url)) > 1:
        # Each has its own words; what they share may stand in the last one's query.
        return _read_several(urls)
    if scheme in {"redis+unix", "unix"}:
        path, _, query = rest.partition("?")
        changes = _read_query(query, has_tls=False)
        db = changes.pop("db", 0)
        return _make(addresses=(f"unix://{path}?db={db}",), **changes)
    parts, hosts = _split_hosts(url)
    changes = _read_query(parts.query, has_tls=scheme.startswith("rediss"))
    user, password = _read_user(parts)
    changes |= {"user": user, "password": password}
    words = [unquote(word) for word in parts.path.split("/") if word]
    if scheme.endswith("+cluster"):
        if words:
            raise ConfigError(
                f"broker_url of a Redis Cluster ends after its hosts, got {parts.path!r}: "
                "a cluster has only database 0"
            )
        return _make(cluster_addresses=(hosts,), **changes)
    if scheme.endswith("+sentinel"):
        if not words:
            raise ConfigError(
                "broker_url of Sentinels names the master: redis+sentinel://host/name"
            )
        changes |= {"sentinel_addresses": hosts, "sentinel_master_name": words.pop(0)}
        changes["sentinel_tls"] = changes.get("tls")
    elif scheme in {"redis", "rediss"}:
        changes["addresses"] = hosts
    else:
        raise ConfigError(f"broker_url has the scheme {scheme!r}, which Redis does not know")
    if words:
        changes["db"] = _read_number("database", "/".join(words))
    return _make(**changes)


def read_places(options: RedisOptions) -> tuple[Place, ...]:
    """Turn options into shards, in their order.

    Raises:
        ConfigError: A value is out of its bounds, or a certificate cannot be read.
    """
    _check(options)
    access = Access(
        options.user,
        options.password,
        options.db,
        _create_tls(options.tls),
        options.tls.server_name if options.tls else "",
        options.client_name,
        options.connect_timeout_seconds,
        options.io_timeout_seconds,
    )
    if options.cluster_addresses:
        if options.db:
            raise ConfigError(f"a Redis Cluster has only database 0, got {options.db}")
        return tuple(
            Place("cluster", tuple(_read_host(each, PORT) for each in cluster), access)
            for cluster in options.cluster_addresses
        )
    if options.sentinel_addresses:
        if not options.sentinel_master_name:
            raise ConfigError("sentinel_master_name is missing: what do the Sentinels call it?")
        sentinel_access = replace(
            access,
            user=options.sentinel_user,
            password=options.sentinel_password,
            db=0,
            tls=_create_tls(options.sentinel_tls),
            server_name=options.sentinel_tls.server_name if options.sentinel_tls else "",
            client_name=options.sentinel_client_name,
        )
        addresses = tuple(_read_host(each, SENTINEL_PORT) for each in options.sentinel_addresses)
        return (
            Place("sentinel", addresses, access, sentinel_access, options.sentinel_master_name),
        )
    return tuple(_read_address(each, access) for each in options.addresses)


def _check(options: RedisOptions) -> None:
    """Refuse what cannot be.

    Raises:
        ConfigError: Likewise.
    """
    if not 1 <= len(options.prefix.encode()) <= PREFIX_BYTES_MAX or re.search(
        r"[\s{}]", options.prefix
    ):
        raise ConfigError(
            f"prefix has 1 to {PREFIX_BYTES_MAX} bytes, no space and no braces, "
            f"got {options.prefix!r}"
        )
    for name in ("connect_timeout_seconds", "io_timeout_seconds"):
        if not 0 < getattr(options, name) <= 60:
            raise ConfigError(f"{name} is above 0 and at most 60, got {getattr(options, name)}")
    if options.db < 0:
        raise ConfigError(f"db is 0 or more, got {options.db}")
    if not (options.addresses or options.cluster_addresses or options.sentinel_addresses):
        raise ConfigError("no address of Redis is given")
    for name in (options.client_name, options.sentinel_client_name):
        if re.search(r"[^!-~]", name):
            raise ConfigError(f"client_name has printable ASCII without spaces, got {name!r}")


def _read_several(urls: Sequence[str]) -> RedisOptions:
    """Read URLs that are separated by commas: shards, in their order."""
    read = [read_url(url) for url in urls]
    clusters = tuple(cluster for each in read for cluster in each.cluster_addresses)
    if any(each.sentinel_addresses for each in read) or (clusters and len(clusters) != len(read)):
        raise ConfigError(
            "several URLs are all redis://, rediss:// or redis+unix://, or all clusters"
        )
    last = msgspec.structs.asdict(read[-1])
    if clusters:
        return _make(**{**last, "cluster_addresses": clusters})
    # Whose access differs says it in its own address.
    addresses = (url.split("?")[0].replace("redis+unix://", "unix://") for url in urls)
    return _make(**{**last, "addresses": tuple(addresses), "user": "", "password": "", "db": 0})


def _read_address(text: str, access: Access) -> Place:
    """Read one address of `RedisOptions.addresses`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Place("single", (_read_host(text, PORT),), access)
    if scheme == "unix":
        path, _, query = rest.partition("?")
        changes = _read_query(query, has_tls=False)
        access = replace(access, tls=None, db=int(str(changes.get("db") or access.db)))
        return Place("single", (Address(path, 0),), access)
    if scheme not in {"redis", "rediss"}:
        raise ConfigError(f"an address of Redis has the scheme {scheme!r}")
    parts, hosts = _split_hosts(text)
    user, password = _read_user(parts)
    if user or password:
        access = replace(access, user=user, password=password)
    if scheme == "rediss" and access.tls is None:
        access = replace(access, tls=_create_tls(BrokerTLS()))
    if path := parts.path.strip("/"):
        access = replace(access, db=_read_number("database", path))
    return Place("single", (_read_host(hosts[0], PORT),), access)


def _split_hosts(url: str) -> tuple[SplitResult, tuple[str, ...]]:
    """Split a URL whose host may be several."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"broker_url of Redis cannot be read: {error}") from None
    hosts = tuple(each for each in parts.netloc.rpartition("@")[2].split(",") if each)
    if not hosts:
        raise ConfigError("broker_url of Redis names no host")
    for host in hosts:
        _read_host(host, PORT)
    return parts, hosts


def _read_host(text: str, port: int) -> Address:
    """Read ``host:port``."""
    try:
        parts = urlsplit(f"//{text}")
        host, number = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{text.rpartition('@')[2]!r} is no host:port: {error}") from None
    if not host or parts.username is not None:
        raise ConfigError(f"{text.rpartition('@')[2]!r} is no host:port")
    return Address(host, number or port)


def _read_user(parts: SplitResult) -> tuple[str, str]:
    """Read who enters: user and password."""
    userinfo, separator, _ = parts.netloc.rpartition("@")
    if not separator:
        return "", ""
    user, _, password = userinfo.partition(":")
    return unquote(user), unquote(password)


def _read_query(query: str, *, has_tls: bool) -> dict[str, object]:
    """Read what stands behind the question mark: name of an option → value."""
    changes: dict[str, object] = {}
    tls: dict[str, object] = {}
    for name, values in parse_qs(query, keep_blank_values=True).items():
        value = values[-1]
        if name in QUERY_TEXTS:
            changes[QUERY_TEXTS[name]] = value
        elif name in QUERY_SECONDS:
            changes[QUERY_SECONDS[name]] = _read_seconds(name, value)
        elif name == "db":
            changes["db"] = _read_number("database", value)
        elif name in QUERY_TLS:
            tls[QUERY_TLS[name]] = value
        elif name in QUERY_FLAGS and value in {"true", "false", "1", "0"}:
            target = tls if name.startswith("tls_") else changes
            target[name.removeprefix("tls_")] = value in {"true", "1"}
        else:
            known = ", ".join(
                sorted((*QUERY_TEXTS, *QUERY_SECONDS, *QUERY_TLS, *QUERY_FLAGS, "db"))
            )
            raise ConfigError(f"broker_url of Redis says {name!r}, known are: {known}")
    if tls and not has_tls:
        raise ConfigError(f"broker_url says {sorted(tls)} of TLS without rediss://")
    if has_tls:
        changes["tls"] = msgspec.convert(tls, BrokerTLS)
    return changes


def _read_number(name: str, text: str) -> int:
    """Read a number of 0 or more."""
    if not text.isdecimal():
        raise ConfigError(f"the {name} of Redis is a number, got {text!r}")
    return int(text)


def _read_seconds(name: str, text: str) -> float:
    """Read seconds."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name} is a number of seconds, got {text!r}") from None


def _make(**changes: object) -> RedisOptions:
    """Make options."""
    return RedisOptions(**changes)  # type: ignore[arg-type]  # each was read as its own kind


def _create_tls(tls: BrokerTLS | None) -> ssl.SSLContext | None:
    """Make what a link is encrypted with; ``None`` speaks without."""
    return None if tls is None else create_tls(tls, "Redis", ssl.SSLContext)
