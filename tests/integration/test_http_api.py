"""The server API on a real server, by its real client and by hand."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cent import (
    AsyncClient,
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    ConnectionsRequest,
    Disconnect,
    DisconnectRequest,
    GetUserStatusRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)

from tests import servers
from tests.integration.clients import connect, receive, until_closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from websockets.asyncio.client import ClientConnection

    from tests.servers import Server

pytestmark = pytest.mark.anyio

KEY = "key-of-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run the application."""
    kind = "wirebell-uvloop-httptools"
    with servers.serve("tests.integration.api_app:app", kind, path="/openapi.json") as running:
        yield running


@pytest.fixture
async def cent(server: Server) -> AsyncIterator[AsyncClient]:
    """Hand out the API's client."""
    async with AsyncClient(f"{server.url}/realtime/api", KEY) as client:
        yield client


async def sign_in(ws: ClientConnection) -> str:
    """Connect a client of the protocol, and return its id."""
    await ws.send('{"id":1,"connect":{"name":"test"}}')
    return str(json.loads(await receive(ws))["connect"]["client"])


async def hear(ws: ClientConnection, count: int) -> list[dict[str, Any]]:
    """Return the next pushes, however they share messages."""
    pushes: list[dict[str, Any]] = []
    while len(pushes) < count:
        for line in (await receive(ws)).split("\n"):
            pushes += [json.loads(line)["push"]]
    return pushes


async def test_channels(cent: AsyncClient) -> None:
    """Publications come back from history, until they are removed."""
    results = [
        await cent.publish(PublishRequest(channel="news:kept", data={"n": n})) for n in (1, 2)
    ]
    history = await cent.history(HistoryRequest(channel="news:kept", limit=10))
    await cent.history_remove(HistoryRemoveRequest(channel="news:kept"))
    removed = await cent.history(HistoryRequest(channel="news:kept", limit=10))
    broadcast = await cent.broadcast(BroadcastRequest(channels=["news:a", "nope:1"], data=1))
    batch = await cent.batch(
        BatchRequest(requests=[PresenceStatsRequest(channel="room:1"), ChannelsRequest()])
    )

    assert [1, 2] == [result.offset for result in results]
    assert [{"n": 1}, {"n": 2}] == [each.data for each in history.publications]
    assert ([], 2) == (removed.publications, removed.offset)
    errors = [response.error and response.error.code for response in broadcast.responses]
    assert [None, 102] == errors
    assert 2 == len(batch.replies)


async def test_users(server: Server, cent: AsyncClient) -> None:
    """A user is subscribed, seen, listed, told of a new end, unsubscribed and disconnected."""
    async with connect(
        server, "/realtime/connection/websocket", additional_headers={"x-user": "ann"}
    ) as ws:
        client_id = await sign_in(ws)
        await cent.subscribe(SubscribeRequest(user="ann", channel="room:1", info={"seat": 1}))
        await cent.publish(PublishRequest(channel="room:1", data="hi"))
        await hear(ws, 3)
        presence = await cent.presence(PresenceRequest(channel="room:1"))
        found = await cent.channels(ChannelsRequest(pattern="room:*"))
        listed = await cent.connections(ConnectionsRequest(user="ann", expression=""))
        status = await cent.get_user_status(GetUserStatusRequest(users=["ann", "ben"]))
        info = await cent.info(InfoRequest())
        await cent.refresh(RefreshRequest(user="ann", expire_at=4102444800))
        await cent.unsubscribe(UnsubscribeRequest(user="ann", channel="room:1"))
        pushes = await hear(ws, 2)
        ending = Disconnect(code=4500, reason="signed out")
        await cent.disconnect(DisconnectRequest(user="ann", disconnect=ending))
        ended = await until_closed(ws)

    assert {"seat": 1} == presence.presence[client_id].chan_info
    assert 1 == found.channels["room:1"].num_clients
    assert "websocket" == listed.connections[client_id].transport
    assert [True, False] == [each.online > 0 for each in status.statuses]
    assert 1 == info.nodes[0].num_clients
    assert 31_536_000 == pushes[0]["refresh"]["ttl"]
    assert 2000 == pushes[1]["unsubscribe"]["code"]
    assert (4500, "signed out") == (ended.code, ended.reason)


async def test_errors(server: Server, cent: AsyncClient) -> None:
    """Errors have codes, and a wrong key is refused."""
    with pytest.raises(CentApiResponseError) as raised:
        await cent.publish(PublishRequest(channel="nope:1", data=1))
    async with AsyncClient(f"{server.url}/realtime/api", "wrong") as stranger:
        with pytest.raises(CentUnauthorizedError):
            await stranger.info(InfoRequest())

    assert 102 == raised.value.code


async def test_many_at_once(server: Server) -> None:
    """A hundred callers at once get a hundred offsets, and subscribers every publication."""
    async with (
        connect(server, "/realtime/connection/websocket") as ws,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        await sign_in(ws)
        await ws.send('{"id":2,"subscribe":{"channel":"news:busy"}}')
        await receive(ws)

        async def publish(number: int) -> int:
            answer = await client.post(
                "/realtime/api/publish",
                json={"channel": "news:busy", "data": number},
                headers={"X-API-Key": KEY},
            )
            return int(answer.json()["result"]["offset"])

        offsets = await asyncio.gather(*(publish(number) for number in range(100)))
        pushes = await hear(ws, 100)

    assert list(range(1, 101)) == sorted(offsets)
    assert list(range(1, 101)) == [push["pub"]["offset"] for push in pushes]
    assert set(range(100)) == {push["pub"]["data"] for push in pushes}
