"""Brokers and presence stores of Redis 7 and newer: one server, several, Sentinels or a cluster.

URLs (a comma separates several hosts; ``?`` is followed by options, joined by ``&``)::

    redis://[user:password@]host[:port][/db]      rediss:// is the same with TLS
    redis://host1,host2,host3                     channels are shared out among them
    redis+unix:///path/of/the/socket
    redis+sentinel://host1:26379,host2:26379/master[/db]
    redis+cluster://host1:7000,host2:7001
"""

from __future__ import annotations

from wirebell.broker_options import RedisOptions
from wirebell.brokers.redis.addresses import read_url
from wirebell.brokers.redis.broker import RedisBroker
from wirebell.brokers.redis.presence import RedisPresenceStore
from wirebell.settings import Settings

__all__ = ("RedisBroker", "RedisPresenceStore", "create", "read_url")


def create(settings: Settings, options: RedisOptions) -> tuple[RedisBroker, RedisPresenceStore]:
    """Create a broker and a presence store; nothing is connected yet.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """
    del settings
    return RedisBroker(options), RedisPresenceStore(options)
