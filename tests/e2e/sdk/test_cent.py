"""The client `cent` drives every method of the server API."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from cent import (
    AsyncClient,
    BatchRequest,
    BlockUserRequest,
    BoolValue,
    BroadcastRequest,
    CentApiResponseError,
    CentTransportError,
    CentUnauthorizedError,
    ChannelOptionsOverride,
    ChannelsRequest,
    Client,
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
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)

from tests.e2e.sdk.control import API_KEY
from tests.e2e.sdk.python_client import Connected, Kit, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.sdk.control import Control
    from tests.e2e.sdk.targets import Target

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
async def kit(target: Target, control: Control) -> AsyncIterator[Kit]:
    """Hand out clients of the protocol, on whom the API acts."""
    async with Kit(target, control, is_protobuf=False) as made:
        yield made


@pytest.fixture
async def cent(target: Target) -> AsyncIterator[AsyncClient]:
    """Hand out the API's client."""
    async with AsyncClient(f"{target.url}/api", API_KEY) as made:
        yield made


async def connect(kit: Kit) -> tuple[Connected, str]:
    """Return a connected client and its id."""
    made = await kit.connect()
    return made, made.events.named("connected")[0].client


async def test_publish_and_history(cent: AsyncClient, kit: Kit) -> None:
    """Publications get offsets, come back from history, and can be removed."""
    channel = kit.channel("rec")
    results = [
        await cent.publish(PublishRequest(channel=channel, data={"n": n}, tags={"k": "v"}))
        for n in (1, 2, 3)
    ]
    since = StreamPosition(offset=1, epoch=results[0].epoch)
    history = await cent.history(HistoryRequest(channel=channel, limit=10, since=since))
    newest = await cent.history(HistoryRequest(channel=channel, limit=1, reverse=True))
    await cent.history_remove(HistoryRemoveRequest(channel=channel))
    removed = await cent.history(HistoryRequest(channel=channel, limit=10))

    assert [1, 2, 3] == [result.offset for result in results]
    assert [(2, {"n": 2}), (3, {"n": 3})] == [(p.offset, p.data) for p in history.publications]
    assert {"k": "v"} == history.publications[0].tags
    assert [3] == [p.offset for p in newest.publications]
    assert ([], 3) == (removed.publications, removed.offset)


async def test_publish_idempotency_key(cent: AsyncClient, kit: Kit) -> None:
    """The same idempotency key twice is one publication."""
    request = PublishRequest(channel=kit.channel("rec"), data={}, idempotency_key=uuid.uuid4().hex)

    assert [1, 1] == [(await cent.publish(request)).offset for _ in range(2)]


async def test_publish_base64_and_skip_history(cent: AsyncClient, kit: Kit) -> None:
    """Binary data is decoded, and history can be left out."""
    channel = kit.channel("rec")
    made = await kit.connect()
    subscription = await kit.subscribe(made.client, channel)
    await cent.publish(PublishRequest(channel=channel, data=None, b64data="eyJhIjoxfQ=="))
    await cent.publish(PublishRequest(channel=channel, data={"b": 2}, skip_history=True))
    contexts = await subscription.events.count("publication", 2)
    history = await cent.history(HistoryRequest(channel=channel, limit=10))

    assert [{"a": 1}, {"b": 2}] == kit.payloads(contexts)
    assert [{"a": 1}] == [publication.data for publication in history.publications]


async def test_broadcast(cent: AsyncClient, kit: Kit) -> None:
    """One call publishes into several channels, each with its own answer."""
    channels = [kit.channel("rec"), kit.channel("unknown"), kit.channel("chat")]
    result = await cent.broadcast(BroadcastRequest(channels=channels, data={"n": 1}))

    codes = [response.error and response.error.code for response in result.responses]
    assert [None, 102, None] == codes
    assert result.responses[0].result is not None
    assert 1 == result.responses[0].result.offset


async def test_subscribe_and_unsubscribe(cent: AsyncClient, kit: Kit) -> None:
    """A user is put into a channel, with overrides, and taken out."""
    channel = kit.channel("closed")
    made, client_id = await connect(kit)
    override = ChannelOptionsOverride(
        force_recovery=BoolValue(value=False), presence=BoolValue(value=True)
    )
    await cent.subscribe(
        SubscribeRequest(
            user=kit.user(), channel=channel, client=client_id, data={"w": 1}, override=override
        )
    )
    subscribed = await made.events.next("subscribed")
    await cent.unsubscribe(UnsubscribeRequest(user=kit.user(), channel=channel))
    unsubscribed = await made.events.next("unsubscribed")

    assert (channel, {"w": 1}) == (subscribed.channel, subscribed.data)
    assert channel == unsubscribed.channel


async def test_presence(cent: AsyncClient, kit: Kit) -> None:
    """Who is in a channel, and how many."""
    channel = kit.channel("chat")
    made, client_id = await connect(kit)
    await kit.subscribe(made.client, channel)
    presence = await cent.presence(PresenceRequest(channel=channel))
    stats = await cent.presence_stats(PresenceStatsRequest(channel=channel))

    assert {client_id: kit.user()} == {key: info.user for key, info in presence.presence.items()}
    assert {"name": kit.user()} == presence.presence[client_id].conn_info
    assert (1, 1) == (stats.num_clients, stats.num_users)


async def test_channels(cent: AsyncClient, kit: Kit) -> None:
    """Channels with subscribers, by pattern."""
    channel = kit.channel("chat")
    made = await kit.connect()
    await kit.subscribe(made.client, channel)
    result = await cent.channels(ChannelsRequest(pattern=f"*{kit.label}"))

    assert {channel: 1} == {name: info.num_clients for name, info in result.channels.items()}


async def test_info(cent: AsyncClient, kit: Kit) -> None:
    """The node tells how many it serves, a few seconds late at most."""
    await kit.connect()

    async def has_client() -> bool:
        (node,) = (await cent.info(InfoRequest())).nodes
        return node.num_clients >= 1 and node.num_users >= 1 and node.uid != ""

    await until(has_client, "one client")


async def test_connections(cent: AsyncClient, kit: Kit) -> None:
    """The connections of a user, with their channels."""
    channel = kit.channel("chat")
    made, client_id = await connect(kit)
    await kit.subscribe(made.client, channel)
    result = await cent.connections(ConnectionsRequest(user=kit.user(), expression=""))

    assert [client_id] == list(result.connections)
    found = result.connections[client_id]
    assert (kit.user(), "websocket", "json") == (found.user, found.transport, found.protocol)
    assert found.state is not None
    assert found.state.channels is not None
    assert [channel] == list(found.state.channels)


async def test_user_status(cent: AsyncClient, kit: Kit) -> None:
    """Who of some users is online."""
    await kit.connect("here")
    users = [kit.user("here"), kit.user("away")]
    result = await cent.get_user_status(GetUserStatusRequest(users=users))

    assert users == [status.user for status in result.statuses]
    assert [True, False] == [status.online > 0 for status in result.statuses]


async def test_methods_that_are_not_there(cent: AsyncClient) -> None:
    """Methods of other products answer HTTP 404."""
    with pytest.raises(CentTransportError) as caught:
        await cent.block_user(BlockUserRequest(user="42"))

    assert 404 == caught.value.status_code


async def test_disconnect(cent: AsyncClient, kit: Kit) -> None:
    """A user is disconnected with a code of the caller; a whitelist keeps a client."""
    first, kept = await connect(kit)
    second = await kit.connect()
    await cent.disconnect(
        DisconnectRequest(
            user=kit.user(), whitelist=[kept], disconnect=Disconnect(code=4500, reason="bye")
        )
    )
    context = await second.events.next("disconnected")

    assert (4500, "bye") == (context.code, context.reason)
    assert [] == first.events.named("disconnected")


async def test_refresh(cent: AsyncClient, kit: Kit) -> None:
    """A connection gets a new expiry, or is told that it has expired."""
    made, client_id = await connect(kit)
    await cent.refresh(
        RefreshRequest(user=kit.user(), client=client_id, expire_at=int(time.time()) + 60)
    )
    await cent.refresh(RefreshRequest(user=kit.user(), expired=True))

    assert 3005 == (await made.events.next("connecting")).code
    await made.events.next("connected")


@pytest.mark.parametrize("parallel", [False, True])
async def test_batch(cent: AsyncClient, kit: Kit, *, parallel: bool) -> None:
    """Several commands in one request are answered in their order."""
    channel = kit.channel("rec")
    requests: list[Any] = [
        PublishRequest(channel=channel, data={}),
        PresenceStatsRequest(channel=kit.channel("chat")),
        HistoryRequest(channel=kit.channel("short"), limit=1),
    ]
    result = await cent.batch(BatchRequest(requests=requests, parallel=parallel))
    replies: list[Any] = result.replies

    assert 1 == replies[0].offset
    assert 0 == replies[1].num_clients
    assert [] == replies[2].publications


async def test_errors(cent: AsyncClient, kit: Kit) -> None:
    """An error of the API raises with the code of the protocol."""
    requests = [
        (102, cent.publish(PublishRequest(channel=kit.channel("unknown"), data={}))),
        (108, cent.history(HistoryRequest(channel=kit.channel("closed"), limit=1))),
        (108, cent.presence(PresenceRequest(channel=kit.channel("closed")))),
        (107, cent.publish(PublishRequest(channel="", data={}))),
    ]

    for code, request in requests:
        with pytest.raises(CentApiResponseError) as caught:
            await request
        assert code == caught.value.code


async def test_wrong_key(target: Target) -> None:
    """A wrong key is refused."""
    async with AsyncClient(f"{target.url}/api", "wrong") as client:
        with pytest.raises(CentUnauthorizedError):
            await client.info(InfoRequest())


def test_blocking_client(target: Target) -> None:
    """The client without asyncio does the same."""
    with Client(f"{target.url}/api", API_KEY) as client:
        result = client.publish(PublishRequest(channel=f"rec:{uuid.uuid4().hex}", data={}))

    assert 1 == result.offset
