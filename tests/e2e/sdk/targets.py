"""The two ways to run Wirebell, with the same options: `wirebell serve`, and mounted in an app."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests import servers
from tests.e2e.sdk.control import API_KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server

__all__ = (
    "CONFIG_VARIABLE",
    "MOUNT_PATH",
    "TARGETS",
    "Target",
    "create_configuration",
    "run_target",
)

TARGETS = ("serve", "mount")
"""Names of the ways."""

MOUNT_PATH = "/realtime"

CONFIG_VARIABLE = "SDK_TESTS_CONFIGURATION"
"""Tells the mounted app where its configuration is."""

WITH_HISTORY = {"history_size": 100, "history_ttl": "60s", "force_recovery": True}
OPEN = {"allow_subscribe_for_client": True}


def create_configuration(origin: str) -> dict[str, Any]:
    """Return the configuration, as a file of Centrifugo has it.

    Args:
        origin: Where the page of the browser comes from.
    """
    namespaces: dict[str, dict[str, Any]] = {
        "chat": {
            **OPEN,
            "allow_publish_for_subscriber": True,
            "allow_presence_for_subscriber": True,
            "presence": True,
            "join_leave": True,
            "force_push_join_leave": True,
        },
        "rec": {**OPEN, **WITH_HISTORY, "allow_history_for_subscriber": True},
        "short": {**OPEN, **WITH_HISTORY, "history_size": 3},
        "cache": {**OPEN, **WITH_HISTORY, "history_size": 1, "force_recovery_mode": "cache"},
        "delta": {
            **OPEN,
            **WITH_HISTORY,
            "allowed_delta_types": ["fossil"],
            "delta_publish": True,
        },
        "tags": {**OPEN, "allow_tags_filter": True},
        "secret": {"presence": True, "allow_presence_for_subscriber": True},
        "closed": {},
    }
    return {
        "client": {
            "token": {"hmac_secret_key": SECRET},
            "allowed_origins": [origin],
            # So short that a test can wait: for pings, and for what follows an expiry. So long that
            # a busy machine answers a ping in time.
            "ping_interval": "3s",
            "pong_timeout": "2900ms",
            "expired_close_delay": "3s",
            "expired_sub_close_delay": "3s",
        },
        "channel": {"namespaces": [{"name": name, **rest} for name, rest in namespaces.items()]},
        "http_api": {"key": API_KEY},
        "rpc": {"ping": {"enabled": True}},
        "sse": {"enabled": True},
        "http_stream": {"enabled": True},
    }


@dataclass(frozen=True, slots=True)
class Target:
    """A running Wirebell.

    Attributes:
        name: One of `TARGETS`.
        server: The process.
        prefix: The path below which it is served; empty for the root.
    """

    name: str
    server: Server
    prefix: str

    @property
    def url(self) -> str:
        """Base of HTTP addresses."""
        return self.server.url + self.prefix

    @property
    def ws_url(self) -> str:
        """Address of the bidirectional WebSocket."""
        return f"{self.server.ws_url}{self.prefix}/connection/websocket"


@contextlib.contextmanager
def run_target(name: str, folder: Path, configuration: dict[str, Any]) -> Iterator[Target]:
    """Run Wirebell until the block ends.

    Args:
        name: One of `TARGETS`.
        folder: For the configuration file.
        configuration: As `create_configuration` returns it.
    """
    path = folder / "wirebell.json"
    if name == "mount":
        path.write_text(json.dumps(configuration))
        variables = {CONFIG_VARIABLE: str(path)}
        app = "tests.e2e.sdk.mounted_app:app"
        with servers.serve(app, "wirebell-http", env=variables, path="/ready") as server:
            yield Target(name, server, MOUNT_PATH)
        return
    port = servers.free_port()
    listen = {"address": servers.HOST, "port": port}
    path.write_text(json.dumps({**configuration, "http_server": listen}))
    command = [sys.executable, "-m", "wirebell", "serve", "--config", str(path)]

    def answers(server: Server) -> bool:
        return servers.answers_http(server, "/connection/websocket")

    with servers.run(command, port, {}, answers) as server:
        yield Target(name, server, "")
