"""The configuration of ``wirebell serve``: files, environment and flags become typed values.

Outside, keys are a tree with the names of an existing Centrifugo v6 configuration; inside, they are
`Settings` and the structs of `wirebell.options`. `keys` maps one to the other.
"""

from __future__ import annotations

from wirebell.configuration.load import load
from wirebell.configuration.result import ServeConfiguration, ServerOptions, TLSOptions

__all__ = ("ServeConfiguration", "ServerOptions", "TLSOptions", "load")
