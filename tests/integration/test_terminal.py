"""The terminal client against servers that answer as they like."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from wirebell.errors import WirebellError
from wirebell.terminal import GivenTokens, Tail, publish

pytestmark = pytest.mark.anyio


@contextmanager
def run_api(status: int, body: bytes) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Run an API that always gives the same answer; yields its address and what it was asked."""
    asked: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            asked.append(json.loads(self.rfile.read(size)) | {"key": self.headers["x-api-key"]})
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api/publish", asked
        finally:
            server.shutdown()
            thread.join()


def test_publish() -> None:
    """The key and the command arrive, and the result comes back."""
    with run_api(200, b'{"result": {"offset": 1, "epoch": "e"}}') as (url, asked):
        result = publish(url, "secret", "news", {"a": "é"})

    assert {"offset": 1, "epoch": "e"} == result
    assert [{"channel": "news", "data": {"a": "é"}, "key": "secret"}] == asked


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"", "answered 401: the API key is missing or wrong"),
        (500, b"", "answered 500$"),
        (500, b"[]", "answered 500$"),
        (404, b'{"code": 102, "message": "unknown channel"}', r"answered 404: unknown .* \(102\)$"),
        (200, b"<html>", "answered no JSON"),
        (200, b"[1]", "answered something else"),
        (200, b'{"result": 1}', "answered something else"),
        (200, b'{"error": {"code": 102, "message": "unknown channel"}}', r"unknown channel \(102"),
    ],
)
def test_publish_refused(status: int, body: bytes, told: str) -> None:
    """Whatever a server answers instead is told in a sentence."""
    with run_api(status, body) as (url, _), pytest.raises(WirebellError, match=told):
        publish(url, "", "news", 1)


def test_publish_to_nobody() -> None:
    """A server that is not there is told by its address."""
    with pytest.raises(WirebellError, match=r"http://127\.0\.0\.1:1/ cannot be reached"):
        publish("http://127.0.0.1:1/", "", "news", 1)


class Script:
    """A server that plays one part for each connection, the last one for all that follow."""

    def __init__(self, *parts: object) -> None:
        self.parts = list(parts)
        self.received: list[list[dict[str, object]]] = []

    async def __call__(self, link: ServerConnection) -> None:
        """Send what the part says, and close as it says."""
        part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        first = str(await link.recv())
        self.received.append([json.loads(line) for line in first.split("\n")])
        assert isinstance(part, tuple)
        *messages, close = part
        for message in messages:
            await link.send(message)
        if isinstance(close, int):
            await link.close(close, "because")
        else:
            link.transport.abort()


CONNECTED = '{"id":1,"connect":{"client":"c","ping":25}}'
SUBSCRIBED = '{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":1}}'
RECOVERED = (
    '{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":2,"was_recovering":true,'
    '"recovered":true,"publications":[{"data":"missed","offset":3}]}}'
)


async def tail(script: Script, told: list[str]) -> tuple[list[str], str]:
    """Show what a server sends until it refuses; returns the lines and the refusal."""
    shown: list[str] = []
    async with serve(script, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/connection/websocket"
        with pytest.raises(WirebellError) as caught:
            await asyncio.wait_for(
                Tail(url, "news", GivenTokens(), shown.append, told.append).run(), 20
            )
    return shown, str(caught.value)


async def test_recovery() -> None:
    """After a cut it comes back with its position, and shows what it missed."""
    told: list[str] = []
    live = '{"push":{"channel":"news","pub":{"data":"live","offset":2}}}'
    script = Script(
        (CONNECTED, f"{SUBSCRIBED}\n{live}\n{{}}", "abort"), (CONNECTED, RECOVERED, 3503)
    )

    shown, refusal = await tail(script, told)

    assert ['"live"', '"missed"'] == shown
    assert refusal == "the server said: because (3503)"
    request = script.received[1][1]["subscribe"]
    assert {"channel": "news", "recover": True, "offset": 2, "epoch": "e"} == request
    assert ["connection lost"] == [line.split(";")[0] for line in told]


async def test_a_close_that_says_come_back() -> None:
    """A server that ends tells why, and is asked again."""
    told: list[str] = []

    _, refusal = await tail(Script((3001,), (CONNECTED, 4500)), told)

    assert ["because (3001)"] == [line.split(";")[0] for line in told]
    assert refusal == "the server said: because (4500)"


async def test_an_unsubscribe_that_says_come_back() -> None:
    """A subscriber that lost its place subscribes again, over another link."""
    told: list[str] = []
    end = '{"push":{"channel":"news","unsubscribe":{"code":2500,"reason":"gap"}}}'

    await tail(Script((CONNECTED, SUBSCRIBED, end, 1000), (CONNECTED, RECOVERED, 3503)), told)

    assert ["unsubscribed: gap (2500)"] == [line.split(";")[0] for line in told]


async def test_a_silent_server() -> None:
    """A link on which nothing comes for an interval and its grace is given up."""
    told: list[str] = []
    done = asyncio.Event()

    async def stay_silent(link: ServerConnection) -> None:
        if told:
            await link.close(3500, "enough")
            return
        await link.send('{"id":1,"connect":{"ping":0.1}}')
        await done.wait()

    async with serve(stay_silent, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}"
        with pytest.raises(WirebellError, match="enough"):
            await asyncio.wait_for(
                Tail(url, "x", GivenTokens(), print, told.append, grace_seconds=0.1).run(), 20
            )
        done.set()

    assert ["the server is silent"] == [line.split(";")[0] for line in told]


@pytest.mark.parametrize("message", ["hello", "[]"])
async def test_another_protocol(message: str) -> None:
    """A server that speaks something else is left."""
    _, refusal = await tail(Script((message, 1000)), [])

    assert "does not speak the protocol" in refusal


async def test_an_address_that_is_none() -> None:
    """An address that no client could take ends it."""
    with pytest.raises(WirebellError, match="isn't a valid URI"):
        await Tail("http://x", "x", GivenTokens(), print, print).run()


async def test_nobody_answers() -> None:
    """A server that is not there is asked again, with growing pauses."""
    told: list[str] = []
    enough = asyncio.Event()

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            enough.set()

    task = asyncio.create_task(Tail("ws://127.0.0.1:1/", "x", GivenTokens(), print, tell).run())
    await asyncio.wait_for(enough.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert all("cannot be reached" in line for line in told)
