"""Checking tokens: whose they are, and whether they still count. Pure: ``now`` is given."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jwt
import msgspec

from wirebell.errors import TokenInvalid
from wirebell.tokens.claims import (
    Claims,
    ConnectionClaims,
    SubscriptionClaims,
    TokenParts,
    check_time,
    decode_claims,
    split,
    to_connection_claims,
    to_subscription_claims,
)
from wirebell.tokens.keys import (
    ALGORITHMS,
    PLACEHOLDER,
    TokenKeys,
    algorithms_of,
    check_endpoint,
    compile_expression,
    list_weaknesses,
    read_keys,
)

__all__ = ("KeyLocation", "TokenVerifier")

# Issuer and audience meet a regular expression before the signature is checked. Python's may take
# the square or the cube of a text's length, so the text is short. Real ones are shorter.
MATCHED_CHARACTERS_MAX = 256
AUDIENCES_MAX = 32

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_user_id_decoder = msgspec.json.Decoder(str | int | None)


class KeyLocation(msgspec.Struct, frozen=True):
    """Where a token's key is.

    Attributes:
        url: Of the key set.
        key_id: ``kid``, not empty.
    """

    url: str
    key_id: str


class TokenVerifier:
    """Checks tokens with one set of keys.

    Args:
        keys: The configuration.

    Attributes:
        algorithms: Those of the configured keys, for people; empty with a key set.
        warnings: What is weak in the configuration, a sentence each, for the log.

    Raises:
        ConfigError: A key cannot be read, an expression is none, or the address of the key set
            depends on what strangers write into a token.
    """

    def __init__(self, keys: TokenKeys) -> None:
        self.keys = keys
        check_endpoint(keys)
        self.audience_expression = compile_expression("audience_regex", keys.audience_regex)
        self.issuer_expression = compile_expression("issuer_regex", keys.issuer_regex)
        self.key_table = read_keys(keys)
        self.algorithms = () if keys.jwks_public_endpoint else tuple(self.key_table)
        self.warnings = tuple(list_weaknesses(keys))

    def key_location(self, token: str) -> KeyLocation | None:
        """Say which key of which key set a token needs.

        Returns:
            ``None`` when no key set is configured, or signatures are not checked: then `verify_*`
            needs no key.

        Raises:
            TokenInvalid: It is malformed, has no ``kid``, or is of another issuer or audience.
        """
        if not self.keys.jwks_public_endpoint or self.keys.skip_signature:
            return None
        parts = split(token)
        if not parts.header.kid:
            raise TokenInvalid("token has no kid, which the key set needs")
        url = self.keys.jwks_public_endpoint
        if "{{" in url:
            values = self._check_origin(decode_claims(parts.payload))
            url = PLACEHOLDER.sub(lambda match: values.get(match[1], ""), url)
        return KeyLocation(url, parts.header.kid)

    def verify_connection(
        self, token: str, now: float, jwk: jwt.PyJWK | None = None
    ) -> ConnectionClaims:
        """Check a connection token.

        Args:
            token: As the client sent it.
            now: Seconds since 1970.
            jwk: The key that `key_location` asks for.

        Raises:
            TokenInvalid: It is malformed, not signed by a known key, of another issuer or
                audience, or made for a subscription (it has a ``channel``).
            TokenExpired: It is good, and over or not yet valid.

        Source:
            Recordings ``connect_token_*``, ``connect_subscription_token_as_connection_token``.
        """
        claims, payload = self._verify(token, now, jwk)
        if claims.channel:
            raise TokenInvalid("a connection token has no channel")
        check_time(claims, now)
        return to_connection_claims(claims, self._user_id(claims, payload))

    def verify_subscription(
        self, token: str, now: float, jwk: jwt.PyJWK | None = None
    ) -> SubscriptionClaims:
        """Check a subscription token; arguments as of `verify_connection`.

        Whether it is for this channel, this user and this client is the caller's to compare: each
        difference is disconnect 3500 (recording ``subscribe_token_mismatch``).

        Raises:
            TokenInvalid: As there, or it has no ``channel``.
            TokenExpired: As there.

        Source:
            Recordings ``subscribe_token_*``.
        """
        claims, payload = self._verify(token, now, jwk)
        check_time(claims, now)
        if not claims.channel:
            raise TokenInvalid("a subscription token needs a channel")
        return to_subscription_claims(claims, self._user_id(claims, payload))

    def _verify(self, token: str, now: float, jwk: jwt.PyJWK | None) -> tuple[Claims, bytes]:
        """Check what both kinds have in common, and return the claims, also undecoded.

        Raises:
            TokenInvalid: It is malformed, not signed by a known key, or of another issuer or
                audience.
        """
        parts = split(token)
        if not self.keys.skip_signature and not self._is_signed(parts, now, jwk):
            # For the log, and anybody may have written it.
            raise TokenInvalid(f"signature ({parts.header.alg!r:.32}) is not of a known key")
        claims = decode_claims(parts.payload)
        self._check_origin(claims)
        return claims, parts.payload

    def _is_signed(self, parts: TokenParts, now: float, jwk: jwt.PyJWK | None) -> bool:
        """Check a signature with the keys that were made for its algorithm."""
        name = parts.header.alg
        if self.keys.jwks_public_endpoint:
            return (
                jwk is not None
                and name in algorithms_of(jwk)
                and ALGORITHMS[name].verify(parts.signed, jwk.key, parts.signature)
            )
        return any(
            now <= valid_until and ALGORITHMS[name].verify(parts.signed, key, parts.signature)
            for key, valid_until in self.key_table.get(name, ())
        )

    def _check_origin(self, claims: Claims) -> dict[str, str]:
        """Check issuer and audience; return the named groups of their expressions.

        Raises:
            TokenInvalid: One is not what was configured.
        """
        keys = self.keys
        values: dict[str, str] = {}
        if keys.issuer and claims.iss != keys.issuer:
            raise TokenInvalid(f"issuer is not {keys.issuer!r}")
        if self.issuer_expression is not None:
            issuers = [claims.iss or ""]
            values |= _match("issuer", self.issuer_expression, issuers)
        if keys.audience or self.audience_expression is not None:
            audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
            if keys.audience and keys.audience not in audiences:
                raise TokenInvalid(f"audience {keys.audience!r} is not among the token's")
            if self.audience_expression is not None:
                values |= _match("audience", self.audience_expression, audiences)
        return values

    def _user_id(self, claims: Claims, payload: bytes) -> str:
        """Return the user id, which may be in a claim of the application's own.

        Raises:
            TokenInvalid: That claim is neither text nor a whole number.
        """
        if not self.keys.user_id_claim:
            return claims.sub or ""
        raw = _object_decoder.decode(payload).get(self.keys.user_id_claim)
        if raw is None:
            return ""
        try:
            value = _user_id_decoder.decode(raw)
        except msgspec.DecodeError as error:
            raise TokenInvalid(f"{self.keys.user_id_claim}: {error}") from error
        return "" if value is None else str(value)


def _match(name: str, expression: re.Pattern[str], values: Sequence[str]) -> dict[str, str]:
    """Find the first value that an expression is found in, and return its named groups.

    Raises:
        TokenInvalid: There is none.
    """
    for value in values[:AUDIENCES_MAX]:
        if len(value) <= MATCHED_CHARACTERS_MAX:
            match = expression.search(value)
            if match is not None:
                return match.groupdict(default="")
    raise TokenInvalid(f"{name} does not match {expression.pattern!r}")
