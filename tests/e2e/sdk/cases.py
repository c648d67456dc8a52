"""Which scenario of ``scenarios.mjs`` runs on which transport, against which way to run Wirebell.

A case is one scenario. They are not played one by one, but side by side, once for each target,
and a case looks up how it went.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.targets import TARGETS, create_configuration, run_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.e2e.sdk.control import Control
    from tests.e2e.sdk.targets import Target

__all__ = (
    "BROWSER_TRANSPORTS",
    "NODE_VARIANTS",
    "Job",
    "Outcomes",
    "list_cases",
    "list_scenarios",
    "play",
)

NODE_VARIANTS = ("websocket", "websocket-protobuf", "sse", "http_stream", "http_stream-protobuf")
"""Transports of the SDK in Node, and its protobuf build."""

BROWSER_TRANSPORTS = ("websocket", "sse", "http_stream")
"""What the SDK's file for browsers can."""

MOUNT_ONLY = frozenset({"rpc_of_the_application"})
"""Needs a function of the application; `wirebell serve` has none."""

SERVE_ONLY = frozenset({"rpc"})
"""The method `ping` is an option of `wirebell serve`."""

Job = list[str]
"""A variant and a scenario."""

Outcomes = dict[tuple[str, str, str], str]
"""Target, variant and scenario → what went wrong, empty for nothing."""


def list_scenarios(variant: str, target: str) -> list[str]:
    """Return the names of the scenarios for one transport and one way to run Wirebell."""
    source = (Path(__file__).parent / "scenarios.mjs").read_text(encoding="utf-8")
    names = re.findall(r"^export async function (\w+)", source, re.M)
    left_out = SERVE_ONLY if target == "mount" else MOUNT_ONLY
    if variant.endswith("-protobuf"):
        left_out |= {"fallback"}  # the SDK's SSE has no protobuf
    return [name for name in names if name not in left_out]


def list_cases(variants: Sequence[str]) -> list[object]:
    """Return target, variant and scenario of every case."""
    cases = [
        (target, variant, scenario)
        for target in TARGETS
        for variant in variants
        for scenario in list_scenarios(variant, target)
    ]
    return [pytest.param(case, id="-".join(case)) for case in cases]


def play(
    request: pytest.FixtureRequest,
    control: Control,
    tmp_path_factory: pytest.TempPathFactory,
    run: Callable[[Target, list[Job]], list[dict[str, str]]],
) -> Outcomes:
    """Play the chosen cases of the module that asks.

    Args:
        request: Of the module's fixture; its tests have a parameter ``case``.
        control: What scenarios ask.
        tmp_path_factory: For configuration files.
        run: Plays jobs against a target: an object with ``name`` and ``error`` for each.
    """
    chosen = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    outcomes: Outcomes = {}
    for name in TARGETS:
        jobs = [list(case[1:]) for case in chosen if isinstance(case, tuple) and case[0] == name]
        if not jobs:
            continue
        configuration = create_configuration(control.url)
        with run_target(name, tmp_path_factory.mktemp(name), configuration) as target:
            control.target = target.url
            for result in run(target, jobs):
                variant, _, scenario = result["name"].partition("/")
                problem = f"{result['error']}\n{target.server.log()[-2_000:]}"
                outcomes[name, variant, scenario] = problem if result["error"] else ""
            control.close_networks()
    return outcomes
