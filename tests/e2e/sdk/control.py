"""What scenarios in JavaScript ask of the test: tokens, networks to cut, and the server API.

It is an HTTP server on a thread of its own. It also serves the page and the files for a browser.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jwt

from tests.e2e.proxy import Proxy

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("API_KEY", "SECRET", "Control", "create_token")

SECRET = "a secret of the tests, long enough for HS256"
API_KEY = "api-key-for-tests"

HERE = Path(__file__).parent
FILES = {
    "/": (HERE / "browser.html", "text/html"),
    "/kit.mjs": (HERE / "kit.mjs", "text/javascript"),
    "/scenarios.mjs": (HERE / "scenarios.mjs", "text/javascript"),
    "/sdk/centrifuge.js": (
        HERE / "node_modules" / "centrifuge" / "dist" / "centrifuge.js",
        "text/javascript",
    ),
}


def create_token(
    *,
    exp_in: float | None = None,
    signed_with: str = SECRET,
    **claims: Any,
) -> str:
    """Make a connection or subscription token.

    Args:
        exp_in: Seconds until it expires, rounded up to a whole second; ``None`` is never.
        signed_with: Another key than that of the server.
        claims: As they stand in the token.
    """
    if exp_in is not None:
        claims["exp"] = int(time.time() + exp_in) + 1
    return jwt.encode(claims, signed_with, "HS256")


class Control:
    """The server, until the block ends.

    Attributes:
        url: Where it is, without a slash at the end.
        target: Base of HTTP addresses of the Wirebell that scenarios use, with its path.
    """

    def __init__(self) -> None:
        self.target = ""
        self._networks: list[Proxy] = []
        self._lock = threading.Lock()
        control = self

        class Handler(_Handler):
            owner = control

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close_networks()
        self._server.shutdown()
        self._server.server_close()

    def close_networks(self) -> None:
        """Forget the networks of scenarios that are over."""
        with self._lock:
            networks, self._networks = self._networks, []
        for network in networks:
            network.__exit__(None, None, None)

    def answer(self, path: str, body: Any) -> Any:
        """Answer a request below ``/control``."""
        match path.strip("/").split("/")[1:]:
            case ["token"]:
                return {"token": create_token(**body)}
            case ["api", method]:
                return self.call(method, body)
            case ["network"]:
                return self._open_network()
            case ["network", number, "cut"]:
                self._networks[int(number)].cut()
            case ["network", number, "restore"]:
                self._networks[int(number)].restore()
            case _:
                raise ValueError(f"unknown path {path!r}")
        return {}

    def call(self, method: str, body: Any) -> Any:
        """Call the server API of the target and return its answer."""
        headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        data = json.dumps(body).encode()
        url = f"{self.target}/api/{method}"
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - our own http address
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - likewise
            return json.loads(response.read())

    def _open_network(self) -> dict[str, Any]:
        port = int(self.target.split(":")[2].split("/")[0])
        network = Proxy(port).__enter__()
        with self._lock:
            self._networks.append(network)
            number = len(self._networks) - 1
        return {"id": number, "port": int(network.url.rpartition(":")[2])}


class _Handler(BaseHTTPRequestHandler):
    owner: Control
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path not in FILES:
            self._respond(404, b"", "text/plain")
            return
        path, content_type = FILES[self.path]
        self._respond(200, path.read_bytes(), content_type)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        try:
            answer, status = self.owner.answer(self.path, json.loads(body)), 200
        except (OSError, ValueError, TypeError, IndexError) as error:
            answer, status = {"problem": repr(error)}, 500
        self._respond(status, json.dumps(answer).encode(), "application/json")

    def _respond(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
