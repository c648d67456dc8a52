"""The thread that reads: what it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirebell.brokers.sqlite.inbox import Inbox
from wirebell.brokers.sqlite.reader import QUESTIONS_MAX, Reader, ReadMembers
from wirebell.brokers.sqlite.wakeups import Wakeups
from wirebell.errors import BrokerUnavailable


def test_questions_that_nobody_answers(tmp_path: Path) -> None:
    """A bounded number of questions waits for a disk that does not answer."""
    inbox = Inbox(lambda deliveries, size: None, lambda text: None)
    wakeups = Wakeups(None)
    reader = Reader(tmp_path / "broker.db", inbox, wakeups, lambda: None)
    question = ReadMembers("a", 0.0, lambda answer: None)
    for _ in range(QUESTIONS_MAX):
        reader.ask(question)

    with pytest.raises(BrokerUnavailable, match="slower than its callers"):
        reader.ask(question)
    wakeups.close()
