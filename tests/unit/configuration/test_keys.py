"""The table of keys fits the reference's tree, the settings and the structs."""

from __future__ import annotations

import msgspec
import pytest

from wirebell import broker_options, options
from wirebell.configuration.broker_keys import REDIS_SECTIONS
from wirebell.configuration.keys import (
    ACCEPTED,
    CHANNEL_KEYS,
    KEYS,
    TREE,
    flatten,
    read_channel_tree,
    read_known,
)
from wirebell.configuration.result import ServerOptions, TLSOptions
from wirebell.configuration.values import parse
from wirebell.model import ChannelOptions, ChannelPermissions, History
from wirebell.settings import Settings

STRUCTS = {
    **{f"{owner}.redis": broker_options.RedisOptions for owner in REDIS_SECTIONS},
    "engine.sqlite": broker_options.SQLiteOptions,
    "broker.sqlite": broker_options.SQLiteOptions,
    "broker.nats": broker_options.NATSOptions,
    "broker.postgres": broker_options.PostgreSQLOptions,
    "server": ServerOptions,
    "server.tls": TLSOptions,
    "client": options.ClientOptions,
    "client.personal": options.PersonalChannel,
    "names": options.ChannelNames,
    "api": options.APIOptions,
    "endpoints": options.EndpointOptions,
    "transports.websocket": options.WebSocketOptions,
    "transports.sse": options.StreamOptions,
    "transports.http_stream": options.StreamOptions,
    "transports.emulation": options.EmulationOptions,
    "transports.uni_websocket": options.UnidirectionalWebSocketOptions,
    "transports.uni_sse": options.UnidirectionalStreamOptions,
    "transports.uni_http_stream": options.UnidirectionalStreamOptions,
}


def test_every_setting_has_one_key() -> None:
    """Each limit and interval can be configured, by exactly one key."""
    fields = [
        key.target.removeprefix("settings.")
        for key in KEYS.values()
        if key.target.startswith("settings.")
    ]

    assert sorted(Settings.model_fields) == sorted(fields)


def test_every_target_exists() -> None:
    """What a key becomes is a field of what it says."""
    for key in KEYS.values():
        group, _, field = key.target.rpartition(".")
        if group and group != "settings":
            assert field in STRUCTS[group].__struct_fields__, key.target


def test_every_channel_option_has_its_struct() -> None:
    """Options of channels are fields of the options, their history or their permissions."""
    structs: dict[str, type[msgspec.Struct]] = {
        "": ChannelOptions,
        "history": History,
        "permissions": ChannelPermissions,
    }

    for key in CHANNEL_KEYS:
        group, _, field = key.target.rpartition(".")
        assert field in structs[group].__struct_fields__, key.target


def test_keys_of_ours_say_their_default() -> None:
    """A key is in the reference's tree, or brings its own default."""
    known = dict(flatten(TREE))

    assert not [key.path for key in KEYS.values() if key.path not in known and key.default is None]
    assert not [path for path in ACCEPTED if path not in known or path in KEYS]
    channel = dict(flatten(read_channel_tree()))
    assert not [key.path for key in CHANNEL_KEYS if key.path not in channel]


def test_defaults_are_of_their_kind() -> None:
    """Every default can be read as the key's kind says."""
    for key in KEYS.values():
        default = read_known()[key.path]
        if default is not None:
            parse(key.kind, default)


def test_no_two_keys_share_a_variable() -> None:
    """In the environment every key has a name of its own."""
    names = [path.upper().replace(".", "_") for path in read_known()]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", ["client.proxy.connect.http.static_headers", "channel.namespaces"])
def test_empty_sections_are_leaves(path: str) -> None:
    """A key that holds an object or a list is one key."""
    assert path in read_known()
