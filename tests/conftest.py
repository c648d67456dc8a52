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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is run without measuring coverage."""
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in UNMEASURED:
            item.add_marker("no_cover")
