"""The encoding of plain sockets: a publication is its payload, one text message each."""

from __future__ import annotations

from collections.abc import Sequence

from wirebell.model import ChannelItem, Frames, Publication

__all__ = ("TEXT", "TextEncoding")


class TextEncoding:
    """Payloads as they are; joins and leaves have no words here and are left out."""

    uses_base = False

    @property
    def settled(self) -> TextEncoding:
        """This encoding: nothing depends on what was sent before."""
        return self

    @property
    def restarted(self) -> TextEncoding:
        """This encoding, likewise."""
        return self

    def join(
        self, channel: str, items: Sequence[ChannelItem], base: Publication | None = None
    ) -> Frames:
        """Encode a tick's items, oldest first; one message per publication.

        Args:
            channel: Is not told to the peer.
            items: What happened.
            base: Makes no difference.
        """
        del channel, base
        payloads = [item.data for item in items if isinstance(item, Publication)]
        # A payload that is no UTF-8, from another process, must not take a tick from everybody.
        messages = tuple(payload.decode(errors="replace") for payload in payloads)
        return Frames(messages, sum(len(payload) for payload in payloads))


TEXT = TextEncoding()
"""The one object that all plain subscribers share, so that they share frames."""
