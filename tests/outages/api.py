"""The server API of nodes, for hundreds of calls at once that may wait or end in nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Self

from tests.outages.nodes import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("API", "Address", "Declined", "NotReached", "Unanswered")

Address = tuple[str, int]
Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]

ANSWER_SECONDS = 6.0
"""Longer than a broker may take (``io_timeout``, 4)."""


class NotReached(Exception):
    """Nobody took the call."""


class Unanswered(Exception):
    """It may have been done, or not."""


class Declined(Exception):
    """A node said that it was not done; the message is its reason."""


class API:
    """Calls nodes, over connections that are kept for the next call."""

    def __init__(self) -> None:
        self.idle: dict[Address, list[Link]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for links in self.idle.values():
            for link in links:
                link[1].transport.abort()

    async def call(self, address: Address, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call a method, and return its result.

        Raises:
            NotReached, Unanswered, Declined: It has none.
        """
        try:
            link = await self._find_link(address)
        except (OSError, TimeoutError) as error:
            raise NotReached from error
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, answer = await _exchange(link, method, json.dumps(body).encode())
        except BaseException as error:
            link[1].transport.abort()
            if isinstance(error, OSError | EOFError | TimeoutError):
                raise Unanswered from error
            raise
        self.idle[address].append(link)
        if status != 200 or "error" in answer:
            raise Declined(answer.get("error", {}).get("message", f"HTTP {status}"))
        return dict(answer["result"])

    async def _find_link(self, address: Address) -> Link:
        """Take a connection that is free and stands, or open one."""
        idle = self.idle[address]
        while idle:
            link = idle.pop()
            if not link[0].at_eof():
                return link
            link[1].transport.abort()
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asyncio.open_connection(*address)


async def _exchange(link: Link, method: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Send a request, and read status and body of the response."""
    reader, writer = link
    writer.write(
        f"POST /api/{method} HTTP/1.1\r\nHost: node\r\nX-API-Key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"^content-length: (\d+)", head, re.IGNORECASE | re.MULTILINE)
    assert length is not None, head
    answer = json.loads(await reader.readexactly(int(length[1])))
    return int(head.split(" ", 2)[1]), answer
