"""What the contracts use: a clock that obeys, a listener that remembers, channels and numbers."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence

from wirebell.interfaces import Broker
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    History,
    PayloadFormat,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)

__all__ = (
    "DELIVERY_SECONDS_MAX",
    "KEPT",
    "UNKEPT",
    "ManualClock",
    "RecordingListener",
    "fresh_channel",
    "number_publication",
    "payloads_of",
    "publish",
)

# A broker that has not delivered within this time has lost it.
DELIVERY_SECONDS_MAX = 5.0

KEPT = ChannelOptions(history=History(size=10, ttl_seconds=60))
UNKEPT = ChannelOptions()


class ManualClock:
    """A clock that stands still until it is told; for brokers that take one."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class RecordingListener:
    """A `wirebell.interfaces.BrokerListener` that keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[tuple[str, ChannelItem]] = []
        self.controls: list[bytes] = []
        self.reconnect_count = 0
        self.arrived = asyncio.Event()

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Keep an item."""
        self.items.append((channel, item))
        self.arrived.set()

    def handle_control(self, data: bytes) -> None:
        """Keep what a node told."""
        self.controls.append(data)
        self.arrived.set()

    def handle_reconnect(self) -> None:
        """Count it."""
        self.reconnect_count += 1
        self.arrived.set()

    def of(self, channel: str) -> list[ChannelItem]:
        """Return what arrived in a channel, oldest first."""
        return [item for name, item in self.items if name == channel]

    async def wait_controls(self, count: int) -> list[bytes]:
        """Wait until nodes have told so much, and return it.

        Raises:
            AssertionError: It did not come in time.
        """
        await self.wait_until(lambda: len(self.controls) >= count)
        assert len(self.controls) >= count, f"{count} messages expected, got {self.controls}"
        return self.controls

    async def wait_reconnect(self, count: int = 1, *, seconds: float = 60.0) -> None:
        """Wait until the broker has come back so often.

        Raises:
            AssertionError: It did not in time.
        """
        await self.wait_until(lambda: self.reconnect_count >= count, seconds)
        assert self.reconnect_count >= count, f"no reconnect within {seconds} s"

    async def wait_until(
        self, is_there: Callable[[], bool], seconds: float = DELIVERY_SECONDS_MAX
    ) -> None:
        """Wait for something at most so long; looks again whenever anything has come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_there():
                    self.arrived.clear()
                    await self.arrived.wait()

    async def wait_count(self, channel: str, count: int) -> list[ChannelItem]:
        """Wait until a channel has delivered so many items, and return them.

        Raises:
            AssertionError: They did not come in time.
        """
        await self.wait_until(lambda: len(self.of(channel)) >= count)
        items = self.of(channel)
        assert len(items) >= count, f"{count} items expected in {channel!r}, got {items}"
        return items


def fresh_channel() -> str:
    """Return a name that no other check uses."""
    return f"check:{uuid.uuid4()}"


def number_publication(number: int) -> Publication:
    """Make a publication that says its number."""
    return Publication(b"%d" % number, PayloadFormat.JSON)


async def publish(
    broker: Broker,
    channel: str,
    publication: Publication,
    options: ChannelOptions,
    how: PublishOptions | None = None,
) -> StreamPosition:
    """Publish, whether the broker answers at once or later; returns the position."""
    published = broker.publish(channel, publication, options, how)
    if not isinstance(published, Published):
        published = await published
    return published.position


def payloads_of(items: Sequence[ChannelItem]) -> list[bytes]:
    """Return the payloads of publications."""
    return [item.data for item in items if isinstance(item, Publication)]
