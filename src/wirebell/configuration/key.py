"""One key of the table: what it is called, what it holds, and what it becomes in Python."""

from __future__ import annotations

from typing import Any

import msgspec

from wirebell.configuration.values import Kind

__all__ = ("COUNT_MAX", "Key", "count", "flag", "seconds", "text")

# What is longer than 2 GiB is a slip, and Python's `int` has no bound of its own.
COUNT_MAX = 2**31 - 1


class Key(msgspec.Struct, frozen=True):
    """One key.

    Attributes:
        path: In the tree, with dots.
        kind: What it holds.
        target: The value in Python: ``settings.`` and a field of `Settings`, or a field of one of
            the structs of `wirebell.options`; empty where several keys make one value.
        note: What it does, where its name does not say it.
        minimum: Least number.
        maximum: Greatest number.
        choices: The only texts.
        zero_is_default: 0 stands for the default, as in the reference.
        zero_is: What 0 stands for in Python; ``None`` is 0 itself.
        default: Of a key that is not in the reference's tree.
        is_secret: The value is never shown.
    """

    path: str
    kind: Kind
    target: str = ""
    note: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    zero_is_default: bool = False
    zero_is: int | None = None
    default: Any = None
    is_secret: bool = False


def flag(path: str, target: str = "", note: str = "") -> Key:
    """Describe a key that is on or off."""
    return Key(path, Kind.BOOLEAN, target, note)


def text(path: str, target: str = "", note: str = "", **rest: Any) -> Key:
    """Describe a key that holds a text."""
    return Key(path, Kind.TEXT, target, note, **rest)


def count(path: str, target: str = "", note: str = "", **rest: Any) -> Key:
    """Describe a key that holds a number of things or bytes."""
    return Key(path, Kind.INTEGER, target, note, **{"minimum": 0, "maximum": COUNT_MAX} | rest)


def seconds(path: str, target: str = "", note: str = "", **rest: Any) -> Key:
    """Describe a duration; ``0s`` is the default, unless told otherwise."""
    return Key(path, Kind.DURATION, target, note, **{"zero_is_default": True} | rest)
