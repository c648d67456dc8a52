"""The bidirectional connection: order, pings, deadlines and ends, in both encodings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.clients import CODECS, Peer, encode_frame
from tests.unit.clocks import pass_time, turns
from tests.unit.nodes import running
from wirebell.access import ConnectGrant
from wirebell.deferred import Deferred
from wirebell.errors import (
    BrokerUnavailable,
    ClientDisconnected,
    DisconnectCode,
    ErrorCode,
    LimitExceeded,
    ProtocolError,
    create_disconnect,
)
from wirebell.model import Published, StreamPosition
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON, JSONCodec
from wirebell.protocol.messages import Reply
from wirebell.session import State
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)

PING_AND_PONG: dict[str, Any] = {}
QUICK = Settings(
    first_message_timeout_seconds=5.0, pong_timeout_seconds=4.0, ping_interval_seconds=3.0
)


@both
async def test_answers_keep_the_order_of_commands(codec: Codec) -> None:
    """What has to wait holds up what comes behind it, in one frame and in the next."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        gate = rig.gates.hold("history")

        first = await peer.begin(
            {"id": 2, "rpc": {"data": 1}},
            {"id": 3, "history": {"channel": "h"}},
            {"id": 4, "publish": {"channel": "a", "data": 1}},
            {"id": 5, "presence": {"channel": "a"}},
            {"id": 6, "rpc": {"data": 1}},
        )
        gate.set()
        await first

        assert [2, 3, 4, 5, 6] == [reply["id"] for reply in await peer.wait_news()]


@both
async def test_one_publication_in_a_frame(codec: Codec) -> None:
    """It is done at once: nothing is awaited, and the reply is in the tick."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()

        frame = encode_frame(codec, {"id": 2, "publish": {"channel": "a", "data": 1}})

        assert None is peer.hand_over(frame)
        assert [{"id": 2, "publish": {}}] == await peer.wait_news()


@both
@pytest.mark.parametrize("error", [None, BrokerUnavailable("away"), LimitExceeded("too many")])
async def test_one_publication_in_a_frame_that_waits_for_the_broker(
    codec: Codec, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no task: the reply is written when the broker has answered, and it counts then."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        published: Deferred[Published] = Deferred()
        monkeypatch.setattr(rig.broker, "publish", lambda *_: published)
        before = asyncio.all_tasks()

        waiting = peer.hand_over(
            encode_frame(codec, {"id": 2, "publish": {"channel": "a", "data": 1}})
        )
        assert waiting is not None
        assert (before, True) == (asyncio.all_tasks(), peer.receiver.is_busy)
        if error is None:
            published.set_result(Published(StreamPosition()))
        else:
            published.set_exception(error)
        await waiting

        [reply] = await peer.wait_news()
        assert (2, error is None) == (reply["id"], "publish" in reply)
        assert not peer.receiver.is_busy
        statistics = rig.node.statistics
        assert (error is None) == (statistics.published_count == 1)
        assert isinstance(error, BrokerUnavailable) == (statistics.publish_error_count == 1)


async def test_one_publication_in_a_frame_whose_client_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody is answered any more, and what the server gave up is not told again."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        published: Deferred[Published] = Deferred()
        monkeypatch.setattr(rig.broker, "publish", lambda *_: published)
        frame = encode_frame(JSON, {"id": 2, "publish": {"channel": "a", "data": 1}})
        waiting = peer.hand_over(frame)
        assert isinstance(waiting, Deferred)

        peer.receiver.receive_eof()
        waiting.cancel()
        published.set_result(Published(StreamPosition()))
        await turns()

        assert [] == peer.news()


async def test_one_publication_in_a_frame_that_fails() -> None:
    """An end is an end on this way too."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        peer.access.failures["publish"] = ClientDisconnected(
            create_disconnect(DisconnectCode.FORCE_DISCONNECT)
        )

        await peer.say({"id": 2, "publish": {"channel": "a", "data": 1}})

        assert [(3503, "force disconnect")] == peer.closed


async def test_one_publication_in_a_frame_that_waits() -> None:
    """Where the broker has to be waited for, the reply comes afterwards."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        gate = rig.gates.hold("publish")

        task = await peer.begin({"id": 2, "publish": {"channel": "a", "data": 1}})
        assert [] == peer.news()
        gate.set()
        await task

        assert [{"id": 2, "publish": {}}] == await peer.wait_news()


async def test_json_in_a_binary_message() -> None:
    """It is read all the same (``frame_binary_on_json``)."""
    async with running() as rig:
        peer = Peer(rig)

        await (peer.receiver.receive_bytes(b'{"id":1,"connect":{}}') or turns())

        assert [1] == [reply["id"] for reply in await peer.wait_news()]


@both
async def test_a_mistake_ends_it(codec: Codec) -> None:
    """What stands before the mistake is answered, then it is closed, and nothing follows."""
    async with running() as rig:
        peer = Peer(rig, codec)
        await peer.connect()

        await peer.say({"id": 2, "rpc": {"data": 1}}, {"id": 3, "ping": {}}, {"id": 4, "rpc": {}})
        await peer.say({"id": 5, "rpc": {}})

        assert [2] == [reply["id"] for reply in peer.news()]
        assert [(3501, "bad request")] == peer.closed
        await peer.leave()
        assert {} == rig.node.connections


class BrokenCodec(JSONCodec):
    """Cannot write the answer to command 13."""

    def encode_reply(self, reply: Reply) -> str:
        """Write an answer."""
        if reply.id == 13:
            raise RuntimeError("broken")
        return super().encode_reply(reply)


@pytest.mark.parametrize(
    "commands",
    [
        [{"id": 13, "publish": {"channel": "a", "data": 1}}],
        [{"id": 13, "publish": {"channel": "a", "data": 1}}, {"id": 3, "rpc": {}}],
        [{"id": 13, "rpc": {}}, {"id": 3, "rpc": {}}],
        [{"id": 2, "rpc": {}}, {"id": 13, "publish": {"channel": "a", "data": 1}}],
    ],
)
async def test_what_breaks_inside_ends_it(
    commands: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours is logged, and ends the one connection with 3004."""
    async with running() as rig:
        peer, other = Peer(rig, BrokenCodec()), Peer(rig)
        for who in (peer, other):
            await who.connect()

        news = await peer.ask(*commands)

        assert {13, 3}.isdisjoint(reply["id"] for reply in news)
        assert ([(3004, "internal server error")], []) == (peer.closed, other.closed)
        assert "a command failed" in caplog.text


@both
async def test_stale(codec: Codec) -> None:
    """Who does not connect in time is closed with 3502; who does is not."""
    async with running(QUICK) as rig:
        silent, quick = Peer(rig, codec), Peer(rig, codec)
        await quick.connect()

        await pass_time(6)

        assert ([(3502, "stale")], []) == (silent.closed, quick.closed)


async def test_a_slow_connect_is_stale_too() -> None:
    """An application that does not answer is not waited for without a bound."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        gate = peer.access.hold("connect")
        task = await peer.begin({"id": 1, "connect": {}})

        await pass_time(6)
        gate.set()
        await task

        assert ([], [(3502, "stale")]) == (peer.messages, peer.closed)


async def test_a_command_that_came_with_the_request() -> None:
    """Who has spoken before the link was open needs no time to speak."""
    async with running(QUICK) as rig:
        peer = Peer(rig, is_open=False)
        await peer.connect()

        peer.receiver.receive_open()
        await pass_time(6)

        assert [] == peer.closed


@pytest.mark.parametrize(("is_emulated", "code"), [(False, 3000), (True, 3502)])
async def test_the_end_after_a_refused_connect(is_emulated: bool, code: int) -> None:
    """The client has 5 seconds to go (section 1.6)."""
    async with running() as rig:
        peer = Peer(rig, is_emulated=is_emulated)
        peer.access.failures["connect"] = ProtocolError(ErrorCode.TOKEN_EXPIRED)
        await peer.say({"id": 1, "connect": {}})

        await pass_time(4)
        assert [] == peer.closed
        await pass_time(2)

        assert [code] == [closed[0] for closed in peer.closed]
        assert State.CLOSED is peer.receiver.session.state


@both
async def test_pings(codec: Codec) -> None:
    """A ping goes out once the client has connected; one pong is the answer."""
    async with running() as rig:
        peer = Peer(rig, codec)
        assert peer.receiver.send_ping()
        assert [] == await peer.wait_news()
        await peer.connect()

        assert peer.receiver.send_ping()
        assert peer.receiver.send_ping()
        assert [{}] == await peer.wait_news()
        await peer.say(PING_AND_PONG)
        await pass_time(10)
        assert [] == peer.closed
        await peer.say(PING_AND_PONG)

        assert [(3501, "bad request")] == peer.closed


@both
async def test_no_pong(codec: Codec) -> None:
    """Who does not answer in time is closed with 3012; other commands are no answer."""
    async with running(QUICK) as rig:
        peer = Peer(rig, codec)
        await peer.connect()
        peer.receiver.send_ping()

        await pass_time(3)
        await peer.say({"id": 2, "rpc": {"data": 1}})
        assert [] == peer.closed
        await pass_time(2)

        assert [(3012, "no pong")] == peer.closed


async def test_pings_quicker_than_the_time_for_a_pong() -> None:
    """Each ping has its own time for an answer: the one before it is no reason to close."""
    async with running(QUICK) as rig:
        peer = Peer(rig)
        await peer.connect()
        for _ in range(5):
            peer.receiver.send_ping()
            await peer.say(PING_AND_PONG)
            await pass_time(2)
            peer.receiver.send_ping()
            # The time of the first one's answer passes here.
            await pass_time(3)
            await peer.say(PING_AND_PONG)

        assert [] == peer.closed


async def test_native_pings() -> None:
    """The carrier pings, and nothing is announced."""
    async with running() as rig:
        peer = Peer(rig, has_native_pings=True)
        result = await peer.connect()

        assert not peer.receiver.send_ping()
        assert (None, None) == (result.get("ping"), result.get("pong"))
        await peer.say(PING_AND_PONG)
        assert [(3501, "bad request")] == peer.closed


@both
async def test_emulation(codec: Codec) -> None:
    """The session is told with its node, registered, and its end is a push."""
    async with running() as rig:
        known: list[str] = []
        peer = Peer(rig, codec, is_emulated=True, on_connect=known.append, on_end=known.remove)
        result = await peer.connect()

        assert ([result["session"]], rig.node.node_id) == (known, result["node"])
        peer.receiver.receive_shutdown()
        (notice,) = peer.transport.notices
        frame = json.loads(notice) if isinstance(notice, str) else None
        expected = {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
        assert frame in (None, expected)
        assert [(3001, "shutdown")] == peer.closed
        await peer.leave()
        assert [] == known


async def test_an_emulated_client_that_leaves_while_connecting() -> None:
    """Its session is never known, and forgetting it is fine."""
    async with running() as rig:
        known: list[str] = []
        peer = Peer(rig, is_emulated=True, on_connect=known.append, on_end=lambda _: known.clear())
        gate = peer.access.hold("connect")
        task = await peer.begin({"id": 1, "connect": {}})

        await peer.leave()
        gate.set()
        await task

        assert [] == known


async def test_a_websocket_has_no_session() -> None:
    """Only who speaks by other requests has one, and an end without a push."""
    async with running() as rig:
        peer = Peer(rig)
        result = await peer.connect()
        peer.receiver.receive_shutdown()

        assert (None, None) == (result.get("session"), result.get("node"))
        assert [None] == peer.transport.notices


async def test_the_limit_of_connections() -> None:
    """A connection too many is refused while it is made, and leaves nothing behind."""
    async with running(Settings(connections_max=1)) as rig:
        peer = Peer(rig)

        with pytest.raises(LimitExceeded):
            Peer(rig)
        assert {peer.client.client_id} == set(rig.node.connections)


async def test_the_first_reason_counts() -> None:
    """A close after a close changes nothing, also once the peer is gone."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()

        peer.receiver.close(create_disconnect(DisconnectCode.SLOW))
        peer.receiver.receive_shutdown()
        await peer.leave()
        peer.receiver.receive_shutdown()

        assert [(3008, "slow")] == peer.closed
        assert {3008: 1} == rig.node.statistics.disconnect_counts


async def test_an_answer_after_the_end() -> None:
    """What is answered after the connection was closed goes nowhere."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        gate = peer.access.hold("rpc")
        task = await peer.begin({"id": 2, "rpc": {"data": 1}}, {"id": 3, "rpc": {"data": 1}})

        peer.receiver.receive_shutdown()
        gate.set()
        await task
        await turns()

        assert [] == peer.news()
        assert 1 == peer.access.told.count("rpc")


async def test_a_client_that_is_gone_leaves_while_a_command_is_done() -> None:
    """It is in no channel, and what came behind that command is done as far as it needs none."""
    async with running() as rig:
        peer, other = Peer(rig), Peer(rig)
        for each in (peer, other):
            await each.connect()
            await each.say({"id": 2, "subscribe": {"channel": "p", "join_leave": True}})
        other.news()
        gate = peer.access.hold("rpc")
        task = await peer.begin(
            {"id": 3, "rpc": {"data": 1}},
            {"id": 4, "publish": {"channel": "p", "data": 1}},
            {"id": 5, "subscribe": {"channel": "q"}},
        )

        peer.receiver.receive_leave()
        peer.receiver.receive_leave()
        await turns()
        told = [list(item["push"])[1] for item in other.news()]
        members = await rig.node.presence("p")
        gate.set()
        await task
        await turns()

        assert (["leave"], {other.client.client_id}) == (told, set(members))
        assert [1] == [item["push"]["pub"]["data"] for item in other.news()]
        assert {other.client.client_id} == set(rig.node.connections)
        await peer.leave()


async def test_a_pong_behind_a_command() -> None:
    """A client whose pong cannot be read yet is not taken for silent; later it is."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        gate = peer.access.hold("rpc")
        task = await peer.begin({"id": 2, "rpc": {"data": 1}})
        peer.receiver.send_ping()

        await pass_time(rig.node.settings.pong_timeout_seconds * 2.5)
        before = list(peer.closed)
        gate.set()
        await task
        await pass_time(rig.node.settings.pong_timeout_seconds)

        assert ([], [(3012, "no pong")]) == (before, peer.closed)


async def test_a_cancelled_handler() -> None:
    """A cancellation passes: the carrier decides what comes of it."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()
        peer.access.hold("rpc")
        task = await peer.begin({"id": 2, "rpc": {"data": 1}})

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await peer.leave()
        assert {} == rig.node.connections


async def test_who_reads_again() -> None:
    """What waited for a slow reader follows."""
    async with running() as rig:
        peer = Peer(rig)
        peer.access.connect_grant = ConnectGrant()
        await peer.connect()

        peer.receiver.receive_writable()

        assert [] == peer.closed
        assert JSON is peer.receiver.session.codec
