"""Patterns of channel names."""

from __future__ import annotations

import pytest

from wirebell.errors import BadRequest
from wirebell.globs import Glob


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("", ["", "news:1", "a\nb"], []),
        ("*", ["", "news:1", "a\nb"], []),
        ("news:*", ["news:", "news:1", "news:a:b"], ["new", "xnews:1"]),
        ("*2", ["pres:2", "2"], ["pres:1", "21"]),
        ("room-?", ["room-1", "room-é"], ["room-", "room-12"]),
        ("[ab]:1", ["a:1", "b:1"], ["c:1", "ab:1"]),
        ("[!ab]:1", ["c:1"], ["a:1", ":1"]),
        ("{news,chat}:*", ["news:1", "chat:1"], ["room:1", "{news,chat}:1"]),
        ("{a,b}{1,2}", ["a1", "a2", "b1", "b2"], ["a", "1", "ab"]),
        ("news.1", ["news.1"], ["newsx1"]),
        ("$a#1,2", ["$a#1,2"], ["a"]),
    ],
)
def test_matches(pattern: str, names: list[str], others: list[str]) -> None:
    """A pattern matches these names, and none of the others."""
    glob = Glob(pattern)

    assert [] == [name for name in names if not glob.matches(name)]
    assert [] == [name for name in others if glob.matches(name)]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("{a", "has no other"),
        ("a}", "has no other"),
        ("{a}}", "has no other"),
        ("{a{b}}", "has no other"),
        ("{a,b}" * 7, "at most 64 patterns"),
        ("a" * 1025, "at most 1024 bytes, got 1025"),
        ("é" * 513, "at most 1024 bytes, got 1026"),
    ],
)
def test_bad_patterns(pattern: str, text: str) -> None:
    """A lonely brace, too many words and too many bytes are refused."""
    with pytest.raises(BadRequest, match=text):
        Glob(pattern)


def test_bounds() -> None:
    """64 patterns and 1024 bytes are taken."""
    assert Glob("{a,b}" * 6).matches("ababab")
    assert Glob("a" * 1024).matches("a" * 1024)


def test_many_stars_take_little_time() -> None:
    """A name that nearly matches is not searched again for each star."""
    glob = Glob("*a" * 500 + "b")

    assert not glob.matches("a" * 4096)
