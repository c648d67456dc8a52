"""What all connections of an application are judged by: declarations, namespaces, keys, hooks.

`wirebell.authorization.Authorizer` asks it, one for each connection. Sources: protocol document,
sections 2.3 to 2.5.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt
from starlette.requests import HTTPConnection

from wirebell.channels import ChannelRegistry
from wirebell.errors import ErrorCode, ProtocolError
from wirebell.hooks import Hooks
from wirebell.model import ChannelOptions, Identity
from wirebell.namespaces import Namespaces
from wirebell.options import ClientOptions
from wirebell.revocations import Revocations
from wirebell.tokens import KeyLocation, TokenVerifier

__all__ = ("Authority", "FindKey")

FindKey = Callable[[KeyLocation], Awaitable[jwt.PyJWK]]
"""Gets the key that a token names."""

Identify = Callable[[HTTPConnection], Awaitable[Identity]]
"""Asks the application who connects."""

UNDECLARED = ChannelOptions()
# A name is checked with every command; 10,000 names of 255 bytes are about 4 MB.
CHECKED_MAX = 10_000


class Verify(Protocol):
    """One of `TokenVerifier`'s two checks."""

    def __call__(self, token: str, now: float, jwk: jwt.PyJWK | None = None) -> Any:
        """Check a token."""


@dataclass(slots=True)
class Authority:
    """What all connections of an application are judged by.

    Mutable state: the options of names that were checked lately, at most 10,000.

    Attributes:
        registry: Channels that the application declared.
        namespaces: Channels that the configuration names; asked where none is declared.
        options: Who may connect.
        hooks: The application's own functions.
        identify: Asks the application who connects; ``None`` where it has no say.
        connection_tokens: Checks connection tokens; ``None`` where there are none.
        subscription_tokens: Checks subscription tokens; likewise.
        find_key: Gets keys of a key set.
        unavailable: Namespaces whose kind of channel is not there yet: error 108.
        grace_seconds: Time for refreshing credentials that have ended.
        revocations: Tokens that do not count any more.
    """

    registry: ChannelRegistry
    namespaces: Namespaces
    options: ClientOptions
    hooks: Hooks
    grace_seconds: float
    identify: Identify | None = None
    connection_tokens: TokenVerifier | None = None
    subscription_tokens: TokenVerifier | None = None
    find_key: FindKey | None = None
    unavailable: frozenset[str] = field(default_factory=frozenset)
    revocations: Revocations = field(default_factory=lambda: Revocations(1))
    # Names that passed `check_command` lately → options; and how many declarations there were.
    checked: dict[str, ChannelOptions] = field(default_factory=dict, init=False, repr=False)
    checked_among: int = field(default=0, init=False, repr=False)

    def options_for(self, channel: str) -> ChannelOptions:
        """Return a channel's options: of its declaration, else of its namespace.

        Raises:
            ProtocolError: ``UNKNOWN_CHANNEL`` or ``NOT_AVAILABLE``.
        """
        options = self.registry.find_options(channel)
        if options is not None:
            return options
        if self.unavailable and self.namespaces.split(channel)[0] in self.unavailable:
            raise ProtocolError(ErrorCode.NOT_AVAILABLE)
        options = self.namespaces.options_for(channel)
        if options is None:
            raise ProtocolError(ErrorCode.UNKNOWN_CHANNEL)
        return options

    def known_options(self, channel: str) -> ChannelOptions:
        """Return a channel's options; those of a channel that keeps nothing where it has none."""
        options = self.checked.get(channel)
        if options is not None and self.checked_among == len(self.registry.declarations):
            return options
        return (
            self.registry.find_options(channel)
            or self.namespaces.options_for(channel)
            or UNDECLARED
        )

    def check_name(self, channel: str) -> None:
        """Let a name pass that a client may use; one that is declared, whatever it is.

        Raises:
            ProtocolError: ``BAD_REQUEST``.
        """
        if self.registry.find_options(channel) is None:
            self.namespaces.check_name(channel)

    def check_command(self, channel: str) -> ChannelOptions:
        """Return the options of a channel that a client names in a command.

        Raises:
            ProtocolError: ``BAD_REQUEST`` for a malformed name, or as `options_for`.
        """
        options = self.checked.get(channel)
        count = len(self.registry.declarations)
        if options is not None and self.checked_among == count:
            return options
        self.check_name(channel)
        options = self.options_for(channel)
        if self.checked_among != count or len(self.checked) >= CHECKED_MAX:
            self.checked.clear()
            self.checked_among = count
        self.checked[channel] = options
        return options

    def hears(self, pattern: str, channel: str) -> bool:
        """Tell whether who may subscribe to a pattern may hear a channel that it matches.

        Both are of one declaration; or of none, and one namespace covers both.
        """
        declared = self.registry.find_options(channel)
        if self.registry.find_options(pattern) is not declared:
            return False
        return declared is not None or self.namespaces.covers(pattern, channel)

    def find_weaknesses(self) -> list[str]:
        """Say what is weak in the keys of tokens, a sentence each, for the log."""
        verifiers = (self.connection_tokens, self.subscription_tokens)
        return [text for verifier in verifiers if verifier for text in verifier.warnings]

    async def verify(self, verifier: TokenVerifier, verify: Verify, token: str) -> Any:
        """Check a token, with a key from a key set where it needs one, and that it counts."""
        location = verifier.key_location(token)
        key = None
        if location is not None and self.find_key is not None:
            key = await self.find_key(location)
        now = time.time()
        claims = verify(token, now, key)
        self.revocations.check(claims, now)
        return claims
