"""Whose a token is, and whether it counts."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest

from tests.unit.tokens.keys import (
    NOW,
    OTHER_SECRET,
    SECRET,
    private_key,
    private_rsa_key,
    public_pem,
)
from wirebell.errors import ConfigError, TokenExpired, TokenInvalid
from wirebell.tokens import (
    ChannelClaim,
    ConnectionClaims,
    KeyLocation,
    SubscriptionClaims,
    SubscriptionOverride,
    TokenKeys,
    TokenVerifier,
)

HMAC = TokenVerifier(TokenKeys(hmac_secret_key=SECRET))
FIELDS = {"RS": "rsa_public_key", "ES": "ecdsa_public_key", "Ed": "ed25519_public_key"}
ASYMMETRIC = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"]
ENDPOINT = "https://id.example/keys"


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    """Sign claims with PyJWT, which is not how we do it."""
    return jwt.encode(claims, key, algorithm, headers=header or None)


def create_verifier(**keys: Any) -> TokenVerifier:
    """Create a verifier with the secret and more."""
    return TokenVerifier(TokenKeys(hmac_secret_key=SECRET, **keys))


def create_jwk(algorithm: str, **more: Any) -> jwt.PyJWK:
    """Create the key-set entry of the key that signs with an algorithm."""
    names = {"RS": "RS256", "ES": "ES256", "Ed": "EdDSA"}
    method = jwt.get_algorithm_by_name(names[algorithm[:2]])
    entry = method.to_jwk(private_key(algorithm).public_key(), as_dict=True)
    return jwt.PyJWK({**entry, "kid": "k1", **more})


def test_recorded_token() -> None:
    """A token that the reference server accepted is accepted, with all that it says."""
    token = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImV4cCI6NDEwMjQ0NDgwMCwiaWF0IjoxNTc3O"
        "DM2ODAwLCJqdGkiOiJ0LTEiLCJpbmZvIjp7Im4iOjF9LCJtZXRhIjp7InJvbGUiOiJ4In0sImNoYW5uZWxzIjpbIm5l"
        "d3M6MSIsInJlYzoxIl19.6t3igHs_AlxPfnv8X16MXDd_UoxnS1dRCDkj98b9xMw"
    )

    assert (
        ConnectionClaims(
            user_id="42",
            expires_at=4_102_444_800,
            info=b'{"n":1}',
            meta=b'{"role":"x"}',
            channels=("news:1", "rec:1"),
            token_id="t-1",
            issued_at=1_577_836_800,
        )
        == HMAC.verify_connection(token, NOW)
    )  # fmt: skip


def test_recorded_subs() -> None:
    """The recorded claim ``subs`` says for each channel its info, its data and its options."""
    token = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsInN1YnMiOnsibmV3czoxIjp7ImluZm8iOnsic"
        "2VhdCI6N30sImRhdGEiOnsiaGVsbG8iOjF9LCJvdmVycmlkZSI6eyJmb3JjZV9yZWNvdmVyeSI6eyJ2YWx1ZSI6dHJ1"
        "ZX0sImpvaW5fbGVhdmUiOnsidmFsdWUiOnRydWV9LCJmb3JjZV9wdXNoX2pvaW5fbGVhdmUiOnsidmFsdWUiOnRydWV"
        "9fX0sIm5ld3M6MiI6eyJvdmVycmlkZSI6eyJwcmVzZW5jZSI6eyJ2YWx1ZSI6ZmFsc2V9LCJmb3JjZV9wb3NpdGlvbm"
        "luZyI6eyJ2YWx1ZSI6dHJ1ZX19fSwibmV3czozIjp7fX19.vERDvJHz_MeqnsEg7AtGXPNzLULOs2K5EHX3w2lDMhc"
    )

    assert {
        "news:1": ChannelClaim(
            b'{"seat":7}',
            b'{"hello":1}',
            SubscriptionOverride(join_leave=True, force_push_join_leave=True, force_recovery=True),
        ),
        "news:2": ChannelClaim(
            override=SubscriptionOverride(presence=False, force_positioning=True)
        ),
        "news:3": ChannelClaim(),
    } == HMAC.verify_connection(token, NOW).subs


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hmac(algorithm: str) -> None:
    """One secret serves the three HMAC algorithms."""
    secret = SECRET + OTHER_SECRET  # PyJWT wants 64 bytes for HS512
    verifier = TokenVerifier(TokenKeys(hmac_secret_key=secret))

    assert "42" == verifier.verify_connection(sign({"sub": "42"}, secret, algorithm), NOW).user_id


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_public_key(algorithm: str) -> None:
    """A token signed with the other half of a configured key is accepted, a changed one is not."""
    key = private_key(algorithm)
    verifier = TokenVerifier(TokenKeys(**{FIELDS[algorithm[:2]]: public_pem(key)}))  # type: ignore[arg-type]
    token = sign({"sub": "42"}, key, algorithm)
    head, _, signature = token.rpartition(".")
    other = sign({"sub": "43"}, key, algorithm).rpartition(".")[0]

    assert "42" == verifier.verify_connection(token, NOW).user_id
    assert head != other
    with pytest.raises(TokenInvalid):
        verifier.verify_connection(f"{other}.{signature}", NOW)


def test_algorithms() -> None:
    """A verifier says what it accepts; a curve has one algorithm."""
    keys = TokenKeys(
        hmac_secret_key=SECRET,
        rsa_public_key=public_pem(private_key("RS256")),
        ecdsa_public_key=public_pem(private_key("ES384")),
        ed25519_public_key=public_pem(private_key("EdDSA")),
    )

    assert (
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES384", "EdDSA",
    ) == TokenVerifier(keys).algorithms  # fmt: skip


def test_public_key_is_no_secret() -> None:
    """A token signed by HMAC with the public key as the secret is refused."""
    pem = public_pem(private_key("RS256"))
    signed, _, _ = sign({"sub": "42"}, SECRET, "HS256").rpartition(".")
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), pem.encode())
    token = f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    for keys in (
        TokenKeys(rsa_public_key=pem),
        TokenKeys(hmac_secret_key=SECRET, rsa_public_key=pem),
    ):
        with pytest.raises(TokenInvalid):
            TokenVerifier(keys).verify_connection(token, NOW)


@pytest.mark.parametrize("algorithm", ["none", "None", "", "PS256", "ES256K", "HS1"])
def test_other_algorithms(algorithm: str) -> None:
    """An algorithm that no configured key was made for is refused, above all ``none``."""
    header = urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
    _, payload, signature = sign({"sub": "42"}).split(".")

    for end in ("", signature):
        with pytest.raises(TokenInvalid):
            HMAC.verify_connection(f"{header}.{payload}.{end}", NOW)


def test_what_the_log_is_told() -> None:
    """The algorithm that a stranger wrote is told on one line, and not at any length."""
    header = urlsafe_b64encode(json.dumps({"alg": "x\n" * 9000}).encode()).rstrip(b"=").decode()

    with pytest.raises(TokenInvalid) as caught:
        HMAC.verify_connection(f"{header}.e30.", NOW)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 100


def test_wrong_secret() -> None:
    """A token of another secret is refused."""
    with pytest.raises(TokenInvalid):
        HMAC.verify_connection(sign({"sub": "42"}, OTHER_SECRET), NOW)


@pytest.mark.parametrize(("until", "accepted"), [(0, True), (NOW, True), (NOW - 1, False)])
def test_previous_secret(until: float, accepted: bool) -> None:
    """The previous secret counts until its time, and for ever without one; the new one always."""
    verifier = create_verifier(
        hmac_previous_secret_key=OTHER_SECRET, hmac_previous_secret_key_valid_until=until
    )
    token = sign({"sub": "42"}, OTHER_SECRET)

    assert "43" == verifier.verify_connection(sign({"sub": "43"}), NOW).user_id
    if accepted:
        assert "42" == verifier.verify_connection(token, NOW).user_id
    else:
        with pytest.raises(TokenInvalid):
            verifier.verify_connection(token, NOW)


def test_skipped_signature() -> None:
    """Without signatures every well-formed token is believed, but not for longer than it says."""
    verifier = create_verifier(skip_signature=True, jwks_public_endpoint=ENDPOINT)
    foreign = sign({"sub": "42", "exp": NOW + 1}, OTHER_SECRET)

    assert "42" == verifier.verify_connection(foreign, NOW).user_id
    assert verifier.key_location(foreign) is None
    with pytest.raises(TokenExpired):
        verifier.verify_connection(foreign, NOW + 1)
    with pytest.raises(TokenInvalid):
        verifier.verify_connection("bad", NOW)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": NOW}, TokenExpired),
        ({"exp": 0}, TokenExpired),
        ({"exp": NOW - 0.5}, TokenExpired),
        ({"nbf": NOW + 0.5}, TokenExpired),
        ({"nbf": 4_102_444_800}, TokenExpired),
        ({"exp": NOW - 1, "expire_at": NOW + 100}, TokenExpired),
        ({"channel": "news:1"}, TokenInvalid),
        ({"channel": "news:1", "exp": 1}, TokenInvalid),
    ],
)
def test_refused_connections(claims: dict[str, Any], error: type[Exception]) -> None:
    """A token that is over, not yet valid, or made for a channel opens no connection."""
    with pytest.raises(error):
        HMAC.verify_connection(sign({"sub": "42", **claims}), NOW)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({}, TokenInvalid),
        ({"channel": ""}, TokenInvalid),
        ({"exp": 1}, TokenExpired),
        ({"channel": "news:1", "exp": 1}, TokenExpired),
        ({"channel": "news:1", "nbf": NOW + 1}, TokenExpired),
        ({"channel": "news:1", "b64data": "%"}, TokenInvalid),
    ],
)
def test_refused_subscriptions(claims: dict[str, Any], error: type[Exception]) -> None:
    """A token that names no channel, is over, or not yet valid opens no subscription."""
    with pytest.raises(error):
        HMAC.verify_subscription(sign({"sub": "42", **claims}), NOW)


def test_subscription() -> None:
    """A subscription token says whose, for what, and how."""
    token = sign({
        "sub": "42", "channel": "$news:1", "client": "c1", "exp": NOW + 10, "iat": NOW, "jti": "t",
        "info": {"seat": 7}, "data": [1], "override": {"presence": {"value": False}},
    })  # fmt: skip

    assert (
        SubscriptionClaims(
            "42", "$news:1", "c1", b'{"seat":7}', b"[1]", NOW + 10,
            SubscriptionOverride(presence=False), "t", NOW,
        )
        == HMAC.verify_subscription(token, NOW)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"aud": "app", "iss": "backend"}, True),
        ({"aud": ["x", "app"], "iss": "backend"}, True),
        ({"aud": "other", "iss": "backend"}, False),
        ({"aud": ["x", "app"], "iss": "other"}, False),
        ({"iss": "backend"}, False),
        ({"aud": "app"}, False),
        ({"aud": [], "iss": "backend"}, False),
        ({"aud": None, "iss": "backend"}, False),
    ],
)
@pytest.mark.parametrize(
    "names",
    [
        {"audience": "app", "issuer": "backend"},
        {"audience_regex": "^app$", "issuer_regex": "^back(?<rest>end)$"},
    ],
)
def test_origin(names: dict[str, str], claims: dict[str, Any], accepted: bool) -> None:
    """A token must be for our audience and from our issuer, by name or by expression."""
    verifier = create_verifier(**names)
    token = sign({"sub": "42", **claims})

    if accepted:
        assert "42" == verifier.verify_connection(token, NOW).user_id
    else:
        with pytest.raises(TokenInvalid):
            verifier.verify_connection(token, NOW)


def test_matched_texts_are_bounded() -> None:
    """An expression is tried on 32 audiences of 256 characters, and no further."""
    verifier = create_verifier(audience_regex="b$")

    for audiences in (["a" * 255 + "b"], ["a"] * 31 + ["b"]):
        verifier.verify_connection(sign({"aud": audiences}), NOW)
    for audiences in (["a" * 256 + "b"], ["a"] * 32 + ["b"]):
        with pytest.raises(TokenInvalid):
            verifier.verify_connection(sign({"aud": audiences}), NOW)


@pytest.mark.parametrize(
    ("value", "user_id"), [("u7", "u7"), (7, "7"), (2**70, str(2**70)), (None, ""), ("", "")]
)
def test_user_id_claim(value: object, user_id: str) -> None:
    """A claim of the application's own holds the user id, as text or as a whole number."""
    verifier = create_verifier(user_id_claim="user_id")
    token = sign({"user_id": value, "sub": "ignored"})

    assert user_id == verifier.verify_connection(token, NOW).user_id
    assert "" == verifier.verify_connection(sign({"sub": "ignored"}), NOW).user_id


@pytest.mark.parametrize("value", [True, 1.5, ["u7"], {"id": "u7"}])
def test_user_id_claim_of_another_kind(value: object) -> None:
    """A user id that is neither text nor a whole number is refused."""
    with pytest.raises(TokenInvalid):
        create_verifier(user_id_claim="user_id").verify_connection(sign({"user_id": value}), NOW)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_key_set(algorithm: str) -> None:
    """With a key set, its key decides: the right one accepts, none and another one refuse."""
    verifier = create_verifier(jwks_public_endpoint=ENDPOINT)
    token = sign({"sub": "42"}, private_key(algorithm), algorithm, kid="k1")

    assert KeyLocation(ENDPOINT, "k1") == verifier.key_location(token)
    assert "42" == verifier.verify_connection(token, NOW, create_jwk(algorithm)).user_id
    another = create_jwk("RS256" if algorithm == "EdDSA" else "EdDSA")
    for key in (None, another):
        with pytest.raises(TokenInvalid):
            verifier.verify_connection(token, NOW, key)


def test_key_set_replaces_keys() -> None:
    """With a key set the configured secret signs nothing, nor does a symmetric key of the set."""
    verifier = create_verifier(jwks_public_endpoint=ENDPOINT)
    token = sign({"sub": "42"}, kid="k1")
    secret = jwt.PyJWK({"kty": "oct", "k": urlsafe_b64encode(SECRET.encode()).decode()})

    assert () == verifier.algorithms
    for key in (None, secret, create_jwk("RS256")):
        with pytest.raises(TokenInvalid):
            verifier.verify_connection(token, NOW, key)
    with pytest.raises(TokenInvalid):
        verifier.key_location(sign({"sub": "42"}))  # no kid


def test_no_key_set() -> None:
    """Without a key set no key has to be fetched, whatever the token is."""
    assert HMAC.key_location("bad") is None


def test_key_set_of_tenants() -> None:
    """Named groups of issuer and audience stand in the address of the key set."""
    verifier = TokenVerifier(
        TokenKeys(
            jwks_public_endpoint="https://id.example/{{realm}}/{{app}}/{{part}}/keys",
            issuer_regex=r"^https://id\.example/(?P<realm>one|two)/?(?<part>x)?$",
            audience_regex="^(?P<app>web|phone)$",
        )
    )
    claims = {"iss": "https://id.example/two", "aud": ["other", "web"]}

    location = verifier.key_location(sign(claims, kid="k1"))
    assert KeyLocation("https://id.example/two/web//keys", "k1") == location
    for wrong in ({"iss": "https://id.example/three"}, {"aud": "evil"}, {"iss": ""}):
        with pytest.raises(TokenInvalid):
            verifier.key_location(sign({**claims, **wrong}, kid="k1"))


def test_warnings() -> None:
    """Weak keys and dangerous settings are told, one sentence each; strong ones are silent."""
    weak = TokenKeys(
        hmac_secret_key="short",
        hmac_previous_secret_key="shorter",
        rsa_public_key=public_pem(private_rsa_key(1024)),
        jwks_public_endpoint="http://id.example/keys",
        insecure_skip_jwks_endpoint_safety_check=True,
        skip_signature=True,
    )

    assert [
        "hmac_secret_key", "hmac_previous_secret_key", "rsa_public_key",
        "signatures", "jwks_public_endpoint", "the",
    ] == [text.split()[0] for text in TokenVerifier(weak).warnings]  # fmt: skip
    assert () == HMAC.warnings


def test_wrong_expression() -> None:
    """An expression that is none is refused at the start."""
    with pytest.raises(ConfigError, match="issuer_regex"):
        TokenVerifier(TokenKeys(issuer_regex="("))
