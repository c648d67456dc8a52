"""Plain text: payloads as they are."""

from __future__ import annotations

from wirebell.model import ClientInfo, Frames, Membership, Publication
from wirebell.protocol.text import TEXT


def test_payloads_as_they_are() -> None:
    """Each publication is one message; the size is that of its bytes."""
    frames = TEXT.join("room", [Publication("späť".encode()), Publication(b"")])

    assert Frames(("späť", ""), 6) == frames


def test_no_words_for_joins() -> None:
    """Joins and leaves are left out, and nothing may be left."""
    join = Membership(ClientInfo("1"), joined=True)

    assert Frames((), 0) == TEXT.join("room", [join])
    assert Frames(("x",), 1) == TEXT.join("room", [join, Publication(b"x")])


def test_no_patches() -> None:
    """What was before makes no difference: the encoding stays the same object."""
    publication = Publication(b"x", has_delta=True)

    assert not TEXT.uses_base
    assert TEXT is TEXT.settled is TEXT.restarted
    assert TEXT.join("room", [publication]) == TEXT.join("room", [publication], publication)
