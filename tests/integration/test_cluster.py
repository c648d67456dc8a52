"""Several workers that share a broker: what is asked of one is done by all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.integration.standalone import SECRET, Standalone, standalone

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(300)]

KEY = "key-of-tests"
WAIT_SECONDS = 30.0
WORKERS = 3
CONFIGURATION = {
    "node": {"name": "web"},
    "http_api": {"key": KEY},
    "health": {"enabled": True},
    "prometheus": {"enabled": True},
    "http_stream": {"enabled": True},
    "client": {
        "allow_anonymous_connect_without_token": True,
        "token": {"hmac_secret_key": SECRET},
    },
    "channel": {
        "without_namespace": {
            "allow_subscribe_for_client": True,
            "allow_subscribe_for_anonymous": True,
            "presence": True,
            "allow_presence_for_subscriber": True,
            "history_size": 100,
            "history_ttl": "60s",
            "force_recovery": True,
        }
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """Run workers over a database of SQLite."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "config.json").write_text(json.dumps(CONFIGURATION))
    arguments = (
        f"--config={folder / 'config.json'}",
        f"--workers={WORKERS}",
        "--drain_window_seconds=0",
        "--close_timeout_seconds=1",
    )
    env = {"WIREBELL_BROKER_URL": f"sqlite:///{folder / 'broker.db'}"}
    with standalone(folder, *arguments, env=env) as running:
        asyncio.run(wait_nodes(running, WORKERS))
        yield running


def token(user: str, **claims: object) -> str:
    """Sign a connection token."""
    return jwt.encode({"sub": user, "iat": int(time.time()), **claims}, SECRET, "HS256")


async def ask_api(server: Standalone, method: str, **body: object) -> dict[str, Any]:
    """Give an order to whichever worker takes the request; return its whole answer."""
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        answer = await client.post(
            f"{server.address}/api/{method}", json=body, headers={"X-API-Key": KEY}
        )
    assert 200 == answer.status_code
    return dict(answer.json())


async def order(server: Standalone, method: str, **body: object) -> dict[str, Any]:
    """Give an order, and return its result."""
    answer = await ask_api(server, method, **body)
    assert "error" not in answer, answer
    return dict(answer["result"])


async def nodes(server: Standalone) -> list[dict[str, Any]]:
    """Return the nodes that live, as one of them sees it."""
    found = (await order(server, "info"))["nodes"]
    return [node for node in found if not node.get("silent")]


async def wait_nodes(server: Standalone, count: int) -> None:
    """Wait until each worker sees so many nodes."""
    deadline = time.monotonic() + WAIT_SECONDS
    seen = 0
    while seen < 3 * WORKERS:
        seen = seen + 1 if len(await nodes(server)) == count else 0
        assert time.monotonic() < deadline, await nodes(server)
        await asyncio.sleep(0.05)


async def ask(link: ClientConnection, **command: object) -> dict[str, Any]:
    """Send a command and return its reply."""
    await link.send(json.dumps({"id": 1, **command}))
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            for line in str(await link.recv()).splitlines():
                message: dict[str, Any] = json.loads(line)
                if message.get("id") == 1:
                    return message


async def receive_closed(link: ClientConnection) -> tuple[int, str] | None:
    """Wait for the end, and return how; ``None`` when the link ended without a word."""
    async with asyncio.timeout(WAIT_SECONDS):
        try:
            while True:
                await link.recv()
        except ConnectionClosed as error:
            return None if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


def link_to(server: Standalone) -> connect:
    """Prepare a client's link."""
    url = server.address.replace("http", "ws") + "/connection/websocket"
    return connect(url, compression=None, proxy=None, open_timeout=WAIT_SECONDS)


@contextlib.asynccontextmanager
async def clients(
    server: Standalone, user: str, channel: str = "", *, credentials: str = ""
) -> AsyncIterator[list[ClientConnection]]:
    """Connect a user until at least two workers have one of its clients."""
    async with contextlib.AsyncExitStack() as stack:
        before = {node["uid"]: node.get("num_clients", 0) for node in await nodes(server)}
        links: list[ClientConnection] = []
        while True:
            link = await stack.enter_async_context(link_to(server))
            reply = await ask(link, connect={"token": credentials or token(user)})
            assert "connect" in reply, reply
            if channel:
                await ask(link, subscribe={"channel": channel})
            links.append(link)
            now = {node["uid"]: node.get("num_clients", 0) for node in await nodes(server)}
            if len(links) >= 6 and sum(now[uid] > before.get(uid, 0) for uid in now) >= 2:
                break
            assert len(links) < 100, "every link comes to the same worker"
        yield links


async def test_info_channels_and_connections(server: Standalone) -> None:
    """Whichever worker is asked tells of all nodes, all channels and all connections."""
    async with clients(server, "ann", "room") as links:
        count = len(links)
        for _ in range(2 * WORKERS):
            found = await nodes(server)
            assert (WORKERS, count) == (
                len(found),
                sum(node.get("num_clients", 0) for node in found),
            )
            assert {"room": {"num_clients": count}} == (await order(server, "channels"))["channels"]
        # Workers share the configured name, and each has its process id behind it.
        found = await nodes(server)
        assert {f"web_{child}" for child in server.children()} == {each["name"] for each in found}
        listed: list[str] = []
        while page := (
            await order(
                server, "connections", user="ann", limit=4, after=listed[-1] if listed else ""
            )
        )["connections"]:
            assert len(page) <= 4
            listed += sorted(page)
        members = (await order(server, "presence", channel="room"))["presence"]
        online = (await order(server, "get_user_status", users=["ann", "ben"]))["statuses"]

        assert count == len(set(listed)) == len(listed)
        assert sorted(listed) == listed
        assert set(listed) == set(members)
        assert [count, 0] == [each.get("connections", 0) for each in online]


async def test_publications_cross_workers(server: Standalone) -> None:
    """What any worker takes reaches the clients of all, in order and once."""
    async with clients(server, "ann", "news") as links:
        for number in range(20):
            await order(server, "publish", channel="news", data=number)
        for link in links:
            heard: list[int] = []
            async with asyncio.timeout(WAIT_SECONDS):
                while len(heard) < 20:
                    for line in str(await link.recv()).splitlines():
                        push = json.loads(line).get("push", {})
                        heard += [push["pub"]["data"]] if "pub" in push else []
            assert list(range(20)) == heard


async def test_orders_reach_all_workers(server: Standalone) -> None:
    """A user's clients are subscribed, unsubscribed, refreshed and ended wherever they are."""
    async with clients(server, "ann") as links, clients(server, "ben") as others:
        await order(server, "subscribe", user="ann", channel="private")
        subscribed = (await order(server, "channels", pattern="private"))["channels"]
        await order(server, "unsubscribe", user="ann", channel="private")
        left = (await order(server, "channels", pattern="private"))["channels"]
        await order(server, "disconnect", user="ann")
        ends = [await receive_closed(link) for link in links]
        still = (await order(server, "connections", user="ben"))["connections"]

        assert ({"private": {"num_clients": len(links)}}, {}) == (subscribed, left)
        assert [(3503, "force disconnect")] * len(links) == ends
        assert len(others) == len(still)


async def test_revoked_everywhere(server: Standalone) -> None:
    """A user's tokens end what they opened on every worker, and open nothing any more."""
    old = token("eve", jti="t1")
    async with clients(server, "eve", credentials=old) as links:
        await order(server, "invalidate_user_tokens", user="eve")
        ends = [await receive_closed(link) for link in links]
    again = []
    for _ in range(3 * WORKERS):
        async with link_to(server) as link:
            await link.send(json.dumps({"id": 1, "connect": {"token": old}}))
            again.append(await receive_closed(link))
    async with link_to(server) as link:
        newer = await ask(link, connect={"token": token("eve", iat=int(time.time()) + 2)})

    assert {(3500, "invalid token")} == {*ends, *again}
    assert "connect" in newer


async def test_one_token_is_revoked(server: Standalone) -> None:
    """One token is refused by its id; the user's others go on."""
    async with (
        clients(server, "ann", credentials=token("ann", jti="lost")) as links,
        clients(server, "ann", credentials=token("ann", jti="kept")) as others,
    ):
        await order(server, "revoke_token", uid="lost")
        ends = {await receive_closed(link) for link in links}
        still = (await order(server, "connections", user="ann"))["connections"]

    assert {(3500, "invalid token")} == ends
    assert len(others) == len(still)


async def test_commands_of_a_stream_come_to_any_worker(server: Standalone) -> None:
    """A client of HTTP streaming speaks to whichever worker takes its requests."""
    async with httpx2.AsyncClient(
        base_url=server.address, trust_env=False, timeout=WAIT_SECONDS
    ) as client:
        body = json.dumps({"id": 1, "connect": {}})
        stream = client.stream("POST", "/connection/http_stream", content=body)
        async with stream as response, asyncio.timeout(WAIT_SECONDS):
            lines = response.aiter_lines()
            connected = json.loads(await anext(lines))["connect"]
            statuses = Counter[int]()
            for number in range(2, 22):
                command = {"id": number, "presence_stats": {"channel": "none"}}
                async with httpx2.AsyncClient(base_url=server.address, trust_env=False) as other:
                    answer = await other.post(
                        "/emulation",
                        json={
                            "session": connected["session"],
                            "node": connected["node"],
                            "data": json.dumps(command),
                        },
                    )
                statuses[answer.status_code] += 1
            replies: list[int] = []
            while len(replies) < 20:
                replies += [json.loads(await anext(lines)).get("id", 0)]
                replies = [number for number in replies if number]
            unknown = await client.post(
                "/emulation", json={"session": "x", "node": "nobody", "data": "{}"}
            )

    assert ({204: 20}, 404) == (dict(statuses), unknown.status_code)
    assert list(range(2, 22)) == replies


async def test_ready_and_metrics(server: Standalone) -> None:
    """The broker's state and the number of nodes are told, once for all workers."""
    samples = server.metrics()

    assert 200 == server.get("/ready")[0]
    assert (1.0, WORKERS) == (samples["wirebell_broker_up"], samples["wirebell_nodes_count"])
    assert 0.0 == samples["wirebell_gaps_total"]


async def test_a_worker_is_killed(server: Standalone) -> None:
    """A killed worker is named while it may live, forgotten, and replaced; orders go on then."""
    victim = server.children()[0]
    async with clients(server, "ann") as links:
        os.kill(victim, signal.SIGKILL)
        await wait_nodes(server, WORKERS)
        deadline, refused = time.monotonic() + WAIT_SECONDS, []
        # Each worker forgets the dead one at its own time, and until then names it.
        while "error" in (answer := await ask_api(server, "disconnect", user="ann")):
            refused.append(answer["error"])
            assert time.monotonic() < deadline, "the dead node is not forgotten"
            await asyncio.sleep(0.2)
        ends = {await receive_closed(link) for link in links}

        # Those of the killed worker have ended with it.
        assert (3503, "force disconnect") in ends
        assert ends <= {(3503, "force disconnect"), None}
        for error in refused:
            assert (100, True) == (error["code"], error["temporary"])
            assert f"web_{victim}" in error["message"]
        assert victim not in server.children()
