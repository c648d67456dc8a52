"""The Origin check: a site's own pages pass, nobody else's do."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import assume, given, settings, strategies as st

from wirebell.auth import AllowedOrigins, is_origin_allowed

LABELS = st.text(st.sampled_from("abcxyz019"), min_size=1, max_size=5)
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PORTS = st.none() | st.integers(1, 65_535)
SOCKETS = st.sampled_from(["ws", "wss"])
PAGES = st.sampled_from(["http", "https"])
DEFAULT = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def join(host: str, port: int | None) -> str:
    """Write a host and a port."""
    return host if port is None else f"{host}:{port}"


@settings(max_examples=100, deadline=None)
@given(host=HOSTS, port=PORTS, page=PAGES, socket=SOCKETS)
def test_own_pages_pass(host: str, port: int | None, page: str, socket: str) -> None:
    """A page passes whose browser wrote its host and port into both headers.

    A browser leaves the default port of the page's scheme out of both.
    """
    port = None if port == DEFAULT[page] else port
    origin = f"{page}://{join(host, port)}"

    assert is_origin_allowed(origin, join(host.upper(), port), socket, ())


@settings(max_examples=120, deadline=None)
@given(host=HOSTS, port=PORTS, other=HOSTS, other_port=PORTS, page=PAGES, socket=SOCKETS)
def test_foreign_pages_never_pass(
    host: str, port: int | None, other: str, other_port: int | None, page: str, socket: str
) -> None:
    """A page of another host never passes, whatever is allowed besides it."""
    assume(host != other)
    origin = f"{page}://{join(other, other_port)}"

    allowed = [f"https://allowed.{host}"]
    assume(not other.startswith("allowed."))
    assert not is_origin_allowed(origin, join(host, port), socket, allowed)


@settings(max_examples=100, deadline=None)
@given(host=HOSTS, port=st.integers(1, 65_535), other=st.integers(1, 65_535), page=PAGES)
def test_another_port_never_passes(host: str, port: int, other: int, page: str) -> None:
    """A page of the same host on another port is foreign."""
    assume(port != other)

    assert not is_origin_allowed(f"{page}://{host}:{other}", f"{host}:{port}", "ws", ())


@settings(max_examples=120, deadline=None)
@given(origin=st.text(max_size=30), host=st.none() | st.text(max_size=30), socket=SOCKETS)
def test_rubbish_never_raises(origin: str, host: str | None, socket: str) -> None:
    """Headers of any content are decided upon, never an error."""
    assert is_origin_allowed(origin, host, socket, ["https://a.example"]) in (True, False)


@settings(max_examples=100, deadline=None)
@given(origin=HOSTS, host=HOSTS, socket=SOCKETS)
def test_listed_passes(origin: str, host: str, socket: str) -> None:
    """An origin that is listed passes at every host."""
    assert is_origin_allowed(f"https://{origin}", host, socket, {f"https://{origin}"})


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.text("ab.*?", min_size=1, max_size=8),
    host=st.text("ab.", min_size=1, max_size=8),
    page=PAGES,
)
def test_patterns(pattern: str, host: str, page: str) -> None:
    """A pattern means what it means for file names."""
    origins = AllowedOrigins([f"https://{pattern}"])

    expected = page == "https" and (
        fnmatchcase(host, pattern) or fnmatchcase(f"{host}:443", pattern)
    )
    assert expected == origins.allows(f"{page}://{host}")


@settings(max_examples=150, deadline=None)
@given(
    origin=st.text(max_size=30), pattern=st.text(st.characters(exclude_characters="{}"), max_size=8)
)
def test_rubbish_never_raises_for_patterns(origin: str, pattern: str) -> None:
    """Headers of any content are decided upon, whatever the pattern; no list lets in no page."""
    assert AllowedOrigins([pattern]).allows(origin) in (True, False)
    assert not AllowedOrigins([]).allows(origin)
