"""Nodes to which orders are given, and their clients."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from tests.unit.clients import FakeAccess, Peer as ProtocolPeer
from wirebell.access import ConnectGrant, ShownToken
from wirebell.errors import ProtocolError
from wirebell.model import ChannelOptions
from wirebell.namespaces import Namespaces
from wirebell.node import Node
from wirebell.operations import Operations, answer_for


class Policy:
    """Says that all channels are there but one."""

    def __init__(self) -> None:
        self.namespaces = Namespaces(ChannelOptions(), {})

    def options_for(self, channel: str) -> ChannelOptions:
        """Return the options of a channel."""
        options = self.namespaces.options_for(channel)
        assert options is not None or channel.startswith("nope:")
        if options is None:
            raise ProtocolError(102)  # type: ignore[arg-type]
        return options


class Host(Protocol):
    """Whatever has a node."""

    node: Node


HostT = TypeVar("HostT", bound=Host)


class Station(Operations, Generic[HostT]):
    """A node, and whoever gives it orders."""

    def __init__(self, site: HostT) -> None:
        self.site = site
        self.policy = Policy()
        answer_for(self, site.node)

    @property
    def authority(self) -> Policy:
        """Say what channels there are."""
        return self.policy

    def node(self) -> Node:
        """Return the node."""
        return self.site.node

    async def connect(
        self, user_id: str = "", *channels: str, token: ShownToken | None = None, **how: Any
    ) -> ProtocolPeer:
        """Connect a client of the protocol."""
        access = FakeAccess()
        access.connect_grant = ConnectGrant(user_id, token=token)
        peer = ProtocolPeer(self.site, access=access, **how)
        await peer.connect()
        for number, channel in enumerate(channels, 2):
            await peer.ask({"id": number, "subscribe": {"channel": channel}})
        return peer
