"""An application's authority on a node that a test can hold back: tokens, namespaces, hooks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from tests.unit.clients import CODECS, Peer
from tests.unit.nodes import Rig, running
from tests.unit.tokens.keys import SECRET
from wirebell import Realtime, Settings
from wirebell.authority import Authority
from wirebell.authorization import Authorizer
from wirebell.model import ChannelOptions, ChannelPermissions, History, PublicationFormat
from wirebell.options import ClientOptions
from wirebell.protocol.codec import Codec
from wirebell.tokens import TokenKeys

KEYS = TokenKeys(hmac_secret_key=SECRET)
QUICK = Settings(expired_close_delay_seconds=5.0, expired_sub_close_delay_seconds=5.0)
OPEN = ChannelPermissions(
    allow_subscribe_for_client=True,
    allow_publish_for_subscriber=True,
    allow_presence_for_subscriber=True,
    allow_history_for_subscriber=True,
)
NAMESPACES = {
    "open": ChannelOptions(history=History(), presence=True, permissions=OPEN),
    "bare": ChannelOptions(permissions=OPEN),
    "closed": ChannelOptions(history=History(), presence=True),
    "object": ChannelOptions(
        publication_format=PublicationFormat.JSON_OBJECT,
        permissions=ChannelPermissions(allow_publish_for_client=True),
    ),
    "regex": ChannelOptions(channel_regex="^[a-z]+$", permissions=OPEN),
    "anyone": ChannelOptions(
        permissions=ChannelPermissions(
            allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True
        )
    ),
    "pair": ChannelOptions(permissions=ChannelPermissions(allow_user_limited_channels=True)),
    "me": ChannelOptions(presence=True),
}


def sign(**claims: Any) -> str:
    """Sign a token."""
    return jwt.encode(claims, SECRET, "HS256")


def connection_token(user_id: str = "ann", **claims: Any) -> str:
    """Sign a connection token that is good for a minute."""
    return sign(**({"sub": user_id, "exp": int(time.time()) + 3600} | claims))


def subscription_token(channel: str, user_id: str = "ann", /, **claims: Any) -> str:
    """Sign a subscription token that is good for a minute."""
    return sign(**({"sub": user_id, "channel": channel, "exp": int(time.time()) + 3600} | claims))


class Court:
    """An application with its authority, on a node that a test can hold back."""

    def __init__(self, rig: Rig, rt: Realtime) -> None:
        self.rig = rig
        self.rt = rt

    @property
    def authority(self) -> Authority:
        """What judges."""
        return self.rt.authority

    def peer(self, codec: Codec = CODECS[0], *, headers: tuple[Any, ...] = ()) -> Peer:
        """Open a connection."""
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            "path": "/",
            "query_string": b"",
            "headers": list(headers),
            "client": ("10.0.0.1", 1),
            "server": ("app.example", 80),
        }
        access = Authorizer(self.authority, HTTPConnection(scope))
        return Peer(self.rig, codec, access=access)

    async def ann(self, codec: Codec = CODECS[0], **claims: Any) -> Peer:
        """Connect a user by a token."""
        peer = self.peer(codec)
        await peer.connect(token=connection_token(**claims))
        return peer


@asynccontextmanager
async def court(settings: Settings = QUICK, **options: Any) -> AsyncIterator[Court]:
    """Run a node with an application's authority."""
    clients = ClientOptions(**options.pop("clients", {}))
    how: dict[str, Any] = {"tokens": KEYS, "namespaces": NAMESPACES} | options
    rt = Realtime(settings, clients=clients, **how)
    rt.permissions.join(FastAPI())
    async with running(settings) as rig:
        rig.node.options_for = rt.authority.known_options
        rt.running = rig.node
        yield Court(rig, rt)


async def error_of(peer: Peer, **command: Any) -> tuple[int, list[int]]:
    """Ask for something; return the error's code, 0 for none, and the codes of a close."""
    news = await peer.ask({"id": 9, **command})
    codes = [item.get("error", {}).get("code", 0) for item in news if item.get("id") == 9]
    return (codes[0] if codes else 0), [code for code, _ in peer.closed]
