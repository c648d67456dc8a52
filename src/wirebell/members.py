"""Which nodes live, as one of them hears it. Pure: ``now`` is an argument.

A node is known from its first word on, until it says bye, or nothing for so long that it must be
dead. One that did not answer a question and said nothing since is *silent*: nobody waits for it
any more, but it may live, so what is asked of all nodes is incomplete without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wirebell.control import Hello, NodeInfo

__all__ = ("Member", "Members")


@dataclass(slots=True)
class Member:
    """Another node.

    Attributes:
        info: What it told last.
        has_given_name: Its name was configured, so no other node should have it.
        heard_at: When it said anything last.
        is_silent: It owed an answer, and has said nothing since.
    """

    info: NodeInfo
    has_given_name: bool
    heard_at: float
    is_silent: bool = False


class Members:
    """The other nodes.

    Mutable state: node id → member.

    Args:
        node_id: Our own, which is never a member.
        name: Our own.
        forget_seconds: After so long without a word a node is forgotten, above 0.
        succeed_seconds: The same when another came that has its configured name: it was killed,
            and started again. At most ``forget_seconds``.
    """

    def __init__(
        self, node_id: str, name: str, *, forget_seconds: float, succeed_seconds: float
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.forget_seconds = forget_seconds
        self.succeed_seconds = succeed_seconds
        self.known: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self.known)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self.known

    def hear_hello(self, hello: Hello, now: float) -> bool:
        """Take what a node tells of itself; returns true when it was not known."""
        node_id = hello.info.node_id
        is_new = node_id not in self.known
        if is_new and hello.has_given_name:
            ends_at = now - self.forget_seconds + self.succeed_seconds
            for member in self.known.values():
                if member.has_given_name and member.info.name == hello.info.name:
                    member.heard_at = min(member.heard_at, ends_at)
        self.known[node_id] = Member(hello.info, hello.has_given_name, now)
        return is_new

    def hear(self, node_id: str, now: float) -> None:
        """Learn that a node said something."""
        member = self.known.get(node_id)
        if member is not None:
            member.heard_at = now
            member.is_silent = False

    def leave(self, node_id: str) -> None:
        """Forget a node that ended."""
        self.known.pop(node_id, None)

    def note_silence(self, node_id: str) -> None:
        """Learn that a node did not answer in time."""
        member = self.known.get(node_id)
        if member is not None:
            member.is_silent = True

    def forgive(self, now: float) -> None:
        """Begin to wait anew for everybody: it was our own link that was cut."""
        for member in self.known.values():
            member.heard_at = now
            member.is_silent = False

    def forget(self, now: float) -> list[Member]:
        """Forget, and return, those who said nothing for too long."""
        gone = [
            member for member in self.known.values() if now - member.heard_at >= self.forget_seconds
        ]
        for member in gone:
            del self.known[member.info.node_id]
        return gone

    def awaited(self) -> set[str]:
        """Return the ids of those who are expected to answer."""
        return {node_id for node_id, member in self.known.items() if not member.is_silent}

    def silent(self) -> set[str]:
        """Return the ids of those who are not, and may live."""
        return self.known.keys() - self.awaited()

    def label(self, node_id: str) -> str:
        """Name a node for people: by its name, and by its id too where another has that name."""
        member = self.known.get(node_id)
        if member is None:
            return node_id
        name = member.info.name
        names = [self.name, *(each.info.name for each in self.known.values())]
        return f"{name} ({node_id})" if names.count(name) > 1 else name
