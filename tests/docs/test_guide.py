"""The programs of README and guide do what the pages say, with real servers and real SDKs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import servers
from tests.e2e.sdk.missing import fail_missing
from tests.integration.standalone import standalone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
README = (ROOT / "README.md").read_text()
SDK = ROOT / "tests" / "e2e" / "sdk"

KIND = "wirebell-uvloop-httptools"
PATIENCE_SECONDS = 30.0

PRINTED = {
    "Tokens": ["in"],
    "See who is here": ["here 1", "join string"],
    "Recover": ["7"],
    "Send patches": ["one", "two"],
    "Filter by tags": ["Hello"],
    "Answer calls": ["70", "1000 not enough money"],
    "Act on clients": ["orders:7 12", "hi"],
}
"""Chapter of the guide → what its JavaScript prints, in any order, beside its Python."""


def chapter(heading: str) -> str:
    """Return a chapter of the guide."""
    return GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where programs are put, so that servers find them."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@contextlib.contextmanager
def serve(source: str, folder: Path) -> Iterator[Server]:
    """Run a program of a page as the pages say."""
    (folder / "page_app.py").write_text(source)
    with servers.serve("page_app:app", KIND, path="/openapi.json") as server:
        yield server


def create_command(source: str, language: str, server: Server, folder: Path) -> list[str]:
    """Write a client's program, aimed at a server, and return the command that runs it."""
    aimed = source.replace("localhost:8000", f"{servers.HOST}:{server.port}")
    if language == "python":
        path = folder / "page_client.py"
        path.write_text(aimed)
        return [sys.executable, "-u", str(path)]
    node = shutil.which("node")
    if node is None or not (SDK / "node_modules" / "centrifuge").is_dir():
        fail_missing("node, or the SDK of package.json (`npm ci` in tests/e2e/sdk)")
    path = folder / "page_client.mjs"
    path.write_text(aimed)
    (folder / "node_modules").symlink_to(SDK / "node_modules")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    # Before version 22 Node has a WebSocket too, and hides it.
    hidden = int(version.stdout[1:].partition(".")[0]) < 22
    return [node, *(["--experimental-websocket"] if hidden else []), str(path)]


@contextlib.asynccontextmanager
async def run_client(command: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a client until the block ends."""
    environment = os.environ | {"NODE_NO_WARNINGS": "1"}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def read_lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """Read so many lines of what a client prints."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(count)]


def request(url: str, body: str | None = None, *, method: str | None = None, **headers: str) -> str:
    """Ask over HTTP; with a body it is a POST."""
    asked = urllib.request.Request(  # noqa: S310 - our own server
        url, None if body is None else body.encode(), headers, method=method
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as response:  # noqa: S310
        text: str = response.read().decode()
    return text


async def wait_subscribed(server: Server) -> None:
    """Wait until a client is subscribed to something."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    counted = ""
    while "wirebell_subscriptions_count 1.0" not in counted:
        assert asyncio.get_running_loop().time() < deadline, "nobody subscribed"
        counted = await asyncio.to_thread(request, f"{server.url}/realtime/metrics")


@pytest.mark.parametrize(("language", "number"), [("javascript", 1), ("python", 1)])
async def test_the_readmes_sdk_programs_hear_the_room(
    language: str, number: int, folder: Path
) -> None:
    """Both SDK programs of the README print what is said in its application's room."""
    with serve(blocks(README, "python")[0], folder) as server:
        command = create_command(blocks(README, language)[number], language, server, folder)
        async with run_client(command) as client:
            await wait_subscribed(server)
            said = json.dumps({"text": "hello"})
            kind = {"Content-Type": "application/json"}
            heard = asyncio.create_task(read_lines(client, 1))
            while not heard.done():
                # An SDK leaves out what comes before it has read that it is subscribed.
                await asyncio.to_thread(request, f"{server.url}/rooms/7", said, **kind)
                await asyncio.wait((heard,), timeout=1.0)
            lines = await heard

    assert ["hello"] == lines


async def test_the_first_sdk_program_of_the_guide_works(folder: Path) -> None:
    """The Python client is let into the room of the program above it, and hears itself."""
    application, program = blocks(chapter("Connect an SDK"), "python")
    with serve(application, folder) as server:
        async with run_client(create_command(program, "python", server, folder)) as client:
            lines = await read_lines(client, 1)

    assert ["ann hello"] == lines


TOGETHER = """
import importlib
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

pages = [importlib.import_module(f"page_{number}").app for number in range(%d)]

@asynccontextmanager
async def lifespan(app):
    async with AsyncExitStack() as stack:
        for page in pages:
            await stack.enter_async_context(page.router.lifespan_context(page))
        yield

app = FastAPI(lifespan=lifespan)
for number, page in enumerate(pages):
    app.mount(f"/{number}", page)
"""


@pytest.fixture(scope="module")
def chapters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the Python of all chapters with JavaScript, in one process, each below its number."""
    folder = tmp_path_factory.mktemp("chapters")
    for number, heading in enumerate(PRINTED):
        source = blocks(chapter(heading), "python")[0]
        (folder / f"page_{number}.py").write_text(source)
    (folder / "page_app.py").write_text(TOGETHER % len(PRINTED))
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    with servers.serve(
        "page_app:app", KIND, path="/openapi.json", env={"PYTHONPATH": path}
    ) as server:
        yield server


@pytest.mark.parametrize("heading", PRINTED)
async def test_a_chapter_of_the_guide_works(heading: str, chapters: Server, tmp_path: Path) -> None:
    """The JavaScript of a chapter talks to its Python, and prints what it should."""
    expected = PRINTED[heading]
    place = f"localhost:8000/{list(PRINTED).index(heading)}"
    source = blocks(chapter(heading), "javascript")[0].replace("localhost:8000", place)
    command = create_command(source, "javascript", chapters, tmp_path)
    async with run_client(command) as client:
        lines = await read_lines(client, len(expected))

    assert sorted(expected) == sorted(lines)


def test_patches_are_sent_as_patches(chapters: Server) -> None:
    """On the wire the second document of the chapter is a patch, and much shorter."""
    place = f"{chapters.url}/{list(PRINTED).index('Send patches')}"
    pushes: list[dict[str, Any]] = []
    with connect(f"ws{place[4:]}/realtime/connection/websocket", proxy=None) as link:
        link.send('{"id":1,"connect":{}}')
        link.send('{"id":2,"subscribe":{"channel":"board:2","delta":"fossil"}}')
        while len(pushes) < 2:
            for line in str(link.recv(PATIENCE_SECONDS)).splitlines():
                message = json.loads(line)
                if message.get("id") == 2:
                    for title in ("one", "two"):
                        request(f"{place}/boards/2/{title}", method="PUT")
                elif "push" in message:
                    pushes.append(message["push"]["pub"])

    assert [None, True] == [push.get("delta") for push in pushes]
    assert len(pushes[1]["data"]) < len(pushes[0]["data"]) / 4


def test_every_javascript_of_the_guide_is_run() -> None:
    """A chapter with JavaScript is one of those above."""
    with_javascript = {
        part.partition("\n")[0] for part in GUIDE.split("\n## ") if "```javascript" in part
    }

    assert set(PRINTED) == with_javascript


def test_the_hooks_decide(folder: Path) -> None:
    """Guests are kept out of room 0 by the hook, with its words, and users are not."""
    subscribe = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"room:0"}}'
    with serve(blocks(chapter("Hooks"), "python")[0], folder) as server:
        replies = []
        for query in ("", "?user=ann"):
            url = f"{server.ws_url}/realtime/connection/websocket{query}"
            with connect(url, proxy=None) as link:
                link.send(subscribe)
                received = ""
                while '"id":2' not in received:
                    received = str(link.recv(PATIENCE_SECONDS))
                replies.append(json.loads(received.splitlines()[-1]))

    error = {"code": 103, "message": "not for guests"}
    assert [{"id": 2, "error": error}, {"id": 2, "subscribe": {}}] == replies


def test_a_page_without_an_sdk_reads_what_the_guide_shows(folder: Path) -> None:
    """The unidirectional connection recovers, and its messages have the guide's fields."""
    text = chapter("Pages without an SDK")
    shown = [json.loads(line) for line in blocks(text, "json")[1].splitlines()]
    with serve(blocks(text, "python")[0], folder) as server:
        for card, column in ((3, "done"), (3, "done"), (4, "doing")):
            body = json.dumps({"card": card, "column": column})
            kind = {"Content-Type": "application/json"}
            request(f"{server.url}/boards/7/moves", body, **kind)
        url = f"{server.ws_url}/realtime/connection/uni_websocket"
        with connect(url, additional_headers={"Cookie": "user=ann"}, proxy=None) as link:
            link.send('{"subs":{"board:7":{}}}')
            top = json.loads(link.recv(PATIENCE_SECONDS))["connect"]["subs"]["board:7"]
        since = {"recover": True, "offset": 2, "epoch": top["epoch"]}
        with connect(url, additional_headers={"Cookie": "user=ann"}, proxy=None) as link:
            link.send(json.dumps({"subs": {"board:7": since}}))
            received = [json.loads(link.recv(PATIENCE_SECONDS))]

    board, expected = received[0]["connect"]["subs"]["board:7"], shown[0]["connect"]
    assert expected.keys() == received[0]["connect"].keys()
    assert expected["subs"]["board:7"].keys() == board.keys()
    assert [3] == [each["offset"] for each in board["publications"]]


def test_the_server_of_five_lines_works(tmp_path: Path) -> None:
    """What the guide writes into a file is a configuration, and its request publishes."""
    first, second = blocks(chapter("A server of its own"), "sh")
    path = tmp_path / "wirebell.toml"
    path.write_text(first.partition("<<END\n")[2].partition("END\n")[0])
    words = shlex.split(second.replace("\\\n", ""))
    key, body = words[words.index("-H") + 1].split(": "), words[words.index("-d") + 1]
    with standalone(tmp_path, "--config", str(path)) as server:
        url = f"ws{server.address.removeprefix('http')}/connection/websocket"
        with connect(url, proxy=None) as link:
            link.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news"}}')
            received = ""
            while '"id":2' not in received:
                received = str(link.recv(PATIENCE_SECONDS))
            request(f"{server.address}/api/publish", body, **{key[0]: key[1]})
            pushed = json.loads(link.recv(PATIENCE_SECONDS))

    assert {"push": {"channel": "news", "pub": {"data": {"text": "hello"}}}} == pushed


FAILING = """
from fastapi import FastAPI, HTTPException
from wirebell import Caller, CommandError, Denied, Identity, Realtime

class Own(CommandError):
    code = 1000

rt = Realtime()
app = FastAPI(lifespan=rt.lifespan)
rt.mount(app, "/realtime")
rt.channel("open:{name}", public=True)
asked = rt.channel("asked:{name}")

@rt.authenticate
async def who(user: str = "") -> Identity:
    if user == "nobody":
        raise Denied("go away")
    if user == "broken":
        raise ZeroDivisionError
    return Identity(user)

@asked.authorize
async def may(name: str) -> None:
    raise HTTPException(403, "members only") if name == "http" else Denied("not you")

@rt.on_connect
async def check(caller: Caller) -> None:
    if caller.user_id == "banned":
        raise Denied("banned")

@rt.on_subscribe
async def enter(caller: Caller, channel: str) -> None:
    if channel == "open:closed":
        raise Denied("closed")
    if channel == "open:broken":
        raise ZeroDivisionError

@rt.rpc("own")
async def own(caller: Caller, data: object) -> None:
    raise Own("my words")
"""

RPC = '{"id":2,"rpc":{"method":"own"}}'
SUBSCRIBE = '{"id":2,"subscribe":{"channel":"%s"}}'

OUTCOMES = [
    ("nobody", "", 3500),
    ("banned", "", (103, "banned")),
    ("broken", "", (100, "internal server error")),
    ("ann", SUBSCRIBE % "asked:http", (103, "members only")),
    ("ann", SUBSCRIBE % "asked:denied", (103, "not you")),
    ("ann", SUBSCRIBE % "open:closed", (103, "closed")),
    ("ann", SUBSCRIBE % "open:broken", (100, "internal server error")),
    ("ann", SUBSCRIBE % "unknown:1", (102, "unknown channel")),
    ("ann", RPC, (1000, "my words")),
]
"""User, second command → close code, or code and words of the error."""


def find_outcome(server: Server, user: str, command: str) -> object:
    """Connect, send a command, and tell what became of it."""
    url = f"{server.ws_url}/realtime/connection/websocket?user={user}"
    wanted = 2 if command else 1
    with connect(url, proxy=None) as link:
        link.send(f'{{"id":1,"connect":{{}}}}\n{command}'.rstrip("\n"))
        try:
            while True:
                for line in str(link.recv(PATIENCE_SECONDS)).splitlines():
                    reply = json.loads(line)
                    if reply.get("id") == wanted:
                        return reply["error"]["code"], reply["error"]["message"]
        except ConnectionClosed as closed:
            return None if closed.rcvd is None else closed.rcvd.code


def test_an_exception_is_told_as_the_table_says(folder: Path) -> None:
    """What a function raises reaches the client as the guide's table has it."""
    with serve(FAILING, folder) as server:
        outcomes = [find_outcome(server, user, command) for user, command, _ in OUTCOMES]

    assert [outcome for _, _, outcome in OUTCOMES] == outcomes
