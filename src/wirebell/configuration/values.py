"""Single values of a configuration: text of the environment, and what files hold already typed.

Each parser takes either and raises `ConfigError` with what was expected; the caller names the key.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from wirebell.errors import ConfigError

__all__ = ("Kind", "is_default", "parse", "parse_duration", "read_pem")

# Seconds of each unit that a duration may have; Go's `time.ParseDuration` knows the same.
UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
DURATION = re.compile(rf"(?:{DURATION_PART.pattern})+")
# Go's `strconv.ParseBool`, which existing environments were written for.
WORDS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


class Kind(Enum):
    """What a key holds."""

    BOOLEAN = "yes or no"
    INTEGER = "whole number"
    NUMBER = "number"
    DURATION = "duration"
    TEXT = "text"
    LIST = "list of texts"
    OBJECT = "object"
    OBJECTS = "list of objects"


def parse_duration(text: str) -> float:
    """Read ``1m30s`` as 90 seconds.

    Args:
        text: Numbers with the units ns, us, ms, s, m, h, one behind the other; or ``0``.

    Raises:
        ConfigError: It is none.
    """
    if text == "0":
        return 0.0
    if not DURATION.fullmatch(text):
        raise ConfigError("must be a duration such as 25s, 1m30s or 720h")
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in DURATION_PART.findall(text))


def _parse_duration(value: Any) -> float:
    """Read a duration; a number without a unit could mean anything."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if not isinstance(value, str):
        raise ConfigError("must be a duration such as 25s, 1m30s or 720h")
    return parse_duration(value.strip())


def _parse_boolean(value: Any) -> bool:
    """Read true or false, and the words that environments use for them."""
    if isinstance(value, bool):
        return value
    word = WORDS.get(str(value).strip())
    if word is None:
        raise ConfigError("must be true or false")
    return word


def _parse_integer(value: Any) -> int:
    """Read a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError("must be a whole number")
    try:
        return int(value)
    except ValueError:
        raise ConfigError("must be a whole number") from None


def _parse_number(value: Any) -> float:
    """Read a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError("must be a number")
    try:
        return float(value)
    except ValueError:
        raise ConfigError("must be a number") from None


def _parse_text(value: Any) -> str:
    """Read a text; YAML reads a secret of digits as a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError("must be a text")
    return str(value)


def _parse_list(value: Any) -> tuple[str, ...]:
    """Read a list of texts; in one text they stand behind each other, with spaces."""
    if isinstance(value, str):
        stripped = value.strip()
        value = _parse_json(stripped) if stripped.startswith("[") else stripped.split()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ConfigError("must be a list of texts")
    return tuple(value)


def _parse_object(value: Any) -> dict[str, Any]:
    """Read an object; in a text it is JSON."""
    if isinstance(value, str):
        value = _parse_json(value.strip() or "{}")
    if not isinstance(value, dict):
        raise ConfigError("must be an object")
    return value


def _parse_objects(value: Any) -> tuple[dict[str, Any], ...]:
    """Read a list of objects; in a text it is JSON."""
    if isinstance(value, str):
        value = _parse_json(value.strip() or "[]")
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError("must be a list of objects")
    return tuple(value)


def _parse_json(text: str) -> Any:
    """Read JSON in a text."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"is no JSON: {error}") from None


PARSERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.BOOLEAN: _parse_boolean,
    Kind.INTEGER: _parse_integer,
    Kind.NUMBER: _parse_number,
    Kind.DURATION: _parse_duration,
    Kind.TEXT: _parse_text,
    Kind.LIST: _parse_list,
    Kind.OBJECT: _parse_object,
    Kind.OBJECTS: _parse_objects,
}


def parse(kind: Kind, value: Any) -> Any:
    """Read a value: text as in the environment, or what a file gave.

    Raises:
        ConfigError: It is not of that kind; the message says what was expected.
    """
    return PARSERS[kind](value)


def is_default(value: Any, default: Any) -> bool:
    """Tell whether a value says the same as a default, in whichever way it is written."""
    if not value and not default and value != "0":
        return True
    if isinstance(default, bool):
        return WORDS.get(str(value), WORDS.get(str(value).lower())) is default
    if isinstance(default, str):
        return str(value) == default or _is_same_duration(value, default)
    if isinstance(default, int):
        return str(value) == str(default)
    if isinstance(default, list) and isinstance(value, str):
        return value.split() == default
    return bool(value == default)


def _is_same_duration(value: Any, default: str) -> bool:
    """Compare ``60s`` with ``1m0s``."""
    try:
        return _parse_duration(value) == parse_duration(default)
    except ConfigError:
        return False


def read_pem(value: str) -> str:
    """Read PEM that is given as such, in base64, or as the path of a file.

    Raises:
        ConfigError: It is none of them.
    """
    if "-----BEGIN" in value:
        return value
    try:
        decoded = base64.b64decode("".join(value.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    if "-----BEGIN" in decoded:
        return decoded
    try:
        text = Path(value).read_text()
    except (OSError, ValueError) as error:
        # The error itself has the "path" in it, and that may be a private key with a slip in it.
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"is neither PEM nor a file that can be read: {reason}") from None
    if "-----BEGIN" not in text:
        raise ConfigError("names a file that holds no PEM")
    return text
