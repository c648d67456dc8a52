"""What errors of PostgreSQL mean."""

from __future__ import annotations

import ssl

import asyncpg
import pytest

from wirebell.brokers.postgresql.addresses import Place
from wirebell.brokers.postgresql.faults import TOO_LATE, explain, explain_start
from wirebell.brokers.postgresql.schema import VERSION_MIN, check_server, lock_key_of
from wirebell.brokers.postgresql.statements import FUNCTIONS, TABLES, fill
from wirebell.errors import BrokerUnavailable, ConfigError

PLACE = Place("h:1/d", {})


def of_state(state: str) -> asyncpg.PostgresError:
    """Make the error of a SQLSTATE that the driver has no class for."""
    error = asyncpg.PostgresError("words")
    error.sqlstate = state
    return error


@pytest.mark.parametrize(
    ("error", "code", "is_temporary", "is_refusal", "keeps_link"),
    [
        (asyncpg.InvalidPasswordError("no"), "28P01", False, True, True),
        (asyncpg.InvalidCatalogNameError("no"), "3D000", False, True, True),
        (asyncpg.InsufficientPrivilegeError("no"), "42501", False, True, True),
        (asyncpg.ReadOnlySQLTransactionError("no"), "25006", True, True, False),
        (asyncpg.ObjectNotInPrerequisiteStateError("no"), "55000", True, True, False),
        (asyncpg.DiskFullError("no"), "53100", False, False, True),
        (asyncpg.TooManyConnectionsError("no"), "53300", True, False, True),
        (asyncpg.CannotConnectNowError("no"), "57P03", True, False, False),
        (asyncpg.AdminShutdownError("no"), "57P01", True, False, False),
        (asyncpg.LockNotAvailableError("no"), "55P03", True, False, True),
        (asyncpg.DeadlockDetectedError("no"), "40P01", True, False, True),
        (asyncpg.UndefinedTableError("no"), "42P01", False, True, True),
        (asyncpg.ConnectionDoesNotExistError("no"), "08003", True, False, False),
        (of_state(TOO_LATE), TOO_LATE, True, False, True),
        (asyncpg.InterfaceError("connection is closed"), "CLOSED", True, False, False),
        (asyncpg.ClientConfigurationError("no"), "CONFIG", False, True, False),
        (asyncpg.TargetServerAttributeNotMatched("no"), "25006", True, True, False),
        (ssl.SSLError("wrong version number"), "TLS", False, True, False),
        (ConnectionError("PostgreSQL server at h rejected SSL upgrade"), "TLS", False, True, False),
        (ConnectionError("unexpected connection_lost() call"), "CLOSED", True, False, False),
        (ConnectionRefusedError(111, "refused"), "CONNECT", True, False, False),
        (TimeoutError(), "TIMEOUT", True, False, False),
        (EOFError(), "CLOSED", True, False, False),
        (RuntimeError("what"), "CLOSED", True, False, False),
    ],
)
def test_meaning(
    error: Exception, code: str, *, is_temporary: bool, is_refusal: bool, keeps_link: bool
) -> None:
    """An error has a code, says whether to try again, and what to do."""
    fault = explain(error)

    assert (code, is_temporary, is_refusal, keeps_link) == (
        fault.code,
        fault.is_temporary,
        fault.is_refusal,
        fault.keeps_link,
    )
    assert fault.text
    assert str(fault.at(PLACE)).startswith("PostgreSQL at h:1/d: ")
    kind = ConfigError if is_refusal else BrokerUnavailable
    assert isinstance(explain_start(error, PLACE), kind)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 120_017}, "has version 12, needed is 13"),
        ({"is_standby": True}, "standby"),
        ({"is_read_only": True}, "default_transaction_read_only"),
        ({"isolation": "serializable"}, "default_transaction_isolation"),
    ],
)
def test_servers_that_will_not_do(changes: dict[str, object], words: str) -> None:
    """A server on which it cannot work is refused, with what to do."""
    server = {
        "version": VERSION_MIN,
        "is_standby": False,
        "is_read_only": False,
        "isolation": "read committed",
    }
    check_server(server, PLACE)
    with pytest.raises(ConfigError, match=words):
        check_server(server | changes, PLACE)


def test_prefix() -> None:
    """A prefix stands ahead of everything, and has locks of its own."""
    assert "{" not in fill(TABLES + FUNCTIONS, "mine").replace("{8}", "")
    assert -(2**31) <= lock_key_of("mine") < 2**31
    assert lock_key_of("mine") != lock_key_of("theirs")
