"""Options of channels: from keys to `ChannelOptions`, and which channels cannot be served yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wirebell.configuration.keys import CHANNEL_KEYS, flatten, read_channel_tree
from wirebell.configuration.reading import read_value
from wirebell.configuration.sources import Entry
from wirebell.configuration.values import is_default
from wirebell.errors import ConfigError
from wirebell.model import (
    ChannelOptions,
    ChannelPermissions,
    History,
    PublicationFormat,
    RecoveryMode,
)

__all__ = ("create_channel_options", "find_unsupported", "is_unavailable")

SUBSCRIPTION_TYPES = ("", "stream", "map", "map_clients", "map_users", "shared_poll")
# With one of these a backend decides what may happen in a channel. Serving such a channel without
# asking it would allow what it forbids.
PROXIES = (
    "subscribe_proxy_enabled",
    "publish_proxy_enabled",
    "sub_refresh_proxy_enabled",
    "subscribe_stream_proxy_enabled",
)


def create_channel_options(
    where: str, entries: Mapping[str, Entry], *, history_meta_ttl: float, publication_format: str
) -> ChannelOptions:
    """Create the options of one namespace.

    Args:
        where: The namespace's path, for errors.
        entries: Key → what was said.
        history_meta_ttl: Seconds, where the namespace names none.
        publication_format: Likewise.

    Raises:
        ConfigError: A value cannot be used, or two do not go together.
    """
    defaults = read_channel_tree()
    values: dict[str, dict[str, Any]] = {"": {}, "history": {}, "permissions": {}}
    for key in CHANNEL_KEYS:
        origin = f"{where}.{key.path}"
        value = read_value(key, entries.get(key.path), defaults[key.path], origin)
        group, _, field = key.target.rpartition(".")
        values[group][field] = value
    options, kept = values[""], values["history"]
    kept["meta_ttl_seconds"] = kept["meta_ttl_seconds"] or history_meta_ttl
    history = _create_history(where, **kept)
    if options["force_recovery"] and history is None:
        raise ConfigError(f"{where}.force_recovery needs history_size and history_ttl")
    _check_delta_types(where, options["allowed_delta_types"])
    name = options["publication_format"] or publication_format or "binary"
    options |= {
        "publication_format": PublicationFormat(name),
        "recovery_mode": RecoveryMode(options["recovery_mode"] or "stream"),
    }
    permissions = ChannelPermissions(**values["permissions"])
    return ChannelOptions(**options, history=history, permissions=permissions)


def _create_history(
    where: str, size: int, ttl_seconds: float, meta_ttl_seconds: float
) -> History | None:
    """Create what is kept; nothing without a size and a time."""
    if not size and not ttl_seconds:
        return None
    if not size or not ttl_seconds:
        raise ConfigError(f"{where}: history_size and history_ttl are set both or none")
    if meta_ttl_seconds < ttl_seconds:
        raise ConfigError(
            f"{where}.history_ttl must be at most history_meta_ttl ({meta_ttl_seconds:g}s), "
            f"got {ttl_seconds:g}s"
        )
    return History(size, ttl_seconds, meta_ttl_seconds)


def _check_delta_types(where: str, types: tuple[str, ...]) -> None:
    """Refuse kinds of patches that nobody knows."""
    for kind in types:
        if kind != "fossil":
            raise ConfigError(f"{where}.allowed_delta_types must be fossil, got {kind!r}")


def find_unsupported(entries: Mapping[str, Entry]) -> list[str]:
    """List what was said of a namespace and is not there yet; how whoever said it calls it."""
    ours = {key.path for key in CHANNEL_KEYS}
    known = dict(flatten(read_channel_tree()))
    return [
        entry.origin
        for path, entry in entries.items()
        if path not in ours
        and not is_default(entry.value, known[path])
        and (path, entry.value) != ("subscription_type", "stream")
    ]


def is_unavailable(where: str, entries: Mapping[str, Entry]) -> bool:
    """Tell whether the channels of a namespace need what Wirebell does not have yet.

    Raises:
        ConfigError: The kind of subscription is none.
    """
    entry = entries.get("subscription_type")
    kind = "" if entry is None or entry.value is None else entry.value
    if kind not in SUBSCRIPTION_TYPES:
        expected = ", ".join(SUBSCRIPTION_TYPES[1:])
        raise ConfigError(f"{where}.subscription_type must be one of {expected}, got {kind!r}")
    has_proxy = any(
        path in entries and not is_default(entries[path].value, default=False) for path in PROXIES
    )
    return has_proxy or kind not in ("", "stream")
