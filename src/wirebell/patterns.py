"""Names that stand for many channels, where the broker delivers by them.

Dots divide a name into words. ``*`` in place of a word stands for any one, ``>`` in place of the
last for one or more; within a word both are characters like any other. A subscription to a pattern
hears what is kept nowhere, of every channel that it matches and may hear.

Pure. Source: protocol document, section 1.4 (``Publication.channel``).
"""

from __future__ import annotations

from collections.abc import Callable

from wirebell.errors import BadRequest
from wirebell.model import ChannelItem, Publication

__all__ = ("Patterns", "is_pattern")

Handle = Callable[[str, ChannelItem], None]
"""Takes an item of a subscription."""

Hears = Callable[[str, str], bool]
"""Tells whether a pattern (first) may hear a channel (second) that it matches; quick and pure."""


def is_pattern(name: str) -> bool:
    """Tell whether a name stands for many."""
    if "*" not in name and ">" not in name:
        return False
    words = name.split(".")
    return "*" in words or words[-1] == ">"


class Patterns:
    """What holds for patterns on a node.

    Args:
        are_on: The broker delivers by them; elsewhere such a name is a channel's like any other.
        hears: Decides what is let through.
    """

    def __init__(self, hears: Hears, *, are_on: bool) -> None:
        self.hears = hears
        self.are_on = are_on

    def has(self, name: str) -> bool:
        """Tell whether a name stands for many here."""
        return self.are_on and is_pattern(name)

    def check(self, name: str, *wishes: object) -> None:
        """Refuse what no pattern has: history, positions, recovery, presence, joins and leaves.

        Args:
            name: Of what is subscribed to.
            wishes: True, or given, where one of these is asked for, or kept.

        Raises:
            BadRequest: One of them is, for a pattern.
        """
        if any(wishes) and self.has(name):
            raise BadRequest(
                f"{name!r} is a pattern: it has no history, positions, recovery or presence, and "
                "may not be asked for them"
            )

    def guard(self, handle: Handle) -> Handle:
        """Return what hands on to ``handle`` what may be heard; that itself where all may."""
        if not self.are_on:
            return handle

        def handle_heard(name: str, item: ChannelItem) -> None:
            channel = item.channel if isinstance(item, Publication) else ""
            if not channel or self.hears(name, channel):
                handle(name, item)

        return handle_heard
