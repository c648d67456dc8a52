"""Edges: bytes in and out. Transports are strangers to each other.

A carrier (`asgi_websocket`, `engine_websocket`, `http_stream`) moves messages between one peer and
a receiver; a receiver (`plain`, `bidirectional`, `unidirectional`) knows what the messages mean.
The FastAPI face joins the two.
"""

__all__ = ()
