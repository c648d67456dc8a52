"""The client for browsers as `Realtime.mount` serves it; on an ordinary loop, with threads."""

from __future__ import annotations

import pytest

from tests.unit.fakes import Message
from tests.unit.test_realtime import running, scope_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on an ordinary loop."""
    return "asyncio"


async def ask(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask a running application for a file; return status, headers and body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = scope_of(path, kind="http")
    # Its `send` raises when the peer has gone, so nobody has to wait for that.
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
    scope["headers"] += [
        (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
    ]
    async with running() as (_, app):
        await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(each.get("body", b"") for each in sent)


async def test_the_client_for_browsers() -> None:
    """A page imports it from below the mount; it may keep it, and asks each time."""
    status, headers, body = await ask("/realtime/browser/index.js")
    again = await ask("/realtime/browser/index.js", if_none_match=headers["etag"])
    missing = await ask("/realtime/browser/no.js")

    assert (200, "no-cache", True) == (status, headers["cache-control"], b"Client" in body)
    assert "javascript" in headers["content-type"]
    assert (304, "no-cache", b"") == (again[0], again[1]["cache-control"], again[2])
    assert 404 == missing[0]
