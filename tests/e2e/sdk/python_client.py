"""The SDK `centrifuge-python` with what tests need: its events in order, a network, the API."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from centrifuge import (
    Client,
    ClientEventHandler,
    SubscriptionEventHandler,
)

from tests.e2e.proxy import Proxy
from tests.e2e.sdk.control import create_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from centrifuge import Subscription

    from tests.e2e.sdk.control import Control
    from tests.e2e.sdk.targets import Target

__all__ = ("Connected", "Kit", "Subscribed", "disconnect", "until")

PATIENCE_SECONDS = 15.0

Event = tuple[str, Any]


async def until(
    check: Callable[[], Awaitable[bool]], what: str, patience: float = PATIENCE_SECONDS
) -> None:
    """Wait until `check` answers true."""
    deadline = asyncio.get_running_loop().time() + patience
    while not await check():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"after {patience} s still not: {what}")
        await asyncio.sleep(0.02)


class Events:
    """What the SDK has told, by name, in order."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._taken = 0
        self._changed = asyncio.Condition()

    async def add(self, name: str, context: Any) -> None:
        async with self._changed:
            self.all.append((name, context))
            self._changed.notify_all()

    def named(self, name: str) -> list[Any]:
        return [context for event, context in self.all if event == name]

    async def next(self, name: str) -> Any:
        """Wait for the event `name` after the last one taken, and take it."""

        def find() -> int | None:
            places = range(self._taken, len(self.all))
            return next((index for index in places if self.all[index][0] == name), None)

        await self._wait(lambda: find() is not None, name)
        place = find()
        assert place is not None
        self._taken = place + 1
        return self.all[place][1]

    async def count(self, name: str, count: int) -> list[Any]:
        """Wait until there were `count` of the event `name`, and return them."""
        await self._wait(lambda: len(self.named(name)) >= count, f"{count} × {name}")
        return self.named(name)

    async def _wait(self, check: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                await self._changed.wait_for(check)
        except TimeoutError:
            raise AssertionError(f"no {what}, only {self.all}") from None


def _create_handler(kind: type[Any], events: Events) -> Any:
    """Return a handler of the SDK that keeps everything in `events`."""

    def create_method(name: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def method(self: Any, context: Any) -> None:
            await events.add(name, context)

        return method

    names = [name for name in vars(kind) if name.startswith("on_")]
    return type("Handler", (kind,), {name: create_method(name[3:]) for name in names})()


async def disconnect(clients: Iterable[Client]) -> None:
    """Disconnect clients, and wait until their sockets are closed, which the SDK does later."""
    await asyncio.gather(*(client.disconnect() for client in clients))
    if late := [task for task in asyncio.all_tasks() if _is_of_sdk(task)]:
        await asyncio.wait(late, timeout=PATIENCE_SECONDS)


def _is_of_sdk(task: asyncio.Task[Any]) -> bool:
    """Tell whether the SDK runs in a task: it closes connections in some that it leaves alone."""
    code = getattr(task.get_coro(), "cr_code", None)
    parts = () if code is None else Path(code.co_filename).parts
    return "centrifuge" in parts or "websockets" in parts


class Connected:
    """A client and its events."""

    def __init__(self, client: Client, events: Events) -> None:
        self.client = client
        self.events = events


class Subscribed:
    """A subscription and its events; `context` is that of the first subscribed event."""

    def __init__(self, sub: Subscription, events: Events) -> None:
        self.sub = sub
        self.events = events
        self.context: Any = None


class Kit:
    """Clients of one test, on channels and with users of its own."""

    def __init__(self, target: Target, control: Control, *, is_protobuf: bool) -> None:
        self.target = target
        self.is_protobuf = is_protobuf
        self.label = uuid.uuid4().hex[:8]
        self._control = control
        self._clients: list[Client] = []
        self._networks: list[Proxy] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await disconnect(self._clients)
        for network in self._networks:
            network.__exit__(None, None, None)

    def user(self, name: str = "user") -> str:
        return f"{self.label}-{name}"

    def channel(self, namespace: str) -> str:
        return f"{namespace}:{self.label}"

    async def api(self, method: str, **body: Any) -> Any:
        """Call the server API; an error object fails."""
        answer = await asyncio.to_thread(self._control.call, method, body)
        assert "error" not in answer, answer
        return answer["result"]

    async def publish(self, channel: str, data: Any, **more: Any) -> None:
        await self.api("publish", channel=channel, data=data, **more)

    def network(self) -> Proxy:
        """Return a network of its own, which can be cut."""
        network = Proxy(self.target.server.port).__enter__()
        self._networks.append(network)
        return network

    def client(self, network: Proxy | None = None, **options: Any) -> Connected:
        """Make a client that is not connected yet."""
        events = Events()
        base = self.target.server.ws_url if network is None else network.url.replace("http", "ws")
        client = Client(
            f"{base}{self.target.prefix}/connection/websocket",
            events=_create_handler(ClientEventHandler, events),
            use_protobuf=self.is_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            proxy=None,
            **options,
        )
        self._clients.append(client)
        return Connected(client, events)

    async def connect(self, name: str = "user", network: Proxy | None = None) -> Connected:
        """Make a client of a user and wait until it is connected."""
        user = self.user(name)
        made = self.client(network, token=create_token(sub=user, info={"name": user}))
        await made.client.connect()
        await made.events.next("connected")
        return made

    def subscription(self, client: Client, channel: str, **options: Any) -> Subscribed:
        """Make a subscription that is not subscribed yet."""
        events = Events()
        sub = client.new_subscription(
            channel,
            _create_handler(SubscriptionEventHandler, events),
            min_resubscribe_delay=0.02,
            max_resubscribe_delay=0.2,
            **options,
        )
        return Subscribed(sub, events)

    async def subscribe(self, client: Client, channel: str, **options: Any) -> Subscribed:
        """Make a subscription and wait until it is subscribed."""
        made = self.subscription(client, channel, **options)
        await made.sub.subscribe()
        made.context = await made.events.next("subscribed")
        return made

    def encode(self, value: Any) -> Any:
        return json.dumps(value).encode() if self.is_protobuf else value

    def decode(self, data: Any) -> Any:
        return json.loads(data) if self.is_protobuf else data

    def payloads(self, contexts: list[Any]) -> list[Any]:
        """Return the payloads of publication events."""
        return [self.decode(context.pub.data) for context in contexts]
