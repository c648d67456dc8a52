"""What an error of PostgreSQL means, and what to do about it.

The one boundary at which errors of the driver, of the system and of the server become ours.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass

import asyncpg

from wirebell.brokers.postgresql.addresses import Place
from wirebell.errors import BrokerUnavailable, ConfigError
from wirebell.records import UnknownRecord

__all__ = (
    "ERRORS",
    "NO_PARTITION",
    "TOO_LATE",
    "Fault",
    "UnknownLog",
    "explain",
    "explain_start",
)

UNKNOWN_LOG_SECONDS = 60.0

ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)
"""What a call to the server may raise."""

NO_PARTITION = "23514"
TOO_LATE = "WB001"

NOT_PRIMARY = ("25006", "55000")
"""It writes nothing; or it recovers, and cannot say where its log stands."""

REFUSALS = {
    "28P01": "it refuses the user or the password: compare them with the role's",
    "28000": "it does not let us in: see its pg_hba.conf for this role, host and encryption "
    "(sslmode=require)",
    "3D000": "it has no such database: CREATE DATABASE makes one",
    "3F000": "the schema of its search_path is missing: CREATE SCHEMA makes it",
    "42501": "the role may not do what is needed: grant what docs/brokers.md lists, or let the "
    "owner make the tables and set skip_schema_init",
    **dict.fromkeys(
        NOT_PRIMARY,
        "it is read-only: give the primary's address, or several hosts with "
        "target_session_attrs=read-write, or see default_transaction_read_only",
    ),
    "42P01": "the tables are missing: start once without skip_schema_init, as a role that may "
    "make them",
    "42883": "the functions are missing: start this release once without skip_schema_init, as a "
    "role that may make them",
    "CONFIG": "its DSN is not right",
    "TLS": "TLS failed: does it speak TLS (sslmode=disable if not), and who signed its "
    "certificate (sslrootcert)?",
}
"""SQLSTATE, or a word of our own → what to do. Nothing gets better by waiting."""

TROUBLES = {
    "53100": "its disk is full: free space there",
    "53200": "it has no memory left",
    "53300": "it has no connection left: raise max_connections, or lower pool_size",
    "57014": "it ended the call: it took too long",
    "57P01": "it is being shut down",
    "57P02": "it crashed, and starts again",
    "57P03": "it is starting, or shutting down",
    "55P03": "others held the channel's lock for too long",
    "40P01": "it ended the call, because two waited for each other",
    "40001": "it ended the call, because others changed the same",
    NO_PARTITION: "its log has no partition for today: is 'wirebell' able to make one?",
    TOO_LATE: "it did not come to the call in time",
    "CLOSED": "it closed the link",
    "TIMEOUT": "it does not answer in time",
    "CONNECT": "it cannot be reached",
}

# The same call may succeed a moment later.
TEMPORARY = frozenset(
    (
        *("53300", "57P01", "57P02", "57P03", "55P03", "40P01", "40001"),
        *("CLOSED", "TIMEOUT", "CONNECT", NO_PARTITION, TOO_LATE, *NOT_PRIMARY),
    )
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error means.

    Attributes:
        code: A SQLSTATE, or a word of our own.
        text: For a person: what is wrong, and what to do.
        is_temporary: The same call may succeed a moment later.
        is_refusal: It will not, before somebody changes something.
        keeps_link: The connection goes on.
    """

    code: str
    text: str
    is_temporary: bool
    is_refusal: bool
    keeps_link: bool

    def at(self, place: Place) -> BrokerUnavailable:
        """Make the error that a caller gets."""
        return BrokerUnavailable(f"PostgreSQL at {place}: {self.text}")


def explain(error: BaseException) -> Fault:
    """Find out what an error means."""
    code, text = _find_code(error)
    advice = REFUSALS.get(code) or TROUBLES.get(code)
    is_told = advice is not None and text not in ("", advice)
    words = f"{advice} ({text})" if is_told else advice or text or type(error).__name__
    # The next try may find the primary elsewhere.
    is_link_over = code.startswith(("57P", "08")) or code in NOT_PRIMARY
    return Fault(
        code,
        words,
        is_temporary=code in TEMPORARY or code.startswith("08"),
        is_refusal=code in REFUSALS,
        keeps_link=isinstance(error, asyncpg.PostgresError) and not is_link_over,
    )


def explain_start(error: BaseException, place: Place) -> BrokerUnavailable | ConfigError:
    """Make the error that `start` raises: one for somebody to change something, or to wait."""
    fault = explain(error)
    if fault.is_refusal:
        return ConfigError(f"PostgreSQL at {place}: {fault.text}")
    return fault.at(place)


def _find_code(error: BaseException) -> tuple[str, str]:
    """Return the code and the words of an error."""
    text = str(error).strip()
    if isinstance(error, ssl.SSLError) or "rejected SSL upgrade" in text:
        return "TLS", text
    if isinstance(error, asyncpg.PostgresError):
        return error.sqlstate or "XX000", text
    if isinstance(error, TimeoutError):
        return "TIMEOUT", text
    if isinstance(error, (asyncpg.ClientConfigurationError, asyncpg.UnsupportedClientFeatureError)):
        return "CONFIG", text
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "25006", text
    if isinstance(error, (asyncpg.InterfaceError, EOFError, ConnectionResetError, BrokenPipeError)):
        return "CLOSED", text
    if isinstance(error, OSError):
        is_closed = "connection_lost" in text or "connection was closed" in text
        return ("CLOSED" if is_closed else "CONNECT"), text
    return "CLOSED", text


class UnknownLog:
    """Says that records of a newer release are left out, at most once a minute.

    Args:
        logger: Where.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.told_at = -UNKNOWN_LOG_SECONDS

    def tell(self, error: UnknownRecord) -> None:
        """Say it, unless that was said just now."""
        now = time.monotonic()
        if now - self.told_at >= UNKNOWN_LOG_SECONDS:
            self.told_at = now
            self.logger.error("left out: %s", error)
