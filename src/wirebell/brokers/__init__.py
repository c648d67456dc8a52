"""Brokers, and the one place that knows which URL and which options mean which.

Brokers are strangers to each other; each is imported only when it is asked for, so that nobody
installs the driver of another. A broker's module has ``read_url(url)``, which returns its options
or raises `ConfigError`, and ``create(settings, options)``, which returns the broker and a presence
store that may share its connections.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from urllib.parse import urlsplit

from wirebell.broker_options import (
    BrokerOptions,
    MemoryOptions,
    NATSOptions,
    PostgreSQLOptions,
    RedisOptions,
    SQLiteOptions,
)
from wirebell.errors import ConfigError
from wirebell.interfaces import Broker, PresenceStore
from wirebell.settings import Settings

__all__ = ("create_broker", "read_broker_url")

SCHEMES = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "redis+unix": "redis",
    "nats": "nats",
    "tls": "nats",
    "postgres": "postgresql",
    "postgresql": "postgresql",
}
"""URL scheme → module."""

KINDS: dict[type[BrokerOptions], str] = {
    MemoryOptions: "memory",
    SQLiteOptions: "sqlite",
    RedisOptions: "redis",
    NATSOptions: "nats",
    PostgreSQLOptions: "postgresql",
}
"""Kind of options → module."""

EXTRAS = {"redis": "redis", "postgresql": "postgres"}
"""Module → the extra that installs its driver."""


def create_broker(
    settings: Settings,
    options: BrokerOptions | None = None,
    presence: BrokerOptions | None = None,
) -> tuple[Broker, PresenceStore]:
    """Create a broker and a presence store; nothing is connected yet.

    Args:
        settings: Bounds, and ``broker_url``.
        options: Instead of what ``broker_url`` names.
        presence: Where presence is kept, if not with the broker.

    Raises:
        ConfigError: The URL names no broker, or its driver is not installed; the message says
            what to write or to install.
    """
    if options is None:
        options = read_broker_url(settings.broker_url)
    broker: Broker
    store: PresenceStore
    broker, store = _load(KINDS[type(options)]).create(settings, options)
    if presence is not None and presence != options:
        _, store = _load(KINDS[type(presence)]).create(settings, presence)
    return broker, store


def read_broker_url(url: str) -> BrokerOptions:
    """Read a URL into options.

    Raises:
        ConfigError: It names no broker, or says what that does not understand. The message does
            not show a password.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in sorted(SCHEMES))
        raise ConfigError(f"broker_url has the scheme {scheme!r}, known are: {known}")
    options: BrokerOptions = _load(SCHEMES[scheme]).read_url(url)
    return options


def _load(name: str) -> ModuleType:
    """Import a broker.

    Raises:
        ConfigError: Its driver is not installed.
    """
    try:
        return import_module(f"wirebell.brokers.{name}")
    except ModuleNotFoundError as error:
        if name not in EXTRAS or (error.name or "").startswith("wirebell"):
            raise
        raise ConfigError(
            f"the {name} broker needs {error.name!r}: pip install 'wirebell[{EXTRAS[name]}]'"
        ) from error
