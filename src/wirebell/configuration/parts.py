"""The parts of a configuration, each from its section of the tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wirebell.configuration.reading import Values
from wirebell.configuration.result import ServerOptions, TLSOptions
from wirebell.configuration.values import Kind, parse, read_pem
from wirebell.errors import ConfigError, Disconnect
from wirebell.options import (
    APIOptions,
    ClientOptions,
    ConnectResponse,
    EmulationOptions,
    EndpointOptions,
    PersonalChannel,
    StreamOptions,
    TransportOptions,
    UnidirectionalStreamOptions,
    UnidirectionalWebSocketOptions,
    WebSocketOptions,
)
from wirebell.tokens import TokenKeys, TokenVerifier

__all__ = (
    "INTERNAL_KEYS",
    "check_paths",
    "create_api",
    "create_client",
    "create_endpoints",
    "create_server",
    "create_token_keys",
    "create_transports",
    "has_internal_address",
)

TOKEN_FIELDS = (
    "hmac_secret_key",
    "hmac_previous_secret_key",
    "hmac_previous_secret_key_valid_until",
    "audience",
    "audience_regex",
    "issuer",
    "issuer_regex",
    "user_id_claim",
    "jwks_public_endpoint",
    "insecure_skip_jwks_endpoint_safety_check",
)
PUBLIC_KEYS = ("rsa_public_key", "ecdsa_public_key", "ed25519_public_key")
LOG_LEVELS = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
    "fatal": "CRITICAL",
    "none": "CRITICAL",
}
# Keys that move what operators ask to an address of their own, and what clients have instead.
INTERNAL_KEYS = {
    "http_server.internal_address": "http_server.address",
    "http_server.internal_port": "http_server.port",
}
API_IS_EXTERNAL = "http_api.external"
# Codes that an endpoint may close a WebSocket with (RFC 6455, section 7.4.2).
CLOSE_CODES = range(3000, 5000)
STATUSES = range(200, 600)
TRANSPORTS = ("websocket", "sse", "http_stream", "uni_websocket", "uni_sse", "uni_http_stream")


def create_token_keys(values: Values, section: str) -> TokenKeys:
    """Create the keys that one kind of token is checked with.

    Raises:
        ConfigError: A key cannot be read, or two of them exclude each other.
    """
    fields: dict[str, Any] = {name: values.get(f"{section}.{name}") for name in TOKEN_FIELDS}
    for name in PUBLIC_KEYS:
        fields[name] = _read_pem(values, f"{section}.{name}")
    keys = TokenKeys(
        **fields, skip_signature=values.get("client.insecure_skip_token_signature_verify")
    )
    try:
        TokenVerifier(keys)
    except ConfigError as error:
        raise ConfigError(f"{section}: {error}") from error
    return keys


def _read_pem(values: Values, path: str) -> str:
    """Read a key that holds PEM; empty for nothing."""
    value: str = values.get(path)
    if not value:
        return ""
    try:
        return read_pem(value)
    except ConfigError as error:
        raise ConfigError(f"{values.origin(path)} {error}") from None


def create_client(values: Values) -> ClientOptions:
    """Create who may connect, and what connecting gives."""
    fields = values.collect("client")
    disconnects = fields.pop("connect_disconnects")
    ping_method = fields.pop("rpc_ping_method")
    transforms = "client.connect_code_to_unidirectional_disconnect"
    is_personal = values.get("client.subscribe_to_user_personal_channel.enabled")
    return ClientOptions(
        **fields,
        personal=PersonalChannel(**values.collect("client.personal")) if is_personal else None,
        connect_disconnects=(
            dict(_read_disconnects(values.origin(f"{transforms}.transforms"), disconnects))
            if values.get(f"{transforms}.enabled")
            else {}
        ),
        rpc_ping_method=ping_method if values.get("rpc.ping.enabled") else "",
    )


def _read_transforms(
    origin: str, transforms: tuple[dict[str, Any], ...]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read a list of ``{"code": ..., "to": {...}}``."""
    for item in transforms:
        code, target = item.get("code"), item.get("to")
        if isinstance(code, bool) or not isinstance(code, int) or not isinstance(target, dict):
            raise ConfigError(f'{origin}: an item is {{"code": 109, "to": {{...}}}}, got {item!r}')
        yield code, target


def _read_number(origin: str, target: Mapping[str, Any], name: str, bounds: range) -> int:
    """Read a number of a transform."""
    value = target.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value not in bounds:
        raise ConfigError(
            f"{origin}: {name} must be {bounds.start} to {bounds.stop - 1}, got {value!r}"
        )
    return value


def _read_disconnects(
    origin: str, transforms: tuple[dict[str, Any], ...]
) -> Iterator[tuple[int, Disconnect]]:
    """Read which disconnect is told in place of which code."""
    for code, target in _read_transforms(origin, transforms):
        number = _read_number(origin, target, "code", CLOSE_CODES)
        try:
            yield code, Disconnect(number, str(target.get("reason", "")))
        except ValueError as error:
            raise ConfigError(f"{origin}: {error}") from None


def _read_responses(values: Values, section: str) -> dict[int, ConnectResponse] | None:
    """Read which HTTP status answers which code; ``None`` when switched off."""
    path = f"{section}.connect_code_to_http_response"
    if not values.get(f"{path}.enabled"):
        return None
    origin = values.origin(f"{path}.transforms")
    return {
        code: ConnectResponse(
            _read_number(origin, target, "status_code", STATUSES), str(target.get("body", ""))
        )
        for code, target in _read_transforms(origin, values.get(f"{path}.transforms"))
    }


def _read_path(values: Values, key: str) -> str:
    """Read a path of a URL."""
    value: str = values.get(key)
    if not value.startswith("/") or any(sign in value for sign in "?#{}% \t\n"):
        raise ConfigError(f"{values.origin(key)} must be a path such as /api, got {value!r:.80}")
    # The reference answers below its prefixes with and without a slash at their end.
    return value.rstrip("/") or "/"


def create_transports(values: Values) -> TransportOptions:
    """Create what is served to clients."""

    def collect(section: str) -> dict[str, Any]:
        fields = values.collect(f"transports.{section}")
        return fields | {"path": _read_path(values, f"{section}.handler_prefix")}

    def collect_unidirectional(section: str) -> dict[str, Any]:
        return collect(section) | {"connect_responses": _read_responses(values, section)}

    websocket = collect("websocket")
    websocket["enabled"] = not values.get("websocket.disabled")
    return TransportOptions(
        websocket=WebSocketOptions(**websocket),
        sse=StreamOptions(**collect("sse")),
        http_stream=StreamOptions(**collect("http_stream")),
        uni_websocket=UnidirectionalWebSocketOptions(**collect("uni_websocket")),
        uni_sse=UnidirectionalStreamOptions(**collect_unidirectional("uni_sse")),
        uni_http_stream=UnidirectionalStreamOptions(**collect_unidirectional("uni_http_stream")),
        emulation=EmulationOptions(**collect("emulation")),
    )


def has_internal_address(values: Values) -> bool:
    """Tell whether operators were to have an address of their own, which is not there yet.

    What was to be reached there only is not served where clients come: it may ask for no key.
    """
    return any(
        entry is not None
        and entry.value not in (None, "")
        and str(entry.value) != str(values.get(outside))
        for entry, outside in (
            (values.entries.get(path), outside) for path, outside in INTERNAL_KEYS.items()
        )
    )


def _is_api_external(values: Values) -> bool:
    """Tell whether clients' address has the server API in any case."""
    entry = values.entries.get(API_IS_EXTERNAL)
    if entry is None or entry.value is None:
        return False
    try:
        return bool(parse(Kind.BOOLEAN, entry.value))
    except ConfigError as error:
        raise ConfigError(f"{entry.origin} {error}, got {entry.value!r:.80}") from None


def create_api(values: Values) -> APIOptions:
    """Create the server API."""
    path = _read_path(values, "http_api.handler_prefix")
    if path == "/":
        # It answers everything below its path, and nothing else would be reached.
        raise ConfigError(f"{values.origin('http_api.handler_prefix')} must be below the root")
    is_served = _is_api_external(values) or not has_internal_address(values)
    return APIOptions(
        enabled=is_served and not values.get("http_api.disabled"),
        path=path,
        key=values.get("http_api.key"),
        insecure=values.get("http_api.insecure"),
        transport_errors=values.get("http_api.error_mode") == "transport",
    )


def create_endpoints(values: Values) -> EndpointOptions:
    """Create what operators ask."""

    def read(section: str, key: str = "handler_prefix") -> str:
        return _read_path(values, f"{section}.{key}") if values.get(f"{section}.enabled") else ""

    if has_internal_address(values):
        return EndpointOptions(init=read("init"))
    return EndpointOptions(
        health=read("health"),
        ready=read("health", "ready_handler_prefix"),
        metrics=read("prometheus"),
        swagger=read("swagger"),
        init=read("init"),
    )


def check_paths(
    values: Values, transports: TransportOptions, api: APIOptions, endpoints: EndpointOptions
) -> None:
    """Refuse two things at one path: one of them would never be reached.

    Raises:
        ConfigError: There are such two.
    """
    served = {f"{name}.handler_prefix": getattr(transports, name) for name in TRANSPORTS}
    paths = [(key, options.path) for key, options in served.items() if options.enabled]
    if transports.sse.enabled or transports.http_stream.enabled:
        paths.append(("emulation.handler_prefix", transports.emulation.path))
    if api.enabled:
        paths.append(("http_api.handler_prefix", api.path))
    paths += [
        ("health.handler_prefix", endpoints.health),
        ("health.ready_handler_prefix", endpoints.ready),
        ("prometheus.handler_prefix", endpoints.metrics),
        ("swagger.handler_prefix", endpoints.swagger),
        ("init.handler_prefix", endpoints.init),
    ]
    taken: dict[str, str] = {}
    for key, path in paths:
        origin = values.origin(key)
        if path and taken.setdefault(path, origin) != origin:
            raise ConfigError(f"{taken[path]} and {origin} are both {path!r}")


def create_server(values: Values) -> ServerOptions:
    """Create what the process does."""
    fields = values.collect("server")
    fields["log_level"] = LOG_LEVELS[fields["log_level"]]
    return ServerOptions(**fields, tls=_create_tls(values))


def _create_tls(values: Values) -> TLSOptions | None:
    """Create how the server proves itself; ``None`` when switched off."""
    section = "http_server.tls"
    if not values.get(f"{section}.enabled"):
        return None
    for name in ("cert_pem", "key_pem"):
        if not values.get(f"{section}.{name}"):
            raise ConfigError(f"{section}.enabled needs {section}.{name}")
    return TLSOptions(
        certificate=_read_pem(values, f"{section}.cert_pem"),
        key=_read_pem(values, f"{section}.key_pem"),
        client_authorities=_read_pem(values, f"{section}.client_ca_pem"),
    )
