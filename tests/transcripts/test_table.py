"""The table of accepted differences is honest: complete rows, that differ, on a fresh page."""

from __future__ import annotations

import pytest

from tests.transcripts.comparison import Comparison
from tests.transcripts.recordings import Accepted, list_accepted, list_recordings, read_recording
from tests.transcripts.table import PAGE, render

ROWS = [
    pytest.param(row, id=f"{row.scenario}-{number}") for number, row in enumerate(list_accepted())
]


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_complete(row: Accepted) -> None:
    """A row names a recording and says what is different and why."""
    assert row.scenario in list(list_recordings())
    assert all((row.recorded, row.reason, row.ours or not row.is_played))
    assert bool(row.lines or row.varies) == row.is_played


@pytest.mark.parametrize("row", ROWS)
def test_rows_differ_from_the_recording(row: Accepted) -> None:
    """No row is left from a difference that we no longer have: each changes what is compared."""
    recording = read_recording(row.scenario)
    ours = recording.with_accepted([row])
    for line in row.lines:
        (recorded,) = (event for event in recording.events if event.line == line)
        instead = [event for event in ours.events if event.line == line]

        differences = Comparison(recording.varies).differences(
            [dict(recorded.fields)], [dict(event.fields) for event in instead]
        )
        assert [] != differences, line


def test_the_page_is_fresh() -> None:
    """`DIFFERENCES.md` is what the table says; `python -m tests.transcripts.table` writes it."""
    assert render() == PAGE.read_text(encoding="utf-8")
