"""What ``wirebell demo`` serves, and with which limits; `wirebell.server` says how."""

from __future__ import annotations

import logging

import uvicorn

from wirebell.brokers import create_broker
from wirebell.demo.db import prepare
from wirebell.demo.settings import DemoSettings, TaskboardLimits
from wirebell.logs import log_config
from wirebell.server import (
    ANSWER_SECONDS_MAX,
    announce,
    compute_drain_seconds,
    create_listener,
    raise_file_limit,
    serve,
)

__all__ = ("run",)

logger = logging.getLogger(__name__)


def run(host: str, port: int, workers: int) -> None:
    """Serve until a signal ends it.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.
        workers: Processes, 1 or more.

    Raises:
        OSError: The address cannot be had, or the data folder or the database not be reached.
        ConfigError: ``broker_url`` names no broker.
        pydantic.ValidationError: The environment holds a value out of its bounds.
    """
    limits = TaskboardLimits()
    # A worker would find out too, and the parent start it again and again.
    create_broker(limits)
    config = uvicorn.Config(
        "wirebell.demo.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=log_config(),
        http="wirebell.uvicorn:HTTPProtocol",
        ws="wirebell.uvicorn:WebSocketProtocol",
        ws_max_size=limits.message_bytes_max,
        ws_ping_interval=limits.ping_interval_seconds,
        ws_ping_timeout=limits.pong_timeout_seconds,
        timeout_graceful_shutdown=compute_drain_seconds(limits),
        # The parent kills a worker that does not answer; one that starts is busy importing.
        timeout_worker_healthcheck=int(ANSWER_SECONDS_MAX),
    )
    prepare(DemoSettings())
    raise_file_limit(limits.connections_max, limits.descriptors_spare)
    listener = create_listener(
        host,
        port,
        backlog=config.backlog,
        tcp_user_timeout_seconds=limits.tcp_user_timeout_seconds,
    )
    if workers > 1:
        logger.warning(
            "broker memory:// stays inside each of the %d workers: a browser sees live what "
            "happens on its own worker, and the rest when it loads the page",
            workers,
        )
    announce(listener, "Taskboard", "/realtime/health")
    serve(config, listener, descriptors_spare=limits.descriptors_spare)
