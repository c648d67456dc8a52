"""Options of channels from keys, and channels that cannot be served yet."""

from __future__ import annotations

from typing import Any

import pytest

from wirebell.configuration.channels import (
    create_channel_options,
    find_unsupported,
    is_unavailable,
)
from wirebell.configuration.sources import Entry
from wirebell.errors import ConfigError
from wirebell.model import (
    ChannelOptions,
    ChannelPermissions,
    History,
    PublicationFormat,
    RecoveryMode,
)


def entries(**values: Any) -> dict[str, Entry]:
    """Say something of a namespace."""
    return {name: Entry(value, f"news.{name}") for name, value in values.items()}


def create(**values: Any) -> ChannelOptions:
    """Create options from what was said."""
    return create_channel_options(
        "news", entries(**values), history_meta_ttl=1000.0, publication_format="json_object"
    )


def test_nothing_is_allowed_by_default() -> None:
    """Without a word a channel keeps nothing and lets nobody in."""
    assert ChannelOptions(publication_format=PublicationFormat.JSON_OBJECT) == create()


def test_every_option() -> None:
    """Each key becomes the option that it names."""
    options = create(
        presence=True,
        join_leave="true",
        force_push_join_leave=True,
        history_size="10",
        history_ttl="1m",
        history_meta_ttl="2m",
        force_positioning=True,
        allow_positioning=True,
        force_recovery=True,
        allow_recovery=True,
        force_recovery_mode="cache",
        auto_cache_recover=True,
        allowed_delta_types="fossil",
        allow_tags_filter=True,
        delta_publish=True,
        allow_subscribe_for_client=True,
        allow_history_for_anonymous=True,
        allow_user_limited_channels=True,
        channel_regex="^a$",
        publication_data_format="binary",
    )

    assert options == ChannelOptions(
        history=History(10, 60.0, 120.0),
        presence=True,
        join_leave=True,
        force_push_join_leave=True,
        allow_positioning=True,
        force_positioning=True,
        allow_recovery=True,
        force_recovery=True,
        recovery_mode=RecoveryMode.CACHE,
        auto_cache_recover=True,
        allowed_delta_types=("fossil",),
        delta_publish=True,
        allow_tags_filter=True,
        publication_format=PublicationFormat.BINARY,
        channel_regex="^a$",
        permissions=ChannelPermissions(
            allow_subscribe_for_client=True,
            allow_history_for_anonymous=True,
            allow_user_limited_channels=True,
        ),
    )


def test_defaults_of_all_namespaces() -> None:
    """Where a namespace names none, it has the meta ttl of all."""
    options = create(history_size=1, history_ttl="1s")

    assert options.history == History(1, 1.0, 1000.0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"history_size": 1}, "news: history_size and history_ttl are set both or none"),
        ({"history_ttl": "1s"}, "news: history_size and history_ttl are set both or none"),
        ({"force_recovery": True}, "news.force_recovery needs history_size and history_ttl"),
        (
            {"history_size": 1, "history_ttl": "2000s"},
            r"news\.history_ttl must be at most history_meta_ttl \(1000s\), got 2000s",
        ),
        ({"allowed_delta_types": ["xdelta"]}, "allowed_delta_types must be fossil, got 'xdelta'"),
        ({"force_recovery_mode": "none"}, "must be one of stream, cache, got 'none'"),
        ({"publication_data_format": "xml"}, "must be one of json, json_object, binary"),
        ({"history_size": -1}, "news.history_size must be at least 0, got -1"),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], told: str) -> None:
    """Options that cannot be kept are refused with their key."""
    with pytest.raises(ConfigError, match=told):
        create(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"subscription_type": "map"},
        {"subscription_type": "map_clients"},
        {"subscription_type": "shared_poll"},
        {"subscribe_proxy_enabled": True},
        {"publish_proxy_enabled": "1"},
        {"sub_refresh_proxy_enabled": True},
        {"subscribe_stream_proxy_enabled": True},
    ],
)
def test_channels_that_cannot_be_served(values: dict[str, Any]) -> None:
    """Maps, shared polls and channels that a backend decides about are not there yet."""
    said = entries(**values)

    assert is_unavailable("news", said)
    assert [f"news.{name}" for name in values] == find_unsupported(said)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"subscription_type": ""},
        {"subscription_type": "stream"},
        {"subscription_type": None},
        {"subscribe_proxy_enabled": False, "subscribe_proxy_name": "default"},
        {"map.key_ttl": "0s", "presence": True},
    ],
)
def test_channels_that_can_be_served(values: dict[str, Any]) -> None:
    """The defaults of what is not there yet are no reason to refuse."""
    said = entries(**values)

    assert not is_unavailable("news", said)
    assert [] == find_unsupported(said)


def test_other_options_that_are_not_there_yet() -> None:
    """An option without its feature is named, and the channel is served all the same."""
    said = entries(map_clients_presence_channel_prefix="clients:")

    assert not is_unavailable("news", said)
    assert ["news.map_clients_presence_channel_prefix"] == find_unsupported(said)


def test_an_unknown_subscription_type() -> None:
    """A kind of subscription that nobody knows is an error."""
    with pytest.raises(ConfigError, match=r"must be one of stream, map, .*, got 'queue'"):
        is_unavailable("news", entries(subscription_type="queue"))
