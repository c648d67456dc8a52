"""Who is in a channel: entries with leases."""

from __future__ import annotations

from wirebell.model import ClientInfo
from wirebell.presence import Presence

ANN = ClientInfo("1", "ann")
BOB = ClientInfo("2", "bob")


def test_nobody() -> None:
    """A channel that nobody entered is empty, and leaving it is nothing."""
    presence = Presence()

    presence.remove("room", "1")

    assert {} == presence.members("room", 0.0)
    assert {} == presence.channels


def test_members() -> None:
    """Members are seen by their client id, in their channel only."""
    presence = Presence()

    presence.add("room", ANN, expires_at=10.0)
    presence.add("room", BOB, expires_at=10.0)

    assert {"1": ANN, "2": BOB} == presence.members("room", 0.0)
    assert {} == presence.members("other", 0.0)


def test_remove() -> None:
    """Removing is idempotent, and the last one leaves no entry behind."""
    presence = Presence()
    presence.add("room", ANN, expires_at=10.0)
    presence.add("room", BOB, expires_at=10.0)

    presence.remove("room", "1")
    presence.remove("room", "1")

    assert {"2": BOB} == presence.members("room", 0.0)
    presence.remove("room", "2")
    assert {} == presence.channels


def test_lease_ends() -> None:
    """An entry is seen until its lease ends, swept or not; renewing moves the end."""
    presence = Presence()
    presence.add("room", ANN, expires_at=10.0)
    presence.add("room", BOB, expires_at=10.0)
    presence.add("room", BOB, expires_at=20.0)

    assert {"1": ANN, "2": BOB} == presence.members("room", 9.9)
    assert {"2": BOB} == presence.members("room", 10.0)
    assert {} == presence.members("room", 20.0)


def test_expire() -> None:
    """Sweeping frees what is past and nothing else."""
    presence = Presence()
    presence.add("room", ANN, expires_at=10.0)
    presence.add("room", BOB, expires_at=20.0)
    presence.add("hall", ANN, expires_at=10.0)

    presence.expire(10.0)

    assert {"room"} == presence.channels.keys()
    assert {"2": BOB} == presence.members("room", 0.0)
