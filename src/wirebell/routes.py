"""The routes of `wirebell.Realtime.mount`: live connections, what operators and pages ask."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette._utils import get_route_path
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.staticfiles import StaticFiles

from wirebell.metrics import render_metrics
from wirebell.node import Node
from wirebell.options import EndpointOptions

__all__ = ("BrowserClient", "LiveRoute", "create_router")


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


class BrowserClient(StaticFiles):
    """The modules of the client for browsers.

    Browsers ask each time whether a module is still current: one that kept some of them for a
    while would join modules of two versions.
    """

    def __init__(self) -> None:
        super().__init__(directory=_find_browser_client(), check_dir=False)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Answer with a file, or that it is still current."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def _find_browser_client() -> Path:
    """Return the folder of the browser client: in the package, or beside ``src`` in a checkout."""
    package = Path(str(files("wirebell")))
    installed = package / "browser"
    return installed if installed.is_dir() else package.parents[1] / "clients" / "browser"


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
