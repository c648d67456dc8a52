"""The broker and the presence store of PostgreSQL 13 and newer.

URLs: ``postgresql://[user[:password]@]host[:port]/database[?options]``; see
`wirebell.brokers.postgresql.addresses.read_url` for the options.
"""

from __future__ import annotations

from wirebell.broker_options import PostgreSQLOptions
from wirebell.brokers.postgresql.addresses import read_url
from wirebell.brokers.postgresql.broker import PostgreSQLBroker
from wirebell.brokers.postgresql.presence import PostgreSQLPresenceStore
from wirebell.settings import Settings

__all__ = ("PostgreSQLBroker", "PostgreSQLPresenceStore", "create", "read_url")


def create(
    settings: Settings, options: PostgreSQLOptions
) -> tuple[PostgreSQLBroker, PostgreSQLPresenceStore]:
    """Create a broker and a presence store; nothing is connected yet.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """
    del settings
    return PostgreSQLBroker(options), PostgreSQLPresenceStore(options)
