"""The command ``wirebell``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from wirebell.configuration import ServeConfiguration, load
from wirebell.configuration.values import parse_duration
from wirebell.errors import ConfigError, ProtocolError, WirebellError
from wirebell.version import __version__

if TYPE_CHECKING:
    from jwt import PyJWK

    from wirebell.tokens import KeyLocation

__all__ = ("main",)

app = typer.Typer(
    help="Wirebell: real-time channels and notifications for FastAPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

# Every key of the configuration is an option too, and 800 of them would be no help.
ANY_KEY = {"allow_extra_args": True, "ignore_unknown_options": True}

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file: .json, .toml, .yaml or .yml."),
]
Prefix = Annotated[
    str,
    typer.Option(help="Of environment variables; CENTRIFUGO reads those of a Centrifugo."),
]


@app.command(context_settings=ANY_KEY)
def serve(
    context: typer.Context,
    *,
    config: Config = None,
    env_prefix: Prefix = "WIREBELL",
    host: Annotated[
        str | None, typer.Option("--host", "-a", help="http_server.address: where to listen.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="http_server.port; 0 takes a free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="http_server.workers: processes, 1 or more.")
    ] = None,
    unix_socket: Annotated[
        str | None, typer.Option(help="http_server.unix_socket: listen there instead.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="log.level: debug, info, warn or error.")
    ] = None,
) -> None:
    """Run a standalone server. Every key is an option too: --client.ping_interval 10s."""
    named = {
        "http_server.address": host,
        "http_server.port": port,
        "http_server.workers": workers,
        "http_server.unix_socket": unix_socket,
        "log.level": log_level,
    }
    flags = {key: value for key, value in named.items() if value is not None}
    try:
        configuration = load(
            config, os.environ, _read_flags(context.args) | flags, prefix=env_prefix
        )
        from wirebell.serve import run

        run(configuration)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wirebell"):
            raise
        typer.echo(f"{error}: install it with pip install 'wirebell[server]'", err=True)
        raise typer.Exit(2) from error
    except (OSError, WirebellError) as error:
        _fail("serve", error)


@app.command("check-config", context_settings=ANY_KEY)
def check_config(
    context: typer.Context,
    *,
    config: Config = None,
    env_prefix: Prefix = "WIREBELL",
    strict: Annotated[
        bool, typer.Option("--strict", help="Whatever would be ignored is an error.")
    ] = False,
) -> None:
    """Check a configuration, and name what would be ignored."""
    configuration = _load("check-config", context, config, env_prefix)
    try:
        _check_parts(configuration)
    except (OSError, WirebellError) as error:
        _fail("check-config", error)
    for text in configuration.warnings:
        typer.echo(f"{'error' if strict else 'warning'}: {text}", err=True)
    for text in configuration.find_insecure_modes():
        typer.echo(f"warning: {text}", err=True)
    if strict and configuration.warnings:
        raise typer.Exit(1)
    typer.echo(f"the configuration is good: {len(configuration.namespaces)} namespaces")


def _check_parts(configuration: ServeConfiguration) -> None:
    """Make what only a start would make, and throw it away.

    Raises:
        ConfigError: ``broker_url`` names no broker.
        ssl.SSLError: Certificate and key do not belong together.
    """
    from wirebell.brokers import create_broker
    from wirebell.listening import create_tls_context

    create_broker(configuration.settings)
    if configuration.server.tls is not None:
        create_tls_context(configuration.server.tls)


@app.command(context_settings=ANY_KEY)
def token(
    context: typer.Context,
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="User id; empty for anonymous.")] = "",
    channel: Annotated[str, typer.Option(help="Make a subscription token for this channel.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it is good: 30s, 1h, 720h; 0 for ever.")] = (
        "1h"
    ),
    info: Annotated[str, typer.Option(help="JSON that other members of channels see.")] = "",
    config: Config = None,
    env_prefix: Prefix = "WIREBELL",
) -> None:
    """Sign a connection token, or a subscription token, with the configured secret."""
    from wirebell.tokens import create_connection_token, create_subscription_token

    configuration = _load("token", context, config, env_prefix)
    now = time.time()
    try:
        seconds = _read_duration(ttl)
        about = json.dumps(_read_json("--info", info)).encode() if info else b""
        if channel:
            keys = configuration.subscription_tokens or configuration.connection_tokens
            made = create_subscription_token(
                keys, user, channel, now, ttl_seconds=seconds, info=about
            )
        else:
            keys = configuration.connection_tokens
            made = create_connection_token(keys, user, now, ttl_seconds=seconds, info=about)
    except WirebellError as error:
        _fail("token", error)
    typer.echo(made)


@app.command("check-token", context_settings=ANY_KEY)
def check_token(
    context: typer.Context,
    text: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The token; - reads it from standard input.")
    ],
    *,
    subscription: Annotated[
        bool, typer.Option("--subscription", help="It is a subscription token.")
    ] = False,
    config: Config = None,
    env_prefix: Prefix = "WIREBELL",
) -> None:
    """Check a token as the server would, and print what it says."""
    configuration = _load("check-token", context, config, env_prefix)
    try:
        written = sys.stdin.read().strip() if text == "-" else text
        claims = _verify(configuration, written, is_subscription=subscription)
    except WirebellError as error:
        _fail("check-token", error)
    typer.echo(json.dumps(claims, ensure_ascii=False, indent=2))


async def _fetch_key(location: KeyLocation) -> PyJWK:
    """Fetch the key that a token names from its key set.

    Raises:
        TokenInvalid: The set has no such key.
        ConfigError: The set cannot be had.
    """
    from wirebell.jwks import KeySets

    key_sets = KeySets(allow_http=True)
    try:
        return await key_sets.find(location)
    except ProtocolError as error:
        raise ConfigError(f"{location.url} cannot be fetched") from error
    finally:
        await key_sets.aclose()


def _verify(
    configuration: ServeConfiguration, token: str, *, is_subscription: bool
) -> dict[str, Any]:
    """Check a token and return what it says, without what it leaves out."""
    import msgspec

    from wirebell.tokens import TokenVerifier

    keys = configuration.connection_tokens
    if is_subscription:
        keys = configuration.subscription_tokens or keys
    verifier = TokenVerifier(keys)
    location = verifier.key_location(token)
    key = None if location is None else asyncio.run(_fetch_key(location))
    now = time.time()
    claims: Any = (
        verifier.verify_subscription(token, now, key)
        if is_subscription
        else verifier.verify_connection(token, now, key)
    )
    return {
        name: json.loads(value) if isinstance(value, bytes) else msgspec.to_builtins(value)
        for name, value in msgspec.structs.asdict(claims).items()
        if value or name == "user_id"
    }


@app.command(context_settings=ANY_KEY)
def publish(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help="Where to.")],
    data: Annotated[str, typer.Argument(help="JSON; - reads it from standard input.")],
    *,
    text: Annotated[bool, typer.Option("--text", help="The data is a text, and not JSON.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Of the server; else where the configuration listens.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="http_api.key")] = None,
    config: Config = None,
    env_prefix: Prefix = "WIREBELL",
) -> None:
    """Publish through the API of a running server, and print the position it got."""
    from wirebell.terminal import publish as send

    configuration = _load("publish", context, config, env_prefix)
    written = sys.stdin.read() if data == "-" else data
    try:
        value = written if text else _read_json("data", written, hint="; --text sends a text")
        address = (url or _find_url(configuration)).rstrip("/")
        result = send(
            f"{address}{configuration.api.path.rstrip('/')}/publish",
            configuration.api.key if key is None else key,
            channel,
            value,
        )
    except WirebellError as error:
        _fail("publish", error)
    typer.echo(json.dumps(result))


@app.command(context_settings=ANY_KEY)
def subscribe(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help="What to show.")],
    *,
    url: Annotated[
        str | None, typer.Option(help="Of the server; else where the configuration listens.")
    ] = None,
    token: Annotated[str, typer.Option(help="Connection token; else one is signed.")] = "",
    subscription_token: Annotated[
        str, typer.Option(help="Subscription token, where --token needs one.")
    ] = "",
    user: Annotated[str, typer.Option(help="User id of the token that is signed.")] = "wirebell",
    config: Config = None,
    env_prefix: Prefix = "WIREBELL",
) -> None:
    """Show a channel's publications, one JSON value a line, until Ctrl+C."""
    from wirebell.terminal import GivenTokens, SignedTokens, Tail, Tokens, to_websocket_url

    configuration = _load("subscribe", context, config, env_prefix)
    keys = configuration.connection_tokens
    tokens: Tokens
    if token or subscription_token or not keys.hmac_secret_key:
        tokens = GivenTokens(token, subscription_token)
    else:
        tokens = SignedTokens(keys, configuration.subscription_tokens or keys, user, channel)
    try:
        address = to_websocket_url(
            url or _find_url(configuration), configuration.transports.websocket.path
        )
        tail = Tail(address, channel, tokens, typer.echo, lambda line: typer.echo(line, err=True))
        asyncio.run(tail.run())
    except KeyboardInterrupt:
        return
    except WirebellError as error:
        _fail("subscribe", error)


def _load(
    command: str, context: typer.Context, config: Path | None, prefix: str
) -> ServeConfiguration:
    """Read the configuration, or end the command."""
    try:
        return load(config, os.environ, _read_flags(context.args), prefix=prefix)
    except WirebellError as error:
        _fail(command, error)


def _read_flags(arguments: list[str]) -> dict[str, object]:
    """Read ``--client.insecure --client.ping_interval 10s --http_api.key=secret``."""
    flags: dict[str, object] = {}
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if not argument.startswith("--") or len(argument) < 3:
            raise ConfigError(f"unexpected argument {argument!r}")
        path, equals, value = argument.removeprefix("--").partition("=")
        if not equals:
            has_value = waiting and not waiting[-1].startswith("--")
            value = waiting.pop() if has_value else "true"
        if path in flags:
            raise ConfigError(f"--{path} is given twice")
        flags[path] = value
    return flags


def _read_duration(text: str) -> float:
    """Read how long a token is good."""
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise ConfigError(f"--ttl {error}, got {text!r}") from None


def _read_json(name: str, text: str, *, hint: str = "") -> Any:
    """Read JSON that somebody typed."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is no JSON: {error}{hint}") from None


def _find_url(configuration: ServeConfiguration) -> str:
    """Say where a server with this configuration answers."""
    server = configuration.server
    if server.unix_socket:
        raise ConfigError("the server listens on a Unix socket: give --url")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - compared only
        server.address, server.address
    )
    host = f"[{host}]" if ":" in host else host
    return f"{'http' if server.tls is None else 'https'}://{host}:{server.port}"


def _fail(command: str, error: Exception) -> NoReturn:
    """End a command with one line that says why."""
    typer.echo(f"wirebell {command}: {error}", err=True)
    raise typer.Exit(1) from error


@app.command()
def demo(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=64)] = 1,
    demo_users: Annotated[
        bool, typer.Option(help="Create the accounts ann and bob in a fresh database.")
    ] = True,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where database and signing secret live.", envvar="WIREBELL_DEMO_DATA_DIR"
        ),
    ] = None,
) -> None:
    """Run Taskboard, the reference app: the article's systems, for real."""
    # Workers are processes of their own: they read the environment, not our arguments.
    if data_dir is not None:
        os.environ["WIREBELL_DEMO_DATA_DIR"] = str(data_dir.absolute())
    if not demo_users:
        os.environ["WIREBELL_DEMO_USERS"] = "false"
    try:
        from wirebell.demo.server import run
    except ModuleNotFoundError as error:
        typer.echo(f"{error}: install it with pip install 'wirebell[demo]'", err=True)
        raise typer.Exit(2) from error
    try:
        run(host, port, workers)
    except (OSError, ValueError, WirebellError) as error:
        # What the environment got wrong is told in its own words, not by a traceback.
        typer.echo(f"wirebell demo: {_describe(error)}", err=True)
        raise typer.Exit(1) from error


def _describe(error: Exception) -> str:
    """Say what is wrong in the words of whoever typed it: the variable, the bound, the value."""
    if not isinstance(error, ValidationError):
        return str(error)
    prefix = "WIREBELL_DEMO_" if error.title == "DemoSettings" else "WIREBELL_"
    return "; ".join(
        f"{prefix}{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}, got {item['input']!r}"
        # What is wrong with two of them together has all of them as its input, secrets too.
        if item["loc"]
        else item["msg"]
        for item in error.errors(include_url=False)
    )


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line."""
    app()
