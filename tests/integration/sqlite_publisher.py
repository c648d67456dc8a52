"""A process that publishes to the sqlite broker until it is killed, and says what was acknowledged.

``python -m tests.integration.sqlite_publisher PATH CHANNEL``
"""

from __future__ import annotations

import asyncio
import sys

from wirebell.broker_options import SQLiteOptions
from wirebell.brokers import create_broker
from wirebell.interfaces import Broker
from wirebell.model import ChannelOptions, History, Publication, Published
from wirebell.settings import Settings
from wirebell.testing import RecordingListener

KEPT = ChannelOptions(history=History(size=100_000, ttl_seconds=600))
# Several at once, so that a batch is more than one publication.
TOGETHER = 5


async def publish_one(broker: Broker, channel: str, number: int) -> str:
    """Publish a number, and return the line that says so."""
    published = broker.publish(channel, Publication(b"%d" % number), KEPT)
    if not isinstance(published, Published):
        published = await published
    return f"{number} {published.position.offset} {published.position.epoch}\n"


async def main(path: str, channel: str) -> None:
    """Publish, and print each number with its position once it is acknowledged."""
    broker, _ = create_broker(Settings(), SQLiteOptions(path=path))
    await broker.start(RecordingListener())
    number = 0
    while True:
        numbers = range(number, number + TOGETHER)
        lines = await asyncio.gather(*(publish_one(broker, channel, each) for each in numbers))
        number += TOGETHER
        sys.stdout.write("".join(lines))
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
