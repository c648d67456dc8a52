"""Patterns of channel names: what is formatted is read back."""

from __future__ import annotations

import json

from hypothesis import given, settings, strategies as st

from wirebell.channels import ChannelTemplate
from wirebell.errors import BadRequest
from wirebell.model import PayloadFormat
from wirebell.publishing import encode_payload

PRINTABLE = st.characters(exclude_categories=("C", "Z"))
LITERALS = st.text(st.sampled_from("ab:.-*+(|\\$/"), max_size=3)
VALUES = st.text(st.one_of(st.sampled_from("ab:.-"), PRINTABLE), max_size=6)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Draw a pattern with up to three parameters among literal text."""
    pattern = draw(LITERALS)
    for number in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["", ":path"]))
        pattern += f"{{p{number}{kind}}}" + draw(LITERALS)
    return pattern


@settings(max_examples=120, deadline=None)
@given(pattern=patterns(), data=st.data())
def test_round_trip(pattern: str, data: st.DataObject) -> None:
    """A name is read back with the parameters it was built from, or it is not built."""
    template = ChannelTemplate(pattern)
    values = {name: data.draw(VALUES) for name in template.names}

    try:
        name = template.format(dict(values))
    except BadRequest:
        return

    assert values == template.match(name)


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(VALUES, min_size=2, max_size=2))
def test_parts_between_colons(parts: list[str]) -> None:
    """Parts without colons are never refused, and never mixed up."""
    template = ChannelTemplate("room:{one}:{two}")
    one, two = parts
    fits = all(part and ":" not in part for part in parts)

    try:
        name = template.format({"one": one, "two": two})
    except BadRequest:
        assert not fits
        return

    assert fits
    assert {"one": one, "two": two} == template.match(name)


@settings(max_examples=100, deadline=None)
@given(pattern=patterns(), name=VALUES)
def test_any_name_can_be_asked(pattern: str, name: str) -> None:
    """A name that matches is built again from its parameters."""
    template = ChannelTemplate(pattern)
    parameters = template.match(name)
    if parameters is None:
        return

    assert name == template.format(dict(parameters))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(PRINTABLE, max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(value=JSON_VALUES)
def test_payload_is_json(value: object) -> None:
    """What is given out as JSON is JSON on one line (RFC 8259), or it is refused."""
    try:
        publication = encode_payload(value)
    except BadRequest:
        return

    if publication.format is PayloadFormat.TEXT:
        assert value == publication.data.decode()
        return
    assert b"\n" not in publication.data
    json.loads(publication.data, parse_constant=_refuse)


def _refuse(name: str) -> None:
    """Refuse what Python reads and JSON does not know."""
    raise AssertionError(f"{name} is not JSON")
