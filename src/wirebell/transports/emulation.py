"""Sessions of clients that listen to one request and speak through others.

A client of SSE or HTTP streaming sends each later command by a request of its own, which names the
node and the session. Source: protocol document, section 1.10.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

__all__ = ("EmulatedLink", "ForwardedCommands", "Sessions")


class ForwardedCommands(msgspec.Struct, frozen=True, array_like=True):
    """Commands that came to another node than the one that has their session.

    Attributes:
        session_id: Whose.
        data: Commands, framed as on the wire.
        is_binary: They are protobuf.
    """

    session_id: str
    data: bytes
    is_binary: bool


class EmulatedLink(Protocol):
    """A carrier whose peer speaks through other requests."""

    async def receive_message(self, data: str | bytes) -> None:
        """Handle a message of the peer, after those that came before; nothing when it is gone."""


class Sessions:
    """The emulated sessions of one node.

    Mutable state: session id → carrier, from the connect result to the end of the connection.
    Used on one event loop.

    Args:
        node_id: The node's name, as connect results tell it.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.links: dict[str, EmulatedLink] = {}

    def add(self, session_id: str, link: EmulatedLink) -> None:
        """Have the commands of a session delivered to its carrier.

        Args:
            session_id: Told to nobody but its client: whoever knows it speaks for that client.
            link: The carrier.
        """
        self.links[session_id] = link

    def remove(self, session_id: str) -> None:
        """Forget a session; idempotent."""
        self.links.pop(session_id, None)

    async def deliver(
        self,
        node_id: str,
        session_id: str,
        data: bytes,
        is_binary: bool,  # noqa: FBT001
    ) -> bool:
        """Handle the commands of one request; returns when they have been handled.

        Args:
            node_id: Who is meant.
            session_id: Whose commands; of one that has ended they are dropped (section 1.16, 8).
            data: Commands, framed as on the wire.
            is_binary: They are protobuf; otherwise JSON in UTF-8.

        Returns:
            False when the node is another one: nothing was done.
        """
        if node_id != self.node_id:
            return False
        link = self.links.get(session_id)
        if link is not None:
            await link.receive_message(data if is_binary else data.decode(errors="replace"))
        return True
