"""The server API over HTTP: how other programs give orders. Source: protocol document, 2.7."""

from wirebell.http_api.routes import create_api_router

__all__ = ("create_api_router",)
