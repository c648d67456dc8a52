"""Plain text sockets in endpoints of an application: checked, served, refused.

They join a carrier with a `PlainReceiver`; what is served there stands in `PlainOptions`.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketState

from wirebell.admission import Limit
from wirebell.carriers import create_carrier, create_portable
from wirebell.errors import Disconnect, DisconnectCode, WirebellError
from wirebell.live import OriginPolicy
from wirebell.node import Node
from wirebell.portable import Writers
from wirebell.settings import Settings
from wirebell.transports.asgi_websocket import ASGIWebSocket
from wirebell.transports.engine_websocket import EngineWebSocket
from wirebell.transports.plain import PlainOptions, PlainReceiver, disconnect_for, notice

__all__ = ("PlainSockets",)


class PlainSockets:
    """Serves the sockets of endpoints. No state of its own.

    Args:
        running: Gives the running node; ``None`` outside the lifespan.
        settings: Bounds and time-outs.
        origins: Which pages may connect.
        writers: The tasks that write.
    """

    def __init__(
        self,
        running: Callable[[], Node | None],
        settings: Settings,
        origins: OriginPolicy,
        writers: Writers,
    ) -> None:
        self.running = running
        self.settings = settings
        self.origins = origins
        self.writers = writers

    async def serve(
        self, node: Node, websocket: WebSocket, options: PlainOptions, subprotocol: str | None
    ) -> None:
        """Serve a socket to its end; returns at once where the server lets it go."""
        if not await self._check_origin(websocket, subprotocol):
            return
        carrier = self._create_carrier(node, websocket, subprotocol)
        receiver = PlainReceiver(node, carrier, options)
        try:
            await receiver.connect(_address(websocket))
        except WirebellError as error:
            await self._refuse(websocket, subprotocol, disconnect_for(error))
            return
        await carrier.run(receiver)

    async def refuse(
        self, websocket: WebSocket, disconnect: Disconnect, subprotocol: str | None
    ) -> None:
        """Accept a socket only to say why it cannot stay, then close it."""
        if await self._check_origin(websocket, subprotocol):
            await self._refuse(websocket, subprotocol, disconnect)

    def _create_carrier(
        self, node: Node, websocket: WebSocket, subprotocol: str | None
    ) -> ASGIWebSocket | EngineWebSocket:
        """Create what carries an endpoint's socket."""
        return create_carrier(
            websocket.scope,
            websocket.receive,
            websocket.send,
            self.settings,
            node.pings,
            self.writers,
            is_accepted=websocket.application_state is WebSocketState.CONNECTED,
            subprotocol=subprotocol,
            raw_receive=websocket._receive,
        )

    def _create_portable(self, websocket: WebSocket, subprotocol: str | None) -> ASGIWebSocket:
        """Create what refuses an endpoint's socket."""
        return create_portable(
            websocket.scope,
            websocket.receive,
            websocket.send,
            self.settings,
            self.writers,
            is_accepted=websocket.application_state is WebSocketState.CONNECTED,
            subprotocol=subprotocol,
            raw_receive=websocket._receive,
        )

    async def _check_origin(self, websocket: WebSocket, subprotocol: str | None) -> bool:
        """Refuse the page of a foreign Origin; true when the socket may go on."""
        if "origin" not in websocket.headers:
            return True
        reason = self.origins.check(websocket.scope)
        if reason is None:
            return True
        node = self.running()
        if node is not None:
            node.statistics.refused_counts[Limit.ORIGIN] += 1
        if websocket.application_state is WebSocketState.CONNECTED:
            disconnect = Disconnect(
                DisconnectCode.FORBIDDEN, reason.encode()[:123].decode(errors="ignore")
            )
            await self._refuse(websocket, subprotocol, disconnect)
        else:
            await self._create_portable(websocket, subprotocol).deny(403, reason)
        return False

    async def _refuse(
        self, websocket: WebSocket, subprotocol: str | None, disconnect: Disconnect
    ) -> None:
        """Tell a plain socket why it cannot stay, and count it."""
        node = self.running()
        if node is not None:
            node.statistics.disconnect_counts[disconnect.code] += 1
        carrier = self._create_portable(websocket, subprotocol)
        await carrier.refuse(disconnect, notice=notice(disconnect))


def _address(websocket: WebSocket) -> str:
    """Return the peer's address; empty over a Unix socket."""
    return websocket.client.host if websocket.client is not None else ""
