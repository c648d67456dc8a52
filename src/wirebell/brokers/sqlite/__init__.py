"""The broker of several workers on one machine: a database of SQLite, and no server.

Strategy: every turn's publications of a process are one transaction, which appends to histories
and to a log that crosses processes; a datagram wakes the others, who read the log where they were.
The order of transactions is the order of everything: offsets rise in it, and all nodes deliver in
it. A lost datagram costs the interval of a poll and nothing else.

One thread writes, one reads, one cleans; the event loop waits for none of them.
"""

from __future__ import annotations

from pathlib import Path

from wirebell.broker_options import SQLiteOptions
from wirebell.brokers.sqlite.broker import SQLiteBroker, SQLitePresenceStore
from wirebell.brokers.sqlite.store import Store
from wirebell.errors import ConfigError
from wirebell.settings import Settings

__all__ = ("SQLiteBroker", "SQLitePresenceStore", "create", "read_url")

EXAMPLES = "'sqlite:///relative.db' or 'sqlite:////absolute/path.db'"


def read_url(url: str) -> SQLiteOptions:
    """Read ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``, as SQLAlchemy does.

    Raises:
        ConfigError: It names no file.
    """
    rest = url.removeprefix("sqlite://")
    path = rest[1:]
    if not rest.startswith("/"):
        raise ConfigError(f"broker_url of the sqlite broker has no host: {EXAMPLES}, got {url!r}")
    if not path or ":memory:" in path:
        raise ConfigError(
            f"the sqlite broker shares a file, and memory cannot be shared: {EXAMPLES}, or "
            f"'memory://' for a single worker; got {url!r}"
        )
    if path.startswith("file:") or "?" in path or "\x00" in path:
        raise ConfigError(
            f"broker_url of the sqlite broker takes a path and no options: {EXAMPLES}, got {url!r}"
        )
    return SQLiteOptions(path=path)


def create(settings: Settings, options: SQLiteOptions) -> tuple[SQLiteBroker, SQLitePresenceStore]:
    """Create the broker and the presence store of one database."""
    store = Store(Path(options.path), unused_streams_max=settings.history_channels_max)
    return SQLiteBroker(store), SQLitePresenceStore(store)
