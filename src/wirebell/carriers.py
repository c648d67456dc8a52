"""Which carrier a WebSocket gets: taken over where the server lets go, else through ASGI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from wirebell.liveness import PingRing
from wirebell.portable import Writers
from wirebell.process import abort_late
from wirebell.settings import Settings
from wirebell.takeover import Takeover
from wirebell.transports.asgi_websocket import ASGIWebSocket
from wirebell.transports.engine_websocket import EngineWebSocket

__all__ = ("create_carrier", "create_portable")


def create_carrier(
    scope: Any,
    receive: Any,
    send: Any,
    settings: Settings,
    pings: PingRing,
    writers: Writers,
    *,
    is_accepted: bool = False,
    subprotocol: str | None = None,
    raw_receive: Any = None,
) -> ASGIWebSocket | EngineWebSocket:
    """Create what carries a socket.

    Args:
        scope: The connection's.
        receive: The endpoint's.
        send: The endpoint's.
        settings: Bounds and time-outs.
        pings: The ring that pings it.
        writers: The tasks that write.
        is_accepted: The endpoint has accepted the socket already.
        subprotocol: Named in the answer to the handshake.
        raw_receive: The server's ``receive``, where ``receive`` is wrapped.
    """
    takeover: Takeover | None = (scope.get("extensions") or {}).get("wirebell.takeover")
    if takeover is None:
        return create_portable(
            scope,
            receive,
            send,
            settings,
            writers,
            pings=pings,
            is_accepted=is_accepted,
            subprotocol=subprotocol,
            raw_receive=raw_receive,
        )
    return EngineWebSocket(
        takeover, receive, send, settings, pings, is_accepted=is_accepted, subprotocol=subprotocol
    )


def create_portable(
    scope: Any,
    receive: Any,
    send: Any,
    settings: Settings,
    writers: Writers,
    *,
    pings: PingRing | None = None,
    is_accepted: bool = False,
    subprotocol: str | None = None,
    raw_receive: Any = None,
) -> ASGIWebSocket:
    """Create what carries a socket on any server, and refuses one on ours as well."""
    return ASGIWebSocket(
        scope,
        receive,
        send,
        settings,
        writers,
        is_accepted=is_accepted,
        subprotocol=subprotocol,
        pings=pings,
        abort=_find_abort(raw_receive or receive),
    )


def _find_abort(receive: Any) -> Callable[[], None] | None:
    """Find how to drop the link, where the server lets us reach it.

    Uvicorn's protocol classes pass a bound method as ``receive`` and own an asyncio transport;
    its ``close`` waits for a buffer that a stuck peer never drains. Other servers give nothing,
    and there the kernel's time-out has to do.
    """
    server = getattr(receive, "__self__", None)
    transport: Any = getattr(server, "transport", None)
    return partial(abort_late, transport) if callable(getattr(transport, "abort", None)) else None
