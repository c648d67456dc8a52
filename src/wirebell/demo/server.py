"""How ``wirebell demo`` serves: one listener, any number of workers, an address when it answers."""

from __future__ import annotations

import http.client
import logging
import socket
import sys
import threading
import time

import uvicorn
from uvicorn.supervisors import Multiprocess

from wirebell.brokers import create_broker
from wirebell.demo.db import prepare
from wirebell.demo.settings import DemoSettings, TaskboardLimits
from wirebell.logs import log_config

__all__ = ("run",)

logger = logging.getLogger(__name__)

# A first start migrates a database and imports everything: seconds on a small machine.
ANSWER_SECONDS_MAX = 60.0
DRAIN_SECONDS_MAX = 10


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
        http="wirebell.demo.handshake:HTTPProtocol",
        ws="wirebell.demo.handshake:WebSocketProtocol",
        ws_max_size=limits.message_bytes_max,
        ws_ping_interval=limits.ping_interval_seconds,
        ws_ping_timeout=limits.pong_timeout_seconds,
        timeout_graceful_shutdown=DRAIN_SECONDS_MAX,
        # The parent kills a worker that does not answer; one that starts is busy importing.
        timeout_worker_healthcheck=int(ANSWER_SECONDS_MAX),
    )
    prepare(DemoSettings())
    raise_file_limit(limits.connections_max)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=config.backlog)
    listener.set_inheritable(True)
    set_user_timeout(listener, limits.tcp_user_timeout_seconds)
    if workers > 1:
        logger.warning(
            "broker memory:// stays inside each of the %d workers: a browser sees live what "
            "happens on its own worker, and the rest when it loads the page",
            workers,
        )
    threading.Thread(target=announce, args=(listener,), daemon=True).start()
    if workers > 1:
        Multiprocess(config, sockets=[listener]).run()
        return
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(3)


def raise_file_limit(connections_max: int) -> None:
    """Take as many file descriptors as the system lets us: each connection is one.

    Args:
        connections_max: 0 is no limit. What the system cannot give is said in the log.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and (not connections_max or hard < 2 * connections_max):
        logger.warning(
            "the system lets this process have %d open files: with about as many connections it "
            "takes no new ones; raise 'ulimit -n', or set WIREBELL_CONNECTIONS_MAX below half",
            hard,
        )


def set_user_timeout(listener: socket.socket, seconds: float) -> None:
    """Have the kernel drop peers that acknowledge nothing; accepted sockets inherit it.

    Only Linux has the option. Elsewhere such a peer holds its socket until TCP gives up.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def announce(listener: socket.socket) -> None:
    """Print the address once the page answers there."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while time.monotonic() < deadline:
        if is_answering(shown, port):
            address = f"[{shown}]" if ":" in shown else shown
            sys.stdout.write(f"Taskboard answers on http://{address}:{port}\n")
            sys.stdout.flush()
            return
        time.sleep(0.1)
    logger.error("Taskboard does not answer on port %d after %d s", port, ANSWER_SECONDS_MAX)


def is_answering(host: str, port: int) -> bool:
    """Ask the server for its health."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/realtime/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
