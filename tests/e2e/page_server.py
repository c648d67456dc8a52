"""Serves the browser client and its scenarios, and does for a page what it cannot do itself."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from tests.e2e.sdk.control import Control

__all__ = ("PageServer",)

ROOT = Path(__file__).parents[2]
SERVED = ("/clients/browser/", "/tests/e2e/browser/")


class PageServer:
    """The server, until the block ends.

    Attributes:
        url: Where it is, without a slash at the end.
        page: Address of an empty page.
    """

    def __init__(self, control: Control) -> None:
        """Listen on a free port.

        Args:
            control: Answers what is posted below ``/control``.
        """
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, control))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.page = f"{self.url}/tests/e2e/browser/page.html"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, control: Control, *arguments: Any) -> None:
        self.control = control
        super().__init__(*arguments, directory=str(ROOT))

    def do_GET(self) -> None:
        if self.path.startswith(SERVED):
            super().do_GET()
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        try:
            answer, status = self.control.answer(self.path, json.loads(body)), 200
        except (OSError, ValueError, TypeError, IndexError) as error:
            answer, status = {"problem": repr(error)}, 500
        encoded = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
