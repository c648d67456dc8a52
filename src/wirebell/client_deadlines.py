"""What is planned for one client of the protocol: deadlines by their names."""

from __future__ import annotations

from collections.abc import Callable

from wirebell.deadlines import Deadline
from wirebell.node import Node

__all__ = ("ClientDeadlines",)


class ClientDeadlines:
    """One client's deadlines, at most one of a name.

    Mutable state: name → deadline, and whether the client is gone. Used on the node's event loop.

    Args:
        node: Keeps the time.
    """

    __slots__ = ("is_closed", "named", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        # Most of ten thousand idle clients have none.
        self.named: dict[str, Deadline] | None = None
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

        def call() -> None:
            self._forget(name)
            callback()

        deadline = self.node.schedule(delay_seconds, call)
        if self.named is None:
            self.named = {}
        self.named[name] = deadline

    def cancel(self, name: str) -> None:
        """Forget a deadline; idempotent."""
        deadline = self._forget(name)
        if deadline is not None:
            self.node.cancel(deadline)

    def close(self) -> None:
        """Forget all of them, and take no more; idempotent."""
        self.is_closed = True
        for name in list(self.named or ()):
            self.cancel(name)

    def _forget(self, name: str) -> Deadline | None:
        """Take a name out."""
        if self.named is None:
            return None
        deadline = self.named.pop(name, None)
        if not self.named:
            self.named = None
        return deadline
