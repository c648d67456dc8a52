"""Keys that can be read, and addresses that can be trusted."""

from __future__ import annotations

import pytest

from tests.unit.tokens.keys import OTHER_SECRET, SECRET, private_key, private_pem, public_pem
from wirebell.errors import ConfigError
from wirebell.tokens.keys import TokenKeys, check_endpoint, compile_expression, read_keys


@pytest.mark.parametrize("name", ["audience", "issuer"])
def test_one_form_only(name: str) -> None:
    """A name and an expression for the same claim cannot both be given."""
    with pytest.raises(ConfigError, match=f"{name} and {name}_regex"):
        TokenKeys(**{name: "a", f"{name}_regex": "a"})  # type: ignore[arg-type]


def test_secrets_are_not_shown() -> None:
    """Secrets do not appear where the configuration is printed."""
    shown = repr(TokenKeys(hmac_secret_key=SECRET, hmac_previous_secret_key=OTHER_SECRET))

    assert SECRET not in shown
    assert OTHER_SECRET not in shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rsa_public_key", "rubbish"),
        ("rsa_public_key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
        ("ecdsa_public_key", "rubbish"),
        ("ed25519_public_key", "rubbish"),
        ("rsa_public_key", public_pem(private_key("ES256"))),
        ("ecdsa_public_key", public_pem(private_key("RS256"))),
        ("ed25519_public_key", public_pem(private_key("RS256"))),
        ("hmac_secret_key", public_pem(private_key("RS256"))),
        ("hmac_previous_secret_key", public_pem(private_key("RS256"))),
    ],
)
def test_unreadable(name: str, text: str) -> None:
    """A key that is none, or is of another kind, is refused with its name."""
    with pytest.raises(ConfigError, match=f"^{name} cannot be read"):
        read_keys(TokenKeys(**{name: text}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("rsa_public_key", "RS256"), ("ecdsa_public_key", "ES256"), ("ed25519_public_key", "EdDSA")],
)
def test_private(name: str, algorithm: str) -> None:
    """A private key is not taken for a public one: it does not belong on this side."""
    with pytest.raises(ConfigError, match=f"^{name} is a private key"):
        read_keys(TokenKeys(**{name: private_pem(private_key(algorithm))}))  # type: ignore[arg-type]


def test_one_line() -> None:
    """A PEM may be written in one line, as environment variables are."""
    pem = public_pem(private_key("ES256")).replace("\n", r"\n")

    assert ["ES256"] == list(read_keys(TokenKeys(ecdsa_public_key=pem)))


def test_secret_is_literal() -> None:
    """A secret is taken as it is, backslashes too."""
    (key, _until), *_ = read_keys(TokenKeys(hmac_secret_key=r"a\nb"))["HS256"]

    assert rb"a\nb" == key


@pytest.mark.parametrize(
    ("url", "issuer", "audience"),
    [
        ("https://id.example/keys", "", ""),
        ("http://127.0.0.1:8080/keys", "", ""),
        ("https://id.example/{{t}}/keys", "(?P<t>one)", ""),
        ("https://id.example/{{t}}/keys", "", "^(?<t>one|two-2|three_3)$"),
        ("https://{{t}}/keys", r"(?P<t>a\.example|b\.example:8443)", ""),
        ("https://id.example/{{t}}/{{u}}", "(?P<t>one)", "(?P<u>two)"),
    ],
)
def test_safe_endpoint(url: str, issuer: str, audience: str) -> None:
    """An address may depend on words that the configuration lists."""
    check_endpoint(
        TokenKeys(jwks_public_endpoint=url, issuer_regex=issuer, audience_regex=audience)
    )


@pytest.mark.parametrize(
    "expression",
    [
        "(?P<t>.+)",
        "(?P<t>[a-z]+)",
        "(?P<t>a.example)",
        "(?P<t>one|two.*)",
        "(?P<t>one|(two|.*))",
        "(?P<t>)",
        "(?P<t>|one)",
        r"(?P<t>\w)",
        "[(?P<t>a)](?P<t>.+)",
    ],
)
def test_unsafe_endpoint(expression: str) -> None:
    """An address that depends on what strangers write is refused, unless that was asked for."""
    url = "https://{{t}}/keys"

    with pytest.raises(ConfigError, match="list of plain words"):
        check_endpoint(TokenKeys(jwks_public_endpoint=url, issuer_regex=expression))
    check_endpoint(
        TokenKeys(
            jwks_public_endpoint=url,
            issuer_regex=expression,
            insecure_skip_jwks_endpoint_safety_check=True,
        )
    )


@pytest.mark.parametrize(
    "url", ["id.example/keys", "ftp://id.example", "file:///keys", "{{t}}", "https://{{u}}/"]
)
def test_impossible_endpoint(url: str) -> None:
    """An address without a known scheme, or with a placeholder that nothing fills, is refused."""
    with pytest.raises(ConfigError, match="jwks_public_endpoint"):
        check_endpoint(
            TokenKeys(
                jwks_public_endpoint=url,
                issuer_regex="(?P<t>.*)",
                insecure_skip_jwks_endpoint_safety_check=True,
            )
        )


def test_foreign_forms() -> None:
    """Forms of RE2 that Python writes or reads otherwise are understood; look-behinds stay."""
    expression = compile_expression("issuer_regex", r"(?<a>x)(?<!y)(?<=x)\z")

    assert expression is not None
    assert {"a": "x"} == expression.search("x").groupdict()  # type: ignore[union-attr]
    assert expression.search("x\n") is None
    digits = compile_expression("audience_regex", r"^\d+$")
    assert digits is not None
    assert [True, False] == [digits.search(text) is not None for text in ("3", "٣")]
