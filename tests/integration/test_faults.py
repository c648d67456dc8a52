"""Broken clients and broken links: healthy clients lose nothing, and what is broken is forgotten.

The same faults at full size, with latencies, are `benchmarks/faults.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import (
    OPCODES,
    Raw,
    complaints,
    eventually,
    http,
    open_connections,
    our_failures,
    raw,
    samples,
)
from tests.integration.test_engine_load import abort, open_many
from tests.integration.test_serving import UPGRADE, Crowd, count_descriptors, events, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.slow

APP = "tests.integration.attach_app:app"
KIND = "wirebell-http"
GONE_SECONDS = 30.0
"""Bound of every wait that ends as soon as it can."""


@pytest.mark.anyio
async def test_readers_that_never_read_are_cut() -> None:
    """Five of 45 never read: they are cut and forgotten, and 40 others hear everything in order."""
    env = {
        "WIREBELL_SEND_QUEUE_BYTES_MAX": "262144",
        "WIREBELL_CLOSE_TIMEOUT_SECONDS": "1",
        "WIREBELL_DRAIN_WINDOW_SECONDS": "0",
    }
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(servers.serve(APP, KIND, env=env, path="/realtime/health"))
        client = await stack.enter_async_context(http(server))
        healthy = await open_many(server, 40)
        for _ in range(5):
            stuck = raw(server, "/listen/x", receive_buffer_bytes=4_096)
            (await stack.enter_async_context(stuck)).writer.transport.pause_reading()  # type: ignore[attr-defined]
        heard: list[str] = []

        async def is_over() -> bool:
            reading = [read_numbers(ws, 5) for ws in healthy]
            burst = client.post("/burst/x", params={"count": 5, "size": 40_000})
            texts, _ = await asyncio.gather(asyncio.gather(*reading), burst)
            heard.extend(texts)
            return await open_connections(client) == len(healthy)

        await eventually(is_over, "the five are gone", GONE_SECONDS)
        cut = (await samples(client))['wirebell_disconnects_total{code="3008"}']
        abort(healthy)

    assert 5 == cut
    assert {"01234"} == set(heard)


async def read_numbers(ws: Raw, count: int) -> str:
    """Read texts, and join their numbers of one digit."""
    return "".join([(await ws.read_text())[0] for _ in range(count)])


ENDINGS = {"text": b"not taken here", "close": (1000).to_bytes(2, "big")}
"""Opcode → payload of a frame after which a socket that takes no messages ends."""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "opcode"),
    [
        (kind, opcode)
        for kind in servers.STOCK_KINDS
        for opcode in ENDINGS
        # Reports a peer's close frame only when its own time for the link is over, 20 s later.
        if (kind, opcode) != ("uvicorn-websockets", "close")
    ],
)
async def test_a_reader_that_uvicorn_did_not_pause_is_cut(kind: str, opcode: str) -> None:
    """Who ends with less in uvicorn's hands than makes it wait is gone in time, whoever began."""
    env = {"WIREBELL_CLOSE_TIMEOUT_SECONDS": "0.5"}
    with servers.serve(APP, kind, env=env, path="/realtime/health") as server:
        async with (
            http(server) as client,
            raw(server, "/listen/x", receive_buffer_bytes=4_096) as ws,
        ):
            port = ws.writer.get_extra_info("sockname")[1]
            ws.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.post("/burst/x", params={"count": 75, "size": 20_000})
            seen = [-1, count_unsent_bytes(server, port)]
            # Until the kernel takes no more; that is below the 64 KiB from which on uvicorn waits.
            while seen[-1] > seen[-2]:
                await client.post("/burst/x", params={"count": 1, "size": 20_000})
                seen.append(count_unsent_bytes(server, port))
            ws.send(ws.frame(OPCODES[opcode], ENDINGS[opcode]))

            async def is_gone() -> bool:
                return str(port) not in (await client.get("/sockets")).json()

            await eventually(is_gone, "the link is dropped")
            left_count = await open_connections(client)

    assert 0 == left_count


def count_unsent_bytes(server: Server, port: int) -> int:
    """Return what the server's kernel holds for the peer at ``port``, as Linux tells it."""
    with open("/proc/net/tcp") as table:
        for line in table:
            words = line.split()
            if words[1].endswith(f":{server.port:04X}") and words[2].endswith(f":{port:04X}"):
                return int(words[4].split(":")[0], 16)
    raise AssertionError(f"no link from port {port}")


@pytest.mark.anyio
async def test_a_flood_of_garbage_harms_nobody() -> None:
    """Random bytes as requests, as frames and as half handshakes: nothing is left of them."""
    env = {"WIREBELL_REQUEST_TIMEOUT_SECONDS": "0.5", "WIREBELL_DRAIN_WINDOW_SECONDS": "0"}
    with servers.serve(APP, KIND, env=env, path="/realtime/health") as server:
        healthy = await open_many(server, 20)
        async with http(server) as client:
            # The client keeps its own link, which counts as well.
            assert await open_connections(client) == len(healthy)
            descriptors = server.descriptors()
            flood = asyncio.create_task(send_garbage(server, random.Random(4)))  # noqa: S311
            published_count = 0
            while not flood.done():
                for _ in range(20):
                    await client.post("/publish/x", params={"text": str(published_count)})
                    published_count += 1
            sent_count = await flood
            heard = [[await ws.read_text() for _ in range(published_count)] for ws in healthy]

            async def is_over() -> bool:
                return server.descriptors() <= descriptors

            await eventually(is_over, "nothing of the garbage is left", GONE_SECONDS)
            left_count = await open_connections(client) - len(healthy)
        abort(healthy)
        failures, loose_ends = our_failures(server), complaints(server)

    assert 200 == sent_count
    assert [[str(number) for number in range(published_count)]] * 20 == heard
    assert 0 == left_count
    assert 0 == failures
    assert [] == loose_ends


async def send_garbage(server: Server, dice: random.Random) -> int:
    """Open 200 connections, a hundred at a time, and stay until the server ends them."""

    async def one(kind: int) -> int:
        data = (
            dice.randbytes(dice.randrange(1, 2_000)),
            UPGRADE.replace(b"GET / ", b"GET /sync ") + dice.randbytes(dice.randrange(2, 500)),
            UPGRADE[: dice.randrange(1, len(UPGRADE) - 1)],
        )[kind]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        # Random bytes may be the beginning of a long frame: then nobody owes an answer.
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(GONE_SECONDS if kind == 2 else 0.3):
                await reader.read()
        writer.transport.abort()
        return 1

    count = 0
    for _ in range(2):
        count += sum(await asyncio.gather(*(one(number % 3) for number in range(100))))
    return count


def test_a_server_without_descriptors_serves_whom_it_has() -> None:
    """Who is served does not notice that others wait, and they get in when some have left."""
    with serving(descriptors=256) as process:
        healthy = [process.open_socket() for _ in range(20)]
        crowd = Crowd(process.address, 300)
        try:
            crowd.settle(0.5)
            warnings = events(process, "file descriptors that the system")
            used, waiting_count = count_descriptors(process.popen.pid), len(crowd.waiting)
            echoes = [echo(sock, number) for _ in range(50) for number, sock in enumerate(healthy)]
            while crowd.waiting:
                before = len(crowd.waiting)
                crowd.leave(100)
                crowd.settle(0.3)
                assert len(crowd.waiting) < before
            late = [echo(sock, number) for number, sock in enumerate(healthy)]
        finally:
            crowd.close()

    assert used < 256
    assert waiting_count > 50
    assert [bytes([65 + number]) for _ in range(50) for number in range(20)] == echoes
    assert [bytes([65 + number]) for number in range(20)] == late
    assert [] == crowd.failures
    assert 1 == len(warnings)
    assert "Traceback" not in process.log()


def echo(sock: socket.socket, number: int) -> bytes:
    """Send a letter, masked with zeros, and return the payload of what comes back."""
    sock.sendall(b"\x81\x81\0\0\0\0" + bytes([65 + number]))
    return sock.recv(4_096).removeprefix(b"\x81\x01")


@pytest.mark.anyio
async def test_sigterm_under_load_closes_everybody_in_turn() -> None:
    """150 read whole, numbered texts until 1012, spread over the window, and the process ends."""
    window = 1.5
    env = {"WIREBELL_DRAIN_WINDOW_SECONDS": str(window)}
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(servers.serve(APP, KIND, env=env, path="/realtime/health"))
        listeners = await open_many(server, 150)
        publisher = await stack.enter_async_context(raw(server, "/room/x"))
        crowd = [*listeners, publisher]
        closed_at: list[float] = []

        async def read(ws: Raw) -> int | None:
            code = await ws.read_until_end()
            closed_at.append(time.monotonic())
            return code

        reading = [asyncio.create_task(read(ws)) for ws in crowd]
        pouring = asyncio.create_task(pour(publisher))

        async def flows() -> bool:
            return len(listeners[0].frames) > 10

        await eventually(flows, "the flow has begun")
        server.process.send_signal(signal.SIGTERM)
        codes = {await each for each in reading}
        pouring.cancel()
        status = await asyncio.to_thread(server.process.wait, GONE_SECONDS)
        texts = [[data for code, data in ws.frames if code == OPCODES["text"]] for ws in crowd]
        last_opcodes = {ws.frames[-1][0] for ws in crowd}
        abort(crowd)
        failures = our_failures(server)

    assert {1012} == codes
    assert status in {0, -signal.SIGTERM}
    assert {OPCODES["close"]} == last_opcodes
    for read_texts in texts:
        assert list(range(len(read_texts))) == [int(text) for text in read_texts]
    assert max(closed_at) - min(closed_at) > window / 2
    assert 0 == failures


async def pour(ws: Raw) -> None:
    """Publish rising numbers, a hundred a second."""
    for number in itertools.count():
        ws.send(ws.frame(OPCODES["text"], str(number).encode()))
        await asyncio.sleep(0.01)  # the rate


CLONE_NEWNET = 0x40000000
NEAR_ADDRESS, FAR_ADDRESS = "10.113.0.1", "10.113.0.2"


def run_ip(*words: str) -> None:
    """Change the network as an administrator does."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=GONE_SECONDS)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Make two network namespaces with a link between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip(8)")
    names = near, far = f"wbtest{os.getpid()}a", f"wbtest{os.getpid()}b"
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                run_ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
            stack.callback(run_ip, "netns", "del", name)
            run_ip("-n", name, "link", "set", "lo", "up")
        run_ip(
            "-n", near, "link", "add", "wb0", "type", "veth", "peer", "name", "wb1", "netns", far
        )
        for name, end, address in ((near, "wb0", NEAR_ADDRESS), (far, "wb1", FAR_ADDRESS)):
            run_ip("-n", name, "addr", "add", f"{address}/30", "dev", end)
            run_ip("-n", name, "link", "set", end, "up")
        yield names


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have sockets and processes of this thread begin in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@pytest.mark.parametrize(
    ("path", "env"),
    [
        pytest.param(
            "/listen/x",
            {"WIREBELL_TCP_USER_TIMEOUT_SECONDS": "1", "WIREBELL_PING_INTERVAL_SECONDS": "300"},
            id="while publications flow",
        ),
        pytest.param(
            "/sync",
            {
                "WIREBELL_TCP_USER_TIMEOUT_SECONDS": "300",
                "WIREBELL_PING_INTERVAL_SECONDS": "1",
                "WIREBELL_PONG_TIMEOUT_SECONDS": "0.5",
            },
            id="idle",
        ),
    ],
)
def test_a_peer_that_vanishes_is_forgotten(
    namespaces: tuple[str, str], path: str, env: dict[str, str]
) -> None:
    """A cut link leaves no FIN: the server drops such peers by itself, and others hear all."""
    near, far = namespaces
    env = {**env, "WIREBELL_DRAIN_WINDOW_SECONDS": "0"}
    listens = ("--host", "0.0.0.0")  # noqa: S104 - of a namespace that nobody else is in
    with contextlib.ExitStack() as stack:
        stack.enter_context(inside(near))
        server = stack.enter_context(
            servers.serve(APP, KIND, env=env, path="/realtime/health", arguments=listens)
        )
        healthy = stack.enter_context(open_socket("127.0.0.1", server.port, "/room/x"))
        with inside(far):
            vanishing = [
                stack.enter_context(open_socket(NEAR_ADDRESS, server.port, path)) for _ in range(3)
            ]
        assert 4 == count_connections(server)
        run_ip("-n", far, "link", "set", "wb1", "down")
        deadline = time.monotonic() + GONE_SECONDS
        sent_count = 0
        while count_connections(server) > 1 and time.monotonic() < deadline:
            assert f"{sent_count:05d}" == hear(healthy, f"{sent_count:05d}")
            sent_count += 1
        left_count = count_connections(server) - 1

    assert 3 == len(vanishing)
    assert 0 == left_count
    assert sent_count > 0


def open_socket(host: str, port: int, path: str) -> socket.socket:
    """Open a WebSocket."""
    sock = socket.create_connection((host, port), timeout=GONE_SECONDS)
    sock.sendall(UPGRADE.replace(b"GET / ", f"GET {path} ".encode()))
    assert sock.recv(4_096).startswith(b"HTTP/1.1 101 ")
    return sock


def hear(sock: socket.socket, text: str) -> str:
    """Publish a text of five letters, and return the next that comes; pings are answered."""
    sock.sendall(b"\x81\x85\0\0\0\0" + text.encode())
    data = b""
    while len(data) < 7:
        data += sock.recv(7 - len(data))
        while data.startswith(b"\x89\x00"):
            sock.sendall(b"\x8a\x80\0\0\0\0")
            data = data[2:]
    assert data.startswith(b"\x81\x05")
    return data[2:].decode()


def count_connections(server: Server) -> int:
    """Ask the server how many connections it has."""
    with urllib.request.urlopen(f"{server.url}/realtime/metrics", timeout=GONE_SECONDS) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return next(
        int(float(line.split()[1]))
        for line in lines
        if line.startswith("wirebell_connections_count ")
    )
