"""What ``wirebell serve`` serves, and as what; `wirebell.server` has the machinery."""

import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from wirebell.auth import AllowedOrigins
from wirebell.configuration import ServeConfiguration
from wirebell.listening import create_tls_context, listen, wait_answer
from wirebell.logs import log_config
from wirebell.metrics import NodeCollector
from wirebell.options import EndpointOptions
from wirebell.process import PROCESS
from wirebell.realtime import Realtime
from wirebell.routes import LiveRoute
from wirebell.server import (
    ANSWER_SECONDS_MAX,
    compute_drain_seconds,
    raise_file_limit,
    serve,
)
from wirebell.worker_metrics import WorkerMetrics
from wirebell.workers import try_broker

__all__ = ("create_app", "run")

logger = logging.getLogger(__name__)

# Linux holds 108 bytes for the address of a Unix socket (unix(7)); a process id has seven digits.
FOLDER_BYTES_MAX = 80
EMPTY_OBJECT = b"{}"


def create_realtime(configuration: ServeConfiguration) -> Realtime:
    """Create the `Realtime` of one process from everything that was configured."""
    return Realtime(
        configuration.settings,
        broker=configuration.broker,
        presence=configuration.presence,
        tokens=configuration.connection_tokens,
        subscription_tokens=configuration.subscription_tokens,
        namespaces=configuration.namespaces,
        without_namespace=configuration.without_namespace,
        clients=configuration.client,
        transports=configuration.transports,
        api=configuration.api,
        names=configuration.names,
        unavailable=configuration.unavailable,
        name=_find_name(configuration),
        is_standalone=True,
    )


def _find_name(configuration: ServeConfiguration) -> str:
    """Return the node's name: that of several workers has their process id, too."""
    server = configuration.server
    if server.node_name and server.workers > 1:
        return f"{server.node_name}_{os.getpid()}"
    return server.node_name


def mount(rt: Realtime, app: FastAPI) -> None:
    """Add the transports and the server API; what operators ask is answered for all workers."""
    rt.mount(app, "", endpoints=EndpointOptions())


def create_app(configuration: ServeConfiguration, metrics_folder: Path | None = None) -> FastAPI:
    """Create the application of one process.

    Args:
        configuration: What to serve.
        metrics_folder: Where its siblings are found, if it has any.
    """
    rt = create_realtime(configuration)
    collectors: list[NodeCollector] = []
    metrics = WorkerMetrics(lambda: collectors[0].collect(), metrics_folder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Metrics end last: what the node counts while it closes is to be left to the siblings.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(metrics.aclose)
            await stack.enter_async_context(rt.lifespan(app))
            collectors[:] = [NodeCollector(rt.node())]
            await metrics.start()
            yield

    app = FastAPI(
        title="Wirebell",
        lifespan=lifespan,
        docs_url=configuration.endpoints.swagger or None,
        redoc_url=None,
        openapi_url=(
            f"{configuration.endpoints.swagger}/openapi.json"
            if configuration.endpoints.swagger
            else None
        ),
    )
    # First: the server API answers everything below its path.
    _add_endpoints(app, rt, metrics, configuration)
    mount(rt, app)
    return app


class LiveFirst:
    """An application whose live endpoints are asked before it: routing takes as long as they do.

    Args:
        app: Serves all else.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.live = {
            route.path: route.application
            for route in app.router.routes
            if isinstance(route, LiveRoute)
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, a WebSocket, or the lifespan."""
        application = self.live.get(scope.get("path", ""), self.app)
        await application(scope, receive, send)


def create_server_app(configuration: ServeConfiguration, folder: Path | None) -> LiveFirst:
    """Create what one process serves; see `create_app`."""
    return LiveFirst(create_app(configuration, folder))


def _add_endpoints(
    app: FastAPI, rt: Realtime, metrics: WorkerMetrics, configuration: ServeConfiguration
) -> None:
    """Add what operators and balancers ask."""
    endpoints = configuration.endpoints
    origins = AllowedOrigins(configuration.settings.allowed_origins)

    async def health() -> Response:
        """Tell that this process lives (recording ``http-api/health``)."""
        return Response(EMPTY_OBJECT, media_type="application/json")

    async def ready() -> Response:
        """Tell whether this process takes connections, or why not."""
        fault = await _find_fault(rt)
        if fault:
            return JSONResponse({"status": fault}, 503)
        return Response(EMPTY_OBJECT, media_type="application/json")

    async def show_metrics() -> Response:
        """Tell Prometheus about all processes."""
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def init(request: Request) -> Response:
        """Answer a first request (recording ``http-api/connection_init``)."""
        origin = request.headers.get("origin")
        response = Response(EMPTY_OBJECT, media_type="application/json")
        if origin and origins.allows(origin):
            response.headers["access-control-allow-origin"] = origin
            response.headers["access-control-allow-credentials"] = "true"
        return response

    for path, endpoint in (
        (endpoints.health, health),
        (endpoints.ready, ready),
        (endpoints.metrics, show_metrics),
        (endpoints.init, init),
    ):
        if path:
            app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


async def _find_fault(rt: Realtime) -> str:
    """Say why a process should get no connections; empty when it should."""
    if not PROCESS.is_accepting:
        return "no connections are taken: out of file descriptors, or about to end"
    return "" if await rt.node().is_ready() else "the broker does not answer"


def run(configuration: ServeConfiguration) -> None:
    """Serve until a signal ends it, and take away what others could stumble over.

    Raises:
        OSError: The address cannot be had, or a file not be written.
        ConfigError: The broker cannot be used, or not by so many workers.
        BrokerUnavailable: The broker cannot be reached.
    """
    settings, server = configuration.settings, configuration.server
    # A worker would find out too, and the parent start it again and again.
    try_broker(settings, configuration.broker, configuration.presence, workers=server.workers)
    if server.log_file:
        # Logging would only say that a handler cannot be configured.
        Path(server.log_file).open("a").close()
    # Uvicorn ends by raising the signal that it was told to end by. By default that would end the
    # process on the spot, before anything is taken away.
    signal.signal(signal.SIGTERM, _exit)
    raise_file_limit(settings.connections_max, settings.descriptors_spare)
    with _metrics_folder(server.workers) as folder, _pid_file(server.pid_file):
        config = create_config(configuration, folder)
        config.configure_logging()
        listener = listen(server, settings, config.backlog)
        try:
            _warn(configuration)
            _announce(configuration, listener)
            serve(config, listener, descriptors_spare=settings.descriptors_spare)
        finally:
            listener.close()
            if server.unix_socket:
                Path(server.unix_socket).unlink(missing_ok=True)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    """End with success: that is what the signal asks for."""
    sys.exit(0)


def create_config(configuration: ServeConfiguration, folder: Path | None) -> uvicorn.Config:
    """Create what uvicorn is told, in the parent and in every worker."""
    settings, server = configuration.settings, configuration.server
    return uvicorn.Config(
        partial(create_server_app, configuration, folder),
        factory=True,
        host=server.address,
        port=server.port,
        workers=server.workers,
        log_config=_log_config(configuration),
        # A line for each publication of the API is what debugging wants, and nobody else.
        access_log=server.log_level == "DEBUG",
        http="wirebell.uvicorn:HTTPProtocol",
        ws="wirebell.uvicorn:WebSocketProtocol",
        ws_max_size=settings.message_bytes_max,
        ws_ping_interval=settings.ping_interval_seconds,
        ws_ping_timeout=settings.pong_timeout_seconds,
        timeout_graceful_shutdown=_compute_end_seconds(configuration),
        timeout_worker_healthcheck=int(ANSWER_SECONDS_MAX),
        ssl_context_factory=(
            partial(create_tls_context, server.tls) if server.tls is not None else None
        ),
    )


def _compute_end_seconds(configuration: ServeConfiguration) -> int:
    """Compute how long a process may take to end, within what it was told."""
    seconds = compute_drain_seconds(configuration.settings)
    most = configuration.server.shutdown_seconds
    return min(seconds, math.ceil(most)) if most else seconds


def _log_config(configuration: ServeConfiguration) -> dict[str, Any]:
    """Create how the processes log."""
    config = log_config(configuration.server.log_level)
    if configuration.server.log_file:
        handler = config["handlers"]["stderr"]
        handler |= {"class": "logging.FileHandler", "filename": configuration.server.log_file}
    return config


@contextmanager
def _metrics_folder(workers: int) -> Iterator[Path | None]:
    """Make a folder where workers find each other; a single process needs none."""
    if workers == 1 or not hasattr(socket, "AF_UNIX"):
        yield None
        return
    folder = tempfile.mkdtemp(prefix="wirebell-")
    if len(os.fsencode(folder)) > FOLDER_BYTES_MAX:
        shutil.rmtree(folder)
        folder = tempfile.mkdtemp(prefix="wirebell-", dir="/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """Write the process id to a file, for as long as it serves."""
    if not path:
        yield
        return
    Path(path).write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)


def _warn(configuration: ServeConfiguration) -> None:
    """Tell what somebody should look at, before anything is served."""
    for text in configuration.warnings:
        logger.warning("configuration: %s", text)
    for text in configuration.find_insecure_modes():
        logger.warning("INSECURE: %s", text)


def _announce(configuration: ServeConfiguration, listener: socket.socket) -> None:
    """Print the address once something answers there, from a thread of its own."""
    is_tls = configuration.server.tls is not None
    path = configuration.server.unix_socket

    def announce() -> None:
        address = wait_answer(listener.getsockname(), is_tls=is_tls)
        if address:
            sys.stdout.write(f"Wirebell answers on {address}\n")
            sys.stdout.flush()
        else:
            logger.error("Wirebell does not answer on %s", path or listener.getsockname())

    threading.Thread(target=announce, daemon=True).start()
