"""The WebSocket protocol without a socket: handshake, frames and compression. Pure.

Bytes go in, values come out, and what is to be sent is returned as bytes. Nothing here waits, reads
a clock or imports another part of Wirebell.
"""

__all__ = ()
