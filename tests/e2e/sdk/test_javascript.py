"""The SDK `centrifuge` from npm in Node, over each transport, in JSON and in protobuf."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.cases import NODE_VARIANTS, list_cases, play
from tests.e2e.sdk.missing import fail_missing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sdk.cases import Job, Outcomes
    from tests.e2e.sdk.control import Control
    from tests.e2e.sdk.targets import Target

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    control: Control,
    sdk: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcomes:
    """Play the chosen scenarios in one process of Node for each target."""
    node = shutil.which("node")
    if node is None:
        fail_missing("node")

    def run(target: Target, jobs: list[Job]) -> list[dict[str, str]]:
        order = {"control": control.url, "prefix": target.prefix, "jobs": jobs}
        command = [node, str(sdk / "node.mjs"), json.dumps(order)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr[-4_000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return play(request, control, tmp_path_factory, run)


@pytest.mark.parametrize("case", list_cases(NODE_VARIANTS))
def test_scenario(case: tuple[str, str, str], outcomes: Outcomes) -> None:
    """An application with the SDK sees what the protocol promises."""
    assert "" == outcomes[case]
