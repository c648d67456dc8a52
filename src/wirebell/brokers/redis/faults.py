"""What an error of Redis means, and what to do about it.

The one boundary at which errors of the driver, of the system and of the server become ours.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

import hiredis
from redis import exceptions

from wirebell.errors import BrokerUnavailable, ConfigError

__all__ = ("Fault", "explain", "explain_start", "unavailable")

ADVICE = {
    "NOAUTH": "it wants a password: give one in the URL (redis://user:password@host)",
    "WRONGPASS": "it refuses the user or the password: compare them with its access list (ACL)",
    "NOPERM": "its access list (ACL) does not allow what is needed: give the user the keys and "
    "channels of the prefix, and the commands that docs/brokers.md lists",
    "OOM": "its memory is full and its policy (noeviction) refuses writes: raise maxmemory, or "
    "keep less history",
    "MISCONF": "it cannot save its data to disk and refuses writes: free space there, or see its "
    "log",
    "READONLY": "it is a replica and takes no writes: give the master's address, or Sentinels",
    "LOADING": "it is loading its data",
    "BUSY": "it runs somebody's script that does not end: SCRIPT KILL ends it",
    "CLUSTERDOWN": "its cluster is incomplete: see CLUSTER INFO",
    "MASTERDOWN": "it is a replica without its master",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write",
    "TRYAGAIN": "a slot of its cluster is moving",
    "MOVED": "a slot of its cluster was moved",
    "ASK": "a slot of its cluster is moving",
    "CROSSSLOT": "it is part of a cluster: write redis+cluster://",
    "DB": "it has no database of this number: see its option 'databases'",
    "TLS": "TLS failed: is it redis:// or rediss://, and who signed its certificate?",
    "CLOSED": "it closed the link",
    "TIMEOUT": "it does not answer in time",
    "CONNECT": "it cannot be reached",
}
"""Code, of Redis or below it our own → what to do."""

# After these the same call may succeed a moment later.
TEMPORARY = frozenset(
    (
        *("LOADING", "BUSY", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS"),
        *("TRYAGAIN", "MOVED", "ASK", "CLOSED", "TIMEOUT", "CONNECT"),
    )
)
# Nothing gets better by waiting; a node that starts with them must say so.
REFUSALS = frozenset(("NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT", "DB", "TLS"))

# Inside a script it has no code of its own: of Redis 7.0, and of newer ones.
FORBIDDEN_IN_SCRIPTS = ("The user executing the script can't", "ACL failure in script")

CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.AuthenticationError, "WRONGPASS"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
    (exceptions.AuthorizationError, "NOPERM"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (ssl.SSLError, "TLS"),
    (exceptions.TimeoutError, "TIMEOUT"),
    (TimeoutError, "TIMEOUT"),
    (EOFError, "CLOSED"),
    (ConnectionResetError, "CLOSED"),
    (BrokenPipeError, "CLOSED"),
    (exceptions.ConnectionError, "CONNECT"),
    (OSError, "CONNECT"),
)
"""The driver takes the code off the errors that it knows."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error means.

    Attributes:
        code: A key of the table, or another of Redis' own.
        text: For a person: what is wrong, and what to do.
        is_temporary: The same call may succeed a moment later.
        is_refusal: It will not, before somebody changes something.
    """

    code: str
    text: str
    is_temporary: bool
    is_refusal: bool

    @property
    def is_final(self) -> bool:
        """Whether a node that starts with it had better say so than wait."""
        return self.is_refusal or self.code in {"READONLY", "OOM", "MISCONF"}

    def at(self, where: object) -> BrokerUnavailable:
        """Make the error that a caller gets."""
        return BrokerUnavailable(f"Redis at {where}: {self.text}")

    def at_start(self, where: object) -> BrokerUnavailable | ConfigError:
        """Make the error that `start` raises."""
        if self.is_final:
            return ConfigError(f"Redis at {where}: {self.text}")
        return self.at(where)


def explain(error: BaseException) -> Fault:
    """Find out what an error means."""
    code, text = _find_code(error)
    advice = ADVICE.get(code)
    words = f"{advice} ({text})" if advice and text else advice or text or type(error).__name__
    return Fault(code, words, code in TEMPORARY, code in REFUSALS)


def explain_start(error: BaseException) -> Fault:
    """Explain why a server does not let us in."""
    fault = explain(error)
    if fault.code == "CLOSED":
        # A port for TLS does so to who speaks without, and nothing else to who knocks.
        text = f"{fault.text} before it said anything: is this port for TLS (rediss://)?"
        return Fault("TLS", text, is_temporary=False, is_refusal=True)
    return fault


def unavailable(where: object, why: str) -> BrokerUnavailable:
    """Make the error of a server that is away."""
    return BrokerUnavailable(f"Redis at {where}: {why}")


def _find_code(error: BaseException) -> tuple[str, str]:
    """Return the code and the words of an error."""
    text = str(error).strip()
    if any(words in text for words in FORBIDDEN_IN_SCRIPTS):
        return "NOPERM", text
    if isinstance(error, hiredis.ReplyError):
        code = text.partition(" ")[0]
        if "DB index" in text:
            code = "DB"
        return (code, text) if code.isupper() else ("ERR", text)
    # What the driver wraps is the more exact one.
    cause = error.__cause__ or error.__context__
    if isinstance(error, exceptions.ConnectionError) and isinstance(cause, ssl.SSLError):
        return "TLS", str(cause)
    for kind, code in CLASSES:
        if isinstance(error, kind):
            if code == "CONNECT" and "closed" in text.lower():
                code = "CLOSED"
            if code == "WRONGPASS" and "required" in text.lower():
                code = "NOAUTH"
            return code, text
    match = re.match(r"([A-Z]{3,})\b", text)
    return (match[1], text) if match else ("ERR", text)
