"""What a channel's subscribers of the client protocol read: publications, joins and leaves.

Subscribers with equal encodings share frames: a publication is written once for all of them.
Source: protocol document, sections 1.4, 1.5, 1.9 and 1.16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache

from wirebell.model import ChannelItem, Frames, Membership, Publication
from wirebell.protocol.codec import MESSAGES_MAX, Codec
from wirebell.protocol.delta import find_patch
from wirebell.protocol.filters import Filter

__all__ = ("ChannelEncoding", "Delta", "find_patches")


class Delta(Enum):
    """How far a subscriber takes patches instead of publications (section 1.9)."""

    NONE = "none"
    """It did not ask for them."""
    FULL = "full"
    """It may, and gets every publication in full: nothing says which one it has."""
    FRESH = "fresh"
    """It has no publication yet: the first one goes in full."""
    PATCH = "patch"
    """It has the publication before."""


# Looking a member up costs more than writing a small publication.
_NONE, _FRESH, _PATCH = Delta.NONE, Delta.FRESH, Delta.PATCH


@dataclass(frozen=True, slots=True)
class ChannelEncoding:
    """How one subscriber reads a channel.

    Attributes:
        codec: Its connection's.
        is_unidirectional: Pushes stand bare (section 1.11).
        messages_max: Pushes that may share a message, 1 or more.
        joins: It is told of joins and leaves.
        filter: Of publications by their tags; ``None`` for all. Who filters gets no patches: what
            it has is not what was published before.
        delta: Whether it takes patches.
        uses_base: Whether ``join`` makes patches.
    """

    codec: Codec
    is_unidirectional: bool = False
    messages_max: int = MESSAGES_MAX
    joins: bool = True
    filter: Filter | None = None
    delta: Delta = Delta.NONE
    uses_base: bool = field(init=False, compare=False, repr=False)
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Known once: a hub asks for both with every publication.
        uses_base = self.filter is None and self.delta in {_FRESH, _PATCH}
        object.__setattr__(self, "uses_base", uses_base)
        values = (
            self.codec,
            self.is_unidirectional,
            self.messages_max,
            self.joins,
            self.filter,
            self.delta,
        )
        object.__setattr__(self, "_hash", hash(values))

    def __hash__(self) -> int:
        return self._hash

    @property
    def settled(self) -> ChannelEncoding:
        """The encoding of a subscriber that has got a publication."""
        return _change(self, _PATCH) if self.uses_base and self.delta is _FRESH else self

    @property
    def restarted(self) -> ChannelEncoding:
        """The encoding of a subscriber that lacks the newest publication."""
        return _change(self, _FRESH) if self.uses_base and self.delta is _PATCH else self

    def join(
        self, channel: str, items: Sequence[ChannelItem], base: Publication | None = None
    ) -> Frames:
        """Encode items of one tick, oldest first.

        Args:
            channel: Where they happened.
            items: A run without a hole.
            base: The publication before them; ``None`` when there is none. Without it, and with
                `Delta.FRESH`, the first publication goes in full.
        """
        codec = self.codec
        is_bare = self.is_unidirectional
        is_delta = self.delta is not _NONE
        if len(items) == 1 and not is_delta and self.filter is None:
            item = items[0]
            if isinstance(item, Publication):
                # By far the most frequent.
                message = codec.encode_publication(channel, item, is_bare=is_bare)
                return Frames((message,), _count_bytes(message))
        if self.delta is _FRESH:
            base = None
        patch = None
        messages: list[str | bytes] = []
        for item in items:
            if isinstance(item, Membership):
                if self.joins:
                    messages.append(codec.encode_membership(channel, item, is_bare=is_bare))
            elif self.filter is None or self.filter.matches(item.tags):
                if self.uses_base:
                    patch = _find_patch(codec, base, item)
                    base = item
                messages.append(
                    codec.encode_publication(
                        channel, item, is_bare=is_bare, is_delta=is_delta, patch=patch
                    )
                )
        if len(messages) == 1:
            return Frames((messages[0],), _count_bytes(messages[0]))
        joined = codec.join(messages, self.messages_max)
        return Frames(joined, sum(map(_count_bytes, joined)))


def find_patches(codec: Codec, publications: Sequence[Publication]) -> list[bytes | None]:
    """Find the patches of a recovery: the first publication is full, each next may be a patch.

    Returns:
        For each publication its patch against the one before, or ``None`` where it goes in full:
        what `wirebell.protocol.messages.SubscribeResult` has as ``patches``.
    """
    patches: list[bytes | None] = []
    base = None
    for publication in publications:
        patches.append(_find_patch(codec, base, publication))
        base = publication
    return patches


def _find_patch(codec: Codec, base: Publication | None, publication: Publication) -> bytes | None:
    """Find what leads from one publication to the next, if it may and is smaller."""
    if base is None or not publication.has_delta:
        return None
    return find_patch(codec.get_document(base), codec.get_document(publication))


def _count_bytes(message: str | bytes) -> int:
    """Count a message's bytes, text in UTF-8."""
    if isinstance(message, str) and not message.isascii():
        return len(message.encode())
    return len(message)


@lru_cache(maxsize=1024)
def _change(encoding: ChannelEncoding, delta: Delta) -> ChannelEncoding:
    """Create an encoding that differs in its patches, the same object for equal ones."""
    return replace(encoding, delta=delta)
