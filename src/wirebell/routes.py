"""The routes of `wirebell.Realtime.mount`: the live connections, and what operators ask."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette._utils import get_route_path
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound

from wirebell.metrics import render_metrics
from wirebell.node import Node
from wirebell.options import EndpointOptions

__all__ = ("LiveRoute", "create_router")


class LiveRoute(BaseRoute):
    """A plain ASGI application at one path, for requests and for WebSockets.

    Args:
        path: The whole of it, below the application's root.
        application: Serves both.
    """

    def __init__(self, path: str, application: Any) -> None:
        self.path = path
        self.application = application

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Tell whether a request is for it."""
        if scope["type"] in {"http", "websocket"} and get_route_path(scope) == self.path:
            return Match.FULL, {}
        return Match.NONE, {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Refuse: it has no name."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request or a WebSocket."""
        await self.application(scope, receive, send)


def create_router(node: Callable[[], Node], endpoints: EndpointOptions) -> APIRouter:
    """Create the routes for operators.

    Args:
        node: Gives the running node.
        endpoints: Which are served, and where.
    """
    router = APIRouter()

    async def health() -> dict[str, str]:
        """Tell that this process serves."""
        node()
        return {"status": "ok"}

    async def ready(response: Response) -> dict[str, str]:
        """Tell whether this process takes connections: 503 while its broker does not answer."""
        if await node().is_ready():
            return {"status": "ok"}
        response.status_code = 503
        return {"status": "the broker does not answer"}

    async def init() -> dict[str, str]:
        """Answer a first request, with which a balancer sets its cookie."""
        return {}

    async def show_metrics() -> Response:
        """Tell Prometheus about this process."""
        return Response(render_metrics(node()), media_type=CONTENT_TYPE_LATEST)

    if endpoints.health:
        router.add_api_route(endpoints.health, health, tags=["wirebell"])
    if endpoints.ready:
        router.add_api_route(endpoints.ready, ready, tags=["wirebell"])
    if endpoints.init:
        router.add_api_route(endpoints.init, init, tags=["wirebell"])
    if endpoints.metrics:
        router.add_api_route(endpoints.metrics, show_metrics, include_in_schema=False)
    return router
