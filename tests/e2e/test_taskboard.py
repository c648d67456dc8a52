"""What people do together on the board, in real browsers against a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.e2e.board import PASSWORD, sign_in_api

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.e2e.conftest import OpenAPI, OpenBoard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def test_two_people_share_tasks_live(open_board: OpenBoard) -> None:
    """What ann adds and completes stands on bob's page at once, once, with her name."""
    ann, bob = open_board(user="ann"), open_board(user="bob")

    ann.add_task("Water the plants", "The ones by the window too.")
    expect(bob.task("Water the plants")).to_have_count(1)
    bob.check("Water the plants").check()

    expect(ann.check("Water the plants")).to_be_checked()
    expect(ann.task("Water the plants")).to_have_count(1)
    expect(ann.task("Water the plants")).to_contain_text("Added by you")
    expect(ann.task("Water the plants")).to_contain_text("done by bob")
    expect(bob.task("Water the plants")).to_contain_text("The ones by the window too.")
    bob.check("Water the plants").uncheck()
    expect(ann.check("Water the plants")).not_to_be_checked()


def test_others_are_notified_and_oneself_is_not(open_board: OpenBoard) -> None:
    """A toast and the bell tell bob of ann's task; ann hears nothing of her own work."""
    ann, bob = open_board(user="ann"), open_board(user="bob")

    ann.add_task("Call the printer")
    expect(bob.toast("ann added Call the printer")).to_be_visible()
    bob.expect_unread(1)
    bob.check("Call the printer").check()

    expect(ann.toast("bob completed Call the printer")).to_be_visible()
    ann.expect_unread(1)
    expect(ann.toast("added")).to_have_count(0)
    expect(bob.toast("completed")).to_have_count(0)
    bob.expect_unread(1)


def test_unread_position_is_kept_for_each_user(open_board: OpenBoard, open_api: OpenAPI) -> None:
    """Mark all read survives a reload, and holds for the user who clicked it."""
    bob = open_board(user="bob")
    ann = sign_in_api(open_api(), "ann")
    for title in ("Unread one", "Unread two"):
        ann.post("/tasks", data={"title": title})
    bob.expect_unread(2)

    bob.page.reload()
    bob.wait_live()
    bob.expect_unread(2)
    bob.page.locator("#bell-button").click()
    expect(bob.page.locator(".entry.unread")).to_have_count(2)
    bob.page.locator(".entry button").filter(has_text="ann added Unread one").click()
    expect(bob.task("Unread one")).to_be_focused()
    bob.expect_unread(1)
    bob.page.locator("#bell-button").click()
    bob.page.get_by_role("button", name="Mark all read").click()

    bob.expect_unread(0)
    bob.page.reload()
    bob.wait_live()
    bob.page.locator("#bell-button").click()
    expect(bob.page.locator(".entry").first).to_be_visible()
    expect(bob.page.locator(".entry.unread")).to_have_count(0)
    bob.expect_unread(0)


def test_chat_is_shared_and_quiet_while_it_is_seen(open_board: OpenBoard) -> None:
    """A message shows on both pages once; a toast tells of it only where the chat is hidden."""
    ann, bob = open_board(user="ann"), open_board(user="bob")
    phone = open_board(viewport={"width": 360, "height": 740})

    ann.say("Anybody here?")
    expect(phone.toast("ann wrote Anybody here?")).to_be_visible()
    expect(phone.page.locator("#chat-badge")).to_have_text("1")
    bob.say("Yes!")

    for board in (ann, bob):
        expect(board.message("Anybody here?")).to_have_count(1)
        expect(board.message("Yes!")).to_have_count(1)
        expect(board.toast("wrote")).to_have_count(0)
        board.expect_unread(0)
    phone.page.get_by_role("button", name=re.compile("^Chat")).click()
    expect(phone.message("Yes!")).to_be_visible()
    # Sooner than by itself: it would stand on the field for the answer.
    expect(phone.toast("wrote")).to_have_count(0, timeout=3_000)
    phone.expect_unread(0)


def test_presence_follows_people(open_board: OpenBoard) -> None:
    """Who signs in appears for others, and who leaves with the last window disappears."""
    ann, bob, second = open_board(user="ann"), open_board(), open_board(user="bob")
    bob.sign_in("bob")
    ann.expect_online("ann", "bob")

    second.page.close()
    ann.expect_online("ann", "bob")
    bob.page.locator("#account-button").click()
    bob.page.get_by_role("button", name="Sign out").click()

    ann.expect_online("ann")
    expect(ann.page.locator(".person", has_text="1 guest")).to_have_count(1)


def test_registering_signs_in_and_says_what_is_wrong(open_board: OpenBoard) -> None:
    """A taken name and a short password are told at their fields; then the account works."""
    guest = open_board()
    page = guest.page
    page.get_by_role("button", name="Create an account").click()
    dialog = page.get_by_role("dialog", name="Create an account")
    dialog.get_by_label("Username").fill("carla")
    dialog.get_by_label("Password").fill("short")
    dialog.get_by_role("button", name="Create account").click()
    expect(dialog.get_by_text("Use 8 characters or more.")).to_be_visible()
    dialog.get_by_label("Username").fill("ann")
    dialog.get_by_label("Password").fill("long enough")
    guest.outage_expected = True  # chromium prints every answer from 400 up
    guest.problems.clear()
    dialog.get_by_role("button", name="Create account").click()
    expect(dialog.get_by_text("This name is taken")).to_be_visible()
    assert all("409" in problem for problem in guest.problems)
    guest.problems.clear()
    dialog.get_by_label("Username").fill("carla")
    dialog.get_by_role("button", name="Create account").click()

    expect(page.locator("#account-name")).to_have_text("carla")
    guest.wait_live()
    guest.expect_online("carla")


def test_wrong_password_is_told_and_the_name_kept(open_board: OpenBoard) -> None:
    """Signing in with a wrong password says so and keeps what was typed."""
    guest = open_board()
    guest.page.get_by_role("button", name="Sign in", exact=True).first.click()
    dialog = guest.page.get_by_role("dialog", name="Sign in")
    dialog.get_by_label("Username").fill("ann")
    dialog.get_by_label("Password").fill(PASSWORD + "!")
    dialog.get_by_role("button", name="Sign in").click()

    expect(dialog.get_by_text("do not match")).to_be_visible()
    expect(dialog.get_by_label("Username")).to_have_value("ann")
    assert all("401" in problem for problem in guest.problems)
    guest.problems.clear()


def test_guests_are_not_notified_of_their_own_work(open_board: OpenBoard) -> None:
    """Two guests have no names, yet each is told of the other's task only."""
    one, two = open_board(), open_board()

    one.add_task("By a guest")
    expect(two.toast("A guest added By a guest")).to_be_visible()
    two.add_task("By another guest")

    expect(one.toast("A guest added By another guest")).to_be_visible()
    expect(one.toast("By a guest")).to_have_count(0)
    expect(two.toast("By another guest")).to_have_count(0)


def test_push_and_answer_make_one_task(open_board: OpenBoard) -> None:
    """Whichever arrives first, the answer to our POST or its push, the task is there once."""
    guest = open_board()
    field = guest.page.get_by_label("Task title")

    def answer_late(route: Route) -> None:
        response = route.fetch()
        expect(guest.task("Push first")).to_have_count(1)
        route.fulfill(response=response)

    guest.add_task("Answer first")
    expect(field).to_have_value("")
    guest.page.route("**/tasks", answer_late)
    guest.add_task("Push first")

    expect(field).to_have_value("")
    for title in ("Answer first", "Push first"):
        expect(guest.task(title)).to_have_count(1)
        expect(guest.toast(title)).to_have_count(0)


def test_text_stays_when_it_cannot_be_sent(open_board: OpenBoard) -> None:
    """A title that is too long is told at its field, and nothing that was typed is lost."""
    guest = open_board()
    title = "x" * 201

    guest.add_task(title, "Kept as well")

    field = guest.page.get_by_label("Task title")
    expect(guest.page.get_by_text("The title has 201 characters, the most is 200.")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(field).to_have_value(title)
    expect(guest.page.get_by_label("Description")).to_have_value("Kept as well")
    guest.page.reload()
    guest.wait_live()
    expect(field).to_have_value(title)


def test_the_servers_refusal_is_told_at_the_field(open_board: OpenBoard) -> None:
    """What the server finds wrong with a field stands beside that field."""
    guest = open_board()

    # The page checks first; a title the page lets through and the server refuses is made here.
    guest.page.route("**/tasks", lambda route: route.continue_(post_data='{"title": "  "}'))
    guest.add_task("Emptied on its way")

    expect(guest.page.locator("#task-title-error")).not_to_be_empty()
    expect(guest.page.get_by_label("Task title")).to_have_value("Emptied on its way")
    assert all("422" in problem for problem in guest.problems)
    guest.problems.clear()


def test_markup_in_text_is_text(open_board: OpenBoard) -> None:
    """Nobody's task or message becomes an element on the pages of others."""
    ann, bob = open_board(), open_board()
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    ann.sign_in("ann")
    bob.sign_in("bob")

    ann.add_task(markup, markup)
    ann.say(markup)

    expect(bob.task(markup)).to_have_count(1)
    expect(bob.message(markup)).to_have_count(1)
    expect(bob.toast(markup)).to_be_visible()
    assert 0 == bob.page.locator("main img, main b, .toast img").count()


def test_older_tasks_and_messages_load(open_board: OpenBoard, open_api: OpenAPI) -> None:
    """Load older goes to the first of all, in order, and then is gone."""
    api = open_api()
    for number in range(55):
        api.post("/tasks", data={"title": f"Old task {number}"})
        api.post("/messages", data={"text": f"Old message {number}"})
    guest = open_board()
    expect(guest.task("Old task 54")).to_be_visible()
    expect(guest.task("Old task 4")).to_have_count(0)

    more_tasks = guest.page.locator("#tasks-more")
    while more_tasks.is_visible():
        before = guest.page.locator(".task").count()
        more_tasks.click()
        expect(guest.page.locator(f".task >> nth={before}")).to_be_attached()
        expect(more_tasks).not_to_have_attribute("aria-busy", "true")
    guest.page.get_by_role("button", name="Load older messages").click()

    expect(guest.message("Old message 0")).to_have_count(1)
    for selector, kind in ((".task-title", "task"), (".message-text", "message")):
        shown = guest.page.locator(selector).all_text_contents()
        old = [text for text in shown if text.startswith("Old")]
        expected = [f"Old {kind} {number}" for number in range(55)]
        assert (expected[::-1] if kind == "task" else expected) == old


def test_playground_shows_frames_heartbeat_and_refusals(open_board: OpenBoard) -> None:
    """The article's sockets can be tried: an echo, the heartbeat, and why a socket is refused."""
    guest = open_board()
    page = guest.page
    page.get_by_text("Sockets playground").click()

    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_text("Connected to /ws")).to_be_visible()
    page.get_by_label("Text to send").fill("hello")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_text("Message received: hello")).to_be_visible()
    expect(page.locator("#socket-heartbeat")).to_contain_text("heartbeat")
    page.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("Closed with 1000")).to_be_visible()
    page.get_by_label("Route").select_option(label="/ws/secure/…")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_text("Sign in first")).to_be_visible()
    guest.sign_in("ann")
    page.get_by_role("button", name="Connect", exact=True).click()

    expect(page.get_by_text("Connected to /ws/secure/tasks")).to_be_visible()
    page.get_by_label("Text to send").fill("it is me")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_text("ann: it is me")).to_be_visible()
