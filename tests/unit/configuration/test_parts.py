"""The parts of a configuration, each from its section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wirebell import options
from wirebell.configuration.parts import (
    create_api,
    create_client,
    create_endpoints,
    create_server,
    create_token_keys,
    create_transports,
)
from wirebell.configuration.reading import Values
from wirebell.configuration.result import ServerOptions, TLSOptions
from wirebell.configuration.sources import Entry
from wirebell.errors import ConfigError, Disconnect
from wirebell.tokens import TokenKeys

TRANSFORMS = "client.connect_code_to_unidirectional_disconnect"
RESPONSES = "uni_sse.connect_code_to_http_response"
PEM = "-----BEGIN X-----\nAAAA\n-----END X-----\n"


def say(values: dict[str, Any]) -> Values:
    """Say something of several keys."""
    return Values({path: Entry(value, path) for path, value in values.items()})


def test_defaults() -> None:
    """Without a word every part has the reference's defaults, which are the structs'."""
    values = say({})

    assert options.ClientOptions() == create_client(values)
    assert options.APIOptions() == create_api(values)
    assert options.EndpointOptions() == create_endpoints(values)
    assert ServerOptions() == create_server(values)
    assert TokenKeys() == create_token_keys(values, "client.token")
    expected = options.TransportOptions(
        uni_websocket=options.UnidirectionalWebSocketOptions(
            message_bytes_max=65_536, compression=False, compression_bytes_min=1
        )
    )
    assert expected == create_transports(values)


def test_clients() -> None:
    """Modes, the personal channel, the ping method and told disconnects are read."""
    client = create_client(
        say(
            {
                "client.insecure": True,
                "client.user_id_http_header": "X-User-Id",
                "client.subscribe_to_user_personal_channel.enabled": True,
                "client.subscribe_to_user_personal_channel.personal_channel_namespace": "own",
                "client.subscribe_to_user_personal_channel.single_connection": True,
                "rpc.ping.enabled": True,
                f"{TRANSFORMS}.enabled": True,
                f"{TRANSFORMS}.transforms": [
                    {"code": 109, "to": {"code": 4501, "reason": "please log in"}}
                ],
            }
        )
    )

    assert client == options.ClientOptions(
        insecure=True,
        user_id_http_header="X-User-Id",
        personal=options.PersonalChannel(namespace="own", single_connection=True),
        rpc_ping_method="ping",
        connect_disconnects={109: Disconnect(4501, "please log in")},
    )


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({}, "an item is"),
        ({"code": "109", "to": {}}, "an item is"),
        ({"code": True, "to": {}}, "an item is"),
        ({"code": 109, "to": 4501}, "an item is"),
        ({"code": 109, "to": {}}, "code must be 3000 to 4999, got None"),
        ({"code": 109, "to": {"code": True}}, "code must be 3000 to 4999, got True"),
        ({"code": 109, "to": {"code": 5000}}, "code must be 3000 to 4999, got 5000"),
        ({"code": 109, "to": {"code": 4501, "reason": "x" * 124}}, "has 124 bytes, limit 123"),
    ],
)
def test_bad_transforms(item: dict[str, Any], told: str) -> None:
    """A disconnect that could never be sent is refused with its key."""
    values = say({f"{TRANSFORMS}.enabled": True, f"{TRANSFORMS}.transforms": [item]})

    with pytest.raises(ConfigError, match=told) as caught:
        create_client(values)
    assert str(caught.value).startswith(TRANSFORMS)


def test_transports() -> None:
    """Transports have their paths, bounds and answers."""
    transports = create_transports(
        say(
            {
                "websocket.disabled": True,
                "sse.enabled": True,
                "sse.handler_prefix": "/events/",
                "sse.max_request_body_size": 200,
                "emulation.max_request_body_size": 300,
                "uni_websocket.enabled": True,
                "uni_websocket.join_push_messages": True,
                f"{RESPONSES}.enabled": True,
                f"{RESPONSES}.transforms": [
                    {"code": 3500, "to": {"status_code": 403, "body": "invalid"}}
                ],
            }
        )
    )

    assert not transports.websocket.enabled
    expected = options.StreamOptions(enabled=True, path="/events", body_bytes_max=200)
    assert expected == transports.sse
    assert transports.emulation.body_bytes_max == 300
    assert transports.uni_websocket.join_push_messages
    assert {3500: options.ConnectResponse(403, "invalid")} == transports.uni_sse.connect_responses
    assert transports.uni_http_stream.connect_responses is None


@pytest.mark.parametrize("path", ["", "api", "/a?b", "/a b", "/{name}"])
def test_bad_paths(path: str) -> None:
    """A prefix is the path of a URL."""
    with pytest.raises(ConfigError, match=r"http_api\.handler_prefix must be a path such as /api"):
        create_api(say({"http_api.handler_prefix": path}))


def test_api_and_endpoints() -> None:
    """The API and what operators ask are at their paths when they are on."""
    values = say(
        {
            "http_api.key": "secret",
            "http_api.error_mode": "transport",
            "http_api.handler_prefix": "/v1/api/",
            "health.enabled": True,
            "prometheus.enabled": True,
            "prometheus.handler_prefix": "/internal/metrics",
        }
    )

    expected = options.APIOptions(path="/v1/api", key="secret", transport_errors=True)
    assert expected == create_api(values)
    assert options.EndpointOptions(
        health="/health", ready="/ready", metrics="/internal/metrics"
    ) == create_endpoints(values)


def test_an_api_at_the_root() -> None:
    """Nothing else would be reached."""
    with pytest.raises(ConfigError, match=r"http_api\.handler_prefix must be below the root"):
        create_api(say({"http_api.handler_prefix": "/"}))


@pytest.mark.parametrize(
    ("keys", "has_api", "has_health"),
    [
        ({}, True, True),
        ({"http_server.internal_port": ""}, True, True),
        ({"http_server.internal_port": "8000"}, True, True),
        ({"http_server.internal_port": 9000}, False, False),
        ({"http_server.internal_address": "127.0.0.1"}, False, False),
        ({"http_server.internal_port": "9000", "http_api.external": "true"}, True, False),
        ({"http_server.internal_port": "9000", "http_api.external": None}, False, False),
        ({"http_api.external": True}, True, True),
    ],
)
def test_what_clients_were_not_to_reach(
    keys: dict[str, Any], has_api: bool, has_health: bool
) -> None:
    """What was for another address only is not served where clients come."""
    values = say(keys | {"health.enabled": True, "init.enabled": True})

    endpoints = create_endpoints(values)
    assert (has_api, has_health, "/connection/init") == (
        create_api(values).enabled,
        bool(endpoints.health and endpoints.ready),
        endpoints.init,
    )


def test_a_bad_word_for_an_external_api() -> None:
    """It is refused with its key."""
    values = say({"http_server.internal_port": "1", "http_api.external": "maybe"})

    with pytest.raises(ConfigError, match=r"http_api\.external must be true or false, got 'maybe'"):
        create_api(values)


def test_server() -> None:
    """The process has its level, and TLS when that is on."""
    server = create_server(
        say(
            {
                "log.level": "warn",
                "http_server.tls.enabled": True,
                "http_server.tls.cert_pem": PEM,
                "http_server.tls.key_pem": PEM,
            }
        )
    )

    assert ServerOptions(log_level="WARNING", tls=TLSOptions(certificate=PEM, key=PEM)) == server


def test_tls_without_a_key() -> None:
    """TLS needs a certificate and its key."""
    with pytest.raises(ConfigError, match=r"tls\.enabled needs http_server\.tls\.key_pem"):
        create_server(say({"http_server.tls.enabled": True, "http_server.tls.cert_pem": PEM}))


def test_tokens(tmp_path: Path) -> None:
    """Keys of tokens are read, public ones from a file too."""
    public = (
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    path = tmp_path / "key.pem"
    path.write_bytes(public)

    keys = create_token_keys(
        say(
            {
                "client.token.hmac_secret_key": "s" * 32,
                "client.token.ed25519_public_key": str(path),
                "client.insecure_skip_token_signature_verify": True,
            }
        ),
        "client.token",
    )

    assert keys == TokenKeys(
        hmac_secret_key="s" * 32, ed25519_public_key=public.decode(), skip_signature=True
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rsa_public_key": "/nowhere.pem"}, "client.token.rsa_public_key is neither PEM nor"),
        ({"rsa_public_key": PEM}, "client.token: rsa_public_key cannot be read"),
        ({"audience": "a", "audience_regex": "b"}, "cannot both be given"),
        ({"issuer_regex": "("}, "client.token: issuer_regex"),
    ],
)
def test_bad_token_keys(values: dict[str, str], told: str) -> None:
    """A key that cannot be used is refused with its section."""
    with pytest.raises(ConfigError, match=told):
        create_token_keys(
            say({f"client.token.{name}": value for name, value in values.items()}), "client.token"
        )
