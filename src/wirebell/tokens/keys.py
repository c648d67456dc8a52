"""The keys that tokens are checked with, and what makes a configuration of them unsafe. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from jwt.algorithms import Algorithm, get_default_algorithms

from wirebell.errors import ConfigError

__all__ = (
    "ALGORITHMS",
    "PLACEHOLDER",
    "KeyTable",
    "TokenKeys",
    "algorithms_of",
    "check_endpoint",
    "compile_expression",
    "list_weaknesses",
    "read_keys",
)

HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
RSA_ALGORITHMS = ("RS256", "RS384", "RS512")
EC_ALGORITHMS = ("ES256", "ES384", "ES512")
ED_ALGORITHMS = ("EdDSA",)

ALGORITHMS: Mapping[str, Algorithm] = get_default_algorithms()
"""PyJWT's; more than we use, and ``none`` is among them: what counts is a `KeyTable`."""

KeyTable = Mapping[str, Sequence[tuple[Any, float]]]
"""Algorithm → keys, each with the last second since 1970 at which it counts."""

PLACEHOLDER = re.compile(r"{{(.*?)}}")
# Characters and escaped signs that match themselves, and a list of such words.
LITERAL = r"(?:[A-Za-z0-9_~/:@-]|\\[.+/:-])+"
LITERALS = rf"{LITERAL}(?:\|{LITERAL})*"


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """What tokens are checked with: the keys ``client.token.*`` of the configuration.

    Attributes:
        hmac_secret_key: For HS256, HS384, HS512; empty for none.
        hmac_previous_secret_key: Accepted besides it while keys are changed.
        hmac_previous_secret_key_valid_until: When that ends, seconds since 1970; 0 never.
        rsa_public_key: PEM, for RS256, RS384, RS512.
        ecdsa_public_key: PEM, for the algorithm of its curve: ES256, ES384 or ES512.
        ed25519_public_key: PEM, for EdDSA.
        audience: Must be among the token's ``aud``; empty for any.
        audience_regex: Must be found in one of them.
        issuer: Must be the token's ``iss``; empty for any.
        issuer_regex: Must be found in it.
        user_id_claim: Holds the user id in place of ``sub``; empty for ``sub``.
        jwks_public_endpoint: URL of a key set. Then tokens are checked with its keys *only*.
            ``{{name}}`` stands for a named group of one of the two expressions.
        insecure_skip_jwks_endpoint_safety_check: Let such a group match anything. Whoever can
            choose the address of the keys can sign tokens.
        skip_signature: Believe every token. For development only.

    Raises:
        ConfigError: Both forms of ``audience`` or of ``issuer`` are given.
    """

    hmac_secret_key: str = field(default="", repr=False)
    hmac_previous_secret_key: str = field(default="", repr=False)
    hmac_previous_secret_key_valid_until: float = 0
    rsa_public_key: str = ""
    ecdsa_public_key: str = ""
    ed25519_public_key: str = ""
    audience: str = ""
    audience_regex: str = ""
    issuer: str = ""
    issuer_regex: str = ""
    user_id_claim: str = ""
    jwks_public_endpoint: str = ""
    insecure_skip_jwks_endpoint_safety_check: bool = False
    skip_signature: bool = False

    def __post_init__(self) -> None:
        for name, exact, expression in (
            ("audience", self.audience, self.audience_regex),
            ("issuer", self.issuer, self.issuer_regex),
        ):
            if exact and expression:
                raise ConfigError(f"{name} and {name}_regex cannot both be given")


def read_keys(keys: TokenKeys) -> KeyTable:
    """Read the configured keys.

    Raises:
        ConfigError: One cannot be read.
    """
    table: dict[str, list[tuple[Any, float]]] = {}
    for name, algorithms, valid_until in _list_keys(keys):
        for algorithm, key in _read_key(name, getattr(keys, name), algorithms).items():
            table.setdefault(algorithm, []).append((key, valid_until))
    return table


def list_weaknesses(keys: TokenKeys) -> Iterator[str]:
    """Yield what is weak in a configuration whose keys can be read, a sentence each."""
    for name, algorithms, _valid_until in _list_keys(keys):
        algorithm, key = next(iter(_read_key(name, getattr(keys, name), algorithms).items()))
        weakness = ALGORITHMS[algorithm].check_key_length(key)
        if weakness:
            yield f"{name} is short: {weakness}"
    if keys.skip_signature:
        yield "signatures of tokens are not checked: everybody can be anybody"
    if keys.jwks_public_endpoint.startswith("http:"):
        yield "jwks_public_endpoint is fetched without TLS: who is on the way can sign tokens"
    if keys.jwks_public_endpoint and keys.insecure_skip_jwks_endpoint_safety_check:
        yield "the safety check of jwks_public_endpoint is off: who signs may be anybody's choice"


def check_endpoint(keys: TokenKeys) -> None:
    """Check that strangers have no say in where keys come from.

    Raises:
        ConfigError: ``jwks_public_endpoint`` is no address, or a placeholder in it stands for
            more than a list of words.
    """
    url = keys.jwks_public_endpoint
    if url and not url.startswith(("https://", "http://")):
        raise ConfigError(f"jwks_public_endpoint must begin with https://, got {url!r}")
    for name in PLACEHOLDER.findall(url):
        group = rf"\(\?P?<{re.escape(name)}>"
        sources = [
            text for text in (keys.issuer_regex, keys.audience_regex) if re.search(group, text)
        ]
        if not sources:
            raise ConfigError(
                f"jwks_public_endpoint has {{{{{name}}}}}, which is no named group of "
                "issuer_regex or audience_regex"
            )
        for text in sources:
            # A second mention could be a set of characters that only looks like a group.
            is_literal = len(re.findall(group, text)) == 1 and re.search(
                rf"{group}{LITERALS}\)", text
            )
            if not is_literal and not keys.insecure_skip_jwks_endpoint_safety_check:
                raise ConfigError(
                    f"jwks_public_endpoint has {{{{{name}}}}}: its group must be a list of plain "
                    f"words, as (?P<{name}>one|two), got {text!r}"
                )


def compile_expression(name: str, expression: str) -> re.Pattern[str] | None:
    """Read a regular expression; ``None`` for an empty one.

    Raises:
        ConfigError: It is none.
    """
    if not expression:
        return None
    # RE2, which configurations are written for, has two forms that Python writes otherwise.
    translated = re.sub(r"\(\?<(?![=!])", "(?P<", expression).replace(r"\z", r"\Z")
    try:
        # There ``\d``, ``\s``, ``\w`` and ``\b`` are ASCII's.
        return re.compile(translated, re.ASCII)
    except re.error as error:
        raise ConfigError(f"{name} {expression!r}: {error}") from error


def algorithms_of(jwk: jwt.PyJWK) -> tuple[str, ...]:
    """Say what a key of a key set may be used for; a curve has one algorithm."""
    if jwk.key_type == "RSA":
        return RSA_ALGORITHMS
    if jwk.key_type in ("EC", "OKP"):
        return tuple({jwk.algorithm_name} & {*EC_ALGORITHMS, *ED_ALGORITHMS})
    # A symmetric key that is published is no secret.
    return ()


def _list_keys(keys: TokenKeys) -> Iterator[tuple[str, Sequence[str], float]]:
    """Yield the fields that hold a key, what it is for, and until when."""
    never = float("inf")
    until = keys.hmac_previous_secret_key_valid_until or never
    for name, algorithms, valid_until in (
        ("hmac_secret_key", HMAC_ALGORITHMS, never),
        ("hmac_previous_secret_key", HMAC_ALGORITHMS, until),
        ("rsa_public_key", RSA_ALGORITHMS, never),
        ("ecdsa_public_key", EC_ALGORITHMS, never),
        ("ed25519_public_key", ED_ALGORITHMS, never),
    ):
        if getattr(keys, name):
            yield name, algorithms, valid_until


def _read_key(name: str, text: str, algorithms: Sequence[str]) -> dict[str, Any]:
    """Read a key for those of the algorithms that it fits.

    Raises:
        ConfigError: It fits none.
    """
    if text.startswith("-----BEGIN"):
        text = text.replace(r"\n", "\n")  # so that a PEM fits into an environment variable
    found: dict[str, Any] = {}
    problem: Exception | None = None
    for algorithm in algorithms:
        try:
            key = ALGORITHMS[algorithm].prepare_key(text)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            problem = error
            continue
        if hasattr(key, "public_key"):
            raise ConfigError(f"{name} is a private key: it belongs to who signs tokens")
        found[algorithm] = key
    if not found:
        raise ConfigError(f"{name} cannot be read: {problem}") from problem
    return found
