"""One value of one key: bounds, defaults, and errors in the words of whoever set it."""

from __future__ import annotations

from typing import Any

import pytest

from wirebell.configuration.keys import KEYS
from wirebell.configuration.reading import Values, read_value
from wirebell.configuration.sources import Entry
from wirebell.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("http_server.port", "65536", "X must be at most 65535, got '65536'"),
        ("http_server.port", -1, "X must be at least 0, got -1"),
        ("client.ping_interval", "fast", "X must be a duration such as 25s, 1m30s or 720h, got"),
        ("log.level", "loud", "X must be one of trace, debug, info, .*, got 'loud'"),
        ("http_api.key", ["a"], "X must be a text, got a value that is not shown"),
    ],
)
def test_bounds(path: str, value: Any, told: str) -> None:
    """An error names the key, the bound and the value, unless that is a secret."""
    with pytest.raises(ConfigError, match=told):
        read_value(KEYS[path], Entry(value, "X"), None, path)


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("client.ping_interval", "0s", 25.0),
        ("client.ping_interval", None, 25.0),
        ("client.channel_limit", 0, 128),
        ("client.recovery_max_publication_limit", "0", 2**31 - 1),
        ("websocket.compression_min_size", 0, 1),
        ("http_server.port", 0, 0),
        ("client.allowed_origins", None, ()),
        ("client.insecure", "0", False),
    ],
)
def test_nothing_and_zero(path: str, value: Any, read: Any) -> None:
    """Nothing is the default, and 0 is what the key says that it stands for."""
    assert read == Values({path: Entry(value, "X")}).get(path)


def test_values() -> None:
    """Values know who said them."""
    values = Values({"client.insecure": Entry("true", "--client.insecure")})

    assert values.get("client.insecure") is True
    assert (True, False) == (values.is_given("client.insecure"), values.is_given("log.level"))
    assert ("--client.insecure", "log.level") == (
        values.origin("client.insecure"),
        values.origin("log.level"),
    )
    assert {"path": "/connection/websocket", "enabled": False} == values.collect(
        "transports.websocket"
    )
