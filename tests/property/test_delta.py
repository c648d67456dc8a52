"""Deltas of arbitrary payloads, by our reader and by the Python SDK's."""

from __future__ import annotations

import contextlib
from importlib import import_module

from hypothesis import given, settings, strategies as st

from wirebell.protocol.delta import apply_delta, create_delta, find_patch

fossil = import_module("centrifuge.fossil")  # of the Python SDK, which has no types

ROWS = st.sampled_from(
    [
        b"0123456789abcdef",
        b"0123456789abcdef",
        b"fedcba9876543210" * 3,
        b'{"name":"value","other":[1,2,3]},',
        "日本語の文字列です。".encode(),
        "日曜日の文字列です。".encode(),
        b"x",
        b"",
    ]
)
PAYLOADS = st.lists(st.one_of(ROWS, st.binary(max_size=20)), max_size=30).map(b"".join)
TEXTS = st.lists(st.text("a日本é🔔🔕", max_size=12), max_size=30).map("-".join)


@settings(max_examples=300)
@given(base=PAYLOADS, target=PAYLOADS)
def test_every_delta_leads_to_its_target(base: bytes, target: bytes) -> None:
    """What is made of two payloads makes the second of the first, in both readers."""
    patch = create_delta(base, target)

    assert target == apply_delta(base, patch)
    assert target == fossil.apply_delta(base, patch)


@given(payload=PAYLOADS, data=st.data())
def test_an_edited_payload_is_found_again(payload: bytes, data: st.DataObject) -> None:
    """A payload with one piece replaced costs the piece, two copies and what surrounds them."""
    start = data.draw(st.integers(0, len(payload)))
    stop = data.draw(st.integers(start, len(payload)))
    piece = data.draw(st.binary(max_size=20))
    target = payload[:start] + piece + payload[stop:]

    patch = create_delta(payload, target)

    assert target == apply_delta(payload, patch)
    # Up to 15 bytes on each side are not worth a copy, and 3 belong to a character.
    assert len(patch) <= len(piece) + 2 * 18 + 40


@given(base=TEXTS, target=TEXTS)
def test_a_delta_of_text_is_text(base: str, target: str) -> None:
    """The delta of two texts can be the content of a JSON string."""
    patch = create_delta(base.encode(), target.encode())

    assert target.encode() == apply_delta(base.encode(), patch.decode().encode())


@given(base=PAYLOADS, target=PAYLOADS)
def test_a_patch_saves_bytes(base: bytes, target: bytes) -> None:
    """A patch is shorter than what it stands for, or there is none."""
    patch = find_patch(base, target)

    assert patch is None or len(patch) < len(target)


@settings(max_examples=300)
@given(base=PAYLOADS, patch=st.one_of(st.binary(), st.text("01@:,;\n~", max_size=40)))
def test_no_delta_does_harm(base: bytes, patch: bytes | str) -> None:
    """Whatever comes as a delta is applied or refused with a `ValueError`."""
    with contextlib.suppress(ValueError):
        made = apply_delta(base, patch.encode() if isinstance(patch, str) else patch)
        assert isinstance(made, bytes)
