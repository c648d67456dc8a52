"""Async unit tests run on a loop whose clock jumps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.clocks import JumpingLoop


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run async tests on asyncio, without waiting."""
    return "asyncio", {"loop_factory": JumpingLoop}
