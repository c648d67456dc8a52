"""Keywords of publications, and their bounds."""

from __future__ import annotations

import pytest

from wirebell.errors import BadRequest, ConfigError, LimitExceeded
from wirebell.model import PayloadFormat, Publication, PublishOptions
from wirebell.publishing import (
    check_channel,
    check_count,
    check_size,
    check_tags,
    compose,
    create_options,
    encode_payload,
    require,
)

TEXT = Publication(b"x")


def test_text_stays_text() -> None:
    """A string travels as it is, anything else as JSON."""
    assert Publication(b"hi", PayloadFormat.TEXT, key="k") == encode_payload("hi", "k")
    assert Publication(b'{"a":null}', PayloadFormat.JSON) == encode_payload({"a": float("nan")})


@pytest.mark.parametrize("data", ["\ud800", object()])
def test_what_cannot_be_serialised(data: object) -> None:
    """Half a character, and what JSON has no words for, are refused."""
    with pytest.raises(BadRequest, match="cannot serialise"):
        encode_payload(data)


def test_no_keywords() -> None:
    """Without keywords nothing is made."""
    assert (TEXT, None) == compose(TEXT, {})


def test_keywords() -> None:
    """What subscribers see goes into the publication, the rest beside it."""
    publication, how = compose(
        TEXT,
        {
            "key": "k",
            "tags": {"a": "b"},
            "delta": True,
            "idempotency_key": "i",
            "version": 3,
            "version_epoch": "e",
            "skip_history": True,
            "exclude": "c",
        },
    )

    expected = Publication(b"x", key="k", tags={"a": "b"}, has_delta=True, version=3, exclude="c")
    assert expected == publication
    assert PublishOptions("i", 3, "e", skip_history=True) == how


def test_options_of_nothing() -> None:
    """A version epoch alone says nothing."""
    assert create_options("", 0, "e", skip_history=False) is None


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"idempotency_key": "a" * 1025}, "an idempotency key has at most 1024 bytes, got 1025"),
        ({"idempotency_key": "\ud800"}, "an idempotency key is no text that UTF-8 can hold"),
        ({"version": 1, "version_epoch": "\ud800"}, "a version epoch is no text"),
        ({"version": 1, "version_epoch": "é" * 513}, "a version epoch .* got 1026"),
        ({"version": -1}, "a version is 0 to"),
        ({"version": 2**64}, "a version is 0 to"),
        ({"tags": {"a": "b" * 16_384}}, "tags have at most 16384 bytes together, got 16385"),
    ],
)
def test_keywords_out_of_bounds(keywords: dict[str, object], text: str) -> None:
    """Each keyword has its bound, and the error names it."""
    with pytest.raises(BadRequest, match=text):
        compose(TEXT, keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("tags", [{"a": 1}, {1: "a"}, {"a": "\ud800"}, {"\ud800": "a"}])
def test_tags_that_are_no_text(tags: dict[str, str]) -> None:
    """Tags travel to everybody: what no encoding can write is refused before."""
    with pytest.raises(BadRequest, match="tags are text by text: "):
        check_tags(tags)


def test_tags_are_copied() -> None:
    """A caller may use its tags again for the next publication."""
    tags = {"a": "1"}

    publication, _ = compose(TEXT, {"tags": tags})
    tags["a"] = "2"

    assert {"a": "1"} == publication.tags


def test_bounds() -> None:
    """What is exactly as large as it may be passes."""
    tags = {"a": "b" * 16_383}
    check_size("a name", "é" * 5, 10)
    check_count("things", 3, 3)

    assert tags == check_tags(tags)
    assert check_tags({}) is None
    with pytest.raises(LimitExceeded, match="one call has at most 3 things, got 4"):
        check_count("things", 4, 3)


def test_unknown_keywords() -> None:
    """A keyword that does not exist is not left out in silence."""
    with pytest.raises(TypeError, match="no keyword outbox, taggs here"):
        compose(TEXT, {"taggs": {}, "outbox": None})  # type: ignore[typeddict-unknown-key]


def test_channel_names() -> None:
    """A name has printable characters, and at most so many bytes."""
    check_channel("häß", 5)

    for name in ("", "a\n", "häßl"):
        with pytest.raises(BadRequest, match="a channel's name"):
            check_channel(name, 5)


def test_an_outbox_is_required() -> None:
    """Without an outbox nobody would relay."""
    assert "outbox" == require("outbox")
    with pytest.raises(ConfigError, match="which relays"):
        require(None)
