"""What a node tells of itself, for people and for the other nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Protocol

from wirebell.connection import Connection
from wirebell.control import NodeInfo
from wirebell.hub import Hub
from wirebell.statistics import NodeStatistics
from wirebell.version import __version__

__all__ = ("Described", "describe_node")

_STARTED_AT = time.monotonic()


class Described(Protocol):
    """A node, as far as it is described."""

    node_id: str
    name: str
    hub: Hub
    statistics: NodeStatistics

    @property
    def connections(self) -> Mapping[str, Connection]:
        """Client id → connection."""

    @property
    def users(self) -> Sized:
        """Users who are connected, without anonymous ones."""


def describe_node(node: Described) -> NodeInfo:
    """Describe the node of this process as it is now."""
    uptime, statistics = time.monotonic() - _STARTED_AT, node.statistics
    counters: dict[str, float] = {
        key: value
        for key in statistics.__slots__
        if isinstance(value := getattr(statistics, key), int)
    }
    return NodeInfo(
        node_id=node.node_id,
        name=node.name,
        version=__version__,
        client_count=len(node.connections),
        user_count=len(node.users),
        subscription_count=sum(len(each.channels) for each in node.connections.values()),
        channel_count=node.hub.channel_count,
        uptime_seconds=uptime,
        processor_percent=100 * time.process_time() / max(uptime, 0.001),
        resident_bytes=_resident_bytes(),
        counters=counters,
    )


def _resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not tell as Linux does."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
