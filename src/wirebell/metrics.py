"""Metrics for Prometheus, read from the node's own counters when somebody asks.

The hot path counts plain integers; nothing of the Prometheus client runs there.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wirebell.admission import Limit
from wirebell.model import Overflow
from wirebell.node import Node
from wirebell.process import PROCESS
from wirebell.statistics import OutboxStatistics

__all__ = ("NodeCollector", "render_metrics")


class NodeCollector:
    """A Prometheus collector of one node; register it where other metrics of the process are.

    Args:
        node: What is looked at.
    """

    def __init__(self, node: Node) -> None:
        self.node = node

    def collect(self) -> Iterator[Metric]:
        """Read the node's counters as they are now."""
        node, statistics = self.node, self.node.statistics
        gauges = (
            ("wirebell_connections_count", "Open connections.", len(node.connections)),
            ("wirebell_channels_count", "Channels with subscribers.", node.hub.channel_count),
            (
                "wirebell_subscriptions_count",
                "Subscriptions of all connections.",
                sum(len(connection.channels) for connection in node.connections.values()),
            ),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(name, text, value=value)
        counters = (
            ("wirebell_connects", "Connections admitted.", statistics.connected_count),
            ("wirebell_publications", "Published by this node.", statistics.published_count),
            ("wirebell_items", "Received from the broker.", statistics.received_count),
            ("wirebell_deliveries", "Given to subscribers.", node.hub.delivered_count),
            (
                "wirebell_broker_errors",
                "Calls of the broker that failed while nobody waited.",
                statistics.broker_error_count,
            ),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(name, text, value=value)
        refusals = CounterMetricFamily(
            "wirebell_refusals",
            "Connections that a limit or their Origin refused, by which.",
            labels=["limit"],
        )
        for limit in Limit:
            refusals.add_metric([limit.value], statistics.refused_counts[limit])
        yield refusals
        disconnects = CounterMetricFamily(
            "wirebell_disconnects", "Connections closed by us, by close code.", labels=["code"]
        )
        for code, count in sorted(statistics.disconnect_counts.items()):
            disconnects.add_metric([str(int(code))], count)
        yield disconnects
        drops = CounterMetricFamily(
            "wirebell_drops",
            "Not delivered because a subscriber did not read, by the channel's policy.",
            labels=["overflow"],
        )
        for overflow in (Overflow.DROP_OLDEST, Overflow.KEEP_LATEST):
            drops.add_metric([overflow.value], node.hub.dropped_counts[overflow])
        yield drops
        yield from collect_cluster(node)
        if statistics.outbox is not None:
            yield from collect_outbox(statistics.outbox)
        yield from collect_process()


def collect_cluster(node: Node) -> Iterator[Metric]:
    """Read how a node and the others stand to each other."""
    statistics = node.statistics
    gauges = (
        (
            "wirebell_broker_up",
            "1 while what other nodes publish arrives, 0 while the broker is away.",
            int(node.broker.is_connected),
        ),
        (
            "wirebell_nodes_count",
            "Nodes that live as far as this one hears, itself too.",
            1 + len(node.cluster.members),
        ),
        (
            "wirebell_revocations_count",
            "Revoked users and tokens that are remembered.",
            len(node.cluster.revocations),
        ),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(name, text, value=value)
    counters = (
        (
            "wirebell_broker_reconnects",
            "Times the link to the broker was cut and came back.",
            node.broker.reconnect_count,
        ),
        (
            "wirebell_publish_failures",
            "Publications that the broker did not take, or not in time.",
            statistics.publish_error_count,
        ),
        (
            "wirebell_refills",
            "Publications that did not arrive and were read from history.",
            statistics.refilled_count,
        ),
        (
            "wirebell_gaps",
            "Gaps of a channel that could not be filled: its clients were told.",
            statistics.gap_count,
        ),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(name, text, value=value)


def collect_outbox(statistics: OutboxStatistics) -> Iterator[Metric]:
    """Read what a node knows of its outbox."""
    gauges = (
        (
            "wirebell_outbox_waiting_count",
            "Publications that the outbox holds and are to be published; counted up to 10,000.",
            statistics.waiting_count,
        ),
        (
            "wirebell_outbox_oldest_seconds",
            "Age of the oldest of them; 0 without any.",
            statistics.oldest_seconds,
        ),
        (
            "wirebell_outbox_aside_count",
            "Publications that were set aside, since they can never be published.",
            statistics.aside_count,
        ),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(name, text, value=value)
    yield CounterMetricFamily(
        "wirebell_outbox_relayed",
        "Publications of the outbox that this node published.",
        value=statistics.relayed_count,
    )
    yield CounterMetricFamily(
        "wirebell_outbox_failures",
        "Times this node could not go on with the outbox: no database, or no broker.",
        value=statistics.failure_count,
    )


def collect_process() -> Iterator[Metric]:
    """Read what the process counts beside its nodes."""
    yield GaugeMetricFamily(
        "wirebell_accepting_count",
        "1 while this process takes connections, 0 while it is out of file descriptors.",
        value=int(PROCESS.is_accepting),
    )
    counters = (
        (
            "wirebell_accept_pauses",
            "Times no connection was taken for want of file descriptors.",
            PROCESS.accept_pause_count,
        ),
        (
            "wirebell_descriptor_refusals",
            "Handshakes answered 503 for want of file descriptors.",
            PROCESS.descriptors_refused_count,
        ),
        ("wirebell_drains", "Connections told to come back elsewhere.", PROCESS.drained_count),
        ("wirebell_aborts", "Connections cut: they did not end in time.", PROCESS.aborted_count),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(name, text, value=value)


def render_metrics(node: Node) -> bytes:
    """Write a node's metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    return generate_latest(registry)
