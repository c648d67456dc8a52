"""The broker of one process: nothing leaves it, and nothing survives it.

Delivery is a direct call, so a publication reaches the hub before ``publish`` returns, and no
method ever suspends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

import msgspec

from wirebell.broker_options import MemoryOptions
from wirebell.errors import BrokerClosed, ConfigError
from wirebell.history import HistoryLog, IdempotentResults, StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Membership,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.presence import Presence
from wirebell.settings import Settings

__all__ = ("MemoryBroker", "MemoryPresenceStore", "create", "read_url")

logger = logging.getLogger(__name__)

# Expired history is swept this often; a read never sees it in between.
SWEEP_SECONDS = 1.0
_NOT_KEPT = Published(StreamPosition())


class MemoryBroker:
    """A `wirebell.interfaces.Broker` inside one process.

    Args:
        settings: Bounds of the history that is kept.
        clock: Monotonic seconds; tests give their own.

    Attributes:
        is_shared: False: it reaches no other node, so nobody looks for one.
        allows_workers: It may run in several workers all the same.
    """

    is_shared = False
    allows_workers = False

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.log = HistoryLog(
            lambda: secrets.token_hex(4),
            channels_max=settings.history_channels_max,
            bytes_max=settings.history_bytes_max,
        )
        self.results = IdempotentResults(settings.idempotency_keys_max)
        self.evicted_count = 0
        self.subscribed: set[str] = set()
        self.listener: BrokerListener | None = None
        self.node_id = ""
        self.sweeper: asyncio.TimerHandle | None = None

    @property
    def is_connected(self) -> bool:
        """Whether it runs: there is no link that could be cut."""
        return self.listener is not None

    @property
    def reconnect_count(self) -> int:
        """Always 0."""
        return 0

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Begin to deliver to ``listener``."""
        self.listener, self.node_id = listener, node_id
        self._sweep()

    async def check(self) -> None:
        """Raise `BrokerClosed` unless it runs."""
        self._running()

    async def aclose(self) -> None:
        """Stop; idempotent. History stays readable by nobody."""
        self.listener = None
        if self.sweeper is not None:
            self.sweeper.cancel()
            self.sweeper = None

    async def subscribe(self, channel: str) -> None:
        """Receive what is put into a channel from now on; idempotent."""
        self._running()
        self.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Receive nothing of a channel any more; idempotent."""
        self._running()
        self.subscribed.discard(channel)

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Append to history, where the channel has one, and deliver; at once."""
        listener = self.listener or self._running()
        if how is not None:
            return self._publish(listener, channel, publication, options, how)
        published = _NOT_KEPT
        if options.history is not None:
            publication = self.log.append(channel, publication, options.history, self.clock())
            published = Published(StreamPosition(publication.offset, publication.epoch))
        elif publication.offset or publication.epoch:
            publication = _unplaced(publication)
        if channel in self.subscribed:
            listener.handle_item(channel, publication)
        return published

    def _publish(
        self,
        listener: BrokerListener,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions,
    ) -> Published:
        """Publish, unless the key or the version says that it was before."""
        now = self.clock()
        history = None if how.skip_history else options.history
        if how.idempotency_key:
            known = self.results.find(channel, how.idempotency_key, now)
            if known is not None:
                return Published(known, is_suppressed=True)
        if history is None:
            publication = _unplaced(publication)
        else:
            if how.version and not self.log.accept_version(channel, history, how, now):
                return Published(self.log.top(channel, history, now), is_suppressed=True)
            publication = self.log.append(channel, publication, history, now)
        position = StreamPosition(publication.offset, publication.epoch)
        if how.idempotency_key:
            self.results.add(channel, how.idempotency_key, position, now)
        if channel in self.subscribed:
            listener.handle_item(channel, publication)
        return Published(position)

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Deliver a join or a leave."""
        listener = self._running()
        if channel in self.subscribed:
            listener.handle_item(channel, membership)

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell the only node there is."""
        listener = self._running()
        if node_id in {"", self.node_id}:
            listener.handle_control(data)

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read what is kept."""
        self._running()
        return self.log.read(
            channel,
            options.history or History(),
            self.clock(),
            since=since,
            limit=limit,
            reverse=reverse,
        )

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept."""
        self._running()
        self.log.remove(channel)

    def _running(self) -> BrokerListener:
        """Return the listener, or say that there is none."""
        if self.listener is None:
            raise BrokerClosed("the memory broker is not running")
        return self.listener

    def _sweep(self) -> None:
        """Free what has expired, say what the bounds took, and come back."""
        self.log.expire(self.clock())
        if self.log.evicted_count > self.evicted_count:
            logger.warning(
                "history_channels_max or history_bytes_max is reached: %d channels were forgotten, "
                "their clients are told that they are not recovered",
                self.log.evicted_count - self.evicted_count,
            )
            self.evicted_count = self.log.evicted_count
        self.sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


def _unplaced(publication: Publication) -> Publication:
    """Return a publication that is kept nowhere: it has no position, whatever it came with."""
    return msgspec.structs.replace(publication, offset=0, epoch="")


class MemoryPresenceStore:
    """A `wirebell.interfaces.PresenceStore` inside one process.

    Args:
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.presence = Presence()
        self.swept_at = clock()

    async def start(self) -> None:
        """Begin; there is nothing to begin with."""

    async def aclose(self) -> None:
        """Stop; idempotent."""

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry, or renew its lease."""
        now = self.clock()
        if now - self.swept_at >= ttl_seconds:
            self.presence.expire(now)
            self.swept_at = now
        self.presence.add(channel, info, expires_at=now + ttl_seconds)

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""
        self.presence.remove(channel, client_id)

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there."""
        return self.presence.members(channel, self.clock())


def read_url(url: str) -> MemoryOptions:
    """Read ``memory://``.

    Raises:
        ConfigError: It has more to say.
    """
    if url != "memory://":
        raise ConfigError(f"broker_url of the memory broker is 'memory://', got {url!r}")
    return MemoryOptions()


def create(settings: Settings, options: MemoryOptions) -> tuple[MemoryBroker, MemoryPresenceStore]:
    """Create the broker and the presence store of ``memory://``."""
    broker = MemoryBroker(settings)
    broker.allows_workers = options.allows_workers or settings.memory_allows_workers
    return broker, MemoryPresenceStore()
