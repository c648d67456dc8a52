"""Publishing on Wirebell from a process without clients, with history."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from peers.publishing import Publish, list_rooms
from wirebell import Realtime
from wirebell.model import ChannelOptions, History

__all__ = ("publishing",)


@asynccontextmanager
async def publishing(text: str) -> AsyncIterator[Publish]:
    """Publish to channels of a namespace that keeps history.

    Raises:
        RuntimeError: A position was given twice, or left out.
    """
    rt = Realtime(namespaces={"log": ChannelOptions(history=History(size=100, ttl_seconds=600))})
    data, names = json.loads(text), [f"log:{room}" for room in list_rooms()]
    counts = dict.fromkeys(names, 0)
    async with rt.lifespan(FastAPI()):

        async def publish(number: int) -> None:
            name = names[number]
            position = await rt.publish(name, data)
            counts[name] += 1
            if position.offset != counts[name]:
                raise RuntimeError(f"{name} is at {position.offset}, expected {counts[name]}")

        yield publish
