"""From ``engine``, ``broker`` and ``presence_manager`` to what is connected to.

An engine is both; where ``broker`` or ``presence_manager`` is enabled, that one counts instead.
``broker_url`` is the short form of engine and broker, and wins over both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from wirebell.broker_options import (
    BrokerOptions,
    BrokerTLS,
    MemoryOptions,
    NATSOptions,
    PostgreSQLOptions,
    RedisOptions,
    SQLiteOptions,
)
from wirebell.brokers import read_broker_url
from wirebell.configuration.broker_keys import TLS_NAMES
from wirebell.configuration.keys import KEYS, read_known
from wirebell.configuration.reading import Values
from wirebell.configuration.redis_addresses import read_addresses
from wirebell.configuration.values import is_default, read_pem
from wirebell.errors import ConfigError

__all__ = ("BrokerChoice", "choose_brokers", "find_presence_ttl", "list_unused")

OURS = "wirebell"
DAY_SECONDS = 86_400
SHORT = "broker_url"
PRESENCE_TTL = "presence_ttl_seconds"


class BrokerChoice(msgspec.Struct, frozen=True):
    """What was chosen.

    Attributes:
        broker: ``None`` leaves it to ``broker_url``.
        presence: Where presence is kept; ``None`` is with the broker.
    """

    broker: BrokerOptions | None = None
    presence: BrokerOptions | None = None


def choose_brokers(values: Values) -> BrokerChoice:
    """Choose the broker and where presence is kept.

    Raises:
        ConfigError: A value of a section that counts cannot be used.
    """
    section, kept = _broker_section(values), _presence_section(values)
    broker = None if _is_short(values) else _create(values, section)
    presence = None
    if kept == "presence_manager":
        presence = _create(values, kept) or MemoryOptions()
    elif section != kept and not _is_short(values):
        # The engine's memory would be this node's alone; the broker's presence is everybody's.
        presence = _create(values, kept)
    return BrokerChoice(broker, None if presence == broker else presence)


def find_presence_ttl(values: Values) -> str:
    """Return the key that says how long presence is kept in Redis; empty for none."""
    section = _presence_section(values)
    if section == "engine" and _is_short(values):
        return ""
    path = f"{section}.redis.presence_ttl"
    return path if values.get(f"{section}.type") == "redis" and values.is_given(path) else ""


def list_unused(values: Values) -> Iterator[str]:
    """Say of each key of the three sections that another one switches it off."""
    used = _find_used(values)
    if _is_short(values):
        yield from _compare_short(values)
    path = find_presence_ttl(values)
    if path and values.is_given(PRESENCE_TTL) and values.get(path) != values.get(PRESENCE_TTL):
        yield f"{values.origin(path)}: ignored, {values.origin(PRESENCE_TTL)} wins"
    for path, entry in values.entries.items():
        section = path.partition(".")[0]
        if section not in ("engine", "broker", "presence_manager") or path not in KEYS:
            continue
        if is_default(entry.value, read_known()[path]) or path.startswith(used):
            continue
        if _is_short(values) and section != "presence_manager":
            continue
        yield f"{entry.origin}: has no effect, because {_explain(values, section)}"


def _is_short(values: Values) -> bool:
    """Tell whether the short form was given."""
    return values.is_given(SHORT) and bool(values.get(SHORT))


def _broker_section(values: Values) -> str:
    """Return which section the broker is described by."""
    return "broker" if values.get("broker.enabled") else "engine"


def _presence_section(values: Values) -> str:
    """Return which section the presence store is described by."""
    return "presence_manager" if values.get("presence_manager.enabled") else "engine"


def _find_used(values: Values) -> tuple[str, ...]:
    """List the beginnings of all keys that count."""
    kept = _presence_section(values)
    sections = {kept} if _is_short(values) else {kept, _broker_section(values)}
    starts: list[str] = []
    for section in sections:
        kind = values.get(f"{section}.type")
        starts += [f"{section}.type", f"{section}.enabled", f"{section}.{kind}."]
    return tuple(starts)


def _explain(values: Values, section: str) -> str:
    """Say why a section, or a part of it, does not count."""
    if section != "engine":
        if not values.get(f"{section}.enabled"):
            return f"{section}.enabled is false"
    elif _broker_section(values) != "engine" and _presence_section(values) != "engine":
        return "broker and presence_manager are enabled"
    return f"{section}.type is {values.get(f'{section}.type')!r}"


def _compare_short(values: Values) -> Iterator[str]:
    """Say once that the short form wins over what it does not agree with."""
    section = _broker_section(values)
    path = f"{section}.type"
    options = _create(values, section)
    if options is None or options == _read_short(values):
        return
    yield f"{values.origin(path)}: ignored with its section, {values.origin(SHORT)} wins"


def _read_short(values: Values) -> BrokerOptions | None:
    """Read the short form; what is wrong with it is told at the start."""
    try:
        return read_broker_url(values.get(SHORT))
    except ConfigError:
        return None


def _create(values: Values, section: str) -> BrokerOptions | None:
    """Create the options of a section; ``None`` for memory, which has none."""
    kind = values.get(f"{section}.type")
    create = CREATORS.get(kind)
    return None if create is None else create(values, section)


def _create_redis(values: Values, section: str) -> RedisOptions:
    """Create the options of Redis."""
    path = f"{section}.redis"
    fields = values.collect(path)
    fields["prefix"] = _read_prefix(values, f"{path}.prefix", "centrifugo", "-", 64)
    fields["tls"] = _create_tls(values, f"{path}.tls")
    fields["sentinel_tls"] = _create_tls(values, f"{path}.sentinel_tls")
    fields |= read_addresses(values, path, fields)
    return RedisOptions(**fields)


def _create_nats(values: Values, section: str) -> NATSOptions:
    """Create the options of NATS."""
    path = f"{section}.nats"
    urls = tuple(url.strip() for url in values.get(f"{path}.url").split(",") if url.strip())
    if not urls:
        raise ConfigError(f"{values.origin(f'{path}.url')} is missing")
    return NATSOptions(
        urls=urls,
        prefix=_read_prefix(values, f"{path}.prefix", "centrifugo", "-", 32),
        tls=_create_tls(values, f"{path}.tls"),
        **values.collect(path),
    )


def _create_postgresql(values: Values, section: str) -> PostgreSQLOptions:
    """Create the options of PostgreSQL."""
    path = f"{section}.postgres"
    fields = values.collect(path)
    if not fields["dsn"]:
        raise ConfigError(f"{section}.type 'postgres' needs {path}.dsn")
    if not fields["dsn"].startswith(("postgresql://", "postgres://")):
        origin = values.origin(f"{path}.dsn")
        raise ConfigError(
            f"{origin} must be postgresql://user:password@host:port/database, "
            f"got a value that is not shown"
        )
    days = fields["partition_retention_days"]
    if fields["retention_seconds"] > days * DAY_SECONDS:
        raise ConfigError(
            f"{values.origin(f'{path}.stream_retention')} must be at most "
            f"{path}.partition_retention_days ({days * 24}h), "
            f"got {fields['retention_seconds'] / 3600:g}h"
        )
    return PostgreSQLOptions(
        tls=_create_tls(values, f"{path}.tls"),
        table_prefix=_read_prefix(values, f"{path}.table_prefix", "cf", "_", 32),
        **fields,
    )


def _create_sqlite(values: Values, section: str) -> SQLiteOptions:
    """Create the options of SQLite."""
    path = values.get(f"{section}.sqlite.path")
    if not path:
        raise ConfigError(f"{section}.type 'sqlite' needs {section}.sqlite.path")
    return SQLiteOptions(path=path)


CREATORS: Mapping[str, Callable[[Values, str], BrokerOptions]] = {
    "redis": _create_redis,
    "nats": _create_nats,
    "postgres": _create_postgresql,
    "sqlite": _create_sqlite,
}
"""``type`` → its options."""


def _read_prefix(values: Values, path: str, theirs: str, joint: str, bytes_max: int) -> str:
    """Read a prefix, and make it ours.

    Centrifugo writes other data under the same names, and two servers on one prefix would
    damage each other's. So its default is our default, and any other name gets an ending.
    """
    given: str = values.get(path)
    if given in ("", theirs):
        return OURS
    prefix = given if given.endswith(OURS) else f"{given}{joint}{OURS}"
    if len(prefix.encode()) > bytes_max:
        raise ConfigError(
            f"{values.origin(path)} must be at most {bytes_max} bytes with the ending "
            f"'{joint}{OURS}', got {given!r:.80}"
        )
    return prefix


def _create_tls(values: Values, path: str) -> BrokerTLS | None:
    """Create how a link is encrypted; ``None`` when switched off."""
    if not values.get(f"{path}.enabled"):
        return None
    fields: dict[str, Any] = {}
    for name, field in TLS_NAMES.items():
        value = values.get(f"{path}.{name}")
        if name.endswith("_pem") and value:
            try:
                value = read_pem(value)
            except ConfigError as error:
                raise ConfigError(f"{values.origin(f'{path}.{name}')} {error}") from None
        fields[field] = value
    if bool(fields["certificate"]) != bool(fields["key"]):
        raise ConfigError(f"{path}.cert_pem and {path}.key_pem are set both or none")
    return BrokerTLS(**fields)
