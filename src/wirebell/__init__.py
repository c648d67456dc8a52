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
from wirebell.hooks import Caller
from wirebell.model import (
    ChannelOptions,
    ChannelPermissions,
    ClientInfo,
    History,
    Identity,
    Overflow,
    Publication,
    PublicationFormat,
    RecoveryMode,
    ServerSubscribe,
    StreamPosition,
)
from wirebell.options import (
    APIOptions,
    ChannelNames,
    ClientOptions,
    EndpointOptions,
    TransportOptions,
)
from wirebell.realtime import Realtime
from wirebell.settings import Settings
from wirebell.tokens import TokenKeys, create_connection_token, create_subscription_token
from wirebell.version import __version__

__all__ = (
    "APIOptions",
    "BadRequest",
    "BoundChannel",
    "BrokerClosed",
    "BrokerError",
    "BrokerUnavailable",
    "Caller",
    "Channel",
    "ChannelNames",
    "ChannelOptions",
    "ChannelPermissions",
    "ClientInfo",
    "ClientOptions",
    "CommandError",
    "ConfigError",
    "ConnectionClosed",
    "Denied",
    "Disconnect",
    "DisconnectCode",
    "EndpointOptions",
    "ErrorCode",
    "History",
    "Identity",
    "LimitExceeded",
    "NotRunning",
    "Overflow",
    "PermissionDenied",
    "Publication",
    "PublicationFormat",
    "Realtime",
    "RecoveryMode",
    "ServerSubscribe",
    "Settings",
    "StreamPosition",
    "TokenKeys",
    "TransportOptions",
    "WirebellError",
    "__version__",
    "create_connection_token",
    "create_subscription_token",
)
