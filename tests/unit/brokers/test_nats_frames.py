"""What stands in a message of NATS, and under which subject."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wirebell.brokers.nats.frames import (
    CHAIN_MAX,
    Frame,
    decode_claim,
    decode_frame,
    decode_key,
    decode_lease,
    encode_claim,
    encode_frame,
    encode_key,
    encode_lease,
    encode_unkept,
    word_of,
)
from wirebell.errors import UnknownRecord

NUMBER = st.integers(0, 2**63)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Make a frame whose chain goes backwards, not too far."""
    previous = draw(st.integers(2**40, 2**62))
    distances = sorted(draw(st.sets(st.integers(1, 2**32 - 1), max_size=CHAIN_MAX - 1)))
    chain = (previous, *(previous - each for each in distances))
    return Frame(
        draw(NUMBER),
        draw(st.text("0123456789abcdef", min_size=8, max_size=8)),
        draw(NUMBER),
        draw(NUMBER),
        draw(st.text(max_size=20)),
        draw(st.binary(min_size=16, max_size=16)),
        draw(st.sampled_from(((), chain))),
        tuple(draw(st.lists(st.binary(max_size=50), max_size=5))),
    )


@given(frames())
def test_frames(frame: Frame) -> None:
    """A frame is read as it was written."""
    assert frame == decode_frame(encode_frame(frame))


@given(frames(), st.data())
def test_damaged_frames(frame: Frame, data: st.DataObject) -> None:
    """A frame that was cut off is not taken for another one."""
    written = encode_frame(frame)
    cut = data.draw(st.integers(0, len(written) - 1))

    with pytest.raises(UnknownRecord):
        decode_frame(written[:cut])


def test_far_chain() -> None:
    """A frame that is too far away to be named ends the chain."""
    far = 2**40
    frame = Frame(1, "0" * 8, 1, 0, "", bytes(16), (far, far - 1, far - 2**32, 1), (b"x",))

    assert (far, far - 1) == decode_frame(encode_frame(frame)).chain


def test_top() -> None:
    """The top follows from the offset and how many there are; without any it stays."""
    one = Frame(5, "0" * 8, 1, 0, "", bytes(16), (), (b"a", b"b"))
    none = Frame(7, "0" * 8, 7, 0, "", bytes(16), (9,), ())

    assert (6, 0) == (one.top, one.previous)
    assert (6, 9) == (none.top, none.previous)


def test_other_messages() -> None:
    """Keys, claims and leases are read as they were written; a kind is not taken for another."""
    assert (7, "12345678") == decode_key(encode_key(7, "12345678"))
    assert (0, "") == decode_key(encode_unkept(b"record"))
    assert b"ident" == decode_claim(encode_claim(b"ident"))
    assert (60_000, b"record") == decode_lease(encode_lease(60_000, b"record"))
    for decode in (decode_frame, decode_key, decode_claim, decode_lease):
        for data in (b"", b"\x09future", b"\x04", b"\x02", b"\x03"):
            with pytest.raises(UnknownRecord):
                decode(data)


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_words(one: str, other: str) -> None:
    """A name becomes one word of what NATS allows, and two names never the same."""
    word = word_of(one)

    assert word
    assert not set(word) & set(b" .*>\t\r\n\0")
    assert word.isascii()
    assert (one == other) == (word == word_of(other))


def test_long_words() -> None:
    """A word has a bound: beyond it stands a hash."""
    fits, long = "x" * 512, "x" * 513

    assert fits.encode() == word_of(fits)
    assert word_of(long) != word_of(long + "x")
    assert 66 == len(word_of(long))
