"""Everybody can use the page: by keyboard, by screen reader, on a phone, in the dark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.e2e.board import sign_in_api

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

    from tests.e2e.conftest import OpenAPI, OpenBoard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

PHONE: ViewportSize = {"width": 360, "height": 740}
WIDE: ViewportSize = {"width": 1440, "height": 900}
WEB = Path(__file__).parents[2] / "src" / "wirebell" / "demo" / "web"
CONTROL_ROLES = {
    "button", "checkbox", "combobox", "dialog", "form", "link", "log", "navigation", "region",
    "textbox",
}  # fmt: skip

LUMINANCE_RED, LUMINANCE_GREEN, LUMINANCE_BLUE = 0.2126, 0.7152, 0.0722
TEXT_RATIO, CONTROL_RATIO = 4.5, 3.0
"""WCAG 2.2, 1.4.3 for text and 1.4.11 for what a control is recognised by."""
GROUNDS = ("paper", "surface", "surface-inset", "surface-raised", "accent-soft")
PAIRS: list[tuple[str, float, tuple[str, ...]]] = [
    ("ink", TEXT_RATIO, GROUNDS),
    ("ink-soft", TEXT_RATIO, GROUNDS),
    ("ink-faint", TEXT_RATIO, GROUNDS),
    ("accent", TEXT_RATIO, GROUNDS),
    ("accent-ink", TEXT_RATIO, ("accent", "accent-hover")),
    ("brass-ink", TEXT_RATIO, ("brass",)),
    ("brass", TEXT_RATIO, ("surface-inset",)),
    ("danger", TEXT_RATIO, (*GROUNDS[:4], "danger-soft")),
    ("warn", TEXT_RATIO, ("warn-soft",)),
    ("good", CONTROL_RATIO, ("paper", "surface")),
    ("line-control", CONTROL_RATIO, GROUNDS),
    *((f"tone-{tone}-ink", TEXT_RATIO, (f"tone-{tone}",)) for tone in (*range(8), "guest")),
]
"""Ink, the contrast it needs, and what it stands on."""


def fill(open_api: OpenAPI) -> None:
    """Put something of every kind on the board, long words included."""
    bob = sign_in_api(open_api(), "bob")
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenfabrikant"
    task = bob.post("/tasks", data={"title": long * 3, "description": f"{long}\n" * 9}).json()
    bob.post("/tasks", data={"title": "Short"})
    bob.patch(f"/tasks/{task['task']['id']}", data={"completed": True})
    bob.post("/messages", data={"text": long * 4})


def unnamed_controls(page: Page) -> list[str]:
    """Return the role of each control that the browser's accessibility tree has no name for."""
    tree: dict[str, Any] = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    unnamed: list[str] = []
    for node in tree["nodes"]:
        role = node.get("role", {}).get("value", "")
        name = node.get("name", {}).get("value", "")
        if not node["ignored"] and role in CONTROL_ROLES and not name.strip():
            unnamed.append(f"{role} {node.get('properties')}")
    return unnamed


def structure_faults(page: Page) -> list[str]:
    """Return what is wrong with ids, references, headings, landmarks and target sizes."""
    faults: list[str] = page.evaluate("""() => {
        const faults = [];
        const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
        for (const id of ids) {
            if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id ${id} twice`);
        }
        for (const name of ["for", "aria-labelledby", "aria-describedby", "aria-controls"]) {
            for (const e of document.querySelectorAll(`[${name}]`)) {
                for (const id of e.getAttribute(name).split(" ")) {
                    if (!document.getElementById(id)) faults.push(`${name} points to no ${id}`);
                }
            }
        }
        for (const [what, count] of Object.entries({h1: 1, main: 1, "body > header": 1})) {
            const found = document.querySelectorAll(what).length;
            if (found !== count) faults.push(`${found} ${what}`);
        }
        if (!document.documentElement.lang) faults.push("no language");
        for (const e of document.querySelectorAll("button, input, select, summary, textarea")) {
            const box = e.getBoundingClientRect();
            // 24 px: WCAG 2.2, 2.5.8. A check box has a larger target around it.
            if (box.width && (box.width < 24 || box.height < 24) && e.type !== "checkbox") {
                faults.push(`${e.id || e.className} is ${box.width} by ${box.height} px`);
            }
        }
        return faults;
    }""")
    return faults


def test_every_control_has_a_name(open_board: OpenBoard, open_api: OpenAPI) -> None:
    """A screen reader has a name for each control, whichever panel or dialog is open."""
    fill(open_api)
    guest = open_board()
    page = guest.page
    expect(guest.task("Short")).to_be_visible()

    def check() -> None:
        for width in (WIDE, PHONE):
            page.set_viewport_size(width)
            assert [] == unnamed_controls(page) + structure_faults(page)

    check()
    page.get_by_text("Sockets playground").click()
    page.locator("#bell-button").click()
    expect(page.locator(".entry").first).to_be_visible()
    check()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Create an account").click()
    check()


def test_no_width_scrolls_sideways(open_board: OpenBoard) -> None:
    """No part of the page is wider than the window, however long the words are."""
    board = open_board()
    page = board.page

    def check() -> None:
        for width in (320, 360, 768, 1440):
            page.set_viewport_size({"width": width, "height": 740})
            assert width == page.evaluate("document.documentElement.scrollWidth")

    check()
    board.sign_in("ann")
    check()
    page.get_by_text("Sockets playground").click()
    page.locator("#bell-button").click()
    check()
    page.keyboard.press("Escape")
    for view in ("chat", "people"):
        page.set_viewport_size(PHONE)
        page.locator(f"[data-view-button={view}]").click()
        check()


def test_a_task_is_made_by_keyboard_alone(open_board: OpenBoard) -> None:
    """From the top of the page: sign in, skip to the board, add a task, complete it; no mouse."""
    guest = open_board()
    page = guest.page

    def tab_to(name: str) -> None:
        """Press Tab until the element with this accessible name has focus, visibly."""
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and name in (focused.aria_snapshot() or ""):
                width = focused.evaluate("(e) => getComputedStyle(e).outlineWidth")
                assert "0px" != width, f"{name} does not show its focus"
                return
        pytest.fail(f"Tab never came to {name}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the board")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to("Continue as ann")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Task title")).to_be_focused()
    page.keyboard.type("Typed, not clicked")
    page.keyboard.press("Enter")
    expect(guest.task("Typed, not clicked")).to_have_count(1)
    tab_to("Done: Typed, not clicked")
    page.keyboard.press("Space")

    expect(guest.check("Typed, not clicked")).to_be_checked()
    expect(guest.task("Typed, not clicked")).to_contain_text("done by you")


def test_bell_opens_and_closes_by_keyboard(open_board: OpenBoard) -> None:
    """Enter opens the panel and moves focus into it, Escape closes it and gives focus back."""
    page = open_board().page
    bell = page.locator("#bell-button")

    bell.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Notifications")).to_be_focused()
    expect(bell).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")

    expect(bell).to_be_focused()
    expect(page.locator("#bell-panel")).to_be_hidden()


def test_notifications_move_nothing(open_board: OpenBoard, open_api: OpenAPI) -> None:
    """A toast, a count on the bell and a lost connection leave every control where it was."""
    ann = open_board(user="ann", viewport=PHONE, outage=True)
    bob = sign_in_api(open_api(), "bob")
    bob.post("/messages", data={"text": "First"})
    expect(ann.toast("bob wrote First")).to_be_visible()
    where = (
        "() => ['#task-title', '#theme-toggle', '#bell-button', '.tabs', '#task-submit']"
        ".map((s) => JSON.stringify(document.querySelector(s).getBoundingClientRect()))"
    )
    before = ann.page.evaluate(where)

    bob.post("/messages", data={"text": "Second"})
    expect(ann.toast("bob wrote Second")).to_be_visible()
    ann.page.context.set_offline(True)
    ann.wait_connection("Offline")

    assert before == ann.page.evaluate(where)


def test_theme_follows_the_system_until_chosen(open_board: OpenBoard) -> None:
    """Dark where the system is dark; the toggle changes it, and a reload keeps the choice."""
    page = open_board(color_scheme="dark").page
    paper = "() => getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(paper)

    page.get_by_role("button", name="Switch to light theme").click()
    light = page.evaluate(paper)
    page.reload()

    assert dark != light
    assert light == page.evaluate(paper)
    expect(page.get_by_role("button", name="Switch to dark theme")).to_be_visible()


def test_reduced_motion_is_respected(open_board: OpenBoard) -> None:
    """Nothing is animated for people who asked their system for less motion."""
    still = open_board(reduced_motion="reduce")
    moving = open_board(reduced_motion="no-preference")

    moving.add_task("Arrives for both")
    expect(still.task("Arrives for both")).to_be_visible()

    animation = "(task) => getComputedStyle(task).animationName"
    assert "arrive" == moving.task("Arrives for both").evaluate(animation)
    assert "none" == still.task("Arrives for both").evaluate(animation)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_enough_contrast(theme: str) -> None:
    """Each ink of the tokens reaches its contrast on each ground it stands on."""
    tokens = (WEB / "tokens.css").read_text(encoding="utf-8")
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", tokens)
    colours = {name: light if theme == "light" else dark for name, light, dark in found}

    low = [
        f"{ink} on {ground}"
        for ink, needed, grounds in PAIRS
        for ground in grounds
        if contrast(colours[ink], colours[ground]) < needed
    ]

    assert [] == low


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2.2, "relative luminance")."""
    linear: list[float] = []
    for start in (1, 3, 5):
        channel = int(colour[start : start + 2], 16) / 255
        linear.append(channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4)
    return LUMINANCE_RED * linear[0] + LUMINANCE_GREEN * linear[1] + LUMINANCE_BLUE * linear[2]
