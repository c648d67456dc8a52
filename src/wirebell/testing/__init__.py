"""Public test kit: contracts by which a broker or a presence store of your own proves itself."""

from wirebell.testing.brokers import (
    BROKER_GUARANTEES,
    PRESENCE_GUARANTEES,
    ManualClock,
    RecordingListener,
    check_broker,
    check_presence_store,
)

__all__ = (
    "BROKER_GUARANTEES",
    "PRESENCE_GUARANTEES",
    "ManualClock",
    "RecordingListener",
    "check_broker",
    "check_presence_store",
)
