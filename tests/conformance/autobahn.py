"""Runs the cases of the Autobahn test suite against one of our servers.

As a program it runs all 517, four minutes on two cores: `scripts/conformance`, or some of them:
`scripts/conformance '9.*' '12.1.*'`; ``--server`` names one of `tests.servers.SERVER_KINDS`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests import servers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("CASES_COUNT", "PASSED", "main", "run")

APP = "tests.conformance.echo_app:app"
CASES_COUNT = 517
# The longest message of group 9 has 16 MiB. The runner counts the first ping of a server as the end
# of a case, so there are none.
ARGUMENTS = ("--ws-max-size", "33554432", "--ws-ping-interval", "0", "--log-level", "warning")
PASSED = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
"""Outcomes that the suite itself counts as passed."""


def run(
    kind: str, cases: Sequence[str] = (), *, report: Path | None = None, seconds: float = 1_200
) -> dict[str, str]:
    """Run cases against a plain FastAPI echo app.

    Args:
        kind: One of `tests.servers.SERVER_KINDS` that is uvicorn.
        cases: Ids or globs, as ``"9.*"``; empty for all.
        report: Folder for a page about each case; ``None`` keeps none.
        seconds: Bound of the whole run.

    Returns:
        Case → outcome, the worse one of what happened and of how it closed.

    Raises:
        RuntimeError: The runner itself broke.
    """
    chosen = [part for case in cases for part in ("-i", case)]
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.serve(APP, kind, arguments=ARGUMENTS) as s,
    ):
        target = report or Path(folder)
        # The console script stands beside the interpreter that the tests run on.
        program = [str(Path(sys.executable).with_name("kosoku")), "-p", "2", "-o", str(target)]
        result = subprocess.run(
            [*program, *chosen, f"{servers.HOST}:{s.port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        try:
            found = json.loads((target / "index.json").read_text())
        except OSError:
            raise RuntimeError(f"kosoku wrote no report: {result.stderr}\n{s.log()}") from None
    (by_case,) = found.values()
    return {case: worse(entry) for case, entry in by_case.items()}


def worse(entry: dict[str, str]) -> str:
    """Return how a case ended: how it closed where that was wrong, else what happened in it."""
    behavior, closing = entry["behavior"], entry["behaviorClose"]
    return closing if behavior in PASSED and closing not in PASSED else behavior


def sort_key(case: str) -> list[int]:
    """Order 9.10.1 behind 9.2.1."""
    return [int(number) for number in case.split(".")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases, print what failed, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run Autobahn's cases against our server.")
    parser.add_argument("cases", nargs="*", help="ids or globs, all without any")
    parser.add_argument("--server", default="wirebell-uvloop-httptools")
    parser.add_argument("--report", type=Path, help="folder for a page about each case")
    chosen = parser.parse_args(arguments)
    outcomes = run(chosen.server, chosen.cases, report=chosen.report)
    counts = Counter(outcomes.values())
    failed = sorted((case for case in outcomes if outcomes[case] not in PASSED), key=sort_key)
    words = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    lines = [f"{case}: {outcomes[case]}" for case in failed]
    lines.append(f"{chosen.server}: {len(outcomes)} cases, {words or 'none'}")
    is_whole = bool(chosen.cases) or len(outcomes) == CASES_COUNT
    if not is_whole:
        lines.append(f"expected {CASES_COUNT} cases")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if outcomes and is_whole and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
