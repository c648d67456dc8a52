"""An app with the client protocol mounted: tokens, namespaces, a declared channel, a call."""

from __future__ import annotations

import os

from fastapi import FastAPI

from wirebell import Denied, History, Realtime
from wirebell.model import ChannelOptions, ChannelPermissions
from wirebell.options import (
    ClientOptions,
    TransportOptions,
    UnidirectionalWebSocketOptions,
)
from wirebell.settings import Settings
from wirebell.tokens import TokenKeys

ALL = ChannelPermissions(
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
    allow_publish_for_client=True,
    allow_publish_for_anonymous=True,
    allow_presence_for_client=True,
    allow_presence_for_anonymous=True,
)

rt = Realtime(
    Settings(),
    tokens=TokenKeys(hmac_secret_key=os.environ.get("TOKEN_SECRET", "")),
    clients=ClientOptions(allow_anonymous_connect_without_token=True),
    namespaces={
        "plain": ChannelOptions(permissions=ALL),
        "kept": ChannelOptions(
            history=History(),
            presence=True,
            join_leave=True,
            force_recovery=True,
            permissions=ALL,
        ),
        "closed": ChannelOptions(),
    },
    transports=TransportOptions(
        uni_websocket=UnidirectionalWebSocketOptions(enabled=True, join_push_messages=True)
    ),
)
app = FastAPI(lifespan=rt.lifespan)
rt.mount(app, "/realtime")


@rt.rpc("echo")
async def echo(caller: object, data: object) -> object:
    """Answer what was asked."""
    return data


@rt.rpc("break")
async def break_down(caller: object, data: object) -> object:
    """Break."""
    raise RuntimeError("broken on purpose")


@rt.rpc("deny")
async def deny(caller: object, data: object) -> object:
    """Refuse."""
    raise Denied("not you")


@app.post("/publish/{channel}")
async def publish(channel: str, count: int = 1) -> int:
    """Publish numbers, in one go."""
    position = None
    for number in range(count):
        position = await rt.publish(channel, {"n": number})
    return position.offset if position is not None else 0
