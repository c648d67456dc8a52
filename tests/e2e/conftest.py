"""Chromium, a server, and pages whose console must stay clean.

The browser is module-scoped although one would do: Playwright's sync API keeps an event loop
running in this thread while it is open, and the async tests of other folders bring their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

from tests import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import APIRequestContext, Browser, Playwright

    from tests.e2e.board import Board
    from tests.servers import Server

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # tests may run as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SERVER_SETTINGS = {
    # The playground shows the heartbeat; nobody wants to wait 30 s for it.
    "WIREBELL_HEARTBEAT_INTERVAL_SECONDS": "0.5",
}


class OpenBoard(Protocol):
    """Open the page in a browser of its own, as one more person."""

    def __call__(
        self,
        url: str = ...,
        *,
        user: str = ...,
        outage: bool = ...,
        fake_clock: bool = ...,
        **options: Any,
    ) -> Board:
        """Open it.

        Args:
            url: Where; the module's server when left out.
            user: Already signed in as this demo user; a guest when left out.
            outage: The test takes the server away: what chromium prints then is no problem.
            fake_clock: Let the test move the page's time by ``page.clock``.
            options: Of Playwright's ``new_context``.
        """


class OpenAPI(Protocol):
    """Make an HTTP client of its own, a guest until it signs in."""

    def __call__(self, url: str = ...) -> APIRequestContext:
        """Make it, for the module's server when `url` is left out."""


def _missing(what: str) -> NoReturn:
    if os.environ.get("WIREBELL_TEST_ALLOW_MISSING") and not os.environ.get("CI"):
        pytest.skip(f"{what} is missing, and WIREBELL_TEST_ALLOW_MISSING allows it")
    pytest.fail(f"{what} is missing: the page cannot be tested without it")


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Start Playwright's driver."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Start Debian's chromium, or another one on PATH."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        _missing("chromium")
    started = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
    with contextlib.closing(started):
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run `wirebell demo` with an empty database."""
    with servers.demo(tmp_path_factory.mktemp("taskboard"), env=SERVER_SETTINGS) as started:
        yield started


@pytest.fixture
def open_board(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenBoard]:
    """Hand out pages; none of them may have complained when the test ends."""
    from tests.e2e.board import Board, sign_in_api

    with contextlib.ExitStack() as stack:
        boards: list[Board] = []

        def open_one(
            url: str = "",
            *,
            user: str = "",
            outage: bool = False,
            fake_clock: bool = False,
            **options: Any,
        ) -> Board:
            address = url or request.getfixturevalue("server").url
            # Without a graphics card, a third of a page's time goes into painting its motion.
            defaults = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"}
            options = {**defaults, **options}
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            board = Board(context.new_page(), outage_expected=outage)
            boards.append(board)
            if user:
                sign_in_api(context.request, user, address)
            if fake_clock:
                board.page.clock.install()
            board.page.goto(address)
            board.wait_live()
            return board

        yield open_one
        assert [] == [problem for board in boards for problem in board.problems]


@pytest.fixture
def open_api(playwright: Playwright, request: pytest.FixtureRequest) -> Iterator[OpenAPI]:
    """Hand out HTTP clients that are not a page."""
    with contextlib.ExitStack() as stack:

        def open_one(url: str = "") -> APIRequestContext:
            address = url or request.getfixturevalue("server").url
            client = playwright.request.new_context(base_url=address)
            stack.callback(client.dispose)
            return client

        yield open_one
