"""The table of ``docs/sdks.md`` says what the tests of this folder show, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.sdk.cases import list_scenarios
from tests.e2e.sdk.features import FEATURES, METHODS, replace_table

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "sdks.md"


def list_tests(name: str) -> set[str]:
    """Return the tests of a file, without their prefix."""
    source = (HERE / name).read_text(encoding="utf-8")
    return set(re.findall(r"^(?:async )?def test_(\w+)", source, re.M))


def test_every_scenario_is_in_the_table() -> None:
    """The JavaScript column names every scenario once."""
    named = [name for row in FEATURES for name in row.javascript]
    scenarios = {*list_scenarios("websocket", "serve"), *list_scenarios("websocket", "mount")}

    assert sorted(scenarios) == sorted(named)


def test_every_python_test_is_in_the_table() -> None:
    """The Python column names every test."""
    assert list_tests("test_python.py") == {name for row in FEATURES for name in row.python}


def test_every_method_has_a_test() -> None:
    """The methods of the server API are called by tests that exist."""
    assert {name for _, *names in METHODS for name in names} <= list_tests("test_cent.py")


def test_the_page_is_fresh() -> None:
    """`python -m tests.e2e.sdk.features docs/sdks.md` writes the table."""
    page = PAGE.read_text(encoding="utf-8")

    assert replace_table(page) == page
