"""What waits for a subscriber that does not read, in channels that may lose something for it.

Strategy: entries stand in the order of their arrival, whatever channel they are of. An entry of
`Overflow.KEEP_LATEST` replaces the one with its key; past the bound of bytes the oldest goes.
A backlog exists only while its subscriber is behind. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from wirebell.model import ChannelItem, Membership, Overflow

__all__ = ("Backlog",)

# What an entry takes besides its payload; without it empty ones would be unbounded.
ENTRY_BYTES = 64


class Backlog:
    """Items of any channels that wait for one subscriber, oldest first.

    Mutable state: the entries and their bytes.

    Args:
        bytes_max: Payload bytes kept, and 64 for each entry; 1 or more. The newest entry is kept
            whatever its size.
    """

    __slots__ = ("byte_count", "bytes_max", "entries", "number")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.byte_count = 0
        self.number = 0
        self.entries: dict[object, tuple[str, ChannelItem]] = {}

    def add(self, channel: str, items: Sequence[ChannelItem], overflow: Overflow) -> int:
        """Keep items, oldest first; returns how many were dropped for them.

        Args:
            channel: Where they happened.
            items: What happened.
            overflow: The channel's policy, not `Overflow.DISCONNECT`.
        """
        dropped = 0
        for item in items:
            key: object = self.number
            if overflow is Overflow.KEEP_LATEST:
                key = (channel, _key(item))
                dropped += self._discard(key)
            self.number += 1
            self.entries[key] = (channel, item)
            self.byte_count += _size(item)
            while self.byte_count > self.bytes_max and len(self.entries) > 1:
                dropped += self._discard(next(iter(self.entries)))
        return dropped

    def leave(self, channel: str) -> None:
        """Forget what waits in a channel that the subscriber has left."""
        for key, (name, _) in list(self.entries.items()):
            if name == channel:
                self._discard(key)

    def runs(self) -> list[tuple[str, list[ChannelItem]]]:
        """List what waits, oldest first, in runs of one channel."""
        return [
            (channel, [item for _, item in run])
            for channel, run in groupby(self.entries.values(), key=lambda entry: entry[0])
        ]

    def _discard(self, key: object) -> int:
        """Remove an entry; returns how many there were: 1 or 0."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return 0
        self.byte_count -= _size(entry[1])
        return 1


def _key(item: ChannelItem) -> tuple[str, ...]:
    """Name what an item is the newest state of: a publication's key, or a member's presence."""
    if isinstance(item, Membership):
        return ("membership", item.info.client_id)
    return ("publication", item.channel, item.key)


def _size(item: ChannelItem) -> int:
    """Count what an item takes."""
    return ENTRY_BYTES + (0 if isinstance(item, Membership) else len(item.data))
