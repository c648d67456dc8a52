"""ASGI WebSockets as they are deployed: TLS, Unix sockets, proxies, workers, reload, stop."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import servers
from tests.integration.clients import (
    OPCODES,
    complaints,
    connect,
    eventually,
    http,
    raw,
    receive,
    report,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.anyio

APP = "tests.integration.asgi_app:app"
UVLOOP, ASYNCIO, SHORT = "wirebell-uvloop-httptools", "wirebell-asyncio-h11", "wirebell-http"
"""Both loops and all HTTP classes: each of them has a way of its own to one of these features."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Make a self-signed certificate; return the paths of the certificate and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


async def scope_of(server: Server, **options: Any) -> dict[str, Any]:
    """Return the scope that the app got."""
    async with connect(server, "/?do=scope", **options) as ws:
        scope: dict[str, Any] = json.loads(await receive(ws))
        return scope


async def assert_echoes(server: Server) -> None:
    """Check that short and long messages come back, and a polite close is answered."""
    async with connect(server, "/?do=echo") as ws:
        for message in ("x", "y" * 2**20, b"\xff" * 2**20):
            await ws.send(message)
            async with asyncio.timeout(10):
                assert await ws.recv() == message
    assert ws.close_code == 1000


@pytest.fixture(scope="module", params=[UVLOOP, ASYNCIO, SHORT])
def secure(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> Iterator[Server]:
    """Serve the app over TLS."""
    cert, key = certificate
    arguments = ("--ssl-certfile", cert, "--ssl-keyfile", key)
    with servers.serve(APP, str(request.param), arguments=arguments) as server:
        yield server
        assert [] == complaints(server)


async def test_tls_is_wss(secure: Server) -> None:
    """Over TLS the scheme is ``wss``, a mebibyte passes both ways, and closes are clean."""
    scope = await scope_of(secure)
    await assert_echoes(secure)
    async with connect(secure, "/?do=close&code=4001&reason=bye") as ws:
        ended = await until_closed(ws)

    assert secure.ws_url.startswith("wss://")
    assert scope["scheme"] == "wss"
    assert (ended.code, ended.reason) == (4001, "bye")


async def test_tls_bounds_what_waits_for_a_peer(secure: Server) -> None:
    """A flood to a peer that stops reading stalls under TLS too, and ends with the peer."""
    before = secure.resident_bytes()
    # One message may wait in the client; the next stays with the kernel and the server.
    async with connect(secure, "/?do=flood&id=x", max_queue=1) as ws, http(secure) as client:
        sent: list[int] = []

        async def stalled() -> bool:
            sent.append((await client.get("/report/x")).json().get("sent", 0))
            return len(sent) > 25 and sent[-25] == sent[-1] > 0

        await eventually(stalled, "the flood stalls")
        grown = secure.resident_bytes() - before
        ws.transport.abort()

        assert await report(secure, "x", "ended") == "OSError"
    assert sent[-1] < 24 * 2**20
    assert grown < 32 * 2**20


@pytest.mark.parametrize("kind", [UVLOOP, ASYNCIO])
async def test_a_unix_socket_has_no_client_address(kind: str, tmp_path: Path) -> None:
    """Behind a proxy on the same machine there is no address, and all else works."""
    with servers.serve(APP, kind, arguments=("--uds", str(tmp_path / "s"))) as server:
        scope = await scope_of(server)
        await assert_echoes(server)
        async with http(server) as client:
            assert (await client.get("/report/x")).status_code == 200
        assert [] == complaints(server)

    assert scope["client"] is None
    assert scope["path"] == "/"


PROXIED = {"X-Forwarded-For": "203.0.113.7, 198.51.100.2", "X-Forwarded-Proto": "https"}


@pytest.fixture(scope="module", params=[UVLOOP, ASYNCIO, SHORT])
def proxied(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Serve the app for two proxies that are trusted, below a path."""
    arguments = ("--proxy-headers", "--forwarded-allow-ips", "127.0.0.1,198.51.100.2")
    kind = str(request.param)
    with servers.serve(APP, kind, arguments=(*arguments, "--root-path", "/api")) as server:
        yield server


async def test_a_trusted_proxy_names_the_client(proxied: Server) -> None:
    """The last address that is no trusted proxy is the client; the scheme is the outer one."""
    scope = await scope_of(proxied, additional_headers=PROXIED)

    assert scope["client"][0] == "203.0.113.7"
    assert scope["scheme"] == "wss"


async def test_headers_of_anybody_else_are_not_believed(proxied: Server) -> None:
    """From another address they change nothing."""
    address = ("127.0.0.3", 0)
    scope = await scope_of(proxied, additional_headers=PROXIED, local_addr=address)

    assert scope["client"][0] == "127.0.0.3"
    assert scope["scheme"] == "ws"


async def test_a_root_path_stands_before_the_path(proxied: Server) -> None:
    """``--root-path`` is in ``root_path`` and begins ``path`` and ``raw_path`` (ASGI 2.4)."""
    async with connect(proxied, "/a%20b?do=scope") as ws:
        scope = json.loads(await receive(ws))

    assert scope["root_path"] == "/api"
    assert (scope["path"], scope["raw_path"]) == ("/api/a b", "/api/a%20b")


@pytest.mark.parametrize("kind", [UVLOOP, SHORT])
async def test_two_workers_share_the_port_and_both_stop(kind: str) -> None:
    """Sockets land on both processes, and SIGTERM to the leader ends all with 1012."""
    with servers.serve(APP, kind, arguments=("--workers", "2")) as server:
        crowd, pids = [], set()
        for _ in range(200):
            ws = await connect(server, "/?do=pid")
            crowd.append(ws)
            pids.add(int(await receive(ws)))
            if len(pids) == 2:
                break
        endings = [asyncio.create_task(until_closed(ws)) for ws in crowd]
        seconds = await asyncio.to_thread(server.stop)
        codes = {(await ending).code for ending in endings}

    assert len(pids) == 2
    assert server.process.pid not in pids
    assert codes == {1012}
    assert seconds < 12


@pytest.mark.parametrize("kind", [UVLOOP, SHORT])
async def test_reload_drops_sockets_at_once_and_serves_the_new_code(
    kind: str, tmp_path: Path
) -> None:
    """A changed file replaces the process; open sockets do not hold it up."""
    watched = tmp_path / "watched.py"
    watched.write_text("")
    arguments = ("--reload", "--reload-dir", str(tmp_path), "--reload-delay", "0.1")
    with servers.serve(APP, kind, arguments=arguments) as server:
        async with connect(server, "/?do=pid") as ws, raw(server, "/?do=pid") as silent:
            first = await receive(ws)
            assert await silent.read_text() == first
            watched.write_text("changed = True\n")
            ended = await until_closed(ws)
            assert ended.code == 1012
            # The other one answers no close frame, and nobody waits for that.
            assert (await silent.read_frame())[0] == OPCODES["close"]
            async with asyncio.timeout(3):
                assert await silent.reader.read() == b""
        seen: list[str] = []

        async def serves() -> bool:
            try:
                async with connect(server, "/?do=pid") as again:
                    seen.append(await receive(again))
            except (OSError, EOFError):
                return False
            return True

        await eventually(serves, "the new process serves", 20)

    assert seen[-1] != first


async def test_sockets_that_their_app_keeps_cannot_keep_the_process() -> None:
    """Peers that read nothing and answer no close frame have ten seconds, and no more."""
    with servers.serve(APP, UVLOOP) as server:
        async with raw(server, "/?do=disconnect&id=x"), raw(server, "/?do=disconnect&id=y"):
            seconds = await asyncio.to_thread(server.stop)

    assert seconds < 13
