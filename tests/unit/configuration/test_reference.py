"""The page about all keys is made from the table, and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirebell.configuration.keys import ACCEPTED, CHANNEL_KEYS, KEYS
from wirebell.configuration.reference import BEGIN, END, insert, main, render

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    """``docs/configuration.md`` holds the tables as they are made today."""
    assert 0 == main(["--check", str(PAGE)]), capsys.readouterr().err


def test_every_key_has_a_row() -> None:
    """Each key stands in one table; that two more sections have those of one is said once."""
    rows = [line.split("`")[1] for line in render().splitlines() if line.startswith("| `")]

    alike = ("broker.redis.", "presence_manager.redis.")
    shown = [path for path in KEYS if not path.startswith(alike)]
    expected = [*shown, *(key.path for key in CHANNEL_KEYS), *ACCEPTED]
    assert sorted(expected) == sorted(rows)


def test_writing_and_checking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page is written between its marks, and told to be out of date before."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    statuses = [main(["--check", str(page)]), main([str(page)]), main(["--check", str(page)])]

    assert [1, 0, 0] == statuses
    assert "is out of date" in capsys.readouterr().err
    assert page.read_text().startswith(f"before\n{BEGIN}\n")
    assert page.read_text().endswith(f"\n{END}\nafter\n")


def test_a_page_without_marks() -> None:
    """A page that has no place for the tables is an error."""
    with pytest.raises(ValueError, match="the page has no"):
        insert("nothing")
