"""Compares what a server said with what was recorded: objects, not bytes.

Values that differ on each run are not ignored where they are names. A recorded client id, session,
node or epoch stands for one value of the server under test: the first one seen in its place. From
then on it must be that value everywhere, also in what the test sends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ("Comparison",)

SECONDS_TOLERANCE = 3
"""Between a recorded and a received ``ttl``: clocks tick in whole seconds."""

FAR_SECONDS = 10**9
"""Tokens of the year 2100 are further away than this, how far depends on today."""

NAMES = frozenset({"client", "epoch", "node", "session", "uid"})
"""Members whose values are names: the same recorded name is the same name with us."""

OPTIONAL = frozenset({"process"})
"""Members that came on some runs only."""

Path = tuple[str, ...]


class Comparison:
    """Compares messages of one scenario and remembers the names in them."""

    def __init__(self, varies: Sequence[str]) -> None:
        """Start without any name.

        Args:
            varies: Paths as in the last line of a recording.
        """
        self._varies = [
            _parse(path.removesuffix(" (key)")) for path in varies if "(key)" not in path
        ]
        self._keys = [_parse(path.removesuffix(".* (key)")) for path in varies if "(key)" in path]
        self._names: dict[str, str] = {}

    def substitute(self, text: str) -> str:
        """Return `text` with our names in place of the recorded ones."""
        if not self._names:
            return text
        pattern = "|".join(re.escape(name) for name in self._names)
        return re.sub(pattern, lambda match: self._names[match[0]], text)

    def name(self, recorded: str, ours: str) -> None:
        """Remember that `ours` stands for `recorded`, unless that has a value already."""
        self._names.setdefault(recorded, ours)

    def differences(self, recorded: Any, ours: Any) -> list[str]:
        """Return one sentence for each difference between two messages; none when they agree."""
        return list(self._compare((), recorded, ours))

    def _compare(self, path: Path, recorded: Any, ours: Any) -> Iterator[str]:
        if self._matches(self._varies, path):
            yield from self._compare_varying(path, recorded, ours)
        elif isinstance(recorded, dict) and isinstance(ours, dict):
            yield from self._compare_members(path, recorded, ours)
        elif isinstance(recorded, list) and isinstance(ours, list):
            if len(recorded) != len(ours):
                yield f"{_show(path)} has {len(recorded)} elements, ours {len(ours)}: {ours!r}"
            for a, b in zip(recorded, ours, strict=False):
                yield from self._compare((*path, "[]"), a, b)
        elif isinstance(recorded, str) and self.substitute(recorded) == ours:
            pass  # the same words about the same names
        elif type(recorded) is not type(ours) or recorded != ours:
            yield f"{_show(path)} is {recorded!r}, ours {ours!r}"

    def _compare_members(
        self, path: Path, recorded: dict[str, Any], ours: dict[str, Any]
    ) -> Iterator[str]:
        if self._matches(self._keys, path):
            recorded = self._rename_keys(recorded, ours)
        for key, value in recorded.items():
            if key not in ours and key == "ttl" and self._matches(self._varies, (*path, key)):
                # Less than a second is left, and zero is left out.
                yield from self._compare((*path, key), value, 0)
            elif key not in ours:
                yield f"{_show((*path, key))} is {value!r}, ours is left out"
            else:
                yield from self._compare((*path, key), value, ours[key])
        for key, value in ours.items():
            if key not in recorded and key not in OPTIONAL:
                yield f"{_show((*path, key))} is left out, ours {value!r}"

    def _rename_keys(self, recorded: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
        """Return `recorded` with our names as keys; a single unknown one takes what is left."""
        unknown = [key for key in recorded if key not in self._names]
        known = {self._names.get(key) for key in recorded}
        left = [key for key in ours if key not in known]
        if len(unknown) == len(left) == 1:
            self.name(unknown[0], left[0])
        return {self._names.get(key, key): value for key, value in recorded.items()}

    def _compare_varying(self, path: Path, recorded: Any, ours: Any) -> Iterator[str]:
        if isinstance(recorded, bool | int | float) and isinstance(ours, bool | int | float):
            is_far = recorded > FAR_SECONDS and ours > FAR_SECONDS
            if path[-1] == "ttl" and abs(recorded - ours) > SECONDS_TOLERANCE and not is_far:
                yield f"{_show(path)} is about {recorded!r}, ours {ours!r}"
        elif type(recorded) is not type(ours):
            yield f"{_show(path)} is like {recorded!r}, ours {ours!r}"
        elif isinstance(recorded, str) and path[-1] in NAMES:
            self.name(recorded, ours)
            if self._names[recorded] != ours:
                yield f"{_show(path)} should be {self._names[recorded]!r} as before, is {ours!r}"

    @staticmethod
    def _matches(patterns: list[Path], path: Path) -> bool:
        for pattern in patterns:
            if len(pattern) == len(path):
                pairs = zip(pattern, path, strict=True)
                if all(part in {"*", name} for part, name in pairs):
                    return True
        return False


def _parse(path: str) -> Path:
    """Return the parts of a path: ``a.b[].c`` has ``a``, ``b``, ``[]`` and ``c``."""
    return tuple(part for part in path.replace("[]", ".[]").split(".") if part)


def _show(path: Path) -> str:
    return ".".join(path).replace(".[]", "[]") or "message"
