"""What a configuration comes to: typed values, ready for `Realtime` and for the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from wirebell.broker_options import BrokerOptions
from wirebell.model import ChannelOptions
from wirebell.options import (
    APIOptions,
    ChannelNames,
    ClientOptions,
    EndpointOptions,
    TransportOptions,
)
from wirebell.settings import Settings

if TYPE_CHECKING:
    from wirebell.tokens import TokenKeys

__all__ = ("ServeConfiguration", "ServerOptions", "TLSOptions")


INSECURE = (
    ("client.insecure", "every peer may connect, subscribe, publish and read without a token"),
    (
        "client.insecure_skip_token_signature_verify",
        "tokens are believed unseen: everybody can be anybody",
    ),
    ("http_api.insecure", "the server API asks for no key: everybody may do everything"),
)


class TLSOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the server proves itself, and whom it asks to do the same.

    Attributes:
        certificate: PEM, the whole chain.
        key: PEM.
        client_authorities: Peers must show a certificate that one of these signed; PEM. Empty
            asks for none.
    """

    certificate: str
    key: str
    client_authorities: str = ""


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The process: where it listens and what it writes.

    Attributes:
        address: To listen on; empty for every IPv4 address.
        port: 0 takes a free one.
        unix_socket: Path to listen on instead; empty for none.
        workers: Processes, 1 or more.
        tls: ``None`` speaks without.
        log_level: Least level that is logged: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``.
        log_file: Where log lines go; empty for standard error.
        shutdown_seconds: Most time to end in; 0 leaves it to the settings.
        pid_file: Where the process writes its number; empty for nowhere.
        node_name: How the node calls itself; empty for machine and process.
    """

    address: str = ""
    port: int = 8000
    unix_socket: str = ""
    workers: int = 1
    tls: TLSOptions | None = None
    log_level: str = "INFO"
    log_file: str = ""
    shutdown_seconds: float = 30.0
    pid_file: str = ""
    node_name: str = ""


class ServeConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``wirebell serve`` was told.

    Attributes:
        settings: Limits and intervals.
        broker: What joins the nodes; ``None`` is what ``settings.broker_url`` says.
        presence: Where presence is kept; ``None`` is with the broker.
        namespaces: Name → options of its channels.
        without_namespace: Options of channels without a namespace.
        names: How a channel's name is read.
        unavailable: Namespaces whose channels need what Wirebell does not have yet; every command
            about them is answered with error 108. An empty name stands for no namespace.
        connection_tokens: What connection tokens are checked with.
        subscription_tokens: The same for subscription tokens; ``None`` takes those of connections.
        client: Who may connect, and what connecting gives.
        transports: What is served.
        api: The server API.
        endpoints: What operators ask.
        server: The process.
        warnings: What was not understood or is not there yet, one sentence for each key.
    """

    settings: Settings
    broker: BrokerOptions | None = None
    presence: BrokerOptions | None = None
    namespaces: Mapping[str, ChannelOptions] = {}
    without_namespace: ChannelOptions = ChannelOptions()
    names: ChannelNames = ChannelNames()
    unavailable: frozenset[str] = frozenset()
    connection_tokens: TokenKeys
    subscription_tokens: TokenKeys | None = None
    client: ClientOptions = ClientOptions()
    transports: TransportOptions = TransportOptions()
    api: APIOptions = APIOptions()
    endpoints: EndpointOptions = EndpointOptions()
    server: ServerOptions = ServerOptions()
    warnings: tuple[str, ...] = ()

    def find_insecure_modes(self) -> list[str]:
        """Say of each mode that is for development only, and on, what it opens."""
        states = (self.client.insecure, self.connection_tokens.skip_signature, self.api.insecure)
        return [
            f"{key} is on: {text}; for development only"
            for is_on, (key, text) in zip(states, INSECURE, strict=True)
            if is_on
        ]
