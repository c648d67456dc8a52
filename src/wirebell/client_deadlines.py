"""What is planned for one client of the protocol: deadlines by their names."""

from __future__ import annotations

from collections.abc import Callable

from wirebell.deadlines import Deadline
from wirebell.node import Node

__all__ = ("ClientDeadlines",)


class Planned:
    """A client's deadline. A function with three variables of its own would take 250 bytes more."""

    __slots__ = ("callback", "deadline", "name", "owner")

    deadline: Deadline

    def __init__(self, owner: ClientDeadlines, name: str, callback: Callable[[], None]) -> None:
        self.owner = owner
        self.name = name
        self.callback = callback

    def __call__(self) -> None:
        """Be called when its time has come."""
        self.owner.forget(self.name)
        self.callback()


class ClientDeadlines:
    """One client's deadlines, at most one of a name.

    Mutable state: the deadlines, and whether the client is gone. Used on the node's event loop.

    Args:
        node: Keeps the time.
    """

    __slots__ = ("is_closed", "node", "planned")

    def __init__(self, node: Node) -> None:
        self.node = node
        # Most of ten thousand idle clients have one or none, and a dictionary takes 100 bytes more.
        self.planned: tuple[Planned, ...] = ()
        self.is_closed = False

    def plan(self, name: str, delay_seconds: float, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, in place of what was planned by this name.

        Args:
            name: Of the deadline; free again when it is called.
            delay_seconds: From now; in the past is at once.
            callback: Never called for a client that is gone.
        """
        self.cancel(name)
        if self.is_closed:
            return
        planned = Planned(self, name, callback)
        planned.deadline = self.node.schedule(delay_seconds, planned)
        self.planned = (*self.planned, planned)

    def cancel(self, name: str) -> None:
        """Forget a deadline; idempotent."""
        planned = self.forget(name)
        if planned is not None:
            self.node.cancel(planned.deadline)

    def close(self) -> None:
        """Forget all of them, and take no more; idempotent."""
        self.is_closed = True
        for planned in self.planned:
            self.node.cancel(planned.deadline)
        self.planned = ()

    def forget(self, name: str) -> Planned | None:
        """Take a name out, and leave its deadline as it is; ``None`` where there is none."""
        for planned in self.planned:
            if planned.name == name:
                self.planned = tuple(each for each in self.planned if each is not planned)
                return planned
        return None
