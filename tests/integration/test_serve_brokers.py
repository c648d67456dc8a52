"""``wirebell serve`` with the brokers of its configuration, as processes."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.integration.standalone import Standalone, run_command, standalone
from tests.services import redis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KEY = "key"
QUICK = ("--drain_window_seconds=0", "--close_timeout_seconds=1")
CHANNELS = {
    "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE": "10",
    "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL": "1m",
    "CENTRIFUGO_HTTP_API_KEY": KEY,
    "CENTRIFUGO_HEALTH_ENABLED": "true",
}


def ask(server: Standalone, method: str, **body: Any) -> Any:
    """Call the server API, and return its whole answer."""
    request = urllib.request.Request(  # noqa: S310 - ours
        f"{server.address}/api/{method}",
        json.dumps(body).encode(),
        {"X-API-Key": KEY, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return json.loads(response.read())


def call(server: Standalone, method: str, **body: Any) -> Any:
    """Call the server API."""
    return ask(server, method, **body)["result"]


def wait_ready(server: Standalone, status: int) -> str:
    """Wait until ``/ready`` answers so, and return what it says."""
    deadline = time.monotonic() + 20
    while (answer := server.get("/ready"))[0] != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    return answer[1]


def receive(link: ClientConnection, count: int) -> list[Any]:
    """Return what a client is pushed."""
    pushes: list[Any] = []
    while len(pushes) < count:
        messages = [json.loads(line) for line in str(link.recv(timeout=20)).splitlines()]
        pushes += [message["push"] for message in messages if "push" in message]
    return pushes


def test_an_environment_of_the_reference_joins_nodes(tmp_path: Path) -> None:
    """Two nodes with a Centrifugo's variables share a Redis, and none of its names."""
    with redis.single(password="hidden") as server:
        env = CHANNELS | {
            "CENTRIFUGO_ENGINE_TYPE": "redis",
            "CENTRIFUGO_ENGINE_REDIS_ADDRESS": f"127.0.0.1:{server.port}",
            "CENTRIFUGO_ENGINE_REDIS_PASSWORD": "hidden",
            "CENTRIFUGO_ENGINE_REDIS_PREFIX": "shop",
        }
        arguments = ("--env-prefix", "CENTRIFUGO", *QUICK)
        with (
            standalone(tmp_path, *arguments, env=env) as one,
            standalone(tmp_path, *arguments, env=env) as two,
        ):
            published = call(one, "publish", channel="news", data={"n": 1})
            history = call(two, "history", channel="news", limit=10)
            nodes = call(two, "info")["nodes"]
            statuses = [one.get("/ready")[0], two.get("/ready")[0]]
        names = server.command("KEYS", "*")

    assert ([{"n": 1}], published["epoch"]) == (
        [item["data"] for item in history["publications"]],
        history["epoch"],
    )
    assert len({node["name"] for node in nodes}) == 2
    assert [200, 200] == statuses
    assert names
    assert all(name.startswith(b"shop-wirebell") for name in names)


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    """Operators and callers are told within a bound, clients stay, and all goes on by itself."""
    arguments = (
        *("--engine.type=redis", "--engine.redis.io_timeout=1s", "--prometheus.enabled"),
        "--channel.without_namespace.force_recovery",
        "--channel.without_namespace.allow_subscribe_for_client",
        "--channel.without_namespace.allow_subscribe_for_anonymous",
        "--client.allow_anonymous_connect_without_token",
    )
    with redis.single(keeps_data=True) as server:
        env = CHANNELS | {"CENTRIFUGO_ENGINE_REDIS_ADDRESS": f"127.0.0.1:{server.port}"}
        with standalone(tmp_path, "--env-prefix=CENTRIFUGO", *arguments, *QUICK, env=env) as node:
            url = node.address.replace("http", "ws") + "/connection/websocket"
            with connect(url, proxy=None) as link:
                link.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news"}}')
                while '"id":2' not in str(link.recv(timeout=20)):
                    pass
                first = call(node, "publish", channel="news", data=1)
                server.kill()
                reason = wait_ready(node, 503)
                began = time.monotonic()
                refused = ask(node, "publish", channel="news", data=2)
                took = time.monotonic() - began
                away = node.metrics()
                server.start()
                wait_ready(node, 200)
                second = call(node, "publish", channel="news", data=3)
                pushes = receive(link, 2)
                back = node.metrics()

    assert {"status": "the broker does not answer"} == json.loads(reason)
    assert (100, True) == (refused["error"]["code"], refused["error"]["temporary"])
    assert took < 3
    assert (0.0, 1.0) == (away["wirebell_broker_up"], away["wirebell_publish_failures_total"])
    assert (1.0, 1.0) == (back["wirebell_broker_up"], back["wirebell_broker_reconnects_total"])
    assert (first["epoch"], 2) == (second["epoch"], second["offset"])
    assert [1, 3] == [push["pub"]["data"] for push in pushes]
    assert 0.0 == back["wirebell_gaps_total"]


def test_presence_beside_the_broker(tmp_path: Path) -> None:
    """A broker of files and presence in Redis start together, by keys of the tree."""
    with redis.single() as server:
        arguments = (
            *("--broker.enabled", "--broker.type=sqlite"),
            f"--broker.sqlite.path={tmp_path / 'broker.db'}",
            *("--presence_manager.enabled", "--presence_manager.type=redis"),
            f"--presence_manager.redis.address=redis://127.0.0.1:{server.port}",
            *("--channel.without_namespace.presence", "--health.enabled", "--http_api.key=key"),
        )
        with standalone(tmp_path, *arguments, *QUICK) as node:
            presence = call(node, "presence", channel="news")
            status = node.get("/ready")[0]

    assert ({"presence": {}}, 200) == (presence, status)
    assert (tmp_path / "broker.db").exists()


def test_what_redis_refuses_is_told_in_one_line() -> None:
    """A wrong password ends the command before it serves, and is not shown."""
    with redis.single(password="hidden") as server:
        result = run_command(
            "serve", "--port=0", "--engine.type=redis", "--engine.redis.password=mistaken",
            f"--engine.redis.address=127.0.0.1:{server.port}",
        )  # fmt: skip

    assert result.returncode != 0
    assert "password" in result.stderr
    assert "mistaken" not in result.stderr
    assert "Traceback" not in result.stderr
