"""Workers are replaced one after the other: what clients of an SDK notice is a reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from centrifuge import (
    Client,
    ClientEventHandler,
    ConnectingContext,
    DisconnectedContext,
    PublicationContext,
    SubscribedContext,
    SubscriptionEventHandler,
    UnsubscribedContext,
)

from tests.e2e.sdk.python_client import disconnect
from tests.integration.clients import eventually
from tests.integration.standalone import SECRET, Standalone, standalone
from wirebell.brokers import create_broker
from wirebell.model import ChannelItem, Membership
from wirebell.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(120)]

WORKERS, CLIENTS = 3, 30
CHANNEL = "room"
KEY = "key-of-tests"
PATIENCE_SECONDS = 60.0
SHUTDOWN = 3001
CONFIGURATION = {
    "http_api": {"key": KEY},
    "client": {"token": {"hmac_secret_key": SECRET}},
    "channel": {
        "without_namespace": {
            "allow_subscribe_for_client": True,
            "presence": True,
            "join_leave": True,
            "history_size": 10_000,
            "history_ttl": "60s",
            "force_recovery": True,
        }
    },
    # Longer than a client needs to come back on the busiest machine.
    "handover_seconds": 5,
    "drain_window_seconds": 1,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Standalone]:
    """Run three workers over a database of SQLite."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGURATION))
    arguments = (f"--config={tmp_path / 'config.json'}", f"--workers={WORKERS}")
    env = {"WIREBELL_BROKER_URL": f"sqlite:///{tmp_path / 'broker.db'}"}
    with standalone(tmp_path, *arguments, env=env) as running:
        yield running
        # The last leaves are put off, and nobody waits for them.
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


class Page(ClientEventHandler, SubscriptionEventHandler):  # type: ignore[misc]  # it has no types
    """One client of the SDK, and what it was told."""

    def __init__(self, server: Standalone, user: str) -> None:
        self.numbers: list[int] = []
        self.codes: list[int] = []
        self.subscribed: list[SubscribedContext] = []
        self.ends: list[DisconnectedContext | UnsubscribedContext] = []
        token = jwt.encode({"sub": user}, SECRET, "HS256")
        url = server.address.replace("http", "ws") + "/connection/websocket"
        self.client = Client(url, token=token, events=self, proxy=None)
        self.subscription = self.client.new_subscription(CHANNEL, events=self)

    async def open(self) -> None:
        """Connect, and wait until it is subscribed."""
        await self.client.connect()
        await self.subscription.subscribe()
        await self.subscription.ready(PATIENCE_SECONDS)

    async def on_connecting(self, ctx: ConnectingContext) -> None:
        """Keep why it connects again."""
        self.codes += [ctx.code] if self.subscribed else []

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        """Keep that it does not come back."""
        self.ends.append(ctx)

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        """Keep how it came in."""
        self.subscribed.append(ctx)

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        """Keep that it hears nothing more."""
        self.ends.append(ctx)

    async def on_publication(self, ctx: PublicationContext) -> None:
        """Keep what came."""
        self.numbers.append(ctx.pub.data["n"])


class Watcher:
    """Hears joins and leaves from the broker itself, and looks who is there; never restarted.

    Attributes:
        clients: User → ids of those who joined and have not left.
        gone: Users who seemed to have left, by joins and leaves.
        least: Fewest users that presence ever had.
    """

    def __init__(self, server: Standalone) -> None:
        url = f"sqlite:///{server.log_path.parent / 'broker.db'}"
        self.broker, self.store = create_broker(Settings(broker_url=url))
        self.clients: dict[str, set[str]] = {}
        self.gone: list[str] = []
        self.least = CLIENTS

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Take a join or a leave."""
        if isinstance(item, Membership):
            here = self.clients.setdefault(item.info.user_id, set())
            (here.add if item.joined else here.discard)(item.info.client_id)
            self.gone += [] if here else [item.info.user_id]

    def handle_control(self, data: bytes) -> None:
        """Leave to nodes what is theirs."""

    def handle_reconnect(self) -> None:
        """Fail: joins and leaves may have been missed."""
        self.gone.append("the watcher itself")

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Hear joins and leaves."""
        await self.broker.start(self, "watcher")
        await self.store.start()
        try:
            await self.broker.subscribe(CHANNEL)
            yield
        finally:
            await self.store.aclose()
            await self.broker.aclose()

    async def look(self) -> None:
        """Look again and again who is there, until cancelled."""
        while True:
            users = {info.user_id for info in (await self.store.members(CHANNEL)).values()}
            self.least = min(self.least, len(users))
            await asyncio.sleep(0.02)


async def publish(server: Standalone, acknowledged: list[int]) -> None:
    """Publish numbers until cancelled, each again until it is acknowledged."""
    headers = {"X-API-Key": KEY}
    while True:
        number = len(acknowledged)
        body: dict[str, Any] = {"channel": CHANNEL, "data": {"n": number}}
        body["idempotency_key"] = str(number)
        with contextlib.suppress(httpx2.HTTPError):
            async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
                url = f"{server.address}/api/publish"
                answer = await client.post(url, json=body, headers=headers)
            if answer.status_code == 200 and "error" not in answer.json():
                acknowledged.append(number)
        await asyncio.sleep(0.02)  # a steady rate


@contextlib.asynccontextmanager
async def pages(server: Standalone) -> AsyncIterator[list[Page]]:
    """Open pages until the block ends."""
    opened = [Page(server, f"user-{number}") for number in range(CLIENTS)]
    try:
        await asyncio.gather(*(page.open() for page in opened))
        yield opened
    finally:
        await disconnect(page.client for page in opened)


async def test_workers_are_replaced(server: Standalone) -> None:
    """Everybody comes back with all that was acknowledged, and nobody is seen to have left."""
    watcher, acknowledged = Watcher(server), list[int]()
    async with watcher.watch(), pages(server) as opened, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(each) for each in (watcher.look(), publish(server, acknowledged))
        ]
        before = set(server.children())
        server.process.send_signal(signal.SIGHUP)

        async def is_replaced() -> bool:
            # Those who are told to end are children still, until their leaves are told.
            served = len(set(server.children()) - before) == WORKERS
            return served and all(page.codes for page in opened)

        await eventually(is_replaced, "everybody was sent elsewhere", PATIENCE_SECONDS)
        tasks[1].cancel()
        last = len(acknowledged)

        async def is_complete() -> bool:
            return all(
                len(page.numbers) >= last and len(page.subscribed) == len(page.codes) + 1
                for page in opened
            )

        await eventually(is_complete, "everybody has everything", PATIENCE_SECONDS)
        tasks[0].cancel()
        # Before they leave by themselves.
        gone, ends = list(watcher.gone), [list(page.ends) for page in opened]

    assert [[]] * CLIENTS == ends
    for page in opened:
        assert acknowledged == page.numbers[:last] == sorted(set(page.numbers))[:last]
        assert {SHUTDOWN} == set(page.codes)
        assert all(context.recovered for context in page.subscribed[1:])
    assert ([], CLIENTS) == (gone, watcher.least)
