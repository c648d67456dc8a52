"""The Taskboard page in the words of its users: what they do, and what they look at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import APIRequestContext, ConsoleMessage, Locator, Page

__all__ = ("PASSWORD", "WAIT_MS", "Board", "sign_in_api")

PASSWORD = "wirebell-demo"
WAIT_MS = 12_000
"""Longer than any wait of the page but one: the back-off's last step of 20 s."""

OUTAGE = re.compile(r"net::ERR_|WebSocket connection to")
"""What chromium itself prints when a server is away; no page can keep it from doing so."""

REPLACED = "WebSocket is closed before the connection is established"
"""What it prints when a page signs in anew before the link of the old sign-in stands."""


@dataclass
class Board:
    """One person's page.

    Attributes:
        page: The browser's page.
        problems: Console errors, uncaught exceptions and CSP violations so far, oldest first.
        requests: ``"METHOD /path"`` of every request so far, oldest first.
        outage_expected: The server is taken away on purpose: its absence is no problem.
    """

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    outage_expected: bool = False

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda r: self.requests.append(f"{r.method} {path_of(r.url)}"))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"
        )

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type not in {"error", "warning"}:
            return
        if self.outage_expected and OUTAGE.search(message.text):
            return
        if REPLACED in message.text:
            return
        self.problems.append(message.text)

    def sign_in(self, name: str) -> None:
        """Sign in with one of the demo buttons."""
        self.page.get_by_role("button", name=f"Continue as {name}").click()
        expect(self.page.locator("#account-name")).to_have_text(name)
        self.wait_live()

    def wait_live(self) -> None:
        """Wait until the indicator says so."""
        self.wait_connection("Live")

    def wait_connection(self, *labels: str) -> None:
        """Wait until the indicator shows one of these."""
        pattern = re.compile(rf"^({'|'.join(labels)})$")
        expect(self.page.locator("#connection-label")).to_have_text(pattern, timeout=WAIT_MS)

    def retry_now(self) -> None:
        """Have the page try now; it may have come back by itself, and hidden the button."""
        self.page.locator("#connection-retry").dispatch_event("click")

    def add_task(self, title: str, description: str = "") -> None:
        """Add a task by the form."""
        self.page.get_by_label("Task title").fill(title)
        if description:
            self.page.get_by_role("button", name="Add a description").click()
            self.page.get_by_label("Description").fill(description)
        self.page.get_by_role("button", name="Add task").click()

    def task(self, title: str) -> Locator:
        """Return the row, or rows, with this title."""
        exact = re.compile(rf"^\s*{re.escape(title)}\s*$")
        title_line = self.page.locator(".task-title").filter(has_text=exact)
        return self.page.locator(".task").filter(has=title_line)

    def check(self, title: str) -> Locator:
        """Return the check box of a task."""
        return self.page.get_by_role("checkbox", name=f"Done: {title}", exact=True)

    def say(self, text: str) -> None:
        """Send a chat message."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.get_by_label("Message", exact=True).press("Enter")

    def message(self, text: str) -> Locator:
        """Return the message, or messages, with this text."""
        return self.page.locator(".message-text").get_by_text(text, exact=True)

    def toast(self, text: str) -> Locator:
        """Return the toasts that contain this."""
        return self.page.locator(".toast").filter(has_text=text)

    def expect_unread(self, count: int) -> None:
        """Wait until the bell shows this many."""
        name = f"Notifications, {count or 'none'} unread"
        expect(self.page.locator("#bell-button")).to_have_attribute("aria-label", name)

    def expect_online(self, *names: str) -> None:
        """Wait until these users, in any order, are shown as online; guests are not looked at."""
        shown = self.page.locator(".person:not(:has([data-tone=guest])) .person-name")
        expect(shown).to_have_count(len(names))
        for name in names:
            expect(shown.get_by_text(name, exact=True)).to_have_count(1)


def path_of(url: str) -> str:
    """Return the path and query of an address."""
    return "/" + url.split("/", 3)[3]


def sign_in_api(api: APIRequestContext, name: str, url: str = "") -> APIRequestContext:
    """Give an HTTP client the cookie of a demo user; `url` where it has no base of its own."""
    answer = api.post(f"{url}/token", form={"username": name, "password": PASSWORD})
    assert answer.ok, answer.text()
    return api
