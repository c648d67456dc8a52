"""What an error of NATS means."""

from __future__ import annotations

import ssl

import pytest

from wirebell.brokers.nats.faults import Declined, Refused, WireLost, explain
from wirebell.errors import BrokerUnavailable, ConfigError


@pytest.mark.parametrize(
    ("error", "words", "is_final"),
    [
        (Declined(10076, "off"), "start nats-server with -js", True),
        (Declined(10074, "no"), "replicas=1", True),
        (Declined(10047, "full"), "max_file_store", True),
        (Declined(10008, "away"), "no leader", False),
        (Declined(503, "no responders"), "nobody answers", False),
        (Declined(12345, "what"), "what (12345)", False),
        (Refused("go away"), "go away", True),
        (ssl.SSLError("bad"), "TLS failed", True),
        (TimeoutError(), "does not answer in time", False),
        (WireLost(""), "closed the link", False),
        (WireLost("Slow Consumer"), "Slow Consumer", False),
        (ConnectionRefusedError("refused"), "cannot be reached", False),
    ],
)
def test_explain(error: Exception, words: str, is_final: bool) -> None:
    """An error says what is wrong, and at the start whether waiting helps."""
    fault = explain(error)

    assert words in fault.text
    assert is_final == fault.is_final
    assert isinstance(fault.at("h:1"), BrokerUnavailable)
    assert isinstance(fault.at_start("h:1"), ConfigError if is_final else BrokerUnavailable)
    assert str(fault.at("h:1")).startswith("NATS at h:1: ")


def test_temporary() -> None:
    """What may pass in a moment is told from what does not."""
    assert Declined(10008, "").is_temporary
    assert not Declined(10071, "").is_temporary


def test_taken() -> None:
    """That somebody else was first is told in three ways, by servers of several releases."""
    assert all(Declined(code, "").is_taken for code in (10071, 10158, 10164))
    assert not Declined(10077, "").is_taken
