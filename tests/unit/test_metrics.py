"""Metrics for Prometheus."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.fakes import FakeSubscriber, FakeTransport
from wirebell.admission import Limit
from wirebell.brokers import create_broker
from wirebell.connection import Connection, Subscription
from wirebell.errors import DisconnectCode
from wirebell.metrics import render_metrics
from wirebell.model import ChannelOptions, Overflow
from wirebell.node import Node
from wirebell.process import PROCESS
from wirebell.protocol.text import TEXT
from wirebell.settings import Settings


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a process that has counted nothing, whatever other tests made it count."""
    for field in dataclasses.fields(PROCESS):
        monkeypatch.setattr(PROCESS, field.name, field.default)


def create_node() -> Node:
    """Create a node that does not run."""
    settings = Settings()
    broker, store = create_broker(settings)
    return Node(settings, broker, store, lambda channel: ChannelOptions())


def lines_of(node: Node) -> set[str]:
    """Return the samples without comments."""
    text = render_metrics(node).decode()
    return {line for line in text.splitlines() if not line.startswith("#")}


def test_idle_node() -> None:
    """Everything is told from the start, as zero; the process takes connections."""
    assert {
        "wirebell_connections_count 0.0",
        "wirebell_channels_count 0.0",
        "wirebell_subscriptions_count 0.0",
        "wirebell_connects_total 0.0",
        'wirebell_refusals_total{limit="connections"} 0.0',
        'wirebell_refusals_total{limit="address"} 0.0',
        'wirebell_refusals_total{limit="user"} 0.0',
        'wirebell_refusals_total{limit="rate"} 0.0',
        'wirebell_refusals_total{limit="origin"} 0.0',
        "wirebell_publications_total 0.0",
        "wirebell_items_total 0.0",
        "wirebell_deliveries_total 0.0",
        "wirebell_broker_errors_total 0.0",
        "wirebell_broker_up 0.0",
        "wirebell_broker_reconnects_total 0.0",
        "wirebell_publish_failures_total 0.0",
        "wirebell_refills_total 0.0",
        "wirebell_gaps_total 0.0",
        "wirebell_nodes_count 1.0",
        "wirebell_revocations_count 0.0",
        'wirebell_drops_total{overflow="drop_oldest"} 0.0',
        'wirebell_drops_total{overflow="keep_latest"} 0.0',
        "wirebell_accepting_count 1.0",
        "wirebell_accept_pauses_total 0.0",
        "wirebell_descriptor_refusals_total 0.0",
        "wirebell_drains_total 0.0",
        "wirebell_aborts_total 0.0",
    } == lines_of(create_node())


def test_counted() -> None:
    """Metrics are the node's own numbers as they are now; disconnects by code."""
    node = create_node()
    connection = Connection("1", "", TEXT, FakeTransport())
    connection.channels.update(a=Subscription(), b=Subscription())
    node.connections["1"] = connection
    node.hub.subscribe("a", FakeSubscriber())
    node.hub.delivered_count = 5
    node.statistics.published_count = 4
    node.statistics.disconnect_counts[DisconnectCode.SLOW] += 2
    node.statistics.disconnect_counts[1000] += 1
    node.statistics.refused_counts[Limit.RATE] += 6
    node.statistics.refused_counts[Limit.ORIGIN] += 1
    node.statistics.refused_counts[Limit.ORIGIN] += 1
    node.hub.dropped_counts[Overflow.DROP_OLDEST] += 3
    PROCESS.is_accepting = False
    PROCESS.drained_count = 7
    PROCESS.aborted_count = 8

    assert {
        "wirebell_connections_count 1.0",
        "wirebell_channels_count 1.0",
        "wirebell_subscriptions_count 2.0",
        "wirebell_publications_total 4.0",
        "wirebell_deliveries_total 5.0",
        'wirebell_refusals_total{limit="rate"} 6.0',
        'wirebell_refusals_total{limit="origin"} 2.0',
        'wirebell_disconnects_total{code="3008"} 2.0',
        'wirebell_disconnects_total{code="1000"} 1.0',
        'wirebell_drops_total{overflow="drop_oldest"} 3.0',
        "wirebell_accepting_count 0.0",
        "wirebell_drains_total 7.0",
        "wirebell_aborts_total 8.0",
    } <= lines_of(node)
