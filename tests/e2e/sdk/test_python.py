"""The SDK `centrifuge-python` over WebSocket, in JSON and in protobuf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from centrifuge import (
    DeltaType,
    Filter,
    ReplyError,
    StreamPosition,
)

from tests.e2e.sdk.control import create_token
from tests.e2e.sdk.python_client import Kit, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.sdk.control import Control
    from tests.e2e.sdk.targets import Target

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

STORY = {"text": "Lorem ipsum dolor sit amet, consectetur adipiscing elit."}


@pytest.fixture(params=["json", "protobuf"])
async def kit(
    request: pytest.FixtureRequest, target: Target, control: Control
) -> AsyncIterator[Kit]:
    """Hand out clients that are closed at the end."""
    async with Kit(target, control, is_protobuf=request.param == "protobuf") as made:
        yield made


async def test_connect(kit: Kit) -> None:
    """A client with a token connects and is told its id."""
    made = await kit.connect()

    (context,) = made.events.named("connected")
    assert "" != context.client


async def test_token_refresh(kit: Kit) -> None:
    """A client that refreshes its tokens lives on past the expiry of the first ones."""
    asked = {"connection": 0, "subscription": 0}

    async def get_token(channel: str = "") -> str:
        asked["subscription" if channel else "connection"] += 1
        claims = {"channel": channel} if channel else {}
        return create_token(sub=kit.user(), exp_in=1, **claims)

    made = kit.client(get_token=get_token)
    await made.client.connect()
    await made.events.next("connected")
    sub = await kit.subscribe(made.client, kit.channel("secret"), get_token=get_token)

    async def is_refreshed() -> bool:
        # One a second; the server ends each three seconds after its expiry.
        return min(asked.values()) >= 6

    await until(is_refreshed, "five refreshes of both")
    assert 1 == len(made.events.named("connecting"))
    assert 1 == len(sub.events.named("subscribing"))


async def test_expired_token_is_replaced(kit: Kit) -> None:
    """An expired token makes the client ask for a new one, and connect."""
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        return create_token(sub=kit.user())

    made = kit.client(token=create_token(sub=kit.user(), exp_in=-60), get_token=get_token)
    await made.client.connect()
    await made.events.next("connected")

    assert 1 == asked


async def test_invalid_token(kit: Kit) -> None:
    """A token signed with another key ends the connection for good."""
    token = create_token(sub=kit.user(), signed_with="another key, long enough for HS256")
    made = kit.client(token=token)
    await made.client.connect()

    assert 3500 == (await made.events.next("disconnected")).code


async def test_publish_both_ways(kit: Kit) -> None:
    """Publications of two clients and of the API reach both, with who published."""
    channel = kit.channel("chat")
    one, two = await kit.connect("one"), await kit.connect("two")
    a = await kit.subscribe(one.client, channel)
    b = await kit.subscribe(two.client, channel)
    await a.sub.publish(kit.encode({"from": "one"}))
    await b.sub.publish(kit.encode({"from": "two"}))
    await kit.publish(channel, {"from": "api"}, tags={"k": "v"})

    for made in (a, b):
        contexts = await made.events.count("publication", 3)
        assert [{"from": "one"}, {"from": "two"}, {"from": "api"}] == kit.payloads(contexts)
        users = [context.pub.info and context.pub.info.user for context in contexts]
        assert [kit.user("one"), kit.user("two"), None] == users
        assert {"k": "v"} == contexts[2].pub.tags


@pytest.mark.parametrize(("namespace", "code"), [("closed", 103), ("unknown", 102)])
async def test_subscribe_errors(kit: Kit, namespace: str, code: int) -> None:
    """A channel that is closed or unknown ends the subscription, not the connection."""
    made = await kit.connect()
    subscription = kit.subscription(made.client, kit.channel(namespace))
    await subscription.sub.subscribe()

    assert code == (await subscription.events.next("unsubscribed")).code
    assert [] == made.events.named("disconnected")


async def test_command_errors(kit: Kit) -> None:
    """Commands that are not allowed raise with the code of the protocol."""
    made = await kit.connect()
    denied = kit.channel("closed")
    attempts = [
        (103, made.client.publish(denied, kit.encode({}))),
        (108, made.client.history(denied, limit=1)),
        (108, made.client.presence(denied)),
        (104, made.client.rpc("unknown", kit.encode({}))),
    ]

    for code, attempt in attempts:
        with pytest.raises(ReplyError) as caught:
            await attempt
        assert code == caught.value.code


async def test_presence(kit: Kit) -> None:
    """Presence is exact within two seconds after somebody has left, and after a cut link."""
    channel, doomed = kit.channel("chat"), kit.network()
    watcher = await kit.connect("watcher")
    subscription = await kit.subscribe(watcher.client, channel)
    leaver, lost = await kit.connect("leaver"), await kit.connect("lost", doomed)
    await kit.subscribe(leaver.client, channel)
    await kit.subscribe(lost.client, channel)

    async def has(*names: str) -> bool:
        clients = (await subscription.sub.presence()).clients
        stats = await subscription.sub.presence_stats()
        assert stats.num_clients == stats.num_users
        return sorted(info.user for info in clients.values()) == [kit.user(n) for n in names]

    assert await has("leaver", "lost", "watcher")
    await leaver.client.disconnect()
    await until(lambda: has("lost", "watcher"), "two are left", 2)
    doomed.cut()
    await until(lambda: has("watcher"), "one is left", 2)


async def test_join_leave(kit: Kit) -> None:
    """A client is told of its own join, and of joins and leaves of others."""
    channel = kit.channel("chat")
    one = await kit.connect("one")
    subscription = await kit.subscribe(one.client, channel)
    own = await subscription.events.next("join")
    two = await kit.connect("two")
    await kit.subscribe(two.client, channel)
    other = await subscription.events.next("join")
    await two.client.disconnect()
    gone = await subscription.events.next("leave")

    users = [context.info.user for context in (own, other, gone)]
    assert [kit.user("one"), kit.user("two"), kit.user("two")] == users


async def test_history(kit: Kit) -> None:
    """History has a limit, a direction, and a place to start from."""
    channel = kit.channel("rec")
    for number in range(1, 6):
        await kit.publish(channel, {"n": number})
    made = await kit.connect()
    sub = (await kit.subscribe(made.client, channel)).sub
    top = await sub.history(limit=0)
    since = StreamPosition(3, top.epoch)

    def offsets(result: Any) -> list[int]:
        return [publication.offset for publication in result.publications]

    assert (5, []) == (top.offset, top.publications)
    assert [1, 2, 3, 4, 5] == offsets(await sub.history(limit=-1))
    assert [1, 2] == offsets(await sub.history(limit=2))
    assert [4, 5] == offsets(await sub.history(limit=-1, since=since))
    assert [5, 4] == offsets(await sub.history(limit=2, reverse=True))


async def test_recovery_after_cut(kit: Kit) -> None:
    """After a cut nothing is lost and nothing comes twice."""
    channel, network = kit.channel("rec"), kit.network()
    made = await kit.connect(network=network)
    subscription = await kit.subscribe(made.client, channel)
    for number in range(1, 4):
        await kit.publish(channel, {"n": number})
    await subscription.events.count("publication", 3)
    network.cut()
    await subscription.events.next("subscribing")
    for number in range(4, 9):
        await kit.publish(channel, {"n": number})
    network.restore()
    again = await subscription.events.next("subscribed")
    await kit.publish(channel, {"n": 9})
    contexts = await subscription.events.count("publication", 9)

    assert (True, True) == (again.was_recovering, again.recovered)
    assert list(range(1, 10)) == [context.pub.offset for context in contexts]
    assert list(range(1, 10)) == [payload["n"] for payload in kit.payloads(contexts)]


async def test_unrecoverable_position(kit: Kit) -> None:
    """A client that missed more than the history keeps is told so, and goes on from the top."""
    channel, network = kit.channel("short"), kit.network()
    made = await kit.connect(network=network)
    subscription = await kit.subscribe(made.client, channel)
    network.cut()
    await subscription.events.next("subscribing")
    for number in range(1, 11):
        await kit.publish(channel, {"n": number})
    network.restore()
    again = await subscription.events.next("subscribed")
    await kit.publish(channel, {"n": 11})
    contexts = await subscription.events.count("publication", 1)

    assert (True, False) == (again.was_recovering, again.recovered)
    assert (10, 11) == (again.stream_position.offset, contexts[0].pub.offset)


async def test_state_after_unrecoverable_position(kit: Kit) -> None:
    """With ``get_state`` an unrecoverable position makes the application load its state again."""
    channel, network = kit.channel("short"), kit.network()
    asked = []

    async def get_state(channel: str) -> StreamPosition:
        top = await kit.api("history", channel=channel, limit=0)
        asked.append(top["offset"])
        return StreamPosition(top["offset"], top["epoch"])

    await kit.publish(channel, {"n": 1})
    made = await kit.connect(network=network)
    subscription = await kit.subscribe(made.client, channel, get_state=get_state)
    network.cut()
    await subscription.events.next("subscribing")
    for number in range(2, 12):
        await kit.publish(channel, {"n": number})
    network.restore()
    await subscription.events.next("subscribed")
    await kit.publish(channel, {"n": 12})
    contexts = await subscription.events.count("publication", 1)

    assert [1, 11] == asked
    assert [12] == [context.pub.offset for context in contexts]


async def test_cache_recovery(kit: Kit) -> None:
    """With cache recovery only the latest publication comes after a cut."""
    channel, network = kit.channel("cache"), kit.network()
    made = await kit.connect(network=network)
    subscription = await kit.subscribe(made.client, channel)
    network.cut()
    await subscription.events.next("subscribing")
    for number in range(1, 4):
        await kit.publish(channel, {"n": number})
    network.restore()
    again = await subscription.events.next("subscribed")
    await kit.publish(channel, {"n": 4})
    contexts = await subscription.events.count("publication", 2)

    assert again.recovered
    assert [{"n": 3}, {"n": 4}] == kit.payloads(contexts)


async def test_delta(kit: Kit) -> None:
    """The first publication comes whole, the next ones as patches; also after a recovery."""
    channel, network = kit.channel("delta"), kit.network()
    made = await kit.connect(network=network)
    subscription = await kit.subscribe(made.client, channel, delta=DeltaType.FOSSIL)
    for number in range(1, 4):
        await kit.publish(channel, {**STORY, "n": number})
    await subscription.events.count("publication", 3)
    network.cut()
    await subscription.events.next("subscribing")
    for number in range(4, 6):
        await kit.publish(channel, {**STORY, "n": number})
    network.restore()
    await subscription.events.next("subscribed")
    await kit.publish(channel, {**STORY, "n": 6})
    contexts = await subscription.events.count("publication", 6)

    assert [{**STORY, "n": number} for number in range(1, 7)] == kit.payloads(contexts)
    patches = [context.pub.delta for context in contexts]
    assert [False, True, True, False, True, True] == patches


async def test_tags_filter(kit: Kit) -> None:
    """Only publications whose tags match the filter arrive."""
    channel = kit.channel("tags")
    made = await kit.connect()
    subscription = await kit.subscribe(
        made.client, channel, tags_filter=Filter.all(Filter.eq("kind", "a"), Filter.gt("n", "1"))
    )
    for number in range(1, 7):
        tags = {"kind": "ab"[number % 2], "n": str(number)}
        await kit.publish(channel, {"n": number}, tags=tags)
    contexts = await subscription.events.count("publication", 3)

    assert [{"n": 2}, {"n": 4}, {"n": 6}] == kit.payloads(contexts)


async def test_rpc(kit: Kit) -> None:
    """A call is answered: by the application, or by the method that the server itself has."""
    made = await kit.connect()
    if kit.target.name == "mount":
        result = await made.client.rpc("sum", kit.encode({"a": 1, "b": 2}))
        assert {"sum": 3} == kit.decode(result.data)
    else:
        assert not (await made.client.rpc("ping", kit.encode({}))).data


async def test_server_side_subscription(kit: Kit) -> None:
    """A channel of the token is subscribed by the server, and recovered after a cut."""
    channel, network = kit.channel("rec"), kit.network()
    made = kit.client(network, token=create_token(sub=kit.user(), channels=[channel]))
    await made.client.connect()
    first = await made.events.next("subscribed")
    await kit.publish(channel, {"n": 1})
    await made.events.count("publication", 1)
    network.cut()
    await made.events.next("subscribing")
    await kit.publish(channel, {"n": 2})
    network.restore()
    again = await made.events.next("subscribed")
    contexts = await made.events.count("publication", 2)

    assert (channel, channel, True) == (first.channel, again.channel, again.recovered)
    assert [{"n": 1}, {"n": 2}] == kit.payloads(contexts)


async def test_server_side_pushes(kit: Kit) -> None:
    """The API subscribes and unsubscribes a client that did not ask for it."""
    channel = kit.channel("chat")
    made = await kit.connect()
    await kit.api("subscribe", user=kit.user(), channel=channel, data={"welcome": 1})
    subscribed = await made.events.next("subscribed")
    await kit.publish(channel, {"n": 1})
    publication = await made.events.next("publication")
    await kit.api("unsubscribe", user=kit.user(), channel=channel)
    unsubscribed = await made.events.next("unsubscribed")

    assert (channel, {"welcome": 1}) == (subscribed.channel, kit.decode(subscribed.data))
    assert {"n": 1} == kit.decode(publication.pub.data)
    assert channel == unsubscribed.channel


async def test_server_unsubscribe(kit: Kit) -> None:
    """The API ends a subscription that the client made."""
    channel = kit.channel("chat")
    made = await kit.connect()
    subscription = await kit.subscribe(made.client, channel)
    await kit.api("unsubscribe", user=kit.user(), channel=channel)

    assert 2000 == (await subscription.events.next("unsubscribed")).code


@pytest.mark.parametrize(
    ("code", "comes_back"),
    [(3011, True), (4000, True), (4499, True), (3503, False), (4500, False), (4999, False)],
)
async def test_disconnect_codes(kit: Kit, code: int, *, comes_back: bool) -> None:
    """The code of a disconnect tells the SDK whether to come back."""
    made = await kit.connect()
    disconnect = {"code": code, "reason": "r"}
    await kit.api("disconnect", user=kit.user(), disconnect=disconnect)

    context = await made.events.next("connecting" if comes_back else "disconnected")
    assert code == context.code
    if comes_back:
        await made.events.next("connected")
