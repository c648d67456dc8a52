"""Which URL means which broker."""

from __future__ import annotations

import pytest

from wirebell.brokers import create_broker
from wirebell.brokers.memory import MemoryBroker, MemoryPresenceStore
from wirebell.errors import ConfigError
from wirebell.settings import Settings


def test_memory() -> None:
    """``memory://`` stays inside the process."""
    broker, store = create_broker(Settings(broker_url="memory://"))

    assert isinstance(broker, MemoryBroker)
    assert isinstance(store, MemoryPresenceStore)


@pytest.mark.parametrize("url", ["", "rabbit://h", "memory", "//x"])
def test_unknown_scheme(url: str) -> None:
    """A scheme that nobody knows is refused with those that are known."""
    with pytest.raises(ConfigError, match=r"broker_url has the scheme '.*', known are: .*memory:"):
        create_broker(Settings(broker_url=url))
