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

import msgspec

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
# What is longer than 2 GiB is a slip as well, and Python's `int` has no bound of its own.
COUNT_MAX = 2**31 - 1

TREE: dict[str, Any] = json.loads(
    resources.files("wirebell.configuration").joinpath("known_keys.json").read_text()
)
"""Every key of the reference, with its default."""

# Lists whose items have a name, by which the environment reaches into them.
NAMESPACE_LISTS = ("channel.namespaces", "rpc.namespaces", "proxies", "consumers")


class Key(msgspec.Struct, frozen=True):
    """One key.

    Attributes:
        path: In the tree, with dots.
        kind: What it holds.
        target: The value in Python: ``settings.`` and a field of `Settings`, or a field of one of
            the structs of `wirebell.options`; empty where several keys make one value.
        note: What it does, where its name does not say it.
        minimum: Least number.
        maximum: Greatest number.
        choices: The only texts.
        zero_is_default: 0 stands for the default, as in the reference.
        zero_is: What 0 stands for in Python; ``None`` is 0 itself.
        default: Of a key that is not in the reference's tree.
        is_secret: The value is never shown.
    """

    path: str
    kind: Kind
    target: str = ""
    note: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    zero_is_default: bool = False
    zero_is: int | None = None
    default: Any = None
    is_secret: bool = False


def _flag(path: str, target: str = "", note: str = "") -> Key:
    """Describe a key that is on or off."""
    return Key(path, Kind.BOOLEAN, target, note)


def _text(path: str, target: str = "", note: str = "", **rest: Any) -> Key:
    """Describe a key that holds a text."""
    return Key(path, Kind.TEXT, target, note, **rest)


def _count(path: str, target: str = "", note: str = "", **rest: Any) -> Key:
    """Describe a key that holds a number of things or bytes."""
    return Key(path, Kind.INTEGER, target, note, **{"minimum": 0, "maximum": COUNT_MAX} | rest)


def _seconds(path: str, target: str = "", note: str = "", **rest: Any) -> Key:
    """Describe a duration; ``0s`` is the default, unless told otherwise."""
    return Key(path, Kind.DURATION, target, note, **{"zero_is_default": True} | rest)


def _token_keys(section: str) -> tuple[Key, ...]:
    """Describe the keys of one kind of token."""
    return (
        _text(f"{section}.hmac_secret_key", note="HS256, HS384, HS512", is_secret=True),
        _text(
            f"{section}.hmac_previous_secret_key",
            note="the key before, while it is being replaced",
            is_secret=True,
        ),
        _count(
            f"{section}.hmac_previous_secret_key_valid_until",
            note="when it ends, in seconds since 1970; 0 is never",
            maximum=2**53,
        ),
        _text(f"{section}.rsa_public_key", note="RS256, RS384, RS512; PEM, base64 or a path"),
        _text(f"{section}.ecdsa_public_key", note="ES256, ES384, ES512; PEM, base64 or a path"),
        _text(f"{section}.ed25519_public_key", note="EdDSA; PEM, base64 or a path", default=""),
        _text(f"{section}.jwks_public_endpoint", note="where the issuer shows its keys"),
        _text(f"{section}.audience", note="`aud` of every token"),
        _text(f"{section}.audience_regex", note="or what it matches"),
        _text(f"{section}.issuer", note="`iss` of every token"),
        _text(f"{section}.issuer_regex", note="or what it matches"),
        _text(f"{section}.user_id_claim", note="claim that names the user, instead of `sub`"),
        _flag(
            f"{section}.insecure_skip_jwks_endpoint_safety_check",
            note="let the endpoint be built from a token's claims by patterns that match anything",
        ),
    )


def _stream_keys(section: str) -> tuple[Key, ...]:
    """Describe the keys of a transport over HTTP."""
    return (
        _flag(f"{section}.enabled", f"transports.{section}.enabled"),
        _text(f"{section}.handler_prefix", f"transports.{section}.path"),
        _count(
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
        _flag(f"{response}.enabled", note="answer a failed connect by an HTTP status"),
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
        _flag(f"{section}.enabled", note="off until switched on"),
        _text(f"{section}.handler_prefix", f"endpoints.{target}"),
    )


SERVER_KEYS = (
    _text("http_server.address", "server.address", "to listen on; empty for every IPv4 address"),
    _count("http_server.port", "server.port", "0 takes a free one", maximum=PORT_MAX),
    _text(
        "http_server.unix_socket",
        "server.unix_socket",
        "to listen on instead of a port",
        default="",
    ),
    _count(
        "http_server.workers",
        "server.workers",
        "processes",
        minimum=1,
        maximum=WORKERS_MAX,
        default=1,
    ),
    _flag("http_server.tls.enabled"),
    _text("http_server.tls.cert_pem", "server.tls.certificate", "PEM, base64 or a path"),
    _text("http_server.tls.key_pem", "server.tls.key", "likewise", is_secret=True),
    _text(
        "http_server.tls.client_ca_pem",
        "server.tls.client_authorities",
        "likewise; peers must show a certificate of theirs",
    ),
    _text(
        "log.level",
        "server.log_level",
        choices=("trace", "debug", "info", "warn", "error", "fatal", "none"),
    ),
    _text("log.file", "server.log_file", "instead of standard error"),
    _seconds(
        "shutdown.timeout",
        "server.shutdown_seconds",
        "most time to end in; connections are closed over `drain_window_seconds` of it",
    ),
    _text("pid_file", "server.pid_file"),
    _text("node.name", "server.node_name", "empty for one made of machine and process"),
)

CLIENT_KEYS = (
    Key(
        "client.allowed_origins",
        Kind.LIST,
        "settings.allowed_origins",
        "`https://*.example.com`: a star is any characters but `/`; `*` alone allows every page",
    ),
    _flag(
        "client.allow_anonymous_connect_without_token",
        "client.allow_anonymous_connect_without_token",
    ),
    _flag(
        "client.disallow_anonymous_connection_tokens", "client.disallow_anonymous_connection_tokens"
    ),
    _seconds("client.ping_interval", "settings.ping_interval_seconds"),
    _seconds("client.pong_timeout", "settings.pong_timeout_seconds"),
    _seconds("client.expired_close_delay", "settings.expired_close_delay_seconds"),
    _seconds("client.expired_sub_close_delay", "settings.expired_sub_close_delay_seconds"),
    _seconds("client.stale_close_delay", "settings.first_message_timeout_seconds"),
    _count("client.channel_limit", "settings.channels_per_connection_max", zero_is_default=True),
    _count("client.queue_max_size", "settings.send_queue_bytes_max", zero_is_default=True),
    _seconds("client.presence_update_interval", "settings.presence_refresh_seconds"),
    _seconds("client.channel_position_check_delay", "settings.channel_position_check_seconds"),
    _count("client.connection_limit", "settings.connections_max", "of one process; 0 is no limit"),
    _count("client.user_connection_limit", "settings.connections_per_user_max", "likewise"),
    _count("client.connection_rate_limit", "settings.connections_per_second_max", "likewise"),
    _count(
        "client.history_max_publication_limit",
        "settings.history_publications_max",
        "0 is no limit",
        zero_is=COUNT_MAX,
    ),
    _count(
        "client.recovery_max_publication_limit",
        "settings.recovery_publications_max",
        "0 is no limit",
        zero_is=COUNT_MAX,
    ),
    _flag("client.connect_include_server_time", "client.connect_include_server_time"),
    _flag("client.insecure_skip_token_signature_verify", note="for development only"),
    _flag("client.insecure", "client.insecure", "for development only"),
    _text("client.user_id_http_header", "client.user_id_http_header"),
    _flag("client.subscribe_to_user_personal_channel.enabled"),
    _text(
        "client.subscribe_to_user_personal_channel.personal_channel_namespace",
        "client.personal.namespace",
    ),
    _flag(
        "client.subscribe_to_user_personal_channel.single_connection",
        "client.personal.single_connection",
    ),
    _flag("client.connect_code_to_unidirectional_disconnect.enabled"),
    Key(
        "client.connect_code_to_unidirectional_disconnect.transforms",
        Kind.OBJECTS,
        "client.connect_disconnects",
        'each `{"code": 109, "to": {"code": 4501, "reason": ""}}`',
    ),
    _flag("rpc.ping.enabled"),
    _text("rpc.ping.method", "client.rpc_ping_method"),
    *_token_keys("client.token"),
    _flag("client.subscription_token.enabled", note="else subscription tokens have the same keys"),
    *_token_keys("client.subscription_token"),
)

NAME_KEYS = (
    _count("channel.max_length", "settings.channel_bytes_max", zero_is_default=True),
    _text("channel.private_prefix", "names.private_prefix"),
    _text("channel.namespace_boundary", "names.namespace_boundary"),
    _text("channel.user_boundary", "names.user_boundary"),
    _text("channel.user_separator", "names.user_separator"),
    _seconds("channel.history_meta_ttl", note="where a namespace names none"),
    _text(
        "channel.publication_data_format",
        note="where a namespace names none",
        choices=("", "json", "json_object", "binary"),
    ),
)

TRANSPORT_KEYS = (
    _flag("websocket.disabled", "transports.websocket.enabled"),
    _text("websocket.handler_prefix", "transports.websocket.path"),
    _count("websocket.message_size_limit", "settings.message_bytes_max", zero_is_default=True),
    _flag("websocket.compression", "settings.compression"),
    _count("websocket.compression_min_size", "settings.compression_bytes_min", zero_is=1),
    *_stream_keys("sse"),
    *_stream_keys("http_stream"),
    _text("emulation.handler_prefix", "transports.emulation.path"),
    _count(
        "emulation.max_request_body_size",
        "transports.emulation.body_bytes_max",
        zero_is_default=True,
    ),
    _flag("uni_websocket.enabled", "transports.uni_websocket.enabled"),
    _text("uni_websocket.handler_prefix", "transports.uni_websocket.path"),
    _count(
        "uni_websocket.message_size_limit",
        "transports.uni_websocket.message_bytes_max",
        zero_is_default=True,
    ),
    _flag("uni_websocket.compression", "transports.uni_websocket.compression"),
    _count(
        "uni_websocket.compression_min_size",
        "transports.uni_websocket.compression_bytes_min",
        zero_is=1,
    ),
    _flag("uni_websocket.join_push_messages", "transports.uni_websocket.join_push_messages"),
    _flag(
        "uni_websocket.disable_disconnect_push", "transports.uni_websocket.disable_disconnect_push"
    ),
    *_unidirectional_keys("uni_sse"),
    *_unidirectional_keys("uni_http_stream"),
)

OPERATOR_KEYS = (
    _flag("http_api.disabled", "api.enabled"),
    _text("http_api.handler_prefix", "api.path"),
    _text("http_api.key", "api.key", "empty lets nobody in", is_secret=True),
    _text(
        "http_api.error_mode",
        "api.transport_errors",
        "`transport`: errors are told by the HTTP status too",
        choices=("", "transport"),
    ),
    _flag("http_api.insecure", "api.insecure", "for development only"),
    *_endpoint_keys("health", "health"),
    _text(
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
    _flag("presence", "presence"),
    _flag("join_leave", "join_leave"),
    _flag("force_push_join_leave", "force_push_join_leave"),
    _count("history_size", "history.size", "needs `history_ttl`"),
    _seconds("history_ttl", "history.ttl_seconds", "needs `history_size`", zero_is_default=False),
    _seconds(
        "history_meta_ttl",
        "history.meta_ttl_seconds",
        "0s is `channel.history_meta_ttl`",
        zero_is_default=False,
    ),
    _flag("force_positioning", "force_positioning"),
    _flag("allow_positioning", "allow_positioning"),
    _flag("force_recovery", "force_recovery", "needs history"),
    _flag("allow_recovery", "allow_recovery"),
    _text("force_recovery_mode", "recovery_mode", choices=("", "stream", "cache")),
    _flag("auto_cache_recover", "auto_cache_recover"),
    Key("allowed_delta_types", Kind.LIST, "allowed_delta_types", choices=("fossil",)),
    _flag("allow_tags_filter", "allow_tags_filter"),
    _flag("delta_publish", "delta_publish"),
    *(
        _flag(f"allow_{action}_for_{who}", f"permissions.allow_{action}_for_{who}")
        for action, members in (
            ("subscribe", ("anonymous", "client")),
            ("publish", ("anonymous", "subscriber", "client")),
            ("presence", ("anonymous", "subscriber", "client")),
            ("history", ("anonymous", "subscriber", "client")),
        )
        for who in members
    ),
    _flag("allow_user_limited_channels", "permissions.allow_user_limited_channels"),
    _text("channel_regex", "channel_regex", "what a name matches, without its namespace"),
    _text(
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
    "broker.enabled": "`broker.type` is what counts",
    "presence_manager.enabled": "`presence_manager.type` is what counts",
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
    groups = (SERVER_KEYS, CLIENT_KEYS, NAME_KEYS, TRANSPORT_KEYS, OPERATOR_KEYS)
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
