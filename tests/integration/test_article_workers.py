"""What holds for one process holds for four: tickets, the signing secret, and what is logged."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import websockets

from tests import servers
from tests.integration.clients import bearer, connect, http, receive, sign_in, until_closed
from tests.integration.test_article_secure import ticket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def four_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the demo with four worker processes."""
    with servers.demo(tmp_path_factory.mktemp("four"), "--workers", "4") as server:
        yield server


async def test_all_workers_share_the_signing_secret(four_workers: Server) -> None:
    """A token that one worker gave is taken by all: 40 new connections, none refused."""
    async with http(four_workers) as client:
        token = await sign_in(client)
    statuses = []
    for _ in range(40):
        async with http(four_workers) as client:
            statuses.append((await client.post("/ticket", headers=bearer(token))).status_code)

    assert statuses == [200] * 40


async def test_one_of_many_wins_a_ticket_across_workers(four_workers: Server) -> None:
    """Of 12 sockets that try one ticket at once on four workers, exactly one gets in."""

    async def attempt(bought: str) -> str:
        async with connect(four_workers, f"/ws/secure/race?ticket={bought}") as ws:
            with contextlib.suppress(websockets.ConnectionClosed):
                await ws.send("in")
                if await receive(ws) == "ann: in":
                    return "in"
            return str((await until_closed(ws)).code)

    async with http(four_workers) as client:
        token = await sign_in(client)
        for _ in range(5):
            bought = await ticket(client, token)
            results = await asyncio.gather(*(attempt(bought) for _ in range(12)))

            assert sorted(results) == ["4401"] * 11 + ["in"]


async def test_workers_write_no_tickets_to_the_log(four_workers: Server) -> None:
    """The rule holds for the processes behind ``--workers`` as well."""
    async with http(four_workers) as client:
        bought = [await ticket(client, await sign_in(client)) for _ in range(8)]
        for one in bought:
            await client.get(f"/nowhere?ticket={one}")
            async with connect(four_workers, f"/ws/secure/x?ticket={one}") as ws:
                await ws.send("x")
                assert await receive(ws) == "ann: x"

    assert [one for one in bought if one in four_workers.log()] == []
