"""Addresses of Redis as the tree has them: lists of servers, of clusters, or of Sentinels.

An address may be a URL with words behind its ``?``. The tree's words are not those of
``broker_url``, and most of them count for all addresses, so only a single one may have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from wirebell.broker_options import BrokerTLS
from wirebell.configuration.reading import Values
from wirebell.configuration.values import Kind, parse, parse_duration
from wirebell.errors import ConfigError

__all__ = ("read_addresses",)

DEFAULT = "redis://127.0.0.1:6379"
SECONDS_MAX = 60
# Word of a URL → field of `RedisOptions`.
TEXTS = {
    "sentinel_master_name": "sentinel_master_name",
    "sentinel_user": "sentinel_user",
    "sentinel_password": "sentinel_password",
}
DURATIONS = {
    "connect_timeout": "connect_timeout_seconds",
    "io_timeout": "io_timeout_seconds",
}
TLS = {"tls_enabled": "tls", "sentinel_tls_enabled": "sentinel_tls"}
SERVERS = ("tcp", "redis", "rediss")
SCHEMES = (*SERVERS, "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


def read_addresses(values: Values, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read where Redis is: a cluster's addresses count first, then Sentinels', then servers'.

    Args:
        values: Of all keys.
        path: Of the section.
        fields: What the section's other keys have said.

    Returns:
        Fields of `RedisOptions`, some of which say otherwise than ``fields``.

    Raises:
        ConfigError: An address is none; the message does not show a password.
    """
    clusters = values.get(f"{path}.cluster_address")
    sentinels = values.get(f"{path}.sentinel_address")
    if clusters:
        origin = values.origin(f"{path}.cluster_address")
        found = {"cluster_addresses": tuple(_split(origin, item) for item in clusters)}
    elif sentinels:
        found = _read_sentinels(values, path, sentinels)
    else:
        origin = values.origin(f"{path}.address")
        addresses = values.get(f"{path}.address") or (DEFAULT,)
        found = _read_servers(origin, addresses, fields)
    merged = {**fields, **found}
    if merged.get("cluster_addresses") and merged["db"]:
        raise ConfigError(f"{values.origin(f'{path}.db')} must be 0 in a cluster")
    if merged.get("sentinel_addresses") and not merged["sentinel_master_name"]:
        raise ConfigError(f"{path}.sentinel_master_name is missing: what do they call it?")
    return found


def _read_sentinels(values: Values, path: str, items: tuple[str, ...]) -> dict[str, Any]:
    """Read the Sentinels of one master."""
    origin = values.origin(f"{path}.sentinel_address")
    if len(items) > 1:
        raise ConfigError(
            f"{origin} has {len(items)} items, each of which names the Sentinels of one more "
            f"server that shares the channels; there can be one: write its Sentinels with commas "
            f"between, or share the channels among {path}.address or {path}.cluster_address"
        )
    return {"sentinel_addresses": _split(origin, items[0])}


def _split(origin: str, item: str) -> tuple[str, ...]:
    """Read ``host:port,host:port``."""
    addresses = tuple(text.strip() for text in item.split(",") if text.strip())
    for address in addresses:
        if not _is_host(address):
            raise ConfigError(f"{origin}: an address is host:port, got {_hide(address)!r:.80}")
    if not addresses:
        raise ConfigError(f"{origin} has an empty item")
    return addresses


def _is_host(text: str) -> bool:
    """Tell whether a text is ``host:port``."""
    return re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@?#\[\]]+):\d{1,5}", text) is not None


def _hide(address: str) -> str:
    """Take away what may be a password."""
    return address.rpartition("@")[2]


def _read_servers(
    origin: str, addresses: tuple[str, ...], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Read addresses, each of which is a server or leads to a cluster or to Sentinels."""
    if len(addresses) == 1:
        return _read_one(origin, addresses[0], fields)
    read = [_read_one(origin, address, {}) for address in addresses]
    clusters = [found.pop("cluster_addresses", None) for found in read]
    plain = [found.pop("addresses", None) for found in read]
    said = sorted({name for found in read for name in found})
    if said:
        raise ConfigError(
            f"{origin}: one of several addresses says {', '.join(said)}, which counts for all of "
            f"them: it has a key of its own"
        )
    if all(clusters):
        return {"cluster_addresses": _join(clusters)}
    if not all(plain):
        raise ConfigError(f"{origin}: several addresses are all servers or all clusters")
    return {"addresses": _join(plain)}


def _join(parts: Iterable[tuple[Any, ...] | None]) -> tuple[Any, ...]:
    """Join tuples."""
    return tuple(item for part in parts if part is not None for item in part)


def _read_one(origin: str, address: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read one address."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return {"addresses": _split(origin, _single(origin, address))}
    if scheme == "unix" and rest.startswith("/"):
        return {"addresses": (address,)}
    if scheme not in SCHEMES:
        known = ", ".join((*SCHEMES, "unix"))
        raise ConfigError(f"{origin}: an address has the scheme {scheme!r:.40}, known are: {known}")
    try:
        url = urlsplit(address)
        words = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
    except ValueError:
        raise ConfigError(f"{origin}: an address is no URL") from None
    host = _hide(url.netloc)
    found = _read_words(origin, words)
    hosts = (_with_port(_single(origin, host)), *found.pop("more"))
    if not all(map(_is_host, hosts)):
        raise ConfigError(f"{origin}: an address names no host:port, got {host!r:.80}")
    if scheme in SERVERS and "sentinel_master_name" not in found:
        return found | _write_server(origin, url, hosts)
    found |= _read_access(origin, url)
    if scheme.startswith("rediss"):
        found["tls"] = fields.get("tls") or BrokerTLS()
    if scheme.endswith("+cluster"):
        return found | {"cluster_addresses": (hosts,)}
    if scheme.startswith("rediss"):
        found["sentinel_tls"] = fields.get("sentinel_tls") or BrokerTLS()
    return found | {"sentinel_addresses": hosts}


def _read_access(origin: str, url: SplitResult) -> dict[str, Any]:
    """Read user, password and database of a URL, as far as it says them."""
    name, _, password = url.netloc.rpartition("@")[0].partition(":")
    found: dict[str, Any] = {}
    if name:
        found["user"] = unquote(name)
    if password:
        found["password"] = unquote(password)
    if database := url.path.strip("/"):
        found["db"] = _read_database(origin, database)
    return found


def _write_server(origin: str, url: SplitResult, hosts: tuple[str, ...]) -> dict[str, Any]:
    """Write the address of a server as our own options have it: without words."""
    if len(hosts) > 1:
        raise ConfigError(f"{origin}: 'addr' is for redis+cluster:// and redis+sentinel://")
    if database := url.path.strip("/"):
        _read_database(origin, database)
    scheme = url.scheme.replace("tcp", "redis")
    return {"addresses": (f"{scheme}://{url.netloc}{url.path}",)}


def _single(origin: str, host: str) -> str:
    """Refuse a list where one is meant: in the environment spaces stand between."""
    if "," in host:
        raise ConfigError(f"{origin}: addresses are items of a list, with spaces between in a text")
    return host


def _with_port(host: str) -> str:
    """Add the port where there is none."""
    return host if _is_host(host) else f"{host}:6379"


def _read_database(origin: str, text: str) -> int:
    """Read a database's number."""
    if not text.isdecimal():
        raise ConfigError(f"{origin}: the database of an address is a number, got {text!r:.40}")
    return int(text)


def _read_words(origin: str, words: list[tuple[str, str]]) -> dict[str, Any]:
    """Read what stands behind the question mark; ``more`` has further hosts."""
    found: dict[str, Any] = {"more": ()}
    for name, value in words:
        try:
            if name == "addr":
                found["more"] = (*found["more"], value)
            elif name in TEXTS:
                found[TEXTS[name]] = value
            elif name in DURATIONS:
                found[DURATIONS[name]] = _read_seconds(value)
            elif name in TLS:
                found |= {TLS[name]: BrokerTLS()} if parse(Kind.BOOLEAN, value) else {}
            elif name == "force_resp2":
                found[name] = parse(Kind.BOOLEAN, value)
            else:
                known = ", ".join(("addr", *TEXTS, *DURATIONS, *TLS, "force_resp2"))
                raise ConfigError(f"is not known; known are: {known}")
        except ConfigError as error:
            raise ConfigError(f"{origin}: {name!r:.40} in an address {error}") from None
    return found


def _read_seconds(value: str) -> float:
    """Read a duration in its bounds."""
    seconds = parse_duration(value)
    if not 0 < seconds <= SECONDS_MAX:
        raise ConfigError(f"must be above 0s and at most {SECONDS_MAX}s")
    return seconds
