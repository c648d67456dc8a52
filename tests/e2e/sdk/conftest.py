"""Wirebell with everything on, and what the SDKs need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.control import Control
from tests.e2e.sdk.missing import fail_missing
from tests.e2e.sdk.targets import TARGETS, create_configuration, run_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.sdk.targets import Target

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    """Start what scenarios ask."""
    with Control() as started:
        yield started


@pytest.fixture(scope="module", params=TARGETS)
def target(
    request: pytest.FixtureRequest, control: Control, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Run Wirebell in one of the two ways."""
    folder = tmp_path_factory.mktemp(request.param)
    with run_target(request.param, folder, create_configuration(control.url)) as started:
        control.target = started.url
        yield started
        control.close_networks()


@pytest.fixture(scope="session")
def sdk() -> Path:
    """Return the folder in which the JavaScript SDK is installed."""
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["centrifuge"]
    installed = HERE / "node_modules" / "centrifuge" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        fail_missing(f"centrifuge {wanted} (npm ci --prefix tests/e2e/sdk --ignore-scripts)")
    return HERE
