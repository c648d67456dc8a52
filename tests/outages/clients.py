"""Clients that come back: real sockets, the client protocol in JSON, and a log of what they heard.

Nothing here imports Wirebell: a client knows what `docs/protocol.md` says, and believes what it is
told. Whether that was true is for `verdict`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.outages.verdict import Began, Heard, Log, Position, Recovered, Told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

__all__ = ("Client", "Crowd", "Subscription", "backoff", "crowd")

OPEN_SECONDS = 5.0
REPLY_SECONDS = 10.0
"""Longer than a node may wait for its broker."""
SILENCE_SECONDS = 10.0
"""Beyond a ping's time, as the SDKs have it."""
RESUBSCRIBE_CODE_MIN, STATE_INVALIDATED = 2500, 2502
# Whoever is closed with one of these does not come back (protocol.md, Disconnects).
TERMINAL_CODES = (range(3500, 4000), range(4500, 5000))


def backoff(tries: int, longest_seconds: float = 2.0) -> float:
    """Return how long to wait before the next try: full jitter, doubled each time."""
    return random.uniform(0, min(longest_seconds, 0.1 * 2**tries))  # noqa: S311 - not a secret


@dataclass(slots=True)
class Subscription:
    """A channel of one client.

    Attributes:
        log: What it was told.
        position: Where it is, by what it was told; ``None`` before it began.
        begun: When the newest publication that came was begun, by this machine's clock.
        is_live: It is subscribed now.
    """

    log: Log
    position: Position | None = None
    begun: float = 0.0
    is_live: bool = False
    tries: int = 0

    def take_reply(self, result: Mapping[str, Any]) -> None:
        """Note the answer to a subscribe command."""
        top = Position(result.get("epoch", ""), result.get("offset", 0))
        if self.position is None:
            self.log.events.append(Began(top))
        elif not result.get("recovered"):
            self.log.events.append(Told(top))
        else:
            missed = result.get("publications", [])
            numbers = [(each["offset"], each["data"]["number"]) for each in missed]
            self.log.events.append(Recovered(top.epoch, numbers))
            if missed:
                top = Position(top.epoch, missed[-1]["offset"])
                self.begun = max(self.begun, *(each["data"]["begun"] for each in missed))
        self.position, self.is_live, self.tries = top, True, 0

    def take(self, publication: Mapping[str, Any]) -> None:
        """Note a publication."""
        assert self.position is not None, "a publication came before the reply"
        epoch = publication.get("epoch") or self.position.epoch
        self.position = Position(epoch, publication["offset"])
        data = publication["data"]
        self.begun = max(self.begun, data["begun"])
        self.log.events.append(Heard(self.position, data["number"]))


class Client:
    """One client, which comes back until it is cancelled.

    Args:
        urls: Of the nodes, in the order in which it tries them.
        subscriptions: Channel → what becomes of it.
        ends: Counts why links ended.
    """

    def __init__(
        self,
        urls: Sequence[str],
        subscriptions: Mapping[str, Subscription],
        ends: Counter[str],
    ) -> None:
        self.urls = urls
        self.subscriptions = subscriptions
        self.ends = ends
        self.asked: dict[int, str] = {}
        self.waiting: set[asyncio.Task[None]] = set()
        self.last_id = 1
        self.silence_seconds = SILENCE_SECONDS
        self.tries = 0

    async def run(self) -> None:
        """Be connected, and come back."""
        place = 0
        while True:
            try:
                async with connect(
                    self.urls[place % len(self.urls)],
                    compression=None,
                    proxy=None,
                    open_timeout=OPEN_SECONDS,
                    close_timeout=0.1,
                    ping_interval=None,
                    max_queue=None,
                ) as link:
                    await self._live(link)
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 1006
                self.ends[str(code)] += 1
                if any(code in codes for codes in TERMINAL_CODES):
                    raise
            except (OSError, TimeoutError, WebSocketException) as error:
                self.ends[type(error).__name__] += 1
            for each in self.subscriptions.values():
                each.is_live = False
            await asyncio.sleep(backoff(self.tries))
            self.tries += 1
            place += 1

    async def _live(self, link: ClientConnection) -> None:
        """Live on a link until it ends, which is an exception."""
        self.asked.clear()
        self.silence_seconds = SILENCE_SECONDS
        commands = [{"id": 1, "connect": {}}, *map(self._subscribe, self.subscriptions)]
        await link.send("\n".join(map(json.dumps, commands)))
        try:
            while True:
                async with asyncio.timeout(REPLY_SECONDS if self.asked else self.silence_seconds):
                    text = await link.recv()
                for line in str(text).splitlines():
                    await self._take(link, json.loads(line))
        finally:
            for task in self.waiting:
                task.cancel()

    def _subscribe(self, channel: str) -> dict[str, Any]:
        """Make a command that subscribes, from where the client is."""
        self.last_id += 1
        self.asked[self.last_id] = channel
        request: dict[str, Any] = {"channel": channel}
        position = self.subscriptions[channel].position
        if position is not None:
            request |= {"recover": True, "epoch": position.epoch, "offset": position.offset}
        return {"id": self.last_id, "subscribe": request}

    async def _take(self, link: ClientConnection, message: Mapping[str, Any]) -> None:
        """Take a reply, a push or a ping."""
        if not message:
            await link.send("{}")
        elif "push" in message:
            push = message["push"]
            subscription = self.subscriptions[push["channel"]]
            if "pub" in push:
                subscription.take(push["pub"])
            elif "unsubscribe" in push:
                self._handle_unsubscribed(link, subscription, push["unsubscribe"]["code"])
        elif "error" in message:
            assert message["error"].get("temporary"), message
            self.ends[f"error {message['error']['code']}"] += 1
            self._ask_again(link, self.subscriptions[self.asked.pop(message["id"])])
        elif "connect" in message:
            self.silence_seconds += message["connect"].get("ping", 0)
            self.tries = 0
        else:
            channel = self.asked.pop(message["id"])
            self.subscriptions[channel].take_reply(message["subscribe"])

    def _handle_unsubscribed(
        self, link: ClientConnection, subscription: Subscription, code: int
    ) -> None:
        """Subscribe again, as the protocol has it."""
        assert RESUBSCRIBE_CODE_MIN <= code != STATE_INVALIDATED, code
        self.ends[f"unsubscribed {code}"] += 1
        self._ask_again(link, subscription)

    def _ask_again(self, link: ClientConnection, subscription: Subscription) -> None:
        """Subscribe again after a while."""
        subscription.is_live = False
        task = asyncio.create_task(self._wait_and_ask(link, subscription))
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)

    async def _wait_and_ask(self, link: ClientConnection, subscription: Subscription) -> None:
        """Wait, each time longer, and subscribe."""
        await asyncio.sleep(backoff(subscription.tries))
        subscription.tries += 1
        # The reader learns of it, too.
        with contextlib.suppress(ConnectionClosed):
            await link.send(json.dumps(self._subscribe(subscription.log.channel)))


@dataclass(slots=True)
class Crowd:
    """Clients that are there.

    Attributes:
        subscriptions: Of all of them.
        ends: Why links and subscriptions ended, and how often.
        tasks: One for each client; they end when one has seen what must not be.
    """

    subscriptions: list[Subscription]
    ends: Counter[str]
    tasks: Sequence[asyncio.Task[None]]

    async def wait(
        self, is_so: Callable[[Subscription], bool], what: str, seconds: float = 60.0
    ) -> None:
        """Wait until something is so of all subscriptions, at most so long."""
        deadline = time.monotonic() + seconds
        while missing := sum(not is_so(each) for each in self.subscriptions):
            for task in self.tasks:
                if task.done():
                    await task
            if time.monotonic() > deadline:
                raise TimeoutError(f"{missing} of {len(self.subscriptions)} subscriptions {what}")
            await asyncio.sleep(0.02)  # between two looks


@asynccontextmanager
async def crowd(urls: Sequence[str], channels: Sequence[str], count: int) -> AsyncIterator[Crowd]:
    """Have clients come, each to the next node and into two channels; all are subscribed then."""
    ends = Counter[str]()
    clients = []
    for number in range(count):
        first = number % len(urls)
        chosen = channels[number % len(channels)], channels[(7 * number + 1) % len(channels)]
        subscriptions = {each: Subscription(Log(each)) for each in chosen}
        clients.append(Client([*urls[first:], *urls[:first]], subscriptions, ends))
    tasks = [asyncio.create_task(each.run()) for each in clients]
    here = Crowd([each for one in clients for each in one.subscriptions.values()], ends, tasks)
    try:
        await here.wait(lambda each: each.is_live, "did not begin")
        yield here
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
