"""What an error of NATS means, and what to do about it.

The one boundary at which errors of the system and of the server become ours.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from wirebell.errors import BrokerUnavailable, ConfigError

__all__ = (
    "NAME_TAKEN",
    "NOBODY",
    "NO_MESSAGE",
    "NO_STREAM",
    "OTHER_CONFIG",
    "Declined",
    "Refused",
    "TooLarge",
    "WireLost",
    "explain",
)

NO_MESSAGE = 10037
NO_STREAM = 10059
NAME_TAKEN = 10058
# What a cluster says where a server alone says that the name is taken.
OTHER_CONFIG = 10052
# Nobody answers a question.
NOBODY = 503

ADVICE: dict[int, str] = {
    10076: "JetStream is off: start nats-server with -js, or with jetstream {} in its file",
    10039: "JetStream is off for this account: enable it there",
    10074: "it is no cluster: write ?replicas=1",
    10005: "its cluster has too few servers for the replicas: see ?replicas=",
    10047: "its storage is full or reserved: raise max_file_store, or keep less history",
    10023: "its resources do not suffice: raise max_file_store, or see ?replicas=",
    10077: "it cannot store: is its disk full?",
    10002: "the account's limit of JetStream is reached",
    10028: "the account's limit of memory is reached",
    10027: "the account's limit of streams is reached",
    10008: "JetStream is away for a moment: its cluster has no leader, or too few servers",
    10009: "its cluster has no leader: too few of its servers run",
    10118: "the stream is offline: too few of its servers run",
    10058: "a stream of this name exists with another configuration",
    10065: "somebody's stream has our subjects: choose another ?prefix=",
    NOBODY: "nobody answers: JetStream is off (start nats-server with -js), or too few "
    "servers of its cluster run",
}
"""JetStream's code → what to do."""

# After these the same call may succeed a moment later.
TEMPORARY = frozenset((10008, 10009, 10118, 10163, 10167, NOBODY))
# Somebody else was first, or is just being stored.
TAKEN = frozenset((10071, 10158, 10164))
# Nothing gets better by waiting; a node that starts with them must say so.
REFUSALS = frozenset((10076, 10039, 10074, 10047, 10023, 10077, 10002, 10028, 10027, 10058, 10065))


class _Trouble(Exception):
    """What goes wrong below; none of it leaves this package."""


class WireLost(_Trouble):
    """The connection ended, or an answer did not come in time."""


class Declined(_Trouble):
    """JetStream said no.

    Attributes:
        code: Its own, of five digits; 503 where nobody answered.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def is_temporary(self) -> bool:
        """Whether the same call may succeed a moment later."""
        return self.code in TEMPORARY

    @property
    def is_taken(self) -> bool:
        """Whether another message has the place that this one was for."""
        return self.code in TAKEN


class TooLarge(Declined):
    """A message has more bytes than the server takes."""


class Refused(_Trouble):
    """The server does not let us in, or is not the right one; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error means.

    Attributes:
        text: For a person: what is wrong, and what to do.
        is_final: A node that starts with it had better say so than wait.
    """

    text: str
    is_final: bool

    def at(self, where: object) -> BrokerUnavailable:
        """Make the error that a caller gets."""
        return BrokerUnavailable(f"NATS at {where}: {self.text}")

    def at_start(self, where: object) -> BrokerUnavailable | ConfigError:
        """Make the error that `start` raises."""
        return ConfigError(f"NATS at {where}: {self.text}") if self.is_final else self.at(where)


def explain(error: BaseException) -> Fault:
    """Find out what an error means."""
    text = str(error).strip()
    if isinstance(error, Declined):
        advice = ADVICE.get(error.code)
        words = f"{advice} ({text})" if advice else f"{text} ({error.code})"
        # Off is off; of a cluster without a leader only the text differs.
        return Fault(words, error.code in REFUSALS)
    if isinstance(error, Refused):
        return Fault(text, is_final=True)
    if isinstance(error, ssl.SSLError):
        return Fault(
            f"TLS failed: who signed its certificate, and does it want ours? ({text})",
            is_final=True,
        )
    if isinstance(error, TimeoutError):
        return Fault("it does not answer in time", is_final=False)
    if isinstance(error, WireLost):
        return Fault(text or "it closed the link", is_final=False)
    return Fault(f"it cannot be reached ({text or type(error).__name__})", is_final=False)
