"""Public test kit: contracts by which a broker or a presence store of your own proves itself."""

from wirebell.testing.brokers import (
    BROKER_GUARANTEES,
    PRESENCE_GUARANTEES,
    check_broker,
    check_presence_store,
)
from wirebell.testing.recording import ManualClock, RecordingListener
from wirebell.testing.shared import (
    SHARED_GUARANTEES,
    SharedNode,
    check_shared_broker,
    run_shared_node,
)

__all__ = (
    "BROKER_GUARANTEES",
    "PRESENCE_GUARANTEES",
    "SHARED_GUARANTEES",
    "ManualClock",
    "RecordingListener",
    "SharedNode",
    "check_broker",
    "check_presence_store",
    "check_shared_broker",
    "run_shared_node",
)
