"""Which nodes live."""

from __future__ import annotations

import msgspec

from wirebell.control import Hello, NodeInfo
from wirebell.members import Members

INFO = NodeInfo("", "", "1.0", 0, 0, 0, 0, 0.0, 0.0, 0, {})


def hello(node_id: str, name: str = "", *, is_given: bool = False) -> Hello:
    """Let a node say hello."""
    info = msgspec.structs.replace(INFO, node_id=node_id, name=name or node_id)
    return Hello(info, has_given_name=is_given)


def create() -> Members:
    """Create the members as ``me`` sees them."""
    return Members("me", "web", forget_seconds=10, succeed_seconds=4)


def test_comes_and_goes() -> None:
    """A node is known from its first word to its last."""
    members = create()
    first, again = members.hear_hello(hello("a"), 0), members.hear_hello(hello("a"), 3)
    there = ("a" in members, len(members))
    members.leave("a")
    members.leave("a")

    assert (True, False, (True, 1)) == (first, again, there)
    assert ("a" in members, len(members)) == (False, 0)


def test_forgotten() -> None:
    """Who says nothing for so long is forgotten; anything said counts."""
    members = create()
    for name in ("a", "b"):
        members.hear_hello(hello(name), 0)
    members.hear("b", 5)
    members.hear("nobody", 5)
    early = members.forget(9.9)
    gone = [member.info.node_id for member in members.forget(10)]

    assert ([], ["a"], {"b"}) == (early, gone, set(members.known))


def test_killed_and_started_again() -> None:
    """Who comes under a configured name takes the place of who had it, unless that still lives."""
    members = create()
    members.hear_hello(hello("old", "one", is_given=True), 0)
    members.hear_hello(hello("alive", "two", is_given=True), 0)
    members.hear_hello(hello("machine", "one"), 0)
    members.hear_hello(hello("new", "one", is_given=True), 1)
    members.hear_hello(hello("new two", "two", is_given=True), 1)
    members.hear("alive", 2)
    early = members.forget(4.9)
    gone = [member.info.node_id for member in members.forget(5)]

    assert ([], ["old"]) == (early, gone)
    assert {"alive", "machine", "new", "new two"} == set(members.known)


def test_silent() -> None:
    """Who owes an answer is not waited for until it says something."""
    members = create()
    for name in ("a", "b"):
        members.hear_hello(hello(name), 0)
    members.note_silence("a")
    members.note_silence("nobody")
    silent = (members.awaited(), members.silent())
    members.hear("a", 1)

    assert ({"b"}, {"a"}) == silent
    assert ({"a", "b"}, set()) == (members.awaited(), members.silent())


def test_forgiven() -> None:
    """When it was our own link that was cut everybody has as long as at first."""
    members = create()
    members.hear_hello(hello("a"), 0)
    members.note_silence("a")
    members.forgive(9)

    assert ([], {"a"}) == (members.forget(18), members.awaited())


def test_labels() -> None:
    """Nodes are named by their names, and apart by their ids where those are the same."""
    members = create()
    for node_id, name in (("a", "web"), ("b", "one"), ("c", "two"), ("d", "two")):
        members.hear_hello(hello(node_id, name), 0)

    assert ["web (a)", "one", "two (c)", "two (d)", "nobody"] == [
        members.label(node_id) for node_id in ("a", "b", "c", "d", "nobody")
    ]
