"""The routes of `wirebell.Realtime.mount`: the live connection, health and metrics."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response, WebSocket
from prometheus_client import CONTENT_TYPE_LATEST

from wirebell.metrics import render_metrics
from wirebell.node import Node

__all__ = ("create_router",)


def create_router(
    node: Callable[[], Node], connect: Callable[[WebSocket], Awaitable[None]], *, metrics: bool
) -> APIRouter:
    """Create the routes.

    Args:
        node: Gives the running node.
        connect: Serves a unidirectional connection to its end.
        metrics: Answer Prometheus.
    """
    router = APIRouter()

    @router.websocket("/connection/uni_websocket")
    async def uni_websocket(websocket: WebSocket) -> None:
        await connect(websocket)

    @router.get("/health", tags=["wirebell"])
    async def health() -> dict[str, str]:
        """Tell that this process serves."""
        node()
        return {"status": "ok"}

    if metrics:

        @router.get("/metrics", include_in_schema=False)
        async def show_metrics() -> Response:
            """Tell Prometheus about this process."""
            return Response(render_metrics(node()), media_type=CONTENT_TYPE_LATEST)

    return router
