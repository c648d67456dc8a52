"""Addresses of Redis as files and environments of the reference have them."""

from __future__ import annotations

from typing import Any

import pytest

from wirebell.broker_options import BrokerTLS, RedisOptions
from wirebell.brokers.redis.addresses import read_places
from wirebell.configuration import load
from wirebell.errors import ConfigError

SENTINELS = "sentinel_master_name=m&addr=b:26379&sentinel_user=u&sentinel_password=p"


def read(**keys: Any) -> RedisOptions:
    """Load a section of Redis."""
    flags = {f"engine.redis.{name.replace('__', '.')}": value for name, value in keys.items()}
    broker = load(None, {}, {"engine.type": "redis", **flags}).broker
    assert isinstance(broker, RedisOptions)
    read_places(broker)
    return broker


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1:6379", {"addresses": ("10.0.0.1:6379",)}),
        (["[::1]:6379"], {"addresses": ("[::1]:6379",)}),
        ("tcp://a:1", {"addresses": ("redis://a:1",)}),
        ("redis://a", {"addresses": ("redis://a",)}),
        ("redis://:s%20@a:1/2", {"addresses": ("redis://:s%20@a:1/2",)}),
        ("rediss://a:1", {"addresses": ("rediss://a:1",)}),
        ("unix:///run/redis.sock", {"addresses": ("unix:///run/redis.sock",)}),
        (["a:1", "redis://b:2"], {"addresses": ("a:1", "redis://b:2")}),
        (
            "redis://a:1?connect_timeout=2s&io_timeout=500ms&force_resp2=true&tls_enabled=true",
            {
                "addresses": ("redis://a:1",),
                "connect_timeout_seconds": 2.0,
                "io_timeout_seconds": 0.5,
                "force_resp2": True,
                "tls": BrokerTLS(),
            },
        ),
        ("redis://a:1?tls_enabled=false", {"addresses": ("redis://a:1",)}),
        (
            "redis+cluster://ann:s%40@a:1?addr=b:2&addr=c:3",
            {"cluster_addresses": (("a:1", "b:2", "c:3"),), "user": "ann", "password": "s@"},
        ),
        (
            ["redis+cluster://a:1", "redis+cluster://b:1"],
            {"cluster_addresses": (("a:1",), ("b:1",))},
        ),
        ("rediss+cluster://a:1", {"cluster_addresses": (("a:1",),), "tls": BrokerTLS()}),
        (
            f"redis+sentinel://:pass@a:26379/3?{SENTINELS}&sentinel_tls_enabled=1",
            {
                "sentinel_addresses": ("a:26379", "b:26379"),
                "sentinel_master_name": "m",
                "sentinel_user": "u",
                "sentinel_password": "p",
                "sentinel_tls": BrokerTLS(),
                "password": "pass",
                "db": 3,
            },
        ),
        (
            "rediss://a:26379?sentinel_master_name=m",
            {
                "sentinel_addresses": ("a:26379",),
                "sentinel_master_name": "m",
                "tls": BrokerTLS(),
                "sentinel_tls": BrokerTLS(),
            },
        ),
    ],
)
def test_addresses(address: str | list[str], expected: dict[str, Any]) -> None:
    """Each form of an address leads where it leads a node of the reference."""
    assert RedisOptions(**expected) == read(address=address)


def test_none_is_the_default() -> None:
    """An empty list means this machine, as in the reference."""
    assert RedisOptions() == read(address=[])


def test_lists_of_clusters() -> None:
    """Each item is a cluster; its nodes have commas between."""
    options = read(cluster_address="a:1,b:2 c:3")

    assert (("a:1", "b:2"), ("c:3",)) == options.cluster_addresses


def test_clusters_count_before_sentinels() -> None:
    """Where several lists are given the reference's order decides."""
    options = read(cluster_address="a:1", sentinel_address="b:2", sentinel_master_name="m")

    assert (("a:1",),) == options.cluster_addresses
    assert () == options.sentinel_addresses


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"address": "a"}, r"address: an address is host:port, got 'a'"),
        ({"address": "a:1,b:2"}, "items of a list, with spaces between"),
        ({"address": "redis://a:1,b:2"}, "items of a list, with spaces between"),
        ({"address": "redis://:secret@[a"}, "an address is no URL"),
        ({"address": "redis://:secret@a:x"}, "names no host:port, got 'a:x'"),
        ({"address": "http://a:1"}, r"the scheme 'http', known are: tcp, redis, .*unix"),
        ({"address": "redis://a:1?secret"}, "an address is no URL"),
        ({"address": "redis://a:1?pool=3"}, "'pool' in an address is not known; known are: addr"),
        ({"address": "redis://a:1?io_timeout=2m"}, "'io_timeout' in an address must be above 0s"),
        ({"address": "redis://a:1?io_timeout=2"}, "'io_timeout' in an address must be a duration"),
        ({"address": "redis://a:1?tls_enabled=x"}, "'tls_enabled' in an address must be true"),
        ({"address": "redis://a:1?addr=b:1"}, "'addr' is for redis"),
        ({"address": "redis://a:1/x"}, "the database of an address is a number, got 'x'"),
        ({"address": "redis+cluster://a:1/2"}, "db must be 0 in a cluster"),
        ({"address": "redis+sentinel://a:1"}, "sentinel_master_name is missing"),
        (
            {"address": ["a:1", "redis://b:1?io_timeout=2s"]},
            "one of several addresses says io_timeout_seconds, which counts for all",
        ),
        ({"address": ["a:1", "redis+cluster://b:1"]}, "are all servers or all clusters"),
        ({"cluster_address": "a:1", "db": 2}, r"--engine\.redis\.db must be 0 in a cluster"),
        ({"cluster_address": ":secret@a"}, "an address is host:port, got 'a'"),
        ({"cluster_address": [","]}, "cluster_address has an empty item"),
        ({"sentinel_address": "a:1"}, "sentinel_master_name is missing"),
        (
            {"sentinel_address": "a:1 b:1", "sentinel_master_name": "m"},
            "has 2 items, each of which names the Sentinels of one more server",
        ),
    ],
)
def test_what_is_refused(keys: dict[str, Any], told: str) -> None:
    """An error names the key, and shows no password."""
    with pytest.raises(ConfigError, match=told) as caught:
        read(**keys)

    assert "engine.redis." in str(caught.value)
    assert "secret" not in str(caught.value)
