"""What nodes say to each other."""

from __future__ import annotations

import msgspec
import pytest

from wirebell.control import (
    ANSWER_BYTES_MAX,
    Answer,
    Bye,
    Collection,
    Control,
    Hello,
    NodeInfo,
    Question,
    create_answers,
    create_refusal,
    decode_control,
    encode_control,
)
from wirebell.errors import CommandError, ErrorCode, ProtocolError, UnknownRecord

INFO = NodeInfo("n1", "web", "1.0", 1, 2, 3, 4, 5.0, 6.0, 7, {"published_count": 8.0})
QUESTION = Question("n1", 3, "channels", b"x")


@pytest.mark.parametrize(
    "message",
    [
        Hello(INFO, has_given_name=True, wants_answer=True, revocations=9),
        Bye("n1"),
        QUESTION,
        Answer("n2", 3, b"body", 1, 2),
        Answer("n2", 3, b"", code=100, message="no", is_temporary=True),
    ],
)
def test_round_trip(message: Control) -> None:
    """Each message is read as it was written, and says its schema first."""
    data = encode_control(message)

    assert 1 == data[0]
    assert message == decode_control(data)


def test_of_a_newer_release() -> None:
    """A field that is not known is left out, one that is missing takes its default."""
    newer = b"\x01" + msgspec.msgpack.encode([1, "n1", "a field of a newer release"])
    older = b"\x01" + msgspec.msgpack.encode([0, list(msgspec.structs.astuple(INFO))])

    assert Bye("n1") == decode_control(newer)
    assert Hello(INFO) == decode_control(older)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "schema version none"),
        (b"\x02abc", "schema version 2, this release reads 1"),
        (b"\x01\xff", "cannot be read"),
        (b"\x01" + msgspec.msgpack.encode([9, "n1"]), "cannot be read"),
        (b"\x01" + msgspec.msgpack.encode([1, 5]), "cannot be read"),
    ],
)
def test_unreadable(data: bytes, text: str) -> None:
    """Whatever cannot be read is said to be so."""
    with pytest.raises(UnknownRecord, match=text):
        decode_control(data)


def test_short_answer() -> None:
    """A short answer, and an empty one, is one part."""
    assert [Answer("n2", 3, b"ab")] == create_answers(QUESTION, "n2", b"ab")
    assert [Answer("n2", 3, b"")] == create_answers(QUESTION, "n2", b"")


def test_long_answer() -> None:
    """A long answer comes in parts and is joined, in whatever order they come."""
    body = bytes(range(256)) * 3_000
    parts = create_answers(QUESTION, "n2", body)
    collection = Collection({"n2"})
    done = [collection.add(part) for part in reversed(parts)]

    assert [False, False, True] == done
    assert ({"n2": body}, {}, {}) == (collection.bodies, collection.refusals, collection.parts)


def test_too_long_an_answer() -> None:
    """An answer over the bound is refused by who gives it."""
    (answer,) = create_answers(QUESTION, "n2", bytes(ANSWER_BYTES_MAX + 1))

    assert ErrorCode.LIMIT_EXCEEDED == answer.code
    assert f"limit {ANSWER_BYTES_MAX}" in answer.message


def test_refusal() -> None:
    """A refusal carries its code and message, and whether it is temporary."""
    collection = Collection({"n2", "n3"})
    refused = create_refusal(QUESTION, "n2", ProtocolError(ErrorCode.INTERNAL))
    done = [collection.add(refused), collection.add(Answer("n3", 3, b"ok"))]

    error = collection.refusals["n2"]
    assert isinstance(error, CommandError)
    assert (100, "internal server error", True) == (error.code, error.message, error.temporary)
    assert ([False, True], {"n3": b"ok"}) == (done, collection.bodies)


def test_answers_twice() -> None:
    """A second answer of a node counts for nothing."""
    collection = Collection({"n2", "n3"})
    collection.add(Answer("n2", 3, b"first"))
    collection.add(Answer("n2", 3, b"second"))

    assert {"n2": b"first"} == collection.bodies


def test_of_a_node_that_was_not_expected() -> None:
    """Who has just come answers too."""
    collection = Collection(set())

    assert collection.add(Answer("n9", 3, b"here"))
    assert {"n9": b"here"} == collection.bodies


@pytest.mark.parametrize(("part", "count"), [(0, 0), (2, 2), (-1, 2), (0, 65)])
def test_parts_that_cannot_be(part: int, count: int) -> None:
    """A part outside of its bounds makes the answer a refusal."""
    collection = Collection({"n2"})

    assert collection.add(Answer("n2", 3, b"", part, count))
    assert f"part {part} of {count}" in collection.refusals["n2"].message
