"""What all tests share: async tests run on asyncio, through AnyIO's plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the only loop that Wirebell knows."""
    return "asyncio"


# Run without measuring coverage: the modules that they judge are covered whole by their unit
# tests, and measuring every line of thousands of generated cases took minutes.
UNMEASURED = ("conformance", "fuzz", "property")


# Processes that share a run are dealt whole files, because the tests of one share a server. These
# take longest, so they come first: the run would wait for one that comes last. (The order of
# pytest's arguments does not help: it joins those that overlap.)
LONGEST = (
    "e2e/test_taskboard.py",
    "packaging/test_wheel.py",
    "integration/test_serve.py",
    "e2e/test_shared_connection.py",
    "e2e/test_browser_client.py",
    "integration/test_protocol.py",
    "e2e/test_recovery.py",
    "integration/test_asgi_deployed.py",
    "integration/test_attach.py",
    "docs/test_guide.py",
    "transcripts/test_recordings.py",
    "e2e/sdk/test_browser.py",
    "e2e/sdk/test_javascript.py",
    "integration/test_article_limits.py",
    "integration/test_abilities.py",
    "integration/test_serving.py",
    "e2e/test_accessibility.py",
    "integration/test_demo_postgresql.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is run without measuring coverage, and put the longest files first."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in UNMEASURED:
            item.add_marker("no_cover")
