"""Wirebell: real-time channels and notifications for FastAPI."""

from wirebell.channels import BoundChannel, Channel
from wirebell.errors import (
    BadRequest,
    BrokerClosed,
    BrokerError,
    BrokerUnavailable,
    CommandError,
    ConfigError,
    ConnectionClosed,
    Denied,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    LimitExceeded,
    NotRunning,
    PermissionDenied,
    WirebellError,
)
from wirebell.model import (
    ClientInfo,
    History,
    Identity,
    Overflow,
    Publication,
    StreamPosition,
)
from wirebell.realtime import Realtime
from wirebell.settings import Settings
from wirebell.version import __version__

__all__ = (
    "BadRequest",
    "BoundChannel",
    "BrokerClosed",
    "BrokerError",
    "BrokerUnavailable",
    "Channel",
    "ClientInfo",
    "CommandError",
    "ConfigError",
    "ConnectionClosed",
    "Denied",
    "Disconnect",
    "DisconnectCode",
    "ErrorCode",
    "History",
    "Identity",
    "LimitExceeded",
    "NotRunning",
    "Overflow",
    "PermissionDenied",
    "Publication",
    "Realtime",
    "Settings",
    "StreamPosition",
    "WirebellError",
    "__version__",
)
