"""The values that travel."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    Frames,
    History,
    Identity,
    Membership,
    Overflow,
    PayloadFormat,
    Publication,
    StreamPosition,
)


def test_defaults() -> None:
    """The defaults keep nothing, know nobody and stand before the first publication."""
    assert StreamPosition(0, "") == StreamPosition()
    assert ChannelOptions(None, presence=False, overflow=Overflow.DISCONNECT) == ChannelOptions()
    assert Identity("", None) == Identity()
    assert Publication(b"x", PayloadFormat.TEXT, 0, "", "") == Publication(b"x")
    assert ClientInfo("1", "") == ClientInfo("1")


@pytest.mark.parametrize(
    "value",
    [
        StreamPosition(),
        ClientInfo("1"),
        Identity(),
        Publication(b""),
        Membership(ClientInfo("1"), joined=True),
        History(),
        ChannelOptions(),
    ],
)
def test_values_are_frozen(value: object) -> None:
    """Nobody can change a value under somebody else's hands."""
    name = next(iter(value.__struct_fields__))  # type: ignore[attr-defined]

    with pytest.raises(AttributeError):
        setattr(value, name, None)


def test_frames() -> None:
    """Frames are equal by their messages and their size, whatever was encoded already."""
    encoded = Frames(("a", "b"), 2, wire=b"\x81\x01a\x81\x01b", deflated={15: b"x"})

    assert (("a", "b"), 2) == (encoded.messages, encoded.byte_count)
    assert Frames(("a", "b"), 2) == encoded
    assert Frames(("a", "b"), 3) != encoded


def test_frames_from_text() -> None:
    """One message counts its bytes in UTF-8."""
    assert Frames(("é",), 2) == Frames.from_text("é")


def test_joined_frames() -> None:
    """Joined frames have all messages in order and remember what they were joined from."""
    one, two = Frames(("a", "b"), 2), Frames(("é",), 2)

    joined = Frames.join([one, two])

    assert Frames(("a", "b", "é"), 4) == joined
    assert (True, True) == (joined.parts[0] is one, joined.parts[1] is two)


def test_joining_one() -> None:
    """One part alone is itself, so that its encodings are shared."""
    one = Frames(("a",), 1)

    assert Frames.join([one]) is one


def test_frames_share_their_encoding() -> None:
    """What one transport encoded the next one finds; only the encodings may change."""
    frames = Frames.from_text("a")

    frames.wire = b"w"

    assert (b"w", None) == (frames.wire, frames.deflated)
    with pytest.raises(AttributeError):
        frames.other = 1  # type: ignore[attr-defined]


def test_identity_needs_a_time_zone() -> None:
    """An instant without a time zone is refused, one with it is kept."""
    aware = datetime(2026, 1, 1, tzinfo=UTC)

    assert aware == Identity("ann", aware).expires_at
    with pytest.raises(ValueError, match="expires_at must have a time zone, got 2026-01-01"):
        Identity("ann", aware.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("size", "ttl", "meta", "message"),
    [
        (0, 1.0, 1.0, "size must be 1 or more, got 0"),
        (1, 0.0, 1.0, "ttl_seconds must be above 0, got 0.0"),
        (1, 2.0, 1.0, r"meta_ttl_seconds must be at least ttl_seconds \(2.0\), got 1.0"),
    ],
)
def test_history_bounds(size: int, ttl: float, meta: float, message: str) -> None:
    """A history outside its bounds is refused with the value and the bound."""
    with pytest.raises(ValueError, match=message):
        History(size=size, ttl_seconds=ttl, meta_ttl_seconds=meta)


def test_history_at_its_bounds() -> None:
    """One publication, and metadata that lives as long as the publications, are allowed."""
    assert History(size=1, ttl_seconds=0.1, meta_ttl_seconds=0.1).size == 1


def test_info_as_json() -> None:
    """What others see of an identity is written as JSON; nothing is written as nothing."""
    assert (b"", b'{"name":"Ann"}') == (
        Identity().encode_info(),
        Identity(info={"name": "Ann"}).encode_info(),
    )


def test_frames_of_one_message() -> None:
    """A message is text or bytes; its size is counted in bytes."""
    assert (Frames(("é",), 2), Frames((b"\x00\x01",), 2)) == (
        Frames.from_message("é"),
        Frames.from_message(b"\x00\x01"),
    )


def test_frames_are_compared_by_their_messages() -> None:
    """What a frame remembers of its encodings makes no difference; nothing else equals it."""
    frames, same = Frames(("x",), 1), Frames(("x",), 1, wire=b"w")

    assert frames == same
    assert frames != Frames(("y",), 1)
    assert ("x",) not in [frames]
