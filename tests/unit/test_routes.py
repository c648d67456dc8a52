"""The routes for operators."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from tests.unit.fakes import Message
from tests.unit.test_realtime import running, scope_of
from wirebell import NotRunning, Realtime, Settings

pytestmark = pytest.mark.anyio


async def get(app: FastAPI, path: str) -> tuple[int, str, str]:
    """Ask for a path; return status, type and body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope_of(path, kind="http"), receive, send)
    headers = dict(sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], headers[b"content-type"].decode(), body.decode()


async def test_health() -> None:
    """A process that serves says so."""
    async with running() as (_, app):
        answer = await get(app, "/realtime/health")

    assert (200, "application/json", '{"status":"ok"}') == answer


async def test_health_of_a_node_that_does_not_run() -> None:
    """A process whose node does not run is not healthy."""
    app = FastAPI()
    Realtime(Settings()).mount(app, "/realtime")

    with pytest.raises(NotRunning):
        await get(app, "/realtime/health")


async def test_metrics() -> None:
    """Metrics are in Prometheus' text format."""
    async with running() as (_, app):
        status, kind, body = await get(app, "/realtime/metrics")

    assert (200, True) == (status, kind.startswith("text/plain"))
    assert "wirebell_connections_count 0.0" in body
