"""Single values: how each kind is read, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from wirebell.configuration.values import Kind, is_default, parse, parse_duration, read_pem
from wirebell.errors import ConfigError

PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("300s", 300.0),
        ("1m30s", 90.0),
        ("720h", 2_592_000.0),
        ("720h0m0s", 2_592_000.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("5ns", 5e-9),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is numbers with units, one behind the other."""
    assert seconds == pytest.approx(parse_duration(text))


@pytest.mark.parametrize("value", ["", "25", "-1s", "1d", "s", "1s ago", 25, 2.5, True, None, []])
def test_what_is_no_duration(value: Any) -> None:
    """A number without a unit could mean anything, so it is refused."""
    with pytest.raises(ConfigError, match="must be a duration such as 25s"):
        parse(Kind.DURATION, value)


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (Kind.DURATION, 0, 0.0),
        (Kind.DURATION, " 2s ", 2.0),
        (Kind.BOOLEAN, True, True),
        (Kind.BOOLEAN, False, False),
        (Kind.BOOLEAN, "true", True),
        (Kind.BOOLEAN, "1", True),
        (Kind.BOOLEAN, "F", False),
        (Kind.BOOLEAN, 0, False),
        (Kind.INTEGER, 7, 7),
        (Kind.INTEGER, "7", 7),
        (Kind.NUMBER, "2.5", 2.5),
        (Kind.NUMBER, 2, 2.0),
        (Kind.TEXT, "a", "a"),
        (Kind.TEXT, 12345, "12345"),
        (Kind.LIST, "", ()),
        (Kind.LIST, "a b", ("a", "b")),
        (Kind.LIST, "https://{a,b}.c d", ("https://{a,b}.c", "d")),
        (Kind.LIST, '["a", "b"]', ("a", "b")),
        (Kind.LIST, ["a", "b"], ("a", "b")),
        (Kind.OBJECT, "", {}),
        (Kind.OBJECT, '{"a": 1}', {"a": 1}),
        (Kind.OBJECT, {"a": 1}, {"a": 1}),
        (Kind.OBJECTS, "", ()),
        (Kind.OBJECTS, '[{"a": 1}]', ({"a": 1},)),
        (Kind.OBJECTS, [{"a": 1}], ({"a": 1},)),
    ],
)
def test_kinds(kind: Kind, value: Any, parsed: Any) -> None:
    """Each kind is read from text as from a file's own types."""
    assert parsed == parse(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (Kind.BOOLEAN, "yes", "must be true or false"),
        (Kind.BOOLEAN, 2, "must be true or false"),
        (Kind.INTEGER, "x", "must be a whole number"),
        (Kind.INTEGER, True, "must be a whole number"),
        (Kind.INTEGER, 1.5, "must be a whole number"),
        (Kind.NUMBER, "x", "must be a number"),
        (Kind.NUMBER, True, "must be a number"),
        (Kind.TEXT, True, "must be a text"),
        (Kind.TEXT, ["a"], "must be a text"),
        (Kind.LIST, {"a": 1}, "must be a list of texts"),
        (Kind.LIST, [1], "must be a list of texts"),
        (Kind.LIST, "[1]", "must be a list of texts"),
        (Kind.LIST, "[", "is no JSON"),
        (Kind.OBJECT, "[]", "must be an object"),
        (Kind.OBJECTS, "{", "is no JSON"),
        (Kind.OBJECTS, "{}", "must be a list of objects"),
        (Kind.OBJECTS, [1], "must be a list of objects"),
    ],
)
def test_wrong_kinds(kind: Kind, value: Any, told: str) -> None:
    """What is of another kind is refused with what was expected."""
    with pytest.raises(ConfigError, match=told):
        parse(kind, value)


@pytest.mark.parametrize(
    ("value", "default"),
    [
        (None, []),
        ("", None),
        ({}, None),
        (False, False),
        ("false", False),
        ("0", False),
        ("memory", "memory"),
        ("60s", "1m0s"),
        (0, "0s"),
        ("8000", 8000),
        (100, 100),
        ("redis://127.0.0.1:6379", ["redis://127.0.0.1:6379"]),
        (["a"], ["a"]),
        (1.5, 1.5),
    ],
)
def test_the_default_in_other_words(value: Any, default: Any) -> None:
    """A value says the default in whichever way it is written."""
    assert is_default(value, default)


@pytest.mark.parametrize(
    ("value", "default"),
    [(True, False), ("maybe", False), ("redis", "memory"), ("61s", "1m0s"), ("0", "x"),
     (1, 2), (["b"], ["a"]), ("b", ["a"]), ("x", None)],
)  # fmt: skip
def test_another_value_than_the_default(value: Any, default: Any) -> None:
    """Everything else is another value."""
    assert not is_default(value, default)


def test_pem_as_text_in_base64_and_in_a_file(tmp_path: Path) -> None:
    """PEM may stand in the configuration, in base64, or in a file that it names."""
    path = tmp_path / "key.pem"
    path.write_text(PEM)

    for value in (PEM, base64.b64encode(PEM.encode()).decode(), str(path)):
        assert read_pem(value) == PEM


def test_what_is_no_pem(tmp_path: Path) -> None:
    """A file without PEM, and a path without a file, are told apart."""
    path = tmp_path / "key.pem"
    path.write_text("nothing")

    with pytest.raises(ConfigError, match="names a file that holds no PEM"):
        read_pem(str(path))
    with pytest.raises(ConfigError, match="is neither PEM nor a file"):
        read_pem(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="is neither PEM nor a file"):
        read_pem("a\0b")


@pytest.mark.parametrize("length", [40, 4_000])
def test_a_key_with_a_slip_is_not_shown(length: int) -> None:
    """What is taken for a path may be a private key."""
    with pytest.raises(ConfigError) as caught:
        read_pem("MIIE" * (length // 4) + "!")
    assert "MIIE" not in str(caught.value)
