"""The thread that writes: what it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirebell.brokers.sqlite.inbox import Inbox
from wirebell.brokers.sqlite.writer import Job, Writer
from wirebell.errors import BrokerUnavailable


def test_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    """While a batch has not even begun no other is taken: nothing would ever bound them."""
    inbox = Inbox(lambda deliveries, size: None, lambda text: None)
    writer = Writer(tmp_path / "broker.db", inbox, lambda: None, lambda: None)
    writer.submit(Job((), lambda answers: None))

    with pytest.raises(BrokerUnavailable, match=r"the disk .* does not answer"):
        writer.submit(Job((), lambda answers: None))
