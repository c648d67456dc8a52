"""One flush of the hub: what each subscriber gets, and in which order.

Pure: it calls ``write`` of a subscriber's transport and nothing else of the world.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from wirebell.interfaces import Encoding
from wirebell.model import ChannelItem, Frames, Publication, StreamPosition

__all__ = ("CatchUp", "Reply", "Subscriber", "Tick")


class Subscriber(Protocol):
    """What the hub knows of a connection."""

    @property
    def client_id(self) -> str:
        """Whose publications may leave it out."""

    @property
    def encoding(self) -> Encoding:
        """How its items are written where nothing else was said. The same object shares frames."""

    @property
    def channels(self) -> Mapping[str, object]:
        """What it is subscribed to."""

    @property
    def write(self) -> Callable[[Frames], bool]:
        """Takes frames; false when it is over its limit and must be closed."""

    @property
    def is_writable(self) -> bool:
        """Whether nothing that was written before waits."""


@dataclass(slots=True)
class CatchUp:
    """A subscriber between subscribing and having read history.

    Attributes:
        encoding: How its items are written.
        held: What arrived meanwhile, oldest first.
        position: The newest publication it got from history; ``None`` while it has not read yet.
        is_torn: A gap was told while it had not: perhaps its history ends before that.
    """

    encoding: Encoding
    held: list[ChannelItem] = field(default_factory=list)
    position: StreamPosition | None = None
    is_torn: bool = False

    def is_new(self, item: ChannelItem) -> bool:
        """Tell whether history has not delivered this item yet."""
        position = self.position
        assert position is not None
        if not isinstance(item, Publication) or item.epoch != position.epoch:
            return True
        return item.offset > position.offset

    def is_over(self, items: Iterable[ChannelItem]) -> bool:
        """Tell whether new items show that the channel has passed what history delivered.

        Only a publication with a place in the stream does.
        """
        return any(isinstance(item, Publication) and item.offset for item in items)


class Reply(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What one subscriber alone is sent.

    Attributes:
        frames: The messages.
        before: Channel → how many of this tick's items come before them; those that have none
            are left out.
        byte_count: Of this one and of those before it in the tick.
    """

    frames: Frames
    before: dict[str, int]
    byte_count: int


class Tick:
    """One flush: what each subscriber gets, and frames that several of them share.

    Mutable state: subscriber → its frames in order, what was encoded, and who holds too much.
    """

    def __init__(self) -> None:
        self.outgoing: dict[Subscriber, list[Frames]] = {}
        self.encoded: dict[Hashable, Frames] = {}
        self.overflowed: list[Subscriber] = []

    def add(self, subscriber: Subscriber, frames: Frames) -> None:
        """Put frames behind what a subscriber gets already."""
        if not frames.messages:
            return
        waiting = self.outgoing.get(subscriber)
        if waiting is None:
            self.outgoing[subscriber] = [frames]
        else:
            waiting.append(frames)

    def encode(
        self,
        encoding: Encoding,
        channel: str,
        items: Sequence[ChannelItem],
        base: Publication | None,
        *which: Hashable,
    ) -> Frames:
        """Encode items of a channel once for all who get the same, which ``which`` tells."""
        key = (encoding, channel, which)
        frames = self.encoded.get(key)
        if frames is None:
            frames = self.encoded[key] = encoding.join(channel, items, base)
        return frames

    def write(self) -> list[Subscriber]:
        """Write to everybody once, and return those over their limit."""
        return self.overflowed + [
            subscriber
            for subscriber, parts in self.outgoing.items()
            if not subscriber.write(Frames.join(parts))
        ]
