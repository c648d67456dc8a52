"""What is served, where, and to whom."""

from __future__ import annotations

from wirebell.options import (
    APIOptions,
    ChannelNames,
    ClientOptions,
    EndpointOptions,
    TransportOptions,
)


def test_defaults_are_the_reference_s() -> None:
    """Without a word only the WebSocket is served, and nobody gets in without credentials."""
    transports, client, api = TransportOptions(), ClientOptions(), APIOptions()

    assert transports.websocket.enabled
    assert not any(
        (
            transports.sse.enabled,
            transports.http_stream.enabled,
            transports.uni_websocket.enabled,
            transports.uni_sse.enabled,
            transports.uni_http_stream.enabled,
        )
    )
    assert not client.allow_anonymous_connect_without_token
    assert ("", False) == (api.key, api.insecure)
    assert EndpointOptions() == EndpointOptions(health="", ready="", metrics="", init="")
    assert ChannelNames() == ChannelNames(private_prefix="$", namespace_boundary=":")


def test_everything() -> None:
    """All transports at once have the paths that each has alone."""
    every, default = TransportOptions.create_all(), TransportOptions()

    for name in TransportOptions.__struct_fields__:
        assert getattr(every, name).path == getattr(default, name).path
        if name != "emulation":
            assert getattr(every, name).enabled
