"""What a subscriber learns of a channel's log when it comes, or comes back."""

from __future__ import annotations

from dataclasses import dataclass

from wirebell.errors import ErrorCode, ProtocolError
from wirebell.history import Recovery, recover, recover_cache
from wirebell.hub import Hub
from wirebell.interfaces import Broker
from wirebell.model import ChannelOptions, RecoveryMode, StreamPosition
from wirebell.receiving.resuming import Resuming
from wirebell.tick import Subscriber

__all__ = ("CatchingUp", "Subscribed")


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What a connection learns when it subscribed.

    Attributes:
        position: The channel's newest position; ``None`` without history.
        recovery: What it missed; ``None`` when it did not ask.
    """

    position: StreamPosition | None = None
    recovery: Recovery | None = None


class CatchingUp:
    """Reads history for those who subscribe. No state of its own.

    Args:
        hub: Takes a channel's newest position.
        broker: Has history.
        resuming: Looks at a channel whose answer may be too old.
        publications_max: Most publications that one subscriber gets, 1 or more.
    """

    def __init__(self, hub: Hub, broker: Broker, resuming: Resuming, publications_max: int) -> None:
        self.hub = hub
        self.broker = broker
        self.resuming = resuming
        self.publications_max = publications_max

    async def read(
        self,
        subscriber: Subscriber,
        channel: str,
        options: ChannelOptions,
        since: StreamPosition | None,
        mode: RecoveryMode,
        *,
        must_recover: bool,
    ) -> Subscribed:
        """Read the position, and what a client that was away has missed.

        Args:
            subscriber: Who reads; held.
            channel: Where.
            options: The channel's.
            since: The position that the client saw last; ``None`` when it saw none.
            mode: What it gets then.
            must_recover: Refuse it when it cannot get what it missed.

        Raises:
            ProtocolError: ``UNRECOVERABLE_POSITION``, for ``must_recover``.
            BrokerError: The broker does not answer.
        """
        if options.history is None:
            return Subscribed()
        sweep_count, seen = self.resuming.sweep_count, self.hub.tops.get(channel)
        limit, after = self.publications_max, since
        if since is not None and (mode is RecoveryMode.CACHE or channel in self.hub.bases):
            # One more: the newest it has is what the next patch is made against.
            after = StreamPosition(max(0, since.offset - 1), since.epoch)
        if mode is RecoveryMode.CACHE:
            part = await self.broker.history(
                channel, options, since=None, limit=0 if since is None else 1, reverse=True
            )
        else:
            part = await self.broker.history(
                channel, options, since=after, limit=limit + 1 if since is not None else 0
            )
        if seen is not None and self._is_another(channel, seen, part.top):
            # Live items would not show it to those who are there: they count on.
            self.resuming.give_up(channel, part.top)
            entry = self.hub.catching_up.get(channel, {}).get(subscriber)
            if entry is not None:
                # Its own history does not end before that.
                entry.is_torn = False
        newest = max(part.publications, key=lambda kept: kept.offset, default=None)
        self.hub.know_top(channel, part.top, newest)
        if self.resuming.sweep_count != sweep_count:
            # The link was cut meanwhile: the answer may be older than what was lost.
            self.resuming.look(channel)
        if since is None:
            return Subscribed(position=part.top)
        if mode is RecoveryMode.CACHE:
            recovery = recover_cache(part.publications, part.top, since)
        else:
            recovery = recover(part.publications, part.top, since, limit=limit)
        if must_recover and not recovery.recovered:
            raise ProtocolError(ErrorCode.UNRECOVERABLE_POSITION)
        return Subscribed(part.top, recovery)

    def _is_another(self, channel: str, seen: StreamPosition, top: StreamPosition) -> bool:
        """Tell whether a stream was lost, or its end, since this node saw ``seen`` of it.

        Args:
            channel: Which.
            seen: Its newest position before history was asked.
            top: What history answered.
        """
        now_seen = self.hub.tops.get(channel)
        if seen.epoch == top.epoch:
            return now_seen is not None and now_seen.epoch == top.epoch and top.precedes(seen)
        # When something of a stream came meanwhile, that one is the newer. Of one that never had
        # a publication nothing was lost.
        return now_seen == seen and max(seen.offset, top.offset) > 0
