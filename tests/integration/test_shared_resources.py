"""What all users share stays shared: database connections, descriptors, hashing."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests import servers
from tests.integration.clients import bearer, connect, http, receive, refused, sign_in, told
from tests.integration.test_article_secure import WAYS, enter

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.anyio

# More than the 15 connections that SQLAlchemy's pool gives.
MANY = 18


async def test_secure_sockets_hold_no_database_connection(demo: Server) -> None:
    """However many sockets are signed in, and by whichever way, the database answers others."""
    async with AsyncExitStack() as stack, http(demo) as client:
        token = await sign_in(client)
        for way in WAYS:
            for _ in range(MANY // 3):
                await stack.enter_async_context(await enter(demo, way, token, "pool"))
        async with asyncio.timeout(10):
            listed = await client.get("/tasks")
            created = await client.post("/tasks", json={"title": "still here"})

    assert (200, 201) == (listed.status_code, created.status_code)


async def test_guests_and_pages_hold_no_database_connection(demo: Server) -> None:
    """Nor do pages that are open."""
    async with AsyncExitStack() as stack, http(demo) as client:
        token = await sign_in(client)
        cookie = {"Cookie": f"access_token={token}"}
        for _ in range(MANY):
            page = await stack.enter_async_context(
                connect(demo, "/realtime/connection/uni_websocket", additional_headers=cookie)
            )
            await page.send(json.dumps({"subs": {"board": {}}}))
            await receive(page)
        async with asyncio.timeout(10):
            online = await client.get("/online")
            listed = await client.get("/tasks")

    assert (["ann"], 200) == (online.json()["users"], listed.status_code)


async def test_a_flood_of_sign_ins_is_answered(demo: Server) -> None:
    """Too many at once get 503 with a time to come back; the board is served meanwhile."""
    async with http(demo) as client:
        # 32 hashes wait for each other, and the machine may be busy with other tests.
        client.timeout = httpx2.Timeout(30)
        form = {"username": "ann", "password": "not this one"}
        flood = [asyncio.create_task(client.post("/token", data=form)) for _ in range(90)]
        async with asyncio.timeout(30):
            listed = await client.get("/tasks")
            answers = await asyncio.gather(*flood)
        calm = await client.post("/token", data=form)

    statuses = {answer.status_code for answer in answers}
    assert 200 == listed.status_code
    assert statuses <= {401, 503}
    assert 401 in statuses
    assert all(a.headers["retry-after"] for a in answers if a.status_code == 503)
    assert 401 == calm.status_code


async def test_a_silent_client_is_dropped(tmp_path: Path) -> None:
    """Who connects and asks for nothing is dropped in time; a socket that is open is not."""
    with servers.demo(tmp_path, env={"WIREBELL_REQUEST_TIMEOUT_SECONDS": "0.5"}) as server:
        async with connect(server, "/ws") as websocket:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", server.port)
            slow_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            async with asyncio.timeout(10):
                for each in (reader, slow_reader):
                    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                        await each.readexactly(1)
            await websocket.send("still here")
            echoed = await receive(websocket)
            writer.close()
            slow_writer.close()

    assert "Message received: still here" == echoed


async def test_a_form_of_another_site_changes_nothing(demo: Server) -> None:
    """Unsafe requests of a foreign page are 403 and set no cookie; our own page's pass."""
    form = {"username": "ann", "password": "wirebell-demo"}
    async with http(demo) as client:
        foreign = await client.post("/token", data=form, headers={"Origin": "https://evil.example"})
        ours = await client.post("/token", data=form, headers={"Origin": demo.url})
        task = {"title": "planted"}
        planted = await client.post("/tasks", json=task, headers={"Origin": "null"})

    assert (403, None) == (foreign.status_code, foreign.headers.get("set-cookie"))
    assert 200 == ours.status_code
    assert 403 == planted.status_code


@pytest.mark.parametrize("value", ["Bearer", "Basic YW5uOng=", "x"])
async def test_unusable_credentials_make_no_guest(demo: Server, value: str) -> None:
    """Who shows credentials that are none is refused, over HTTP and on a socket."""
    headers = {"Authorization": value}
    async with http(demo) as client:
        created = await client.post("/tasks", json={"title": "x"}, headers=headers)
    async with connect(demo, "/ws/secure/x", additional_headers=headers) as websocket:
        reason = await told(websocket, 4401)

    assert 401 == created.status_code
    assert "Bearer" in reason


async def test_no_socket_among_the_pages_files(demo: Server) -> None:
    """A socket to a file is a route that does not exist."""
    assert 404 == (await refused(demo, "/web/app.js"))[0]


async def test_known_passwords_open_nothing_without_demo_users(tmp_path: Path) -> None:
    """A data folder that has the demo accounts from before is safe with ``--no-demo-users``."""
    async with AsyncExitStack() as stack:
        with servers.demo(tmp_path) as server:
            client = await stack.enter_async_context(http(server))
            token = await sign_in(client)
            assert (await client.post("/ticket", headers=bearer(token))).status_code == 200
        with servers.demo(tmp_path, "--no-demo-users") as server:
            client = await stack.enter_async_context(http(server))
            form = {"username": "ann", "password": "wirebell-demo"}
            answer = await client.post("/token", data=form)
            me = (await client.get("/me")).json()

    assert 401 == answer.status_code
    assert (False, None) == (me["demo_users"], me["demo_password"])
    assert 0o600 == (tmp_path / "taskboard.db").stat().st_mode & 0o777
