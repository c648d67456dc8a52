"""What a question about a history is expected to cost, and what of its answer is handed out."""

from __future__ import annotations

from wirebell.brokers.postgresql.histories import EXPECTED_BYTES, Question, _run_of, _size_of
from wirebell.model import History, Publication


def question(limit: int = 10, *, is_reverse: bool = False) -> Question:
    """Ask for the beginning, or the end, of a history of 100."""
    return Question(b"a", 0, limit, is_reverse, History(size=100))


def test_size() -> None:
    """An answer is expected to be what was asked for, and no more than may be kept."""
    sizes = [_size_of(question(limit)) for limit in (0, 10, 10**9)]

    assert [EXPECTED_BYTES, 11 * EXPECTED_BYTES, 101 * EXPECTED_BYTES] == sizes


def test_run() -> None:
    """Only the run at the newer end is handed out; in reverse it is the same one."""
    kept = [Publication(b"", offset=offset) for offset in (5, 1, 4, 2)]
    forward = _run_of(kept, question())
    backward = _run_of(kept, question(is_reverse=True))

    assert [4, 5] == [each.offset for each in forward]
    assert [5, 4] == [each.offset for each in backward]
    assert () == _run_of([], question())
