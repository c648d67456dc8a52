"""``wirebell serve`` and the commands beside it, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import WebSocketException

from tests.integration.standalone import (
    SECRET,
    Standalone,
    environment,
    run_command,
    standalone,
)
from wirebell.configuration import load
from wirebell.serve import _compute_end_seconds

# Four workers may take half a minute to start on two busy cores.
pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(300)]

WAIT_SECONDS = 60.0
OPERATORS = ("--health.enabled", "--prometheus.enabled", "--init.enabled")
OPEN = ("--client.allow_anonymous_connect_without_token",)
QUICK = ("--drain_window_seconds=0", "--close_timeout_seconds=1")
PATHS = ("/health", "/ready", "/metrics", "/connection/init")


def wait_until(condition: Callable[[], bool], text: str) -> None:
    """Wait for what comes as soon as it can."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, text
        time.sleep(0.03)


async def greet(link: ClientConnection) -> dict[str, object]:
    """Connect as a client of the protocol."""
    await link.send('{"id":1,"connect":{}}')
    reply: dict[str, object] = json.loads(await asyncio.wait_for(link.recv(), WAIT_SECONDS))
    return reply


def read_samples(text: str) -> dict[str, float]:
    """Read Prometheus' format."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_what_operators_ask_is_off(tmp_path: Path) -> None:
    """Without being switched on, nothing answers but the transports and the API."""
    with standalone(tmp_path, *QUICK) as server:
        statuses = [server.get(path)[0] for path in (*PATHS, "/docs", "/openapi.json", "/")]

    assert [404] * 7 == statuses


def test_what_operators_ask(tmp_path: Path) -> None:
    """Health, readiness and metrics are told when they are on, and a stop is a success."""
    pid_path = tmp_path / "wirebell.pid"
    with standalone(tmp_path, *OPERATORS, *QUICK, f"--pid_file={pid_path}") as server:
        answers = [server.get(path) for path in PATHS]
        pid = pid_path.read_text()
        status = server.stop()

    assert [(200, "{}"), (200, "{}"), (200, "{}")] == [*answers[:2], answers[3]]
    assert read_samples(answers[2][1])["wirebell_workers_count"] == 1.0
    assert (f"{server.process.pid}\n", 0) == (pid, status)
    assert not pid_path.exists()


@pytest.mark.parametrize(("timeout", "seconds"), [("30s", 12), ("5s", 5), ("1500ms", 2)])
def test_the_end_has_its_time(timeout: str, seconds: int) -> None:
    """A process ends within the time that it was given, whatever its connections take."""
    assert seconds == _compute_end_seconds(load(None, {}, {"shutdown.timeout": timeout}))


def test_the_server_api_leaves_others_their_paths(tmp_path: Path) -> None:
    """It answers everything below its path but what has a key of its own."""
    arguments = ("--health.enabled", "--health.handler_prefix=/api/health", *QUICK)
    with standalone(tmp_path, *arguments) as server:
        statuses = [server.get(path)[0] for path in ("/api/health", "/api/nothing")]

    assert [200, 404] == statuses


def test_the_init_answer_is_for_allowed_pages(tmp_path: Path) -> None:
    """The first request is answered to pages whose Origin may connect, with their cookies."""
    arguments = (*OPERATORS, *QUICK, "--client.allowed_origins", "https://app.example")
    with standalone(tmp_path, *arguments) as server:
        headers = []
        for origin in ("https://app.example", "https://other.example"):
            request = urllib.request.Request(  # noqa: S310 - ours
                f"{server.address}/connection/init", headers={"origin": origin}
            )
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                headers.append(response.headers["access-control-allow-origin"])

    assert ["https://app.example", None] == headers


def test_paths_can_be_moved(tmp_path: Path) -> None:
    """What operators ask is where its key says."""
    arguments = (
        *OPERATORS,
        *QUICK,
        "--health.handler_prefix=/alive",
        "--health.ready_handler_prefix=/able",
        "--prometheus.handler_prefix=/internal/metrics",
    )
    with standalone(tmp_path, *arguments) as server:
        paths = ("/alive", "/able", "/internal/metrics", "/health")
        statuses = [server.get(path)[0] for path in paths]

    assert [200, 200, 200, 404] == statuses


async def test_one_answer_for_all_workers(tmp_path: Path) -> None:
    """Whichever worker is scraped, it tells the sum of all; what ended ones counted stays."""
    folder = tmp_path / "t"
    folder.mkdir()
    broker = f"--broker_url=sqlite:///{tmp_path}/broker.db"
    arguments = (*OPERATORS, *OPEN, *QUICK, "--workers", "4", broker)
    with standalone(tmp_path, *arguments, env={"TMPDIR": str(folder)}) as server:
        wait_until(lambda: server.metrics()["wirebell_workers_count"] == 4, server.log())
        async with contextlib.AsyncExitStack() as stack:
            url = server.address.replace("http", "ws") + "/connection/websocket"
            for _ in range(12):
                link = await stack.enter_async_context(connect(url, proxy=None))
                assert "connect" in await greet(link)
            scrapes = [server.metrics() for _ in range(12)]
        wait_until(lambda: server.metrics()["wirebell_connections_count"] == 0, server.log())
        ended = server.children()[0]
        os.kill(ended, signal.SIGTERM)
        wait_until(lambda: ended not in server.children(), server.log())
        wait_until(lambda: server.metrics()["wirebell_workers_count"] == 4, server.log())
        after = server.metrics()

    assert {(4.0, 12.0, 12.0)} == {
        (
            scrape["wirebell_workers_count"],
            scrape["wirebell_connections_count"],
            scrape["wirebell_connects_total"],
        )
        for scrape in scrapes
    }
    assert (12.0, 4.0) == (after["wirebell_connects_total"], after["wirebell_accepting_count"])
    assert [] == list(folder.iterdir())


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """A worker that was killed is not asked any more, and its successor is."""
    long = tmp_path / ("long" * 25)
    long.mkdir()
    # Nobody publishes here, so each worker may be for itself.
    env = {"TMPDIR": str(long), "WIREBELL_MEMORY_ALLOWS_WORKERS": "1"}
    arguments = (*OPERATORS, *QUICK, "--workers", "2")
    with standalone(tmp_path, *arguments, env=env) as server:
        wait_until(lambda: server.metrics()["wirebell_workers_count"] == 2, server.log())
        killed = server.children()[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in server.children(), server.log())
        wait_until(lambda: server.metrics()["wirebell_workers_count"] == 2, server.log())


async def test_a_unix_socket(tmp_path: Path) -> None:
    """A server may listen on a Unix socket; one that somebody left behind is taken over."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    arguments = (*OPEN, *QUICK, "--unix-socket", str(path))
    with standalone(tmp_path, *arguments) as server:
        async with unix_connect(str(path), "ws://localhost/connection/websocket") as link:
            reply = await greet(link)
        second = run_command("serve", "--unix-socket", str(path))

    assert "connect" in reply
    assert (str(path), 1) == (server.address, second.returncode)
    assert f"{path} is in use: another process answers there" in second.stderr
    assert not path.exists()


def test_a_unix_socket_that_cannot_be(tmp_path: Path) -> None:
    """A path in a folder that is not there is told in a line."""
    result = run_command("serve", "--unix-socket", str(tmp_path / "missing" / "s"))

    assert 1 == result.returncode
    assert "cannot be had: No such file or directory" in result.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate that signs itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def tls_arguments(certificate: Path) -> tuple[str, ...]:
    """Switch TLS on."""
    section = "--http_server.tls"
    return (
        f"{section}.enabled",
        f"{section}.cert_pem={certificate}",
        f"{section}.key_pem={certificate}",
    )


async def test_tls(tmp_path: Path, certificate: Path) -> None:
    """With certificate and key the server speaks TLS, over which sockets work."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with standalone(tmp_path, *OPEN, *QUICK, *tls_arguments(certificate)) as server:
        url = server.address.replace("https", "wss") + "/connection/websocket"
        async with connect(url, ssl=context, proxy=None) as link:
            reply = await greet(link)

    assert "connect" in reply


async def test_tls_that_asks_for_certificates(tmp_path: Path, certificate: Path) -> None:
    """Peers without a certificate of the named authority are turned away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    arguments = (*tls_arguments(certificate), f"--http_server.tls.client_ca_pem={certificate}")
    with standalone(tmp_path, *OPEN, *QUICK, *arguments) as server:
        url = server.address.replace("https", "wss") + "/connection/websocket"
        with pytest.raises((OSError, EOFError, WebSocketException)):
            async with connect(url, ssl=context, proxy=None) as link:
                await greet(link)
        context.load_cert_chain(certificate)
        async with connect(url, ssl=context, proxy=None) as link:
            reply = await greet(link)

    assert "connect" in reply


def test_a_certificate_of_another_key(tmp_path: Path, certificate: Path) -> None:
    """Certificate and key that do not belong together are told by ``check-config``."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "other.pem"
    path.write_bytes(key)
    good = run_command("check-config", *tls_arguments(certificate))
    bad = run_command(
        "check-config", *tls_arguments(certificate)[:2], f"--http_server.tls.key_pem={path}"
    )

    assert (0, 1) == (good.returncode, bad.returncode)
    assert "wirebell check-config: " in bad.stderr
    assert "Traceback" not in bad.stderr


def test_what_somebody_should_look_at_is_logged(tmp_path: Path) -> None:
    """Insecure modes, and keys without effect, are told at every start, in the configured file."""
    log_path = tmp_path / "wirebell.log"
    arguments = ("--client.insecure", "--http_api.insecure", "--admin.enabled")
    with standalone(tmp_path, *arguments, *QUICK, f"--log.file={log_path}"):
        log = log_path.read_text()

    assert "INSECURE: client.insecure is on" in log
    assert "INSECURE: http_api.insecure is on" in log
    assert "--admin.enabled: not there yet, ignored" in log


def test_a_busy_port(tmp_path: Path) -> None:
    """A port that somebody else has ends the command in a line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        result = run_command("serve", "--host", "127.0.0.1", "--port", port)

    assert 1 == result.returncode
    assert "wirebell serve: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Standalone, Path]]:
    """Run a server with a channel that has a history; yields it with its configuration."""
    folder = tmp_path_factory.mktemp("news")
    path = folder / "wirebell.yaml"
    path.write_text(
        f"""
client:
  token: {{hmac_secret_key: {SECRET}}}
http_api: {{key: key-for-tests}}
channel:
  namespaces:
    - {{name: news, history_size: 10, history_ttl: 60s, force_recovery: true}}
"""
    )
    with standalone(folder, "-c", str(path), *QUICK) as server:
        yield server, path


def test_publish_and_subscribe(news: tuple[Standalone, Path], tmp_path: Path) -> None:
    """What is published in one terminal shows in another, which Ctrl+C ends without a word."""
    server, path = news
    common = ("-c", str(path), "--url", server.address)
    output = tmp_path / "shown.txt"
    first = run_command("publish", "news:a", '{"number": 1}', *common)
    with output.open("wb") as file:
        tail = subprocess.Popen(
            [sys.executable, "-m", "wirebell", "subscribe", "news:a", *common],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment({}),
            # A run in the background ignores it, and so would the child.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            results = []

            def shows_two() -> bool:
                results.append(run_command("publish", "news:a", "two", "--text", *common))
                return '"two"' in output.read_text()

            wait_until(shows_two, "nothing is shown")
            tail.send_signal(signal.SIGINT)
            status = tail.wait(WAIT_SECONDS)
        finally:
            tail.kill()
            tail.wait()

    assert (0, 0) == (first.returncode, status), first.stderr
    assert json.loads(first.stdout)["offset"] == 1
    assert {'"two"'} == set(output.read_text().splitlines())


def test_publish_with_a_wrong_key(news: tuple[Standalone, Path]) -> None:
    """Without the key nothing is published, and that is what is told."""
    server, path = news

    result = run_command(
        "publish", "news:a", "1", "-c", str(path), "--url", server.address, "--key", "wrong"
    )

    assert 1 == result.returncode
    assert "the API key is missing or wrong" in result.stderr


def test_subscribe_without_permission(news: tuple[Standalone, Path]) -> None:
    """A server that lets nobody in says so, and is not asked again."""
    server, _ = news

    result = run_command("subscribe", "news:a", "--url", server.address)

    assert 1 == result.returncode
    assert "wirebell subscribe: the server said: " in result.stderr


def test_tokens_of_a_key_set(tmp_path: Path) -> None:
    """A token whose key stands in a key set is checked with the set."""
    private = Ed25519PrivateKey.generate()
    key = json.loads(OKPAlgorithm.to_jwk(private.public_key())) | {"kid": "a"}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [key]}))
    token = jwt.encode({"sub": "42"}, private, "EdDSA", {"kid": "a"})
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/keys.json"
        command = ("check-token", token, f"--client.token.jwks_public_endpoint={url}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        good = run_command(*command)
        server.shutdown()
        thread.join()
    bad = run_command(*command)

    assert (0, 1) == (good.returncode, bad.returncode), good.stderr
    assert {"user_id": "42"} == json.loads(good.stdout)
    assert f"wirebell check-token: {url} cannot be fetched" in bad.stderr
