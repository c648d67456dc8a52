"""Uvicorn's protocol classes: ``--ws wirebell.uvicorn:WebSocketProtocol``, and one for HTTP."""

from wirebell.uvicorn.http import HTTPProtocol
from wirebell.uvicorn.websocket import WebSocketProtocol

__all__ = ("HTTPProtocol", "WebSocketProtocol")
