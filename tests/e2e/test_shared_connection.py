"""Windows of one browser over one connection, and ways to the server that are closed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests import servers
from tests.e2e.board import Board, sign_in_api
from tests.e2e.conftest import SERVER_SETTINGS
from tests.e2e.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import APIRequestContext, Browser, Page

    from tests.e2e.conftest import OpenAPI
    from tests.servers import Server

    OpenWindow = Callable[..., Board]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

SOCKET = "/realtime/connection/websocket"
COUNT_SOCKETS = """
    window.sockets = [];
    const Real = window.WebSocket;
    window.WebSocket = class extends Real {
        constructor(...given) { super(...given); window.sockets.push(this); }
    };
"""


@pytest.fixture
def open_window(browser: Browser, server: Server) -> Iterator[OpenWindow]:
    """Open windows of one browser, whose sockets are counted."""
    windows: list[Board] = []
    with contextlib.closing(browser.new_context(reduced_motion="reduce")) as context:
        context.add_init_script(COUNT_SOCKETS)

        def open_one(url: str = "", *, outage: bool = False) -> Board:
            window = Board(context.new_page(), outage_expected=outage)
            windows.append(window)
            window.page.goto(url or server.url)
            window.wait_live()
            return window

        yield open_one
        assert [] == [problem for window in windows for problem in window.problems]


def count_open(window: Board) -> int:
    """Count the sockets that a window holds open."""
    count: int = window.page.evaluate("sockets.filter((one) => one.readyState === 1).length")
    return count


def count_guests(api: APIRequestContext) -> int:
    """Count the connections of guests, as the server has them."""
    guests: int = api.get("/online").json()["guests"]
    return guests


def test_two_windows_share_one_connection(open_window: OpenWindow, open_api: OpenAPI) -> None:
    """Both windows are live, one has the socket, and both see each thing once."""
    first, second = open_window(), open_window()

    open_api().post("/tasks", data={"title": "For both windows"})

    for window in (first, second):
        expect(window.task("For both windows")).to_have_count(1)
    assert [1, 0] == [count_open(first), count_open(second)]
    assert 1 == count_guests(open_api())


def test_the_other_window_takes_over_and_misses_nothing(
    open_window: OpenWindow, open_api: OpenAPI
) -> None:
    """Whoever has the connection is closed amid publications: the next has all of them, once."""
    first, second, third = open_window(), open_window(), open_window()
    bob = sign_in_api(open_api(), "bob")
    titles = [f"Task {number} around the end" for number in range(12)]
    for title in titles[:4]:
        bob.post("/tasks", data={"title": title})
    second.requests.clear()
    first.page.close()
    for title in titles[4:]:
        bob.post("/tasks", data={"title": title})
    second.wait_live()

    for window in (second, third):
        for title in titles:
            expect(window.task(title)).to_have_count(1)
    assert 1 == count_open(second) + count_open(third)
    # From the log, and not by loading the lists again.
    assert [] == [request for request in second.requests if request.startswith("GET /tasks")]
    bob.post("/tasks", data={"title": "And after it"})
    expect(third.task("And after it")).to_have_count(1)


def test_signing_in_renews_the_connection_of_all_windows(open_window: OpenWindow) -> None:
    """Who signs in in a window that has no connection is that user in every window."""
    first, second = open_window(), open_window()

    second.sign_in("bob")

    expect(first.page.locator("#account-name")).to_have_text("bob")
    for window in (first, second):
        window.expect_online("bob")
        expect(window.page.locator(".person", has_text="guest")).to_have_count(0)


def test_windows_come_back_together(
    tmp_path: Path, open_window: OpenWindow, open_api: OpenAPI
) -> None:
    """After a restart of the server all windows are live again, with what happened meanwhile."""
    with servers.demo(tmp_path, env=SERVER_SETTINGS) as first, Proxy(first.port) as proxy:
        windows = [open_window(proxy.url, outage=True) for _ in range(2)]
        first.stop()
        windows[1].wait_connection("Reconnecting")
        with servers.demo(tmp_path, port=first.port, env=SERVER_SETTINGS):
            open_api(f"http://127.0.0.1:{first.port}").post("/tasks", data={"title": "Restarted"})
            windows[1].retry_now()
            for window in windows:
                window.wait_live()
                expect(window.task("Restarted")).to_have_count(1)


@pytest.mark.parametrize("blocked", [("websocket",), ("websocket", "http_stream")])
def test_a_blocked_way_is_gone_around(
    blocked: tuple[str, ...], open_window: OpenWindow, open_api: OpenAPI
) -> None:
    """Without WebSockets the board is live over HTTP streaming, and without that over SSE."""
    window = open_window(outage=True)
    block(window.page, *blocked)
    window.requests.clear()
    window.page.reload()
    window.wait_live()

    open_api().post("/tasks", data={"title": f"Around {len(blocked)}"})
    expect(window.task(f"Around {len(blocked)}")).to_have_count(1)
    window.expect_online()
    used = "sse" if "http_stream" in blocked else "http_stream"
    asked = [request for request in window.requests if f"/connection/{used}" in request]
    assert 1 == len(asked)
    assert any("POST /realtime/emulation" in request for request in window.requests)


def block(page: Page, *transports: str) -> None:
    """Keep transports of a page from their endpoints."""
    page.route_web_socket(lambda url: SOCKET in url, lambda socket: socket.close())
    for name in transports:
        page.route(f"**/connection/{name}*", lambda route: route.abort())
