"""Networks and servers that go away: what the page shows meanwhile, and what it has afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests import servers
from tests.e2e.board import WAIT_MS, sign_in_api
from tests.e2e.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.e2e.conftest import OpenAPI, OpenBoard
    from tests.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_missed_publications_come_from_the_log(
    server: Server, open_board: OpenBoard, open_api: OpenAPI
) -> None:
    """After a cut the page gets what it missed by its position, once, without loading its lists."""
    with Proxy(server.port) as proxy:
        ann = open_board(proxy.url, user="ann", outage=True)
        bob = sign_in_api(open_api(), "bob")
        bob.post("/tasks", data={"title": "Before the cut"})
        expect(ann.task("Before the cut")).to_have_count(1)

        proxy.cut()
        ann.wait_connection("Reconnecting")
        expect(ann.page.get_by_role("button", name="Retry now")).to_be_visible()
        task = bob.post("/tasks", data={"title": "Added meanwhile"}).json()["task"]
        bob.patch(f"/tasks/{task['id']}", data={"completed": True})
        bob.post("/messages", data={"text": "Said meanwhile"})
        expect(ann.task("Added meanwhile")).to_have_count(0)
        ann.requests.clear()
        proxy.restore()
        ann.wait_live()

        expect(ann.check("Added meanwhile")).to_be_checked()
        expect(ann.task("Added meanwhile")).to_have_count(1)
        expect(ann.message("Said meanwhile")).to_have_count(1)
        expect(ann.task("Before the cut")).to_have_count(1)
        expect(ann.page.get_by_role("button", name="Retry now")).to_be_hidden()
        assert [] == [r for r in ann.requests if r.startswith(("GET /tasks", "GET /messages"))]
        bob.post("/tasks", data={"title": "Live again"})
        expect(ann.task("Live again")).to_have_count(1)


def test_a_killed_server_loses_nothing(
    tmp_path: Path, open_board: OpenBoard, open_api: OpenAPI
) -> None:
    """After a power cut and a restart the page loads its lists again, and all is there once."""
    with servers.demo(tmp_path) as first, Proxy(first.port) as proxy:
        ann = open_board(proxy.url, user="ann", outage=True)
        ann.add_task("Before the crash")
        expect(ann.page.get_by_label("Task title")).to_have_value("")
        proxy.cut()
        first.kill()
        ann.wait_connection("Reconnecting")
        with servers.demo(tmp_path, port=first.port):
            # Somebody is faster than ann: the new server's log starts without her.
            bob = sign_in_api(open_api(f"http://127.0.0.1:{first.port}"), "bob")
            bob.post("/tasks", data={"title": "After the crash"})
            bob.post("/messages", data={"text": "We are back"})
            proxy.restore()
            ann.retry_now()
            ann.wait_live()

            expect(ann.task("After the crash")).to_have_count(1)
            expect(ann.task("Before the crash")).to_have_count(1)
            expect(ann.message("We are back")).to_have_count(1)
            expect(ann.page.locator("#account-name")).to_have_text("ann")
            ann.expect_online("ann")
            bob.post("/tasks", data={"title": "And live"})
            expect(ann.task("And live")).to_have_count(1)


def test_a_silent_network_is_noticed(server: Server, open_board: OpenBoard) -> None:
    """When nothing arrives for ping + 10 s, the page stops calling itself live."""
    with Proxy(server.port) as proxy:
        ann = open_board(proxy.url, outage=True, fake_clock=True)
        proxy.silence()
        ann.page.clock.run_for(30_000)
        ann.wait_live()
        # The default ping comes each 25 s, its grace is 10 s.
        ann.page.clock.run_for(6_000)
        ann.wait_connection("Reconnecting")

        proxy.restore()
        ann.page.clock.resume()
        ann.wait_live()


def test_text_survives_a_server_that_is_away(server: Server, open_board: OpenBoard) -> None:
    """Without a server nothing typed is lost, the page says what to do, and a retry works once."""
    with Proxy(server.port) as proxy:
        ann = open_board(proxy.url, user="ann", outage=True)
        proxy.cut()
        ann.wait_connection("Reconnecting")

        ann.add_task("Typed while away")
        ann.say("Said while away")
        expect(ann.page.locator("#task-form-error")).to_contain_text("your text is kept")
        expect(ann.page.locator("#chat-text-error")).to_contain_text("your text is kept")
        expect(ann.page.get_by_label("Task title")).to_have_value("Typed while away")
        proxy.restore()
        ann.wait_live()
        ann.page.get_by_role("button", name="Add task").click()
        ann.page.get_by_role("button", name="Send message").click()

        expect(ann.page.get_by_label("Task title")).to_have_value("")
        expect(ann.task("Typed while away")).to_have_count(1)
        expect(ann.message("Said while away")).to_have_count(1)
        expect(ann.page.locator("#task-form-error")).to_be_empty()


def test_a_lost_answer_is_not_sent_twice(open_board: OpenBoard) -> None:
    """When only the answer got lost, the push takes the text out of the form."""
    ann = open_board(user="ann", outage=True)

    def lose_answer(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    ann.page.route("**/tasks", lose_answer)
    ann.page.route("**/messages", lose_answer)
    ann.add_task("Answer lost")
    ann.say("Answer lost too")

    expect(ann.task("Answer lost")).to_have_count(1)
    expect(ann.message("Answer lost too")).to_have_count(1)
    expect(ann.page.get_by_label("Task title")).to_have_value("")
    expect(ann.page.get_by_label("Message", exact=True)).to_have_value("")
    expect(ann.toast("Answer lost")).to_have_count(0)


def test_a_failed_completion_goes_back(open_board: OpenBoard) -> None:
    """A completion that did not reach the server is taken back and said so."""
    ann = open_board(outage=True)
    ann.add_task("Not so fast")
    expect(ann.check("Not so fast")).to_be_visible()
    ann.page.route("**/tasks/*", lambda route: route.abort("connectionreset"))

    ann.check("Not so fast").click()

    expect(ann.task("Not so fast").get_by_role("alert")).to_contain_text("Not saved")
    expect(ann.check("Not so fast")).not_to_be_checked()


def test_offline_is_told_from_reconnecting(open_board: OpenBoard, open_api: OpenAPI) -> None:
    """A browser without a network says Offline; with it the page is live and complete again."""
    ann = open_board(outage=True)

    ann.page.context.set_offline(True)
    ann.wait_connection("Offline")
    open_api().post("/tasks", data={"title": "While the lid was closed"})
    ann.page.context.set_offline(False)
    ann.wait_live()

    expect(ann.task("While the lid was closed")).to_have_count(1)


def test_an_ended_session_is_told(tmp_path: Path, open_board: OpenBoard) -> None:
    """When the token expires the page says so, goes on as a guest, and keeps what was typed."""
    env = {"WIREBELL_DEMO_TOKEN_TTL_SECONDS": "8"}
    with servers.demo(tmp_path, env=env) as short:
        ann = open_board(short.url, user="ann")
        ann.page.get_by_label("Task title").fill("Half a thought")

        ended = ann.page.locator("#welcome-text")
        expect(ended).to_contain_text("session has ended", timeout=WAIT_MS)
        expect(ann.page.get_by_role("button", name="Continue as ann")).to_be_visible()
        expect(ann.page.get_by_label("Task title")).to_have_value("Half a thought")
        ann.wait_live()
