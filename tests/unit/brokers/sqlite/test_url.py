"""What a URL says to the sqlite broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from wirebell.broker_options import SQLiteOptions
from wirebell.brokers import create_broker, read_broker_url
from wirebell.brokers.sqlite import SQLiteBroker, SQLitePresenceStore
from wirebell.errors import ConfigError
from wirebell.settings import Settings


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///broker.db", "broker.db"),
        ("sqlite:///data/my broker#1.db", "data/my broker#1.db"),
        ("sqlite:////var/lib/broker.db", "/var/lib/broker.db"),
        ("sqlite:///50%25.db", "50%25.db"),
    ],
)
def test_paths(url: str, path: str) -> None:
    """Three slashes begin a relative path, four an absolute one, and nothing is decoded."""
    assert SQLiteOptions(path=path) == read_broker_url(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite://", "has no host"),
        ("sqlite:", "has no host"),
        ("sqlite://broker.db", "has no host"),
        ("sqlite://host/broker.db", "has no host"),
        ("sqlite:///", "memory cannot be shared"),
        ("sqlite:///:memory:", "memory cannot be shared"),
        ("sqlite:///broker.db?timeout=5", "a path and no options"),
        ("sqlite:///file:broker.db", "a path and no options"),
    ],
)
def test_what_is_no_file(url: str, told: str) -> None:
    """Whatever names no file is refused, with what to write instead."""
    with pytest.raises(ConfigError, match=told) as caught:
        read_broker_url(url)

    assert "sqlite:///relative.db" in str(caught.value)


def test_broker_and_store_share_a_database(tmp_path: Path) -> None:
    """Broker and presence store of one URL share their threads, and nothing is made yet."""
    broker, store = create_broker(Settings(broker_url=f"sqlite:///{tmp_path}/broker.db"))

    assert isinstance(broker, SQLiteBroker)
    assert isinstance(store, SQLitePresenceStore)
    assert broker.store is store.store
    assert [] == list(tmp_path.iterdir())
