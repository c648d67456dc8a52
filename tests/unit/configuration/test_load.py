"""A configuration as a whole: which source wins, what is refused, what is only named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wirebell.configuration import ServeConfiguration, load
from wirebell.configuration.keys import TREE
from wirebell.errors import ConfigError
from wirebell.model import History
from wirebell.options import ChannelNames
from wirebell.settings import Settings


def read(
    tree: dict[str, Any] | None = None,
    folder: Path | None = None,
    environ: dict[str, str] | None = None,
    **flags: Any,
) -> ServeConfiguration:
    """Load what file, environment and flags say; in a flag's name ``__`` is a dot."""
    path = None
    if tree is not None and folder is not None:
        path = folder / "config.json"
        path.write_text(json.dumps(tree))
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load(path, environ or {}, named)


def test_defaults_are_the_reference_s() -> None:
    """Without a word the limits are those of the reference, and nobody is let in."""
    configuration = read()

    settings = configuration.settings
    assert (27.0, 10.0, 25.0, 8.0) == (
        settings.presence_refresh_seconds,
        settings.first_message_timeout_seconds,
        settings.ping_interval_seconds,
        settings.pong_timeout_seconds,
    )
    assert ({}, frozenset(), ()) == (
        configuration.namespaces,
        configuration.unavailable,
        configuration.warnings,
    )
    assert configuration.subscription_tokens is None


def test_the_reference_s_own_defaults_are_taken_without_a_word(tmp_path: Path) -> None:
    """A file that holds the whole tree with its defaults says nothing new."""
    configuration = read(TREE, tmp_path)

    assert () == configuration.warnings
    assert read() == configuration


def test_which_source_wins(tmp_path: Path) -> None:
    """A flag wins over the environment, that over the file, and that over the default."""
    tree = {"client": {"ping_interval": "1s", "pong_timeout": "1s", "channel_limit": 1}}
    environ = {"WIREBELL_CLIENT_PONG_TIMEOUT": "2s", "WIREBELL_CLIENT_CHANNEL_LIMIT": "2"}

    settings = read(tree, tmp_path, environ, client__channel_limit=3).settings

    assert (1.0, 2.0, 3) == (
        settings.ping_interval_seconds,
        settings.pong_timeout_seconds,
        settings.channels_per_connection_max,
    )


def test_the_process_s_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the given variables count, whatever the settings would read on their own."""
    monkeypatch.setenv("WIREBELL_TICK_BYTES_MAX", "5")

    assert Settings().tick_bytes_max == 5
    assert read().settings.tick_bytes_max == 1_048_576


def test_another_prefix() -> None:
    """An environment of the reference runs as it is."""
    environ = {
        "CENTRIFUGO_CHANNEL_NAMESPACES": "a b",
        "CENTRIFUGO_CHANNEL_NAMESPACES_A_HISTORY_SIZE": "10",
        "CENTRIFUGO_CHANNEL_NAMESPACES_A_HISTORY_TTL": "1m30s",
        "CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY": "s" * 32,
        "CENTRIFUGO_CLIENT_CONCURRENCY": "8",
        "WIREBELL_CLIENT_PING_INTERVAL": "1s",
    }

    configuration = load(None, environ, {}, prefix="CENTRIFUGO")

    assert History(10, 90.0, 2_592_000.0) == configuration.namespaces["a"].history
    assert configuration.connection_tokens.hmac_secret_key == "s" * 32
    assert configuration.settings.ping_interval_seconds == 25.0
    assert () == configuration.warnings


def test_rates_of_commands() -> None:
    """A setting that holds an object is JSON where there is only text."""
    settings = read(environ={"WIREBELL_COMMANDS_PER_SECOND_MAX": '{"publish": 10}'}).settings

    assert {"publish": 10.0} == settings.commands_per_second_max


def test_an_object_is_not_joined_with_another_source_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over the environment with all that it says and leaves out."""
    text = '{"publish": 10, "rpc": 1}'
    monkeypatch.setenv("WIREBELL_COMMANDS_PER_SECOND_MAX", text)

    settings = read(
        environ={"WIREBELL_COMMANDS_PER_SECOND_MAX": text}, commands_per_second_max={"publish": 5}
    ).settings

    assert {"publish": 5.0} == settings.commands_per_second_max


def test_zero_is_the_default() -> None:
    """As in the reference, an interval of 0s is the default (transcript ``ping_interval_zero``)."""
    settings = read(client__ping_interval="0s", client__pong_timeout="0s").settings

    assert (25.0, 8.0) == (settings.ping_interval_seconds, settings.pong_timeout_seconds)


@pytest.mark.parametrize(
    ("flags", "bytes_max"),
    [
        ({}, 131_072),
        ({"websocket__message_size_limit": 1_000_000}, 2_000_000),
        ({"websocket__message_size_limit": 2**31 - 1}, 2**31 - 1),
        ({"websocket__message_size_limit": 1_000_000, "publication_bytes_max": 9}, 9),
    ],
)
def test_publications_as_long_as_messages(flags: dict[str, Any], bytes_max: int) -> None:
    """What a client may send it may publish, unless somebody says otherwise."""
    assert bytes_max == read(**flags).settings.publication_bytes_max


@pytest.mark.parametrize(("timeout", "drain"), [("30s", 5.0), ("9s", 2.0), ("1s", 0.0)])
def test_draining_ends_within_the_shutdown(timeout: str, drain: float) -> None:
    """Connections are closed over what the shutdown leaves of its time."""
    assert drain == read(shutdown__timeout=timeout).settings.drain_window_seconds


def test_a_long_handover_shortens_the_drain() -> None:
    """Leaves that are put off are told within the shutdown, too."""
    settings = read(shutdown__timeout="15s", handover_seconds=10).settings

    assert (3.0, 10.0) == (settings.drain_window_seconds, settings.handover_seconds)


def test_subscription_tokens_of_their_own() -> None:
    """Subscription tokens have other keys where that is switched on."""
    configuration = read(
        client__subscription_token__enabled=True,
        client__subscription_token__hmac_secret_key="t" * 32,
    )

    assert configuration.subscription_tokens is not None
    assert configuration.subscription_tokens.hmac_secret_key == "t" * 32


def test_names() -> None:
    """How names are read is configured; an empty text switches a part off."""
    names = read(channel__private_prefix="", channel__namespace_boundary="/").names

    assert ChannelNames(private_prefix="", namespace_boundary="/") == names


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"client__allowed_origins": "example.com"},
            r"--client\.allowed_origins: .*scheme://host\[:port\]",
        ),
        ({"commands_per_second_max": {"tell": 1}}, "commands_per_second_max knows no 'tell'"),
        ({"close_timeout_seconds": "inf"}, "--close_timeout_seconds: .*finite number"),
        (
            {"health__enabled": True, "init__enabled": True, "init__handler_prefix": "/health/"},
            r"^health\.handler_prefix and --init\.handler_prefix are both '/health'$",
        ),
        (
            {"sse__enabled": True, "emulation__handler_prefix": "/api"},
            r"^--emulation\.handler_prefix and http_api\.handler_prefix are both '/api'$",
        ),
        ({"tick_bytes_max": "0"}, "--tick_bytes_max: .*greater than or equal to 1, got 0"),
        (
            {"client__presence_update_interval": "90s"},
            r"^--client\.presence_update_interval must be below presence_ttl_seconds \(60",
        ),
        (
            {"node_announce_seconds": "20"},
            r"^--node_announce_seconds must be below node_forget_seconds \(10",
        ),
        ({"revocations_max": "0"}, "--revocations_max: .*greater than or equal to 1, got 0"),
        ({"channel__namespaces": [{"name": "a:b"}]}, "a name has letters"),
        ({"channel__namespaces": [{"name": "é"}]}, "a name has letters"),
        (
            {"channel__namespaces": [{"name": "a", "channel_regex": "("}]},
            "of namespace 'a'",
        ),
        (
            {
                "client__subscribe_to_user_personal_channel__enabled": True,
                "client__subscribe_to_user_personal_channel__personal_channel_namespace": "own",
            },
            "must be one of channel.namespaces, got 'own'",
        ),
        (
            {
                "client__subscribe_to_user_personal_channel__enabled": True,
                "client__subscribe_to_user_personal_channel__single_connection": True,
            },
            "needs presence in that namespace",
        ),
    ],
)
def test_what_is_refused(flags: dict[str, Any], told: str) -> None:
    """An error names the key as whoever set it calls it, the bound and the value."""
    with pytest.raises(ConfigError, match=told):
        read(**flags)


def test_a_personal_channel() -> None:
    """A personal channel in a namespace with presence may have a single connection."""
    configuration = read(
        channel__namespaces=[{"name": "own", "presence": True}],
        client__subscribe_to_user_personal_channel__enabled=True,
        client__subscribe_to_user_personal_channel__personal_channel_namespace="own",
        client__subscribe_to_user_personal_channel__single_connection=True,
    )

    assert configuration.client.personal is not None
    assert configuration.client.personal.single_connection


def test_each_key_without_effect_is_named_once(tmp_path: Path) -> None:
    """Unknown keys, and keys whose feature is not there yet, are a warning each."""
    tree = {
        "klient": {},
        "client": {"ping_intervall": "1s", "proxy": {"connect": {"enabled": True}}},
        "engine": {"type": "redis", "redis": {"history_use_lists": True}},
        "channel": {
            "without_namespace": {"subscription_type": "shared_poll"},
            "namespaces": [
                {"name": "poll", "subscription_type": "map", "map": {"mode": "persistent"}},
                {"name": "news", "map_users_presence_channel_prefix": "u:"},
            ],
        },
    }

    configuration = read(tree, tmp_path, {"WIREBELL_PROXIES_A_ENDPOINT": "x"})

    assert {"", "poll"} == configuration.unavailable
    without = "not there yet, ignored; channels without a namespace answer error 108"
    blocked = "not there yet, ignored; channels of 'poll' answer error 108"
    assert (
        "klient: unknown key, ignored; did you mean 'client'?",
        "client.ping_intervall: unknown key, ignored; did you mean 'ping_interval'?",
        "WIREBELL_PROXIES_A_ENDPOINT: not there yet, ignored",
        "client.proxy.connect.enabled: not there yet, ignored",
        "engine.redis.history_use_lists: not there yet, ignored",
        f"channel.without_namespace.subscription_type: {without}",
        f"channel.namespaces.poll.subscription_type: {blocked}",
        f"channel.namespaces.poll.map.mode: {blocked}",
        "channel.namespaces.news.map_users_presence_channel_prefix: not there yet, ignored",
    ) == configuration.warnings


def test_paths_of_what_is_off_may_be_anything() -> None:
    """Only what is served can be in the way of something."""
    configuration = read(
        http_api__disabled=True, sse__handler_prefix="/x", emulation__handler_prefix="/x",
        uni_sse__enabled=True, uni_sse__handler_prefix="/api", health__handler_prefix="/api",
    )  # fmt: skip

    assert "/api" == configuration.transports.uni_sse.path


def test_an_address_for_operators_is_named() -> None:
    """That there is none is told once for each key, with what follows."""
    told = "not there yet; what was for that address only (server API, health, metrics, swagger)"
    configuration = read(http_server__internal_port=9000, http_server__internal_address="::1")

    assert (
        f"--http_server.internal_port: {told} is not served",
        f"--http_server.internal_address: {told} is not served",
    ) == configuration.warnings
    assert () == read(http_server__internal_port="8000", http_api__external=True).warnings


def test_flags_name_namespaces_before_the_environment() -> None:
    """The list of the strongest source that has one counts."""
    configuration = read(
        environ={"WIREBELL_CHANNEL_NAMESPACES": "env"}, channel__namespaces=[{"name": "flag"}]
    )

    assert ["flag"] == list(configuration.namespaces)
