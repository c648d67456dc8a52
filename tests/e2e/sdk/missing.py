"""What to do when a test needs something that this machine does not have."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

__all__ = ("fail_missing",)


def fail_missing(what: str) -> NoReturn:
    """Fail, or skip where that is allowed; never in continuous integration."""
    if os.environ.get("WIREBELL_TEST_ALLOW_MISSING") and not os.environ.get("CI"):
        pytest.skip(f"{what} is missing, and WIREBELL_TEST_ALLOW_MISSING allows it")
    pytest.fail(f"{what} is missing")
