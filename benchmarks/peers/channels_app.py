"""The same room on Django Channels, on its best settings.

Strategy: one consumer as the whole ASGI application, so that no routing and no middleware stands
in front of it, the in-memory channel layer, and `group_send`, as its tutorial shows a chat room.
Its queue for a consumer holds 100 messages and drops what comes then; here it holds more, because
a lost delivery ends the run. uvicorn's settings are those of every peer.
"""

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

__all__ = ("Room", "app")

settings.configure(
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            "CONFIG": {"capacity": 100_000},
        }
    }
)


class Room(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One connection; Channels runs it as a task."""

    async def connect(self) -> None:
        """Join."""
        await self.channel_layer.group_add("bench", self.channel_name)
        await self.accept()

    async def disconnect(self, _code: int) -> None:
        """Leave."""
        await self.channel_layer.group_discard("bench", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send what one client says to all of them."""
        del bytes_data
        await self.channel_layer.group_send("bench", {"type": "deliver", "text": text_data})

    async def deliver(self, event: dict[str, str]) -> None:
        """Pass on what somebody said."""
        await self.send(text_data=event["text"])


app = Room.as_asgi()
