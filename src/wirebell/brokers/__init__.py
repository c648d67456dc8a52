"""Brokers, and the one function that knows which URL means which.

Brokers are strangers to each other; each is imported only when its scheme is asked for, so that
nobody installs the driver of another.
"""

from __future__ import annotations

from importlib import import_module
from urllib.parse import urlsplit

from wirebell.errors import ConfigError
from wirebell.interfaces import Broker, PresenceStore
from wirebell.settings import Settings

__all__ = ("create_broker",)

MODULES = {"memory": "wirebell.brokers.memory"}
"""URL scheme → module with a function ``create(settings)``."""


def create_broker(settings: Settings) -> tuple[Broker, PresenceStore]:
    """Create what ``settings.broker_url`` names; nothing is connected yet.

    Raises:
        ConfigError: No broker has that scheme.
    """
    scheme = urlsplit(settings.broker_url).scheme
    module = MODULES.get(scheme)
    if module is None:
        known = ", ".join(f"{name}://" for name in sorted(MODULES))
        raise ConfigError(f"broker_url has the scheme {scheme!r}, known are: {known}")
    pair: tuple[Broker, PresenceStore] = import_module(module).create(settings)
    return pair
