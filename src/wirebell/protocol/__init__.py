"""How publications are written: encodings, and the messages of the client protocol. Pure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wirebell.protocol.codec import Codec

__all__ = ("find_protobuf",)


@cache
def find_protobuf() -> Codec | None:
    """Return the binary codec; ``None`` where its library is not installed (extra ``server``)."""
    try:
        from wirebell.protocol.protobuf import PROTOBUF
    except ModuleNotFoundError:
        return None
    return PROTOBUF
