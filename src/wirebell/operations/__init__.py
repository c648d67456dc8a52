"""What an application and the server API may do: publish, read channels, and act on users.

`users` does it on this node, `orders` is how nodes ask each other for it, `everywhere` has it done
on all nodes, and `publications` adds what needs the broker only.
"""

from __future__ import annotations

from wirebell.operations.orders import answer_for, end_predecessors
from wirebell.operations.publications import Operations, PresenceStats, breathe
from wirebell.operations.users import ConnectionDetails

__all__ = (
    "ConnectionDetails",
    "Operations",
    "PresenceStats",
    "answer_for",
    "breathe",
    "end_predecessors",
)
