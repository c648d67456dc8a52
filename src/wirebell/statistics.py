"""What a node counts, for its metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wirebell.admission import Limit

__all__ = ("NodeStatistics",)


@dataclass(slots=True)
class NodeStatistics:
    """What a node counted since it started.

    Attributes:
        connected_count: Connections admitted.
        refused_counts: Limit → connections that it refused.
        disconnect_counts: Close code → connections that we closed with it.
        published_count: Publications that this node's callers published.
        received_count: Items that the broker handed to this node.
        broker_error_count: Calls of the broker that failed while nobody waited for the answer.
    """

    connected_count: int = 0
    refused_counts: Counter[Limit] = field(default_factory=Counter)
    disconnect_counts: Counter[int] = field(default_factory=Counter)
    published_count: int = 0
    received_count: int = 0
    broker_error_count: int = 0
