"""``wirebell demo`` with several workers: whatever is live is right on all, whoever is killed."""

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
import pytest
import websockets
from typer.testing import CliRunner
from websockets.asyncio.client import ClientConnection

from tests import servers
from tests.integration.clients import connect, eventually, http, receive
from tests.servers import Server
from wirebell.cli import app

# Workers may take half a minute to start on two busy cores.
pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = "/realtime/connection/websocket"
TRIES_MAX = 60
PUBLISH_COUNT = 60
LONG_SECONDS = 60.0


class Demo:
    """The demo, which all tests of this file share: its start takes longer than they do.

    Attributes:
        folder: Of its data.
        server: The one that runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = servers.free_port()
        self.running = contextlib.ExitStack()
        self.server = self.start(3)

    def start(self, workers: int) -> Server:
        """Run it, as its command line says."""
        arguments = ("--workers", f"{workers}")
        self.server = self.running.enter_context(
            servers.demo(self.folder, *arguments, port=self.port)
        )
        return self.server

    def stop(self) -> None:
        """End all its processes; idempotent."""
        self.running.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Run the demo with three workers."""
    started = Demo(tmp_path_factory.mktemp("workers"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def server(demo: Demo) -> Server:
    """Return the demo's server."""
    return demo.server


def find_worker(server: Server, websocket: ClientConnection) -> int:
    """Return the id of the process that serves a socket (proc(5))."""
    ours = websocket.local_address[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(field.split(":")[1], 16) for field in fields[1:3])
        if (local, remote) == (server.port, ours):
            for pid in server.pids():
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if os.readlink(descriptor) == f"socket:[{fields[9]}]":
                            return pid
    raise AssertionError("nobody serves this socket")


@contextlib.asynccontextmanager
async def two_workers(server: Server, path: str) -> AsyncIterator[list[ClientConnection]]:
    """Connect until two sockets are with different workers, and hand these out."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[int, ClientConnection] = {}
        for number in range(TRIES_MAX):
            websocket = await stack.enter_async_context(connect(server, path.format(number=number)))
            found.setdefault(find_worker(server, websocket), websocket)
            if len(found) == 2:
                break
        assert len(found) == 2, "one worker took everybody"
        yield list(found.values())


async def until_received(websocket: ClientConnection, text: str) -> None:
    """Read until a text comes."""
    while await receive(websocket) != text:
        pass


class Page:
    """A page of the task board: hears all, and comes back from wherever it was.

    Attributes:
        texts: What was said in the chat, by offset.
        unrecovered_count: How often it was told that something is missing.
        returned_count: How often it came back.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.texts: dict[int, str] = {}
        self.kinds: list[str] = []
        self.duplicate_count = 0
        self.unrecovered_count = 0
        self.returned_count = -1
        self.epoch = ""
        self.first_offset = self.offset = 0
        self.worker = 0
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Be connected until cancelled."""
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException):
                async with connect(self.server, PAGE) as websocket:
                    await self._serve(websocket)
            await asyncio.sleep(0.05)  # what a client waits, at least

    async def _serve(self, websocket: ClientConnection) -> None:
        """Subscribe, and read until the end."""
        subscribe: dict[str, Any] = {"channel": "board"}
        if self.epoch:
            subscribe |= {"recover": True, "epoch": self.epoch, "offset": self.offset}
        for command in ({"id": 1, "connect": {}}, {"id": 2, "subscribe": subscribe}):
            await websocket.send(json.dumps(command))
        self.worker = find_worker(self.server, websocket)
        while True:
            for line in str(await websocket.recv()).splitlines():
                message = json.loads(line)
                if not message:
                    await websocket.send("{}")
                elif "subscribe" in message:
                    self._subscribed(message["subscribe"])
                elif publication := message.get("push", {}).get("pub"):
                    self._take(publication)
                assert "error" not in message, message
            self.changed.set()

    def _subscribed(self, reply: dict[str, Any]) -> None:
        """Take what was missed."""
        self.returned_count += 1
        if not self.epoch:
            self.epoch, self.first_offset = reply["epoch"], reply.get("offset", 0)
            self.offset = self.first_offset
            return
        self.unrecovered_count += not reply.get("recovered", False)
        for publication in reply.get("publications", ()):
            self._take(publication)

    def _take(self, publication: dict[str, Any]) -> None:
        """Keep a publication."""
        offset = publication["offset"]
        self.duplicate_count += offset <= self.offset
        self.offset = offset
        self.kinds.append(publication["data"]["type"])
        self.texts[offset] = publication["data"].get("message", {}).get("text", "")

    async def wait(self, text: str) -> None:
        """Wait until something was said."""
        async with asyncio.timeout(LONG_SECONDS):
            while text not in self.texts.values():
                self.changed.clear()
                await self.changed.wait()

    async def wait_subscribed(self) -> None:
        """Wait until it hears the board."""
        async with asyncio.timeout(LONG_SECONDS):
            while not self.epoch:
                self.changed.clear()
                await self.changed.wait()


async def test_the_log_says_nothing_of_memory(server: Server) -> None:
    """Several workers need no warning, and leave a database in the data folder."""
    assert "stays inside" not in server.log()
    assert "memory://" not in server.log()


async def test_chat_crosses_workers(server: Server) -> None:
    """What is said on one worker is heard on the other, once, in order."""
    async with two_workers(server, "/ws/{number}") as (one, other):
        for number in range(10):
            await one.send(f"hello {number}")
        await other.send("and back")
        heard: list[list[str]] = [[], []]
        for texts, websocket in zip(heard, (one, other), strict=True):
            while len([text for text in texts if "hello" in text or "and back" in text]) < 11:
                texts.append(await receive(websocket))

    for texts in heard:
        hellos = [text.split(": ")[1] for text in texts if "hello" in text]
        assert [f"hello {number}" for number in range(10)] == hellos
        assert 1 == len([text for text in texts if text.endswith("and back")])


async def test_topics_cross_workers(server: Server) -> None:
    """A task that is created through any worker is told to sockets of all."""
    async with two_workers(server, "/ws/notifications/tasks") as pair, http(server) as client:
        answer = await client.post("/tasks", json={"title": "Dust the shelf"})
        for websocket in pair:
            await until_received(websocket, "New task created: Dust the shelf")

    assert 201 == answer.status_code


@contextlib.asynccontextmanager
async def pages(server: Server, count: int, workers: int = 1) -> AsyncIterator[list[Page]]:
    """Open so many pages, and more until so many workers serve them; until the block ends."""
    opened = [Page(server) for _ in range(count)]
    tasks = [asyncio.ensure_future(page.run()) for page in opened]
    try:
        await asyncio.gather(*(page.wait_subscribed() for page in opened))
        while len({page.worker for page in opened}) < workers:
            # Whoever is idle may take all that come at once.
            assert len(opened) < TRIES_MAX, "one worker took everybody"
            opened.append(Page(server))
            tasks.append(asyncio.ensure_future(opened[-1].run()))
            await opened[-1].wait_subscribed()
        yield opened
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_presence_and_updates_cross_workers(server: Server) -> None:
    """Whichever worker is asked knows all pages, and each page hears of each change."""
    async with pages(server, 8, workers=2) as opened:
        counts = []
        for _ in range(8):
            # A connection of its own each time, so that others answer.
            async with http(server) as client:
                counts.append((await client.get("/online")).json()["guests"])
        async with http(server) as client:
            created = (await client.post("/tasks", json={"title": "Water plants"})).json()
            await client.patch(f"/tasks/{created['task']['id']}", json={"completed": True})
            await client.post("/messages", json={"text": "done"})
        await asyncio.gather(*(page.wait("done") for page in opened))

    assert [len(opened)] * 8 == counts
    changes = ["task.created", "task.updated", "message.created"]
    assert [changes] * len(opened) == [page.kinds for page in opened]

    async def left() -> bool:
        async with http(server) as client:
            return bool((await client.get("/online")).json()["guests"] == 0)

    await eventually(left, "pages that were closed are nowhere online")


async def say(server: Server, numbers: range, said: list[str]) -> None:
    """Say numbers in the chat, and keep those that were acknowledged."""
    for number in numbers:
        text = f"message {number}"
        with contextlib.suppress(httpx2.HTTPError):
            async with http(server) as client:
                answer = await client.post("/messages", json={"text": text})
                if answer.status_code == 201:
                    said.append(text)


async def test_killed_workers_lose_nothing(server: Server) -> None:
    """While workers are killed, what was acknowledged reaches every page, once, and in order."""
    said: list[str] = []
    killed: list[int] = []
    async with pages(server, 10) as opened:
        publishing = asyncio.ensure_future(say(server, range(PUBLISH_COUNT), said))
        for turn in (1, 2):

            async def is_far(count: int = turn * PUBLISH_COUNT // 3) -> bool:
                return len(said) >= count or publishing.done()

            await eventually(is_far, "messages are said", LONG_SECONDS)
            killed.append(opened[0].worker)
            os.kill(killed[-1], signal.SIGKILL)
            returned = opened[0].returned_count

            async def is_back(count: int = returned) -> bool:
                return opened[0].returned_count > count

            await eventually(is_back, "a page comes back to another worker", LONG_SECONDS)
        await publishing
        last: list[str] = []
        while not last:
            await say(server, range(9_000, 9_001), last)
        await asyncio.gather(*(page.wait(last[0]) for page in opened))

    assert len(said) > PUBLISH_COUNT // 2
    for page in opened:
        texts = list(page.texts.values())
        assert [*range(page.first_offset + 1, page.offset + 1)] == list(page.texts)
        assert (0, 0) == (page.duplicate_count, page.unrecovered_count)
        assert [text for text in texts if text in said] == said
        assert len(set(texts)) == len(texts)
    assert sum(page.returned_count for page in opened) >= 2

    async def is_replaced() -> bool:
        return server.log().count("starts another") >= len(set(killed))

    await eventually(is_replaced, "killed workers are replaced", LONG_SECONDS)


async def test_history_survives_the_demo(demo: Demo) -> None:
    """A page that was away while everything was restarted gets what it missed."""
    said: list[str] = []
    async with pages(demo.server, 1) as (page,):
        await say(demo.server, range(1_000, 1_001), said)
        await page.wait(said[0])
    await say(demo.server, range(1_001, 1_002), said)
    await asyncio.to_thread(demo.stop)
    page.server = await asyncio.to_thread(demo.start, 2)
    running = asyncio.ensure_future(page.run())
    await page.wait(said[-1])
    await say(demo.server, range(1_002, 1_003), said)
    await page.wait(said[-1])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert ["message 1000", "message 1001", "message 1002"] == said == list(page.texts.values())
    assert (0, 0) == (page.duplicate_count, page.unrecovered_count)
    assert (demo.folder / "broker.db").exists()


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_workers_that_would_be_islands(tmp_path: Path, command: str) -> None:
    """Several workers on ``memory://`` are refused in a line that names what to use instead."""
    env = {"WIREBELL_BROKER_URL": "memory://", "WIREBELL_DEMO_DATA_DIR": str(tmp_path)}
    result = CliRunner(env=env).invoke(app, [command, "--workers", "2", "--port", "0"])

    assert 1 == result.exit_code
    assert f"wirebell {command}: broker_url is 'memory://'" in result.stderr
    for name in ("2 workers", "sqlite:///", "redis://", "nats://", "postgresql://"):
        assert name in result.stderr
    assert 1 == len(result.stderr.splitlines())


def test_a_broker_that_cannot_be_used(tmp_path: Path) -> None:
    """What the broker refuses is told in one line before there is a worker."""
    (tmp_path / "notes.txt").write_text("no database\n" * 1_000)
    url = f"sqlite:///{tmp_path}/notes.txt"
    arguments = ["--workers", "2", "--port", "0", f"--broker_url={url}"]
    result = CliRunner().invoke(app, ["serve", *arguments])

    assert 1 == result.exit_code
    assert "it is no database of SQLite: name another file" in result.stderr
    assert 1 == len(result.stderr.splitlines())
