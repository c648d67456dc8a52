"""The one table of keys: what they are called outside, and which Python value each becomes.

Outside is the tree of an existing Centrifugo v6 configuration; `known_keys.json` holds all of it
with its defaults. Settings that the tree has no key for are keys of ours at its top, by the field's
name: so ``WIREBELL_TICK_BYTES_MAX`` means the same to an application and to ``wirebell serve``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from wirebell.configuration.broker_keys import BROKER_KEYS
from wirebell.configuration.key import COUNT_MAX, Key, count, flag, seconds, text
from wirebell.configuration.values import Kind
from wirebell.settings import Settings

__all__ = (
    "ACCEPTED",
    "CHANNEL_KEYS",
    "KEYS",
    "NAMESPACE_LISTS",
    "TREE",
    "Key",
    "flatten",
    "read_channel_tree",
    "read_known",
)

PORT_MAX = 65_535
# More processes than this on one machine is a slip of the finger.
WORKERS_MAX = 64

TREE: dict[str, Any] = json.loads(
    resources.files("wirebell.configuration").joinpath("known_keys.json").read_text()
)
"""Every key of the reference, with its default; and the sections that only we have."""
for _section in ("engine", "broker"):
    TREE[_section]["sqlite"] = {"path": ""}

# Lists whose items have a name, by which the environment reaches into them.
NAMESPACE_LISTS = ("channel.namespaces", "rpc.namespaces", "proxies", "consumers")


def _token_keys(section: str) -> tuple[Key, ...]:
    """Describe the keys of one kind of token."""
    return (
        text(f"{section}.hmac_secret_key", note="HS256, HS384, HS512", is_secret=True),
        text(
            f"{section}.hmac_previous_secret_key",
            note="the key before, while it is being replaced",
            is_secret=True,
        ),
        count(
            f"{section}.hmac_previous_secret_key_valid_until",
            note="when it ends, in seconds since 1970; 0 is never",
            maximum=2**53,
        ),
        text(f"{section}.rsa_public_key", note="RS256, RS384, RS512; PEM, base64 or a path"),
        text(f"{section}.ecdsa_public_key", note="ES256, ES384, ES512; PEM, base64 or a path"),
        text(f"{section}.ed25519_public_key", note="EdDSA; PEM, base64 or a path", default=""),
        text(f"{section}.jwks_public_endpoint", note="where the issuer shows its keys"),
        text(f"{section}.audience", note="`aud` of every token"),
        text(f"{section}.audience_regex", note="or what it matches"),
        text(f"{section}.issuer", note="`iss` of every token"),
        text(f"{section}.issuer_regex", note="or what it matches"),
        text(f"{section}.user_id_claim", note="claim that names the user, instead of `sub`"),
        flag(
            f"{section}.insecure_skip_jwks_endpoint_safety_check",
            note="let the endpoint be built from a token's claims by patterns that match anything",
        ),
    )


def _stream_keys(section: str) -> tuple[Key, ...]:
    """Describe the keys of a transport over HTTP."""
    return (
        flag(f"{section}.enabled", f"transports.{section}.enabled"),
        text(f"{section}.handler_prefix", f"transports.{section}.path"),
        count(
            f"{section}.max_request_body_size",
            f"transports.{section}.body_bytes_max",
            zero_is_default=True,
        ),
    )


def _unidirectional_keys(section: str) -> tuple[Key, ...]:
    """Describe the keys of a unidirectional transport over HTTP."""
    response = f"{section}.connect_code_to_http_response"
    return (
        *_stream_keys(section),
        flag(f"{response}.enabled", note="answer a failed connect by an HTTP status"),
        Key(
            f"{response}.transforms",
            Kind.OBJECTS,
            f"transports.{section}.connect_responses",
            'each `{"code": 3500, "to": {"status_code": 403, "body": ""}}`',
        ),
    )


def _endpoint_keys(section: str, target: str) -> tuple[Key, ...]:
    """Describe the keys of a path that operators ask."""
    return (
        flag(f"{section}.enabled", note="off until switched on"),
        text(f"{section}.handler_prefix", f"endpoints.{target}"),
    )


SERVER_KEYS = (
    text("http_server.address", "server.address", "to listen on; empty for every IPv4 address"),
    count("http_server.port", "server.port", "0 takes a free one", maximum=PORT_MAX),
    text(
        "http_server.unix_socket",
        "server.unix_socket",
        "to listen on instead of a port",
        default="",
    ),
    count(
        "http_server.workers",
        "server.workers",
        "processes",
        minimum=1,
        maximum=WORKERS_MAX,
        default=1,
    ),
    flag("http_server.tls.enabled"),
    text("http_server.tls.cert_pem", "server.tls.certificate", "PEM, base64 or a path"),
    text("http_server.tls.key_pem", "server.tls.key", "likewise", is_secret=True),
    text(
        "http_server.tls.client_ca_pem",
        "server.tls.client_authorities",
        "likewise; peers must show a certificate of theirs",
    ),
    text(
        "log.level",
        "server.log_level",
        choices=("trace", "debug", "info", "warn", "error", "fatal", "none"),
    ),
    text("log.file", "server.log_file", "instead of standard error"),
    seconds(
        "shutdown.timeout",
        "server.shutdown_seconds",
        "most time to end in; connections are closed over `drain_window_seconds` of it",
    ),
    text("pid_file", "server.pid_file"),
    text("node.name", "server.node_name", "empty for one made of machine and process"),
)

CLIENT_KEYS = (
    Key(
        "client.allowed_origins",
        Kind.LIST,
        "settings.allowed_origins",
        "`https://*.example.com`: a star is any characters but `/`; `*` alone allows every page",
    ),
    flag(
        "client.allow_anonymous_connect_without_token",
        "client.allow_anonymous_connect_without_token",
    ),
    flag(
        "client.disallow_anonymous_connection_tokens", "client.disallow_anonymous_connection_tokens"
    ),
    seconds("client.ping_interval", "settings.ping_interval_seconds"),
    seconds("client.pong_timeout", "settings.pong_timeout_seconds"),
    seconds("client.expired_close_delay", "settings.expired_close_delay_seconds"),
    seconds("client.expired_sub_close_delay", "settings.expired_sub_close_delay_seconds"),
    seconds("client.stale_close_delay", "settings.first_message_timeout_seconds"),
    count("client.channel_limit", "settings.channels_per_connection_max", zero_is_default=True),
    count("client.queue_max_size", "settings.send_queue_bytes_max", zero_is_default=True),
    seconds("client.presence_update_interval", "settings.presence_refresh_seconds"),
    seconds("client.channel_position_check_delay", "settings.channel_position_check_seconds"),
    count("client.connection_limit", "settings.connections_max", "of one process; 0 is no limit"),
    count("client.user_connection_limit", "settings.connections_per_user_max", "likewise"),
    count("client.connection_rate_limit", "settings.connections_per_second_max", "likewise"),
    count(
        "client.history_max_publication_limit",
        "settings.history_publications_max",
        "0 is no limit",
        zero_is=COUNT_MAX,
    ),
    count(
        "client.recovery_max_publication_limit",
        "settings.recovery_publications_max",
        "0 is no limit",
        zero_is=COUNT_MAX,
    ),
    flag("client.connect_include_server_time", "client.connect_include_server_time"),
    flag("client.insecure_skip_token_signature_verify", note="for development only"),
    flag("client.insecure", "client.insecure", "for development only"),
    text("client.user_id_http_header", "client.user_id_http_header"),
    flag("client.subscribe_to_user_personal_channel.enabled"),
    text(
        "client.subscribe_to_user_personal_channel.personal_channel_namespace",
        "client.personal.namespace",
    ),
    flag(
        "client.subscribe_to_user_personal_channel.single_connection",
        "client.personal.single_connection",
    ),
    flag("client.connect_code_to_unidirectional_disconnect.enabled"),
    Key(
        "client.connect_code_to_unidirectional_disconnect.transforms",
        Kind.OBJECTS,
        "client.connect_disconnects",
        'each `{"code": 109, "to": {"code": 4501, "reason": ""}}`',
    ),
    flag("rpc.ping.enabled"),
    text("rpc.ping.method", "client.rpc_ping_method"),
    *_token_keys("client.token"),
    flag("client.subscription_token.enabled", note="else subscription tokens have the same keys"),
    *_token_keys("client.subscription_token"),
)

NAME_KEYS = (
    count("channel.max_length", "settings.channel_bytes_max", zero_is_default=True),
    text("channel.private_prefix", "names.private_prefix"),
    text("channel.namespace_boundary", "names.namespace_boundary"),
    text("channel.user_boundary", "names.user_boundary"),
    text("channel.user_separator", "names.user_separator"),
    seconds("channel.history_meta_ttl", note="where a namespace names none"),
    text(
        "channel.publication_data_format",
        note="where a namespace names none",
        choices=("", "json", "json_object", "binary"),
    ),
)

TRANSPORT_KEYS = (
    flag("websocket.disabled", "transports.websocket.enabled"),
    text("websocket.handler_prefix", "transports.websocket.path"),
    count("websocket.message_size_limit", "settings.message_bytes_max", zero_is_default=True),
    flag("websocket.compression", "settings.compression"),
    count("websocket.compression_min_size", "settings.compression_bytes_min", zero_is=1),
    *_stream_keys("sse"),
    *_stream_keys("http_stream"),
    text("emulation.handler_prefix", "transports.emulation.path"),
    count(
        "emulation.max_request_body_size",
        "transports.emulation.body_bytes_max",
        zero_is_default=True,
    ),
    flag("uni_websocket.enabled", "transports.uni_websocket.enabled"),
    text("uni_websocket.handler_prefix", "transports.uni_websocket.path"),
    count(
        "uni_websocket.message_size_limit",
        "transports.uni_websocket.message_bytes_max",
        zero_is_default=True,
    ),
    flag("uni_websocket.compression", "transports.uni_websocket.compression"),
    count(
        "uni_websocket.compression_min_size",
        "transports.uni_websocket.compression_bytes_min",
        zero_is=1,
    ),
    flag("uni_websocket.join_push_messages", "transports.uni_websocket.join_push_messages"),
    flag(
        "uni_websocket.disable_disconnect_push", "transports.uni_websocket.disable_disconnect_push"
    ),
    *_unidirectional_keys("uni_sse"),
    *_unidirectional_keys("uni_http_stream"),
)

OPERATOR_KEYS = (
    flag("http_api.disabled", "api.enabled"),
    text("http_api.handler_prefix", "api.path"),
    text("http_api.key", "api.key", "empty lets nobody in", is_secret=True),
    text(
        "http_api.error_mode",
        "api.transport_errors",
        "`transport`: errors are told by the HTTP status too",
        choices=("", "transport"),
    ),
    flag("http_api.insecure", "api.insecure", "for development only"),
    *_endpoint_keys("health", "health"),
    text(
        "health.ready_handler_prefix",
        "endpoints.ready",
        "on with `health.enabled`",
        default="/ready",
    ),
    *_endpoint_keys("prometheus", "metrics"),
    *_endpoint_keys("swagger", "swagger"),
    *_endpoint_keys("init", "init"),
)

CHANNEL_KEYS = (
    flag("presence", "presence"),
    flag("join_leave", "join_leave"),
    flag("force_push_join_leave", "force_push_join_leave"),
    count("history_size", "history.size", "needs `history_ttl`"),
    seconds("history_ttl", "history.ttl_seconds", "needs `history_size`", zero_is_default=False),
    seconds(
        "history_meta_ttl",
        "history.meta_ttl_seconds",
        "0s is `channel.history_meta_ttl`",
        zero_is_default=False,
    ),
    flag("force_positioning", "force_positioning"),
    flag("allow_positioning", "allow_positioning"),
    flag("force_recovery", "force_recovery", "needs history"),
    flag("allow_recovery", "allow_recovery"),
    text("force_recovery_mode", "recovery_mode", choices=("", "stream", "cache")),
    flag("auto_cache_recover", "auto_cache_recover"),
    Key("allowed_delta_types", Kind.LIST, "allowed_delta_types", choices=("fossil",)),
    flag("allow_tags_filter", "allow_tags_filter"),
    flag("delta_publish", "delta_publish"),
    *(
        flag(f"allow_{action}_for_{who}", f"permissions.allow_{action}_for_{who}")
        for action, members in (
            ("subscribe", ("anonymous", "client")),
            ("publish", ("anonymous", "subscriber", "client")),
            ("presence", ("anonymous", "subscriber", "client")),
            ("history", ("anonymous", "subscriber", "client")),
        )
        for who in members
    ),
    flag("allow_user_limited_channels", "permissions.allow_user_limited_channels"),
    text("channel_regex", "channel_regex", "what a name matches, without its namespace"),
    text(
        "publication_data_format",
        "publication_format",
        "empty is `channel.publication_data_format`",
        choices=("", "json", "json_object", "binary"),
    ),
)
"""Options of a namespace and of ``channel.without_namespace``; targets are in `ChannelOptions`."""

ACCEPTED: Mapping[str, str] = {
    "client.concurrency": "commands of a client are always handled in order",
    "usage_stats.disabled": "nothing is ever sent to anybody",
    "websocket.compression_level": "level 1 of zlib, always",
    "websocket.decompressed_message_size_limit": "the limit is that of the message",
    "websocket.read_buffer_size": "an idle connection has no buffer",
    "websocket.write_buffer_size": "an idle connection has no buffer",
    "websocket.use_write_buffer_pool": "an idle connection has no buffer",
    "websocket.write_timeout": "a peer that takes nothing is cut between two pings",
    "uni_websocket.compression_level": "level 1 of zlib, always",
    "uni_websocket.decompressed_message_size_limit": "the limit is that of the message",
    "uni_websocket.read_buffer_size": "an idle connection has no buffer",
    "uni_websocket.write_buffer_size": "an idle connection has no buffer",
    "uni_websocket.use_write_buffer_pool": "an idle connection has no buffer",
    "uni_websocket.write_timeout": "a peer that takes nothing is cut between two pings",
    "http_api.external": "with an `http_server.internal_port`, it says where the API is served",
    "node.info_metrics_aggregate_interval": "counters are read when somebody asks",
    "broker.postgres.binary_data": "payloads are kept as bytes in any case",
    "broker.postgres.use_notify": "nodes listen in any case, and look by themselves besides",
    "broker.postgres.outbox.poll_interval": "nodes are woken by notifications",
    "broker.postgres.outbox.batch_size": "a node reads what there is, in bounded parts",
}
"""Keys that change nothing here, and why no one misses it; they are taken without a word."""


def _own_setting_keys(taken: set[str]) -> Iterator[Key]:
    """Describe the settings that the reference's tree has no key for."""
    kinds = {
        bool: Kind.BOOLEAN,
        int: Kind.INTEGER,
        float: Kind.NUMBER,
        str: Kind.TEXT,
        dict: Kind.OBJECT,
    }
    for name, field in Settings.model_fields.items():
        if f"settings.{name}" not in taken:
            kind = kinds[type(field.default)]
            yield Key(name, kind, f"settings.{name}", default=field.default)


def _join_tables() -> dict[str, Key]:
    """Join the tables."""
    groups = (
        SERVER_KEYS, CLIENT_KEYS, NAME_KEYS, TRANSPORT_KEYS, OPERATOR_KEYS, BROKER_KEYS,
    )  # fmt: skip
    keys = [key for group in groups for key in group]
    keys += _own_setting_keys({key.target for key in keys})
    return {key.path: key for key in keys}


KEYS: Mapping[str, Key] = _join_tables()
"""Path → key, of all but the options of channels."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the leaves of a tree with their paths. An empty object is a leaf."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


@cache
def read_channel_tree() -> Mapping[str, Any]:
    """Return the tree of one namespace's options, with their defaults."""
    return {"name": ""} | TREE["channel"]["without_namespace"]  # type: ignore[no-any-return]


@cache
def read_known() -> Mapping[str, Any]:
    """Return path → default of every key: the reference's, and ours."""
    known = dict(flatten(TREE))
    known |= {key.path: key.default for key in KEYS.values() if key.path not in known}
    return known
