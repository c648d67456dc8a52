"""What an application and the server API may do: publish, read channels, and act on users.

`Operations` stands between the node and whoever gives orders: `wirebell.Realtime` is one, and the
server API over HTTP calls one. What is done on all nodes stands in `everywhere` beside it.

It knows no HTTP, no framework and no transport. Source: protocol document, section 2.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import msgspec

from wirebell.errors import BadRequest, CommandError
from wirebell.interfaces import HistorySlice
from wirebell.model import (
    ClientInfo,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.node import Node
from wirebell.operations.everywhere import ClusterOperations
from wirebell.publishing import (
    CHANNELS_MAX,
    PublishKeywords,
    check_count,
    compose,
    encode_payload,
    require,
)

if TYPE_CHECKING:
    from wirebell.outbox import Outbox, OutboxSession

__all__ = ("Operations", "PresenceStats", "breathe")

# Publications after which others get their turn: about 2 ms.
PUBLISHED_AT_ONCE = 200


class PresenceStats(msgspec.Struct, frozen=True):
    """How many are in a channel.

    Attributes:
        client_count: Connections.
        user_count: Different users among them; all anonymous ones count as one.
    """

    client_count: int
    user_count: int


class Operations(ClusterOperations):
    """What may be done on a node that runs. To be used on its event loop.

    Whoever is one gives ``node`` and ``authority``; see `wirebell.operations.users.UserOperations`.
    ``outbox`` is what publishes inside other people's transactions; ``None`` for nothing.
    """

    outbox: Outbox | None = None

    # Publishing

    async def publish(
        self,
        channel: str,
        data: object,
        *,
        outbox: OutboxSession | None = None,
        **how: Unpack[PublishKeywords],
    ) -> StreamPosition:
        """Publish to a channel, declared or not. No peer is waited for or can make it fail.

        Args:
            channel: 1 or more printable characters, at most ``channel_bytes_max`` bytes.
            data: ``str`` travels as text, a Pydantic model or another value as JSON; at most
                ``publication_bytes_max`` bytes when serialised.
            outbox: A session of SQLAlchemy: publish if, and only if, its transaction commits; see
                `wirebell.outbox.Outbox`. Works outside the lifespan too, and waits for no broker.
            **how: See `PublishKeywords`.

        Returns:
            The publication's position; offset 0 and an empty epoch where no history is kept, and
            with ``outbox``, since it has none yet. Of one that was left out the first one's, or
            the stream's top.

        Raises:
            BadRequest: The name, the payload or a keyword is out of bounds.
            BrokerUnavailable: The broker does not answer.
            ConfigError: ``outbox`` is given, and `wirebell.Realtime` has none.
            NotRunning: Outside the lifespan.
        """
        if outbox is not None:
            item, options = compose(encode_payload(data), how)
            return await require(self.outbox).add(outbox, channel, item, options)
        node = self.node()
        publication, options = compose(encode_payload(data), how)
        return await node.publish(channel, _patchable(publication, node, channel), options)

    async def broadcast(
        self, channels: Sequence[str], data: object, **how: Unpack[PublishKeywords]
    ) -> list[StreamPosition | CommandError]:
        """Publish the same to many channels; the payload is serialised once.

        Args:
            channels: At most 10,000.
            data: As for `publish`.
            **how: See `PublishKeywords`.

        Returns:
            For each channel its position, or why nothing was published there.

        Raises:
            LimitExceeded: There are too many channels; nothing is published.
            BadRequest: The payload or a keyword is out of bounds; likewise.
            BrokerUnavailable: The broker does not answer; some may be published.
            NotRunning: Outside the lifespan.
        """
        node = self.node()
        check_count("channels", len(channels), CHANNELS_MAX)
        publication, options = compose(encode_payload(data), how)
        answers: list[StreamPosition | CommandError] = []
        for number, channel in enumerate(channels, 1):
            try:
                item = _patchable(publication, node, channel)
                answers.append(await node.publish(channel, item, options))
            except CommandError as error:
                answers.append(error)
            await breathe(number)
        return answers

    async def publish_to_pattern(
        self, pattern: str, data: object, **how: Unpack[PublishKeywords]
    ) -> dict[str, StreamPosition | CommandError]:
        """Publish the same to each channel that somebody is subscribed to now.

        Args:
            pattern: Of names, as in ``news:*``; see `channels`.
            data: As for `publish`.
            **how: See `PublishKeywords`.

        Returns:
            Channel → as `broadcast` returns it; empty when nobody listens.

        Raises:
            LimitExceeded: It matches more than 10,000 channels; nothing is published.
            BadRequest: The pattern, the payload or a keyword is out of bounds; likewise.
            BrokerUnavailable: The broker does not answer; some may be published.
            NotRunning: Outside the lifespan.
        """
        patterns = self.node().patterns
        names = [name for name in await self.channels(pattern) if not patterns.has(name)]
        return dict(zip(names, await self.broadcast(names, data, **how), strict=True))

    async def publish_data(
        self, channel: str, publication: Publication, how: PublishOptions | None = None
    ) -> StreamPosition:
        """Publish what is serialised and checked already, also where no client may subscribe.

        Args:
            channel: As `find_options` takes it.
            publication: At most ``publication_bytes_max`` bytes.
            how: What holds for it alone.

        Returns:
            As `publish`.

        Raises:
            BadRequest: The payload is out of bounds.
            BrokerUnavailable: The broker does not answer.
            NotRunning: Outside the lifespan.
        """
        node = self.node()
        size, most = len(publication.data), node.settings.publication_bytes_max
        if size > most:
            raise BadRequest(f"a publication has at most {most} bytes, got {size}")
        published = node.begin_publish(channel, publication, how, is_checked=True)
        if not isinstance(published, Published):
            published = await published
        return published.position

    # Channels

    async def presence(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is in a channel: client id → info.

        Raises:
            BadRequest: The channel keeps no presence.
            NotRunning: Outside the lifespan.
        """
        node = self.node()
        if not node.options_for(channel).presence:
            raise BadRequest(f"channel {channel!r} keeps no presence")
        return await node.presence_store.members(channel)

    async def presence_stats(self, channel: str) -> PresenceStats:
        """Count who is in a channel; raises as `presence`."""
        members = await self.presence(channel)
        return PresenceStats(len(members), len({info.user_id for info in members.values()}))

    async def history(
        self,
        channel: str,
        *,
        since: StreamPosition | None = None,
        limit: int = 100,
        reverse: bool = False,
    ) -> HistorySlice:
        """Read a channel's kept publications after ``since``, oldest first.

        Args:
            channel: Its name.
            since: Only what came after it; its epoch is not compared. ``None`` starts at the
                oldest.
            limit: Most publications; 0 asks for the position alone, below 0 for all.
            reverse: Those before ``since`` instead, newest first; ``None`` starts at the newest.

        Raises:
            BadRequest: The channel keeps no history.
            NotRunning: Outside the lifespan.
        """
        node = self.node()
        options = node.options_for(channel)
        if options.history is None:
            raise BadRequest(f"channel {channel!r} keeps no history")
        most = options.history.size if limit < 0 else limit
        return await node.broker.history(channel, options, since=since, limit=most, reverse=reverse)

    async def history_remove(self, channel: str) -> None:
        """Forget what a channel keeps; its offsets count on in the same epoch.

        Raises:
            BadRequest: The channel keeps no history.
            NotRunning: Outside the lifespan.
        """
        node = self.node()
        if node.options_for(channel).history is None:
            raise BadRequest(f"channel {channel!r} keeps no history")
        await node.broker.remove_history(channel)


async def breathe(number: int) -> None:
    """Let others run after every 200th publication of a call: the memory broker never waits."""
    if number % PUBLISHED_AT_ONCE == 0:
        await asyncio.sleep(0)


def _patchable(publication: Publication, node: Node, channel: str) -> Publication:
    """Let a publication travel as a patch where its channel says that all may."""
    if publication.has_delta or not node.options_for(channel).delta_publish:
        return publication
    return msgspec.structs.replace(publication, has_delta=True)
