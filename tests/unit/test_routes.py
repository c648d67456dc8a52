"""The routes for operators."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Match, NoMatchFound

from tests.unit.fakes import Message
from tests.unit.test_realtime import running, scope_of
from wirebell import NotRunning, Realtime, Settings
from wirebell.options import EndpointOptions
from wirebell.routes import LiveRoute

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


async def test_ready() -> None:
    """A process that takes connections says so; while its broker is away it does not."""
    async with running() as (rt, app):
        assert (200, "application/json", '{"status":"ok"}') == await get(app, "/realtime/ready")

        await rt.node().broker.aclose()
        status, _, body = await get(app, "/realtime/ready")

    assert (503, '{"status":"the broker does not answer"}') == (status, body)


async def test_only_what_is_named_is_served() -> None:
    """Each endpoint has its path, and one without a path is not there."""
    rt, app = Realtime(Settings()), FastAPI()
    rt.mount(app, "/realtime", endpoints=EndpointOptions(init="/connection/init"))

    assert (200, "application/json", "{}") == await get(app, "/realtime/connection/init")
    for name in ("health", "ready", "metrics", "browser/index.js"):
        assert 404 == (await get(app, f"/realtime/{name}"))[0]


async def test_a_live_route() -> None:
    """It takes requests and sockets at its own path, below the application's root, by no name."""
    served: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])

    route = LiveRoute("/live", application)
    for kind in ("http", "websocket"):
        scope = scope_of("/live", kind=kind)
        assert (Match.FULL, {}) == route.matches(scope)
        await route.handle(scope, None, None)
    below = scope_of("/below/live") | {"root_path": "/below"}

    assert (Match.FULL, {}) == route.matches(below)
    assert (Match.NONE, {}) == route.matches(scope_of("/live/more"))
    assert (Match.NONE, {}) == route.matches({"type": "lifespan"})
    assert ["/live", "/live"] == served
    with pytest.raises(NoMatchFound):
        route.url_path_for("live")
