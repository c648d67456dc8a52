"""Patterns of channel names, as in ``news:*``: what they mean, and a bound for what they cost.

``*`` stands for any characters, ``?`` for one, ``[ab]`` for one of these, ``[!ab]`` for one of the
others, and ``{news,chat}`` for one of these words. A match takes time in proportion to the name.
Pure.
"""

from __future__ import annotations

import fnmatch
import re

from wirebell.errors import BadRequest

__all__ = ("Glob",)

# Longer than any pattern of names of 255 bytes has to be.
PATTERN_BYTES_MAX = 1024
# Each word in braces is a pattern of its own: {a,b}{c,d} is four.
WORDS_MAX = 64


class Glob:
    """A pattern of channel names.

    Args:
        pattern: At most 1024 bytes of UTF-8, and at most 64 patterns when its braces are written
            out. Braces do not nest. Empty matches every name.

    Raises:
        BadRequest: It is longer than that, or a brace has no other.
    """

    __slots__ = ("expressions", "pattern")

    def __init__(self, pattern: str) -> None:
        size = len(pattern.encode("utf-8", "surrogatepass"))
        if size > PATTERN_BYTES_MAX:
            raise BadRequest(f"a pattern has at most {PATTERN_BYTES_MAX} bytes, got {size}")
        self.pattern = pattern
        # `fnmatch` writes atomic groups: a name is never searched twice for the same star.
        self.expressions = [re.compile(fnmatch.translate(word)) for word in _expand(pattern)]

    def matches(self, channel: str) -> bool:
        """Tell whether a name is of this pattern."""
        return not self.pattern or any(expression.match(channel) for expression in self.expressions)


def _expand(pattern: str) -> list[str]:
    """Write out the braces: ``a{b,c}`` is ``ab`` and ``ac``."""
    words = [""]
    rest = pattern
    while rest:
        literal, brace, rest = rest.partition("{")
        choice, end, after = rest.partition("}")
        if "}" in literal or "{" in choice or (brace and not end):
            raise BadRequest(f"a brace of the pattern {pattern!r:.80} has no other")
        choices = choice.split(",") if brace else [""]
        if len(words) * len(choices) > WORDS_MAX:
            raise BadRequest(f"the braces of a pattern make at most {WORDS_MAX} patterns")
        words = [f"{word}{literal}{chosen}" for word in words for chosen in choices]
        rest = after
    return words
