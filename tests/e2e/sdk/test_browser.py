"""The SDK's file for browsers in a headless Chromium: WebSocket, SSE and HTTP streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.cases import BROWSER_TRANSPORTS, list_cases, play

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.e2e.sdk.cases import Job, Outcomes
    from tests.e2e.sdk.control import Control
    from tests.e2e.sdk.targets import Target

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    control: Control,
    sdk: Path,
    browser: Browser,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcomes:
    """Play the chosen scenarios in one page for each target."""
    assert sdk.is_dir()

    def run(target: Target, jobs: list[Job]) -> list[dict[str, str]]:
        page = browser.new_page()
        page.goto(control.url)
        page.wait_for_function("window.isReady")
        order = {"prefix": target.prefix, "jobs": jobs}
        results: list[dict[str, str]] = page.evaluate("runScenarios", order)
        page.close()
        return results

    return play(request, control, tmp_path_factory, run)


@pytest.mark.parametrize("case", list_cases(BROWSER_TRANSPORTS))
def test_scenario(case: tuple[str, str, str], outcomes: Outcomes) -> None:
    """A page with the SDK sees what the protocol promises."""
    assert "" == outcomes[case]
