"""What a node counts, for its metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wirebell.admission import Limit

__all__ = ("NodeStatistics", "OutboxStatistics")


@dataclass(slots=True)
class OutboxStatistics:
    """What an outbox counted since its relay started here, and how much waited last.

    Attributes:
        waiting_count: Rows that were to be published, of all nodes; counted up to 10,000.
        oldest_seconds: Age of the oldest of them; 0 without any.
        aside_count: Rows that can never be published, likewise.
        relayed_count: Rows that this node published.
        failure_count: Times this node could not go on: no database, or no broker.
    """

    waiting_count: int = 0
    oldest_seconds: float = 0.0
    aside_count: int = 0
    relayed_count: int = 0
    failure_count: int = 0


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
        publish_error_count: Publications that the broker did not take, or not in time.
        refilled_count: Publications that did not arrive and were read from history.
        gap_count: Gaps that could not be filled: who counts on every publication was told.
        outbox: What its outbox counts; ``None`` without one.
    """

    connected_count: int = 0
    refused_counts: Counter[Limit] = field(default_factory=Counter)
    disconnect_counts: Counter[int] = field(default_factory=Counter)
    published_count: int = 0
    received_count: int = 0
    broker_error_count: int = 0
    publish_error_count: int = 0
    refilled_count: int = 0
    gap_count: int = 0
    outbox: OutboxStatistics | None = None
