"""Settings: names, bounds, and how the environment is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wirebell.settings import Settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment of whoever runs the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WIREBELL_{name.upper()}", raising=False)


def test_counts_are_off_and_bytes_are_on() -> None:
    """Without a word there is no limit of connections, and every limit of bytes."""
    settings = Settings()

    counts = [
        settings.connections_max,
        settings.connections_per_address_max,
        settings.connections_per_user_max,
        settings.connections_per_second_max,
    ]
    assert [0, 0, 0, 0] == counts
    assert (65_536, 1_048_576, 255) == (
        settings.message_bytes_max,
        settings.send_queue_bytes_max,
        settings.channel_bytes_max,
    )
    assert settings.broker_url == "memory://"


def test_pings_and_leases_fit_together() -> None:
    """The default lease outlives two renewals."""
    settings = Settings()

    assert settings.presence_ttl_seconds > 2 * settings.presence_refresh_seconds


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment gives values by prefix and name; other variables are nobody's."""
    monkeypatch.setenv("WIREBELL_CONNECTIONS_MAX", "7")
    monkeypatch.setenv("WIREBELL_NO_SUCH_THING", "1")

    assert Settings().connections_max == 7


def test_arguments_win_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What code says counts more than what the environment says."""
    monkeypatch.setenv("WIREBELL_CONNECTIONS_MAX", "7")

    assert Settings(connections_max=3).connections_max == 3


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.example", ("https://a.example",)),
        (" https://a.example, http://b.example:81 ,", ("https://a.example", "http://b.example:81")),
    ],
)
def test_origins_of_the_environment(
    text: str, origins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Origins are separated by commas; spaces and empty parts are nothing."""
    monkeypatch.setenv("WIREBELL_ALLOWED_ORIGINS", text)

    assert origins == Settings().allowed_origins


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/", "https:a.example", "null"])
def test_origin_that_no_browser_sends(origin: str) -> None:
    """An origin with a path or without a scheme is refused, and named."""
    with pytest.raises(ValidationError, match=f"an origin is .*, got '{origin}'"):
        Settings(allowed_origins=(origin,))


def test_settings_are_frozen() -> None:
    """Nobody changes a limit while the node runs."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().connections_max = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "lowest"),
    [(name, 0) for name in Settings.model_fields if name.startswith("connections_")]
    + [(name, 1) for name in Settings.model_fields if name.endswith(("bytes_max", "channels_max"))],
)
def test_lower_bounds(name: str, lowest: int) -> None:
    """A limit takes its lowest value and nothing below it."""
    assert lowest == getattr(Settings.model_validate({name: lowest}), name)

    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: lowest - 1})


INTERVALS = [name for name in Settings.model_fields if name.endswith("seconds")]
# Zero turns these off; a drain without a window closes everybody at once.
MAY_BE_OFF = (
    *("idle_timeout_seconds", "request_timeout_seconds"),
    *("drain_window_seconds", "handover_seconds"),
)


@pytest.mark.parametrize("name", [name for name in INTERVALS if name not in MAY_BE_OFF])
def test_intervals_are_above_zero(name: str) -> None:
    """No other interval can be zero: it would be a busy loop or an immediate end."""
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: 0})


@pytest.mark.parametrize("name", MAY_BE_OFF)
def test_intervals_that_may_be_off(name: str) -> None:
    """These take zero and nothing below it."""
    assert getattr(Settings.model_validate({name: 0}), name) == 0

    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: -0.001})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_intervals_have_an_end(value: float) -> None:
    """None is infinite: a process could not say how long it takes to end."""
    with pytest.raises(ValidationError, match="close_timeout_seconds"):
        Settings(close_timeout_seconds=value)
    with pytest.raises(ValidationError, match="commands_per_second_max"):
        Settings(commands_per_second_max={"publish": value})


def test_ticks_and_compression() -> None:
    """A tick is bounded, nobody is compressed unasked, and silence is no reason to be closed."""
    settings = Settings()

    assert (1_048_576, False, 512) == (
        settings.tick_bytes_max,
        settings.compression,
        settings.compression_bytes_min,
    )
    assert (0.0, 10.0, 5.0, 64) == (
        settings.idle_timeout_seconds,
        settings.request_timeout_seconds,
        settings.drain_window_seconds,
        settings.descriptors_spare,
    )


@pytest.mark.parametrize(
    ("name", "lowest"), [("compression_bytes_min", 1), ("descriptors_spare", 8)]
)
def test_bounds_of_the_engine(name: str, lowest: int) -> None:
    """The shortest compressed message has a byte, and the reserve is never empty."""
    assert lowest == getattr(Settings.model_validate({name: lowest}), name)

    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: lowest - 1})
