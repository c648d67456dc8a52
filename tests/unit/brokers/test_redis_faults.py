"""What errors of Redis mean."""

from __future__ import annotations

import ssl

import hiredis
import pytest
from redis import exceptions

from wirebell.brokers.redis.addresses import Address
from wirebell.brokers.redis.faults import explain, explain_start
from wirebell.errors import BrokerUnavailable, ConfigError

WHERE = Address("h", 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (hiredis.ReplyError("WRONGPASS invalid username-password pair"), "WRONGPASS"),
        (hiredis.ReplyError("NOAUTH HELLO must be called"), "NOAUTH"),
        (exceptions.AuthenticationError("Authentication required."), "NOAUTH"),
        (exceptions.AuthenticationError("invalid username-password pair"), "WRONGPASS"),
        (exceptions.NoPermissionError("this user has no permissions"), "NOPERM"),
        (exceptions.ResponseError("The user executing the script can't run this"), "NOPERM"),
        (hiredis.ReplyError("ERR ACL failure in script: User di has no"), "NOPERM"),
        (hiredis.ReplyError("MISCONF Redis is configured to save"), "MISCONF"),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file"), "MISCONF"),
        (exceptions.OutOfMemoryError("command not allowed"), "OOM"),
        (exceptions.ReadOnlyError("You can't write"), "READONLY"),
        (exceptions.BusyLoadingError("Redis is loading"), "LOADING"),
        (exceptions.ClusterDownError("The cluster is down"), "CLUSTERDOWN"),
        (exceptions.MovedError("3 h:1"), "MOVED"),
        (exceptions.AskError("3 h:1"), "ASK"),
        (hiredis.ReplyError("CROSSSLOT Keys in request"), "CROSSSLOT"),
        (ssl.SSLError("wrong version number"), "TLS"),
        (TimeoutError(), "TIMEOUT"),
        (exceptions.TimeoutError("Timeout reading"), "TIMEOUT"),
        (EOFError("closed by the server"), "CLOSED"),
        (exceptions.ConnectionError("Connection closed by server."), "CLOSED"),
        (ConnectionRefusedError(111, "refused"), "CONNECT"),
        (hiredis.ReplyError("ERR unknown"), "ERR"),
        (hiredis.ReplyError("odd"), "ERR"),
        (ValueError("odd"), "ERR"),
    ],
)
def test_codes(error: Exception, code: str) -> None:
    """Each error has a code, whoever took it off."""
    fault = explain(error)

    assert code == fault.code
    assert fault.text


def test_an_error_inside_the_drivers() -> None:
    """The driver's error of a link is TLS's where TLS is its reason."""
    error = exceptions.ConnectionError("Error 1 connecting")
    error.__cause__ = ssl.SSLError("certificate verify failed")

    assert "TLS" == explain(error).code


def test_what_is_raised() -> None:
    """At the start what cannot get better is a ConfigError; later everything is temporary."""
    refused = explain(hiredis.ReplyError("WRONGPASS invalid"))
    full = explain(hiredis.ReplyError("OOM command not allowed"))
    away = explain(ConnectionRefusedError(111, "refused"))

    assert isinstance(refused.at_start(WHERE), ConfigError)
    assert isinstance(full.at_start(WHERE), ConfigError)
    assert isinstance(away.at_start(WHERE), BrokerUnavailable)
    assert isinstance(refused.at(WHERE), BrokerUnavailable)
    assert "Redis at h:1: it cannot be reached ([Errno 111] refused)" == str(away.at(WHERE))


def test_a_port_for_tls() -> None:
    """A server that closes the link before it spoke is taken for one that waits for TLS."""
    fault = explain_start(EOFError("closed by the server"))

    assert isinstance(fault.at_start(WHERE), ConfigError)
    assert "rediss://" in fault.text
    assert explain(TimeoutError()) == explain_start(TimeoutError())
