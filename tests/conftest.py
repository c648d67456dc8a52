"""What all tests share: async tests run on asyncio, through AnyIO's plugin."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the only loop that Wirebell knows."""
    return "asyncio"
