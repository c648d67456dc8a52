"""The benchmark of brokers runs: what it measures becomes cells, and cells become tables."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CELL = {
    "peer": "redis",
    "title": "redis",
    "question": "own_history",
    "per_second": 12_345.6,
    "p50_ms": 0.5,
    "p99_ms": 1.25,
    "in_flight": 100,
    "nodes_ms_per_1000": 40.4,
    "broker_ms_per_1000": 5.0,
    "ratio_to_c": 0.123,
}
FOUND: dict[str, Any] = {
    "method": {"windows": [1, 100], "room": 1000, "room_window": 8},
    "cells": [
        CELL | {"peer": "memory", "title": "memory", "in_flight": 1, "p50_ms": 0.2},
        CELL,
        CELL | {"question": "across", "in_flight": 1},
        CELL | {"question": "across"},
        {"peer": "redis", "title": "redis", "question": "room", "failure": "not done in 45 s"},
    ],
}


Render = Callable[[dict[str, Any]], str]


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch) -> Render:
    """Render cells as the README shows them; a benchmark finds its neighbours beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found: Render = importlib.import_module("report").render_brokers
    return found


def test_tables_of_brokers_show_what_was_measured(render: Render) -> None:
    """A cell has p99, rate, ratio and CPU, two nodes what they add, a failure its reason."""
    one, two = (line for line in render(FOUND).splitlines() if line.startswith("| redis |"))

    assert "| redis | 1.2 ms · 12.3 k/s · 0.123 | – | 40 + 5 ms | – |" == one
    assert (
        "| redis | 0.50 · 1.25 ms · +0.30 ms | 1.2 ms · 12.3 k/s · 0.123 | 40 + 5 ms | "
        "not done in 45 s |"
    ) == two


def test_what_fails_on_one_node_has_no_row_of_two(render: Render) -> None:
    """A subject that did not start has its reason in the first table, and nothing else."""
    failed = {"peer": "nats", "title": "nats", "question": "own", "failure": "does not answer"}
    found = FOUND | {"cells": [*FOUND["cells"], failed]}

    rows = [line for line in render(found).splitlines() if line.startswith("| nats |")]

    assert ["| nats | – | does not answer | – | – |"] == rows


@pytest.mark.slow
def test_benchmark_of_brokers_runs(tmp_path: Path, render: Render) -> None:
    """Clients of two nodes get what they publish through Redis, and the results say how fast."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("the loads are C programs, and there is no compiler")
    out = tmp_path / "brokers.json"
    words = ["--quick", "--only", "redis", "--questions", "across", "--out", str(out)]

    done = subprocess.run(
        [sys.executable, "benchmarks/brokers.py", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    found = json.loads(out.read_text())
    assert [1, 8] == [cell["in_flight"] for cell in found["cells"]], found["cells"]
    assert all(cell["per_second"] > 0 < cell["ratio_to_c"] for cell in found["cells"])
    assert "| Wirebell, Redis |" in render(found)
