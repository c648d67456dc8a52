"""Real brokers for tests: started on free ports in folders of their own, and stopped by the block.

One module for each kind of server. `find_program` is how all of them look for theirs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

__all__ = ("find_program",)


def find_program(name: str, package: str, *folders: str) -> str:
    """Return the path of a server's program.

    Args:
        name: Of the program.
        package: Debian's package that has it.
        folders: Where to look besides ``PATH``; patterns.

    A missing one fails the test, or skips it under ``WIREBELL_TEST_ALLOW_MISSING=1``.
    """
    found = shutil.which(name)
    for folder in folders:
        root, _, pattern = folder.partition("*")
        matches = sorted(Path(root).glob(f"*{pattern}/{name}")) if pattern or root != folder else []
        if matches:
            found = str(matches[-1])
    if found is not None:
        return found
    message = f"{name} is missing: apt install {package}"
    if os.environ.get("WIREBELL_TEST_ALLOW_MISSING"):
        pytest.skip(message)
    pytest.fail(message)
