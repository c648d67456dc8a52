"""How publications are written: encodings, and the messages of the client protocol. Pure."""

__all__ = ()
