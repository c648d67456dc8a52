"""What each method of the server API does; further answers stand in the recordings."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from tests.unit.clocks import turns
from tests.unit.orders import running
from wirebell import History, __version__
from wirebell.http_api.calls import METHODS

pytestmark = pytest.mark.anyio

_HISTORY = History(size=5)
BAD_REQUEST = {"error": {"code": 107, "message": "bad request"}}
UNKNOWN = {"error": {"code": 102, "message": "unknown channel"}}
NOT_AVAILABLE = {"error": {"code": 108, "message": "not available"}}
DONE: dict[str, Any] = {"result": {}}


@pytest.mark.parametrize("name", sorted(METHODS))
async def test_unknown_channels(name: str) -> None:
    """Each method that needs a channel refuses a name of no namespace, and none at all."""
    if "channel" not in METHODS[name].request.__struct_fields__:
        return
    async with running() as board:
        answer = await board.post(name, {"channel": "nope:1", "user": "ann", "data": 1})
        empty = await board.post(name, {"channel": "", "user": "ann", "data": 1})

        assert UNKNOWN == answer
        assert 107 == empty["error"]["code"]


async def test_publish() -> None:
    """What is published reaches subscribers, without line feeds, and has a position."""
    async with running() as board:
        peer = await board.connect()
        await peer.subscribe("news:1")
        peer.heard()
        answer = await board.post("publish", '{"channel":"news:1","data":{"a":\n [1,\r\n2]}}')
        await board.post("publish", {"channel": "news:1", "data": None})
        await turns()

        assert 1 == answer["result"]["offset"]
        assert '{"data":{"a": [1,\r2]},' in peer.transport.messages[0]
        assert [{"a": [1, 2]}, None] == [push["pub"]["data"] for push in peer.pushes()]


@pytest.mark.parametrize(
    ("channel", "members", "expected"),
    [
        ("news:1", {"data": "text"}, "text"),
        ("news:1", {"data": 0}, 0),
        ("news:1", {"b64data": base64.b64encode(b'{"b":1}').decode()}, {"b": 1}),
        ("news:1", {"data": 1, "b64data": base64.b64encode(b"2").decode()}, 2),
        ("binary:1", {"b64data": "/w=="}, "/w=="),
        ("binary:1", {"b64data": base64.b64encode(b"[1]").decode()}, [1]),
        ("board:1", {"data": [True]}, [True]),
    ],
)
async def test_kinds_of_data(channel: str, members: dict[str, object], expected: object) -> None:
    """Data is any JSON, also as base64; what is no JSON stays base64 where bytes may travel."""
    async with running() as board:
        answer = await board.post("publish", {"channel": channel, **members})
        kept = await board.post("history", {"channel": channel, "limit": 1})

        assert {"offset", "epoch"} == answer["result"].keys()
        assert [{"data": expected, "offset": 1}] == kept["result"]["publications"]


@pytest.mark.parametrize(
    ("channel", "members"),
    [
        ("news:1", {}),
        ("news:1", {"b64data": "%%%"}),
        ("news:1", {"b64data": "e30"}),
        ("news:1", {"b64data": "é"}),
        ("news:1", {"b64data": "/w=="}),
        ("object:1", {"data": [1]}),
    ],
)
async def test_data_that_a_channel_does_not_take(channel: str, members: dict[str, object]) -> None:
    """No data, no base64, no JSON and no object are refused."""
    async with running() as board:
        assert BAD_REQUEST == await board.post("publish", {"channel": channel, **members})


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"tags": {"a": "b" * 16_384}}, "tags have at most 16384 bytes together, got 16385"),
        ({"idempotency_key": "k" * 1025}, "an idempotency key has at most 1024 bytes, got 1025"),
        ({"data": "x" * 131_072}, "a publication has at most 131072 bytes, got 131074"),
    ],
)
async def test_publish_out_of_bounds(members: dict[str, object], text: str) -> None:
    """What is too long is refused with its bound."""
    async with running() as board:
        answer = await board.post("publish", {"channel": "news:1", "data": 1, **members})

        assert {"error": {"code": 107, "message": text}} == answer


async def test_publish_once() -> None:
    """A repeated idempotency key, and a version that is not higher, publish nothing."""
    async with running() as board:
        keyed = {"channel": "news:1", "data": 1, "idempotency_key": "k"}
        versioned = {"channel": "news:1", "data": 2, "version": 5, "version_epoch": "e"}
        bodies = (keyed, keyed, versioned, versioned, {**versioned, "version_epoch": "f"})
        answers = [await board.post("publish", body) for body in bodies]

        assert [1, 1, 2, 2, 3] == [answer["result"]["offset"] for answer in answers]


async def test_publish_with_the_rest() -> None:
    """Tags and versions travel, one client is left out, patches are allowed."""
    async with running() as board:
        sender, other = await board.connect(), await board.connect()
        for peer in (sender, other):
            await peer.subscribe("news:1")
            peer.heard()
        body = {"channel": "news:1", "data": 1, "tags": {"a": "b"}, "version": 9, "delta": True}
        await board.post("publish", {**body, "exclude": sender.client_id})
        await board.post("publish", {"channel": "news:1", "data": 2, "skip_history": True})
        await turns()
        kept = (await board.orders.history("news:1")).publications

        assert [2] == [push["pub"]["data"] for push in sender.pushes()]
        first, second = [push["pub"] for push in other.pushes()]
        assert ({"a": "b"}, 9, 1) == (first["tags"], first["version"], first["offset"])
        assert {"data": 2} == second
        assert [True] == [each.has_delta for each in kept]


async def test_broadcast() -> None:
    """Each channel has its answer, and what is not checked is not published."""
    async with running() as board:
        body = {"channels": ["news:1", "plain:1", "nope:1", "object:1", "delta:1"], "data": 1}
        responses = (await board.post("broadcast", body))["result"]["responses"]
        kept = (await board.orders.history("delta:1")).publications

        assert [{}, UNKNOWN, BAD_REQUEST] == [
            response.get("result", response) for response in responses[1:4]
        ]
        assert [1, 1] == [responses[place]["result"]["offset"] for place in (0, 4)]
        assert kept[0].has_delta


async def test_broadcast_to_nobody_and_to_too_many() -> None:
    """Without channels, and with more than 10,000, nothing is published."""
    async with running() as board:
        few = await board.post("broadcast", {"channels": [], "data": 1})
        many = await board.post("broadcast", {"channels": ["plain:1"] * 10_001, "data": 1})

        assert BAD_REQUEST == few
        message = "one call has at most 10000 channels, got 10001"
        assert {"error": {"code": 106, "message": message}} == many
        assert 0 == board.rt.node().statistics.published_count


async def test_publish_to_pattern() -> None:
    """Channels with subscribers get it, if the policy knows them."""
    async with running() as board:
        peer = await board.connect()
        for channel in ("news:1", "plain:1"):
            await peer.subscribe(channel)
        peer.heard()
        answer = await board.post("publish_to_pattern", {"pattern": "*:1", "data": "x"})
        none = await board.post("publish_to_pattern", {"data": "x"})
        await turns()

        responses = answer["result"]["responses"]
        assert {"news:1", "plain:1"} == responses.keys()
        assert 1 == responses["news:1"]["result"]["offset"]
        assert 2 == len(peer.pushes())
        assert BAD_REQUEST == none


async def test_subscribe() -> None:
    """A client is subscribed with info, data, an end and overrides."""
    async with running() as board:
        ann = await board.connect("ann")
        body = {
            "user": "ann",
            "client": ann.client_id,
            "channel": "room:1",
            "info": {"seat": 7},
            "b64data": base64.b64encode(b'{"hi":1}').decode(),
            "expire_at": int(time.time()) + 100,
            "override": {
                "join_leave": {"value": False},
                "force_push_join_leave": {"value": True},
                "presence": {},
            },
        }
        assert DONE == await board.post("subscribe", body)
        await turns()
        subscription = board.rt.node().connections[ann.client_id].channels["room:1"]

        assert [{"channel": "room:1", "subscribe": {"data": {"hi": 1}}}] == ann.pushes()
        assert (b'{"seat": 7}', False, False, True) == (
            subscription.chan_info,
            subscription.has_presence,
            subscription.has_join_leave,
            subscription.is_server_side,
        )
        assert float(str(body["expire_at"])) == subscription.expires_at


async def test_subscribe_with_a_position() -> None:
    """A position is told to the client; one of another epoch is refused."""
    async with running() as board:
        ann = await board.connect("ann")
        epoch = (await board.post("publish", {"channel": "news:1", "data": 1}))["result"]["epoch"]
        body: dict[str, Any] = {"user": "ann", "channel": "news:1"}
        wrong = await board.post("subscribe", {**body, "recover_since": {"epoch": "other"}})
        right = await board.post(
            "subscribe", {**body, "recover_since": {"offset": 1, "epoch": epoch}}
        )
        await turns()

        assert 112 == wrong["error"]["code"]
        assert DONE == right
        assert 1 == ann.pushes()[0]["subscribe"]["offset"]


@pytest.mark.parametrize("members", [{"b64info": "%%"}, {"b64data": "/w=="}])
async def test_subscribe_with_bad_values(members: dict[str, str]) -> None:
    """What clients are shown must be JSON."""
    async with running() as board:
        body = {"user": "ann", "channel": "room:1", **members}

        assert BAD_REQUEST == await board.post("subscribe", body)


async def test_unsubscribe() -> None:
    """A subscription ends; without a channel the caller is told."""
    async with running() as board:
        ann = await board.connect("ann")
        await ann.subscribe("plain:1")
        ann.heard()
        done = await board.post("unsubscribe", {"user": "ann", "channel": "plain:1"})
        missing = await board.post("unsubscribe", {"user": "ann"})
        await turns()

        assert DONE == done
        assert {"error": {"code": 107, "message": "unsubscribe needs a channel"}} == missing
        assert [2000] == [push["unsubscribe"]["code"] for push in ann.pushes()]


@pytest.mark.parametrize(
    ("disconnect", "expected"),
    [
        (None, (3503, "force disconnect")),
        ({}, (3503, "force disconnect")),
        ({"code": 4500, "reason": "out"}, (4500, "out")),
        ({"code": 3011}, (3011, "")),
    ],
)
async def test_disconnect(disconnect: object, expected: tuple[int, str]) -> None:
    """A user's clients are closed with a code and a reason, but for those on the list."""
    async with running() as board:
        ann, kept = await board.connect("ann"), await board.connect("ann")
        body = {"user": "ann", "disconnect": disconnect, "whitelist": [kept.client_id]}
        done = await board.post("disconnect", body)

        assert DONE == done
        assert [expected] == ann.transport.closed
        assert [] == kept.transport.closed


async def test_disconnect_out_of_bounds() -> None:
    """A code that no close frame carries is refused."""
    async with running() as board:
        answer = await board.post("disconnect", {"user": "ann", "disconnect": {"code": 1005}})

        assert 107 == answer["error"]["code"]


@pytest.mark.parametrize(
    ("info", "expected"), [({"n": 1}, b'{"n": 1}'), (None, b""), ("x", b'"x"')]
)
async def test_refresh(info: object, expected: bytes) -> None:
    """A client is told of its new end, and gets new info."""
    async with running() as board:
        ann = await board.connect("ann")
        body = {"user": "ann", "expire_at": int(time.time()) + 50, "info": info}
        done = await board.post("refresh", body)
        await turns()
        await board.post("refresh", {"user": "ann", "expired": True})

        assert DONE == done
        assert [True] == [push["refresh"]["expires"] for push in ann.pushes()]
        assert expected == board.rt.node().connections[ann.client_id].conn_info
        assert [(3005, "connection expired")] == ann.transport.closed


async def test_presence() -> None:
    """Members are listed with what others see of them."""
    async with running() as board:
        ann = await board.connect("ann")
        await board.post("refresh", {"user": "ann", "info": {"n": 1}})
        await board.post("subscribe", {"user": "ann", "channel": "room:1", "info": [1]})
        await turns()
        answer = await board.post("presence", {"channel": "room:1"})

        info = {"user": "ann", "client": ann.client_id, "conn_info": {"n": 1}, "chan_info": [1]}
        assert {"result": {"presence": {ann.client_id: info}}} == answer
        stats = await board.post("presence_stats", {"channel": "room:1"})
        assert {"result": {"num_clients": 1, "num_users": 1}} == stats
        for name in ("presence", "presence_stats"):
            assert NOT_AVAILABLE == await board.post(name, {"channel": "plain:1"})


async def test_history() -> None:
    """Publications come with their offsets, and text of an application as a string."""
    async with running() as board:
        await board.orders.publish("board:1", "text", tags={"a": "b"})
        await board.post("publish", {"channel": "board:1", "data": 2})
        answer = (await board.post("history", {"channel": "board:1", "limit": -1}))["result"]
        since = {"offset": 1, "epoch": answer["epoch"]}
        later = await board.post("history", {"channel": "board:1", "limit": 5, "since": since})
        wrong = {"channel": "board:1", "limit": 5, "since": {"offset": 1, "epoch": "x"}}
        await board.post("history_remove", {"channel": "board:1"})
        after = (await board.post("history", {"channel": "board:1", "limit": 9}))["result"]

        first = {"data": "text", "offset": 1, "tags": {"a": "b"}}
        assert [first, {"data": 2, "offset": 2}] == answer["publications"]
        assert [2] == [each["offset"] for each in later["result"]["publications"]]
        assert 112 == (await board.post("history", wrong))["error"]["code"]
        assert {"publications": [], "epoch": answer["epoch"], "offset": 2} == after
        for name in ("history", "history_remove"):
            assert NOT_AVAILABLE == await board.post(name, {"channel": "plain:1"})


async def test_history_of_clients() -> None:
    """What a client published says who it was."""
    async with running() as board:
        options = board.rt.channel("chat", allow_publish_for_client=True, history=_HISTORY)
        assert options.options.history is not None
        ann = await board.connect("ann")
        await ann.say({"id": 2, "publish": {"channel": "chat", "data": 1}})
        answer = await board.post("history", {"channel": "chat", "limit": 1})

        info = {"user": "ann", "client": ann.client_id}
        expected = [{"data": 1, "info": info, "offset": 1}]
        assert expected == answer["result"]["publications"]


async def test_channels() -> None:
    """Channels are counted, and a pattern that is none is refused."""
    async with running() as board:
        peer = await board.connect()
        await peer.subscribe("plain:1")

        found = {"result": {"channels": {"plain:1": {"num_clients": 1}}}}
        assert found == await board.post("channels", {"pattern": "plain:*"})
        assert 107 == (await board.post("channels", {"pattern": "{a"}))["error"]["code"]


async def test_info() -> None:
    """The one node tells what it has to do."""
    async with running() as board:
        await board.connect("ann")
        (node,) = (await board.post("info"))["result"]["nodes"]

        assert (1, 1, __version__) == (node["num_clients"], node["num_users"], node["version"])
        assert {"uid", "name", "metrics", "process"} < node.keys()


async def test_connections() -> None:
    """Connections are listed as the server API's clients expect them."""
    async with running() as board:
        ann = await board.connect("ann", name="js", version="5")
        await ann.subscribe("plain:1")
        body = {"user": "ann", "expression": ""}
        found = (await board.post("connections", body))["result"]["connections"]
        connected_at = found[ann.client_id].pop("connected_at")

        expected = {
            "transport": "websocket",
            "protocol": "json",
            "app_name": "js",
            "app_version": "5",
            "user": "ann",
            "state": {"channels": {"plain:1": {}}},
            "address": "10.0.0.1",
        }
        assert {ann.client_id: expected} == found
        assert connected_at > 0
        everybody = (await board.post("connections"))["result"]["connections"]
        assert [ann.client_id] == list(everybody)
        assert NOT_AVAILABLE == await board.post("connections", {"expression": "true"})
        assert 107 == (await board.post("connections", {"limit": 1001}))["error"]["code"]


async def test_get_user_status() -> None:
    """Who is online now, and with how many connections."""
    async with running() as board:
        await board.connect("ann")
        answer = await board.post("get_user_status", {"users": ["ann", "ben"]})
        many = await board.post("get_user_status", {"users": ["ann"] * 1001})

        ann, ben = answer["result"]["statuses"]
        assert abs(ann.pop("online") - time.time()) < 10
        assert ({"user": "ann", "connections": 1}, {"user": "ben"}) == (ann, ben)
        assert 106 == many["error"]["code"]


async def test_revoke() -> None:
    """Tokens, users and sessions are revoked one at a time; what has passed is refused."""
    async with running() as board:
        ann, ben = await board.connect("ann"), await board.connect("ben")
        until = int(time.time()) + 100
        answers = [
            await board.post("revoke_token", {"uid": "t1", "expire_at": until}),
            await board.post("invalidate_user_tokens", {"user": "ann", "expire_at": until}),
            await board.post("revoke_session", {"client": ben.client_id}),
        ]
        old = await board.post("invalidate_user_tokens", {"user": "eve", "issued_before": 5})
        known = {each.key: each for each in board.rt.node().cluster.revocations}

        assert [{"result": {}}] * 3 == answers
        assert [[(3500, "invalid token")]] * 2 == [ann.transport.closed, ben.transport.closed]
        assert {("", "t1"), ("ann", ""), ("eve", "")} == known.keys()
        assert ({"result": {}}, 5.0) == (old, known["eve", ""].issued_before)
        assert until == known["ann", ""].until
        for name in ("revoke_token", "revoke_session", "invalidate_user_tokens"):
            assert 107 == (await board.post(name))["error"]["code"]
        passed = await board.post("revoke_token", {"uid": "t1", "expire_at": 1})
        assert 107 == passed["error"]["code"]


async def test_what_is_not_there() -> None:
    """There are no procedures, and no maps: what can be said of a channel is said."""
    async with running() as board:
        not_found = {"error": {"code": 104, "message": "not found"}}

        assert not_found == await board.post("rpc", {"method": "x", "params": None})
        assert BAD_REQUEST == await board.post("rpc")
        assert NOT_AVAILABLE == await board.post("map_publish", {"channel": "map:1", "key": "k"})
        assert BAD_REQUEST == await board.post("map_publish", {"channel": "news:1", "key": "k"})


async def test_null_is_nothing() -> None:
    """Null stands for what was left out, but for payloads."""
    async with running() as board:
        body = {"channel": "news:1", "data": None, "tags": None, "version": None, "delta": None}
        await board.post("publish", body)
        kept = await board.post("history", {"channel": "news:1", "limit": 1, "since": None})

        assert [None] == [each["data"] for each in kept["result"]["publications"]]
        assert DONE == await board.post("disconnect", json.dumps(None))
        assert BAD_REQUEST == await board.post("publish", "null")
