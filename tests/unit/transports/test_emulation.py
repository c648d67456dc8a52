"""Sessions of clients that speak through other requests."""

from __future__ import annotations

import pytest

from wirebell.transports.emulation import Sessions

pytestmark = pytest.mark.anyio


class FakeLink:
    """A carrier that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str | bytes] = []

    async def receive_message(self, data: str | bytes) -> None:
        """Keep it."""
        self.heard.append(data)


async def test_commands_reach_their_session() -> None:
    """Text is text and protobuf is bytes; what is no UTF-8 is no reason to break."""
    sessions, link, other = Sessions("n"), FakeLink(), FakeLink()
    sessions.add("s", link)
    sessions.add("t", other)

    assert await sessions.deliver("n", "s", b"text", False)
    assert await sessions.deliver("n", "s", b"\x00", True)
    assert await sessions.deliver("n", "s", b"\xff", False)
    assert (["text", b"\x00", "\ufffd"], []) == (link.heard, other.heard)


async def test_commands_for_nobody() -> None:
    """An unknown session is nobody's business, another node is."""
    sessions, link = Sessions("n"), FakeLink()
    sessions.add("s", link)
    sessions.remove("s")
    sessions.remove("s")

    assert await sessions.deliver("n", "s", b"text", False)
    assert not await sessions.deliver("other", "s", b"text", False)
    assert [] == link.heard
