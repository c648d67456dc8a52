"""What ``wirebell demo`` serves, and with which limits; `wirebell.server` says how."""

from __future__ import annotations

import os

import uvicorn

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
from wirebell.workers import try_broker

__all__ = ("run",)

BROKER_URL = "WIREBELL_BROKER_URL"


def run(host: str, port: int, workers: int) -> None:
    """Serve until a signal ends it.

    Several workers share a database of SQLite in the data folder as their broker, unless
    ``WIREBELL_BROKER_URL`` names another one.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.
        workers: Processes, 1 or more.

    Raises:
        OSError: The address cannot be had, or the data folder or the database not be reached.
        ConfigError: ``broker_url`` names no broker, or one that so many workers cannot share.
        BrokerUnavailable: The broker cannot be reached.
        pydantic.ValidationError: The environment holds a value out of its bounds.
    """
    settings = DemoSettings()
    if workers > 1 and not os.environ.get(BROKER_URL):
        # Workers are processes of their own: they read the environment.
        os.environ[BROKER_URL] = f"sqlite:///{settings.data_dir.absolute() / 'broker.db'}"
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    limits = TaskboardLimits()
    # A worker would find out too, and the parent start it again and again.
    try_broker(limits, workers=workers)
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
    prepare(settings)
    raise_file_limit(limits.connections_max, limits.descriptors_spare)
    listener = create_listener(
        host,
        port,
        backlog=config.backlog,
        tcp_user_timeout_seconds=limits.tcp_user_timeout_seconds,
    )
    announce(listener, "Taskboard", "/realtime/health")
    serve(config, listener, descriptors_spare=limits.descriptors_spare)
