"""Rooms on Django Channels with channels_redis, on their best settings.

Strategy: as `channels_app`, with the layer that leaves delivery to Redis' pub/sub, which takes
less for a message than the package's older one. What a client sends goes to the group that its
query names, which it joins where that says so.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings

from peers.publishing import Publish, list_rooms

__all__ = ("Member", "app", "publishing")

settings.configure(
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    }
)


class Member(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One connection; Channels runs it as a task."""

    group = ""
    joins = False

    async def connect(self) -> None:
        """Join, where the client wants to hear something."""
        query = parse_qs(self.scope["query_string"].decode())
        self.group, self.joins = query["room"][0], query["joins"] == ["1"]
        if self.joins:
            await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, _code: int) -> None:
        """Leave."""
        if self.joins:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send what one client says to its group, on all nodes."""
        del bytes_data
        await self.channel_layer.group_send(self.group, {"type": "deliver", "text": text_data})

    async def deliver(self, event: dict[str, str]) -> None:
        """Pass on what somebody said."""
        await self.send(text_data=event["text"])


app = Member.as_asgi()


@asynccontextmanager
async def publishing(text: str) -> AsyncIterator[Publish]:
    """Publish from a process without clients."""
    layer, names = get_channel_layer(), list_rooms()

    async def publish(number: int) -> None:
        await layer.group_send(names[number], {"type": "deliver", "text": text})

    yield publish
    await layer.flush()
