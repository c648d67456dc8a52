"""One value of one key: parsed, in its bounds, or an error that names key, bound and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wirebell.configuration.keys import KEYS, Key, read_known
from wirebell.configuration.sources import Entry
from wirebell.configuration.values import Kind, parse
from wirebell.errors import ConfigError

__all__ = ("Values", "read_value")


def read_value(key: Key, entry: Entry | None, default: Any, origin: str) -> Any:
    """Read what somebody said of a key, or the default where nobody did.

    Args:
        key: The key.
        entry: What was said; ``None`` for nothing.
        default: As the reference's tree has it, or typed already.
        origin: How the key is called where nobody said anything.

    Raises:
        ConfigError: It cannot be used.
    """
    if entry is None or entry.value is None:
        if default is None:
            return () if key.kind in (Kind.LIST, Kind.OBJECTS) else ""
        value = _parse(key, default, origin)
    else:
        value = _parse(key, entry.value, entry.origin)
    if value == 0 and key.kind in (Kind.INTEGER, Kind.NUMBER, Kind.DURATION):
        if key.zero_is_default and default is not None:
            return _parse(key, default, origin)
        if key.zero_is is not None:
            return key.zero_is
    return value


def _parse(key: Key, value: Any, origin: str) -> Any:
    """Parse a value and check its bounds."""
    shown = "a value that is not shown" if key.is_secret else f"{value!r:.80}"
    try:
        parsed = parse(key.kind, value)
    except ConfigError as error:
        raise ConfigError(f"{origin} {error}, got {shown}") from None
    unit = "s" if key.kind is Kind.DURATION else ""
    if key.minimum is not None and parsed < key.minimum:
        raise ConfigError(f"{origin} must be at least {key.minimum:g}{unit}, got {shown}")
    if key.maximum is not None and parsed > key.maximum:
        raise ConfigError(f"{origin} must be at most {key.maximum:.15g}{unit}, got {shown}")
    if key.kind is Kind.TEXT and key.choices and parsed not in key.choices:
        expected = ", ".join(choice for choice in key.choices if choice)
        raise ConfigError(f"{origin} must be one of {expected}, got {shown}")
    return parsed


class Values:
    """What all sources come to together.

    Args:
        entries: Path → entry of the source that wins.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    def get(self, path: str) -> Any:
        """Return the value of a key.

        Raises:
            ConfigError: It cannot be used.
        """
        return read_value(KEYS[path], self.entries.get(path), read_known()[path], path)

    def is_given(self, path: str) -> bool:
        """Tell whether anybody said something of a key."""
        return path in self.entries

    def origin(self, path: str) -> str:
        """Say how whoever set a key calls it."""
        entry = self.entries.get(path)
        return path if entry is None else entry.origin

    def collect(self, target: str) -> dict[str, Any]:
        """Return field → value of all keys of one struct.

        Args:
            target: As in the table: ``settings``, ``transports.sse``.
        """
        return {
            key.target.rpartition(".")[2]: self.get(key.path)
            for key in KEYS.values()
            if key.target.rpartition(".")[0] == target
        }
