"""Nodes, brokers and networks that fail under publishing: nothing is lost, doubled or hidden.

The whole table, with 300 clients and every fault, is `benchmarks/broker_faults.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.outages.cells import SHORT, run_cell
from tests.outages.verdict import (
    Acknowledged,
    Began,
    Event,
    Heard,
    Log,
    Position,
    Recovered,
    Told,
    Verdict,
    judge,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
CUT_SECONDS = 60


def at(offset: int, epoch: str = "a") -> Position:
    """Return a position."""
    return Position(epoch, offset)


def judge_one(events: Sequence[Event], top: Position, others: Sequence[Event] = ()) -> Verdict:
    """Judge one client, to whom numbers 1 to 3 were published at the offsets 1 to 3."""
    logs = [Log("news", list(each)) for each in (events, others) if each]
    acknowledged = [Acknowledged("news", at(number), number) for number in (1, 2, 3)]
    return judge(logs, acknowledged, {"news": top})


def test_a_clean_verdict() -> None:
    """Whoever heard everything since it began, recovered, or was told, is no victim."""
    hears = [Heard(at(2), 2), Heard(at(3), 3)]

    assert Verdict() == judge_one([Began(at(0)), Heard(at(1), 1), *hears], at(3))
    assert Verdict() == judge_one([Began(at(1)), *hears], at(3))
    assert Verdict(recoveries=1) == judge_one(
        [Began(at(1)), Recovered("a", [(2, 2), (3, 3)])], at(3)
    )
    assert Verdict(told=2, refusals=1, epochs_changed=1) == judge_one(
        [Began(at(1)), Told(at(1, "b"))], at(1, "b")
    )
    # A publication that nobody acknowledged may come again after the data were lost.
    assert Verdict(refusals=1, epochs_changed=1) == judge_one(
        [Began(at(1)), *hears, Told(at(0, "b")), Heard(at(1, "b"), 3)], at(1, "b")
    )


@pytest.mark.parametrize(
    ("events", "top", "expected"),
    [
        pytest.param(
            [Began(at(0)), Heard(at(1), 1), Heard(at(3), 3)],
            at(3),
            Verdict(lost=1, hidden=1),
            id="a hole",
        ),
        pytest.param([Began(at(1)), Heard(at(2), 2)], at(3), Verdict(lost=1, hidden=1), id="end"),
        pytest.param(
            [Began(at(2)), Heard(at(3), 3), Heard(at(3), 3)], at(3), Verdict(doubled=1), id="twice"
        ),
        pytest.param(
            [Began(at(2)), Heard(at(3), 3), Heard(at(4), 3)],
            at(4),
            Verdict(doubled=1),
            id="published twice",
        ),
        pytest.param(
            [Began(at(1)), Recovered("a", [(3, 3)])],
            at(3),
            Verdict(lost=1, false_recoveries=1, recoveries=1),
            id="recovered with a hole",
        ),
        pytest.param(
            [Began(at(3)), Recovered("b", [])],
            at(3, "b"),
            Verdict(false_recoveries=1, recoveries=1, epochs_changed=1),
            id="recovered in another epoch",
        ),
        pytest.param(
            [Began(at(2)), Heard(at(3), 4)], at(3), Verdict(lost=1, hidden=1),
            id="another content",
        ),
    ],
)  # fmt: skip
def test_the_verdict_can_fail(events: list[Event], top: Position, expected: Verdict) -> None:
    """What must not be is counted, each kind by its name."""
    assert expected == judge_one(events, top)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broker", "fault"),
    [("sqlite", "node"), ("redis", "wipe"), ("nats", "kill"), ("postgresql", "kill")],
)
def test_a_fault_under_publishing(broker: str, fault: str) -> None:
    """Nothing acknowledged is lost, nothing doubled, no gap hidden, no recovery claimed falsely."""
    cell = run_cell(broker, fault, SHORT)

    assert cell.is_clean, cell
    assert cell.recovery_seconds is not None
    assert cell.acknowledged > 0
    assert fault == "wipe" or 0 == cell.verdict.refusals


@pytest.mark.slow
def test_a_node_is_cut_off_from_its_broker() -> None:
    """A network that is cut between a node and Redis, and healed, costs its clients nothing."""
    program = shutil.which("unshare")
    if program is None or shutil.which("ip") is None:
        miss("ip or unshare is missing: apt install iproute2 util-linux")
    users = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    prefix = (str(program), *users, "--net")
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        miss("this user may not make network namespaces: run as root")
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.outages", "redis", "cut"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=CUT_SECONDS,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    cell = json.loads(done.stdout)
    assert cell["recovery_seconds"] is not None
    assert 0 == cell["verdict"]["refusals"]


def miss(message: str) -> None:
    """Fail, or skip under ``WIREBELL_TEST_ALLOW_MISSING=1``, as for a service that is missing."""
    if os.environ.get("WIREBELL_TEST_ALLOW_MISSING"):
        pytest.skip(message)
    pytest.fail(message)
