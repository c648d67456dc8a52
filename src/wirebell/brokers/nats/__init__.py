"""Broker and presence store of NATS 2.9 and newer with JetStream: one server, or a cluster.

URLs (a comma separates several hosts; ``?`` is followed by options, joined by ``&``)::

    nats://[user:password@]host[:port][,host…]      tls:// speaks TLS only
    nats://token@host
"""

from __future__ import annotations

from wirebell.broker_options import NATSOptions
from wirebell.brokers.nats.addresses import read_url
from wirebell.brokers.nats.broker import NATSBroker
from wirebell.brokers.nats.presence import NATSPresenceStore
from wirebell.settings import Settings

__all__ = ("NATSBroker", "NATSPresenceStore", "create", "read_url")


def create(settings: Settings, options: NATSOptions) -> tuple[NATSBroker, NATSPresenceStore]:
    """Create a broker and a presence store; nothing is connected yet.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """
    del settings
    return NATSBroker(options), NATSPresenceStore(options)
