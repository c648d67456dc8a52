"""What an application may do with channels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.unit.clocks import turns
from tests.unit.orders import running
from wirebell import BadRequest, LimitExceeded, NotRunning, Settings, StreamPosition
from wirebell.brokers.memory import MemoryBroker
from wirebell.errors import BrokerClosed, CommandError, ErrorCode, ProtocolError
from wirebell.model import PayloadFormat, Publication, Published, ServerSubscribe
from wirebell.operations import Operations
from wirebell.publishing import CHANNELS_MAX

pytestmark = pytest.mark.anyio


class Note(BaseModel):
    """A model of an application."""

    text: str


async def test_without_a_node() -> None:
    """Where nothing runs every operation says so."""
    operations = Operations()

    for work in (operations.publish("a", 1), operations.info(), operations.disconnect("ann")):
        with pytest.raises(NotRunning):
            await work


async def test_publish() -> None:
    """Text, models and other values reach subscribers, in channels declared or not."""
    async with running() as board:
        peer = await board.connect()
        await peer.subscribe("plain:1")
        for data in ("hi", Note(text="yes"), [1, None]):
            await board.orders.publish("plain:1", data)
        unknown = await board.orders.publish("not declared", 1)
        await turns()

        assert ["hi", {"text": "yes"}, [1, None]] == [push["pub"]["data"] for push in peer.pushes()]
        assert StreamPosition() == unknown


async def test_publish_with_keywords() -> None:
    """Tags and versions travel; a key that was there, and an old version, publish nothing."""
    async with running() as board:
        peer = await board.connect()
        await peer.subscribe("news:1")
        peer.heard()
        publish = board.orders.publish
        first = await publish("news:1", 1, tags={"a": "b"}, version=2, idempotency_key="k")
        again = await publish("news:1", 2, idempotency_key="k")
        old = await publish("news:1", 3, version=2)
        skipped = await publish("news:1", 4, skip_history=True)
        await turns()

        assert [1, 1, 1, 0] == [each.offset for each in (first, again, old, skipped)]
        expected = [
            {"data": 1, "offset": 1, "tags": {"a": "b"}, "epoch": first.epoch, "version": 2},
            {"data": 4},
        ]
        assert expected == [push["pub"] for push in peer.pushes()]


async def test_publish_leaves_somebody_out() -> None:
    """Who is excluded does not hear it live, and finds it in history."""
    async with running() as board:
        sender, other = await board.connect(), await board.connect()
        for peer in (sender, other):
            await peer.subscribe("news:1")
            peer.heard()
        await board.orders.publish("news:1", "x", exclude=sender.client_id)
        await turns()

        assert [] == sender.pushes()
        assert ["x"] == [push["pub"]["data"] for push in other.pushes()]
        assert 1 == len((await board.orders.history("news:1")).publications)


async def test_publish_where_patches_are_made() -> None:
    """In a channel with ``delta_publish`` everything may travel as a patch."""
    async with running() as board:
        await board.orders.publish("delta:1", {"a": 1})
        await board.orders.publish("news:1", {"a": 1}, delta=True)
        await board.orders.publish("news:1", {"a": 1})
        kept = [
            each.has_delta
            for channel in ("delta:1", "news:1")
            for each in (await board.orders.history(channel)).publications
        ]

        assert [True, True, False] == kept


async def test_publish_out_of_bounds() -> None:
    """Payload and keywords have bounds."""
    async with running(Settings(publication_bytes_max=10)) as board:
        with pytest.raises(BadRequest, match="at most 10 bytes, got 11"):
            await board.orders.publish("plain:1", "x" * 11)
        with pytest.raises(BadRequest, match="a version is 0 to"):
            await board.orders.publish("plain:1", "x", version=-1)
        with pytest.raises(BadRequest, match="at most 10 bytes, got 11"):
            await board.orders.publish_data("plain:1", Publication(b"x" * 11))


async def test_publish_data() -> None:
    """What is serialised already is published as it is, under a name of any length."""
    async with running() as board:
        channel = "binary:" + "x" * 300
        position = await board.orders.publish_data(
            channel, Publication(b"\xff", PayloadFormat.BINARY)
        )
        kept = (await board.orders.history(channel)).publications

        assert 1 == position.offset
        assert [(b"\xff", PayloadFormat.BINARY)] == [(each.data, each.format) for each in kept]
        assert 1 == board.rt.node().statistics.published_count


class SlowBroker(MemoryBroker):
    """A broker that answers later."""

    def publish(self, *args: Any) -> Any:
        """Publish, and make the caller wait for the answer."""
        published = super().publish(*args)

        async def answer() -> Published:
            await turns()
            return published

        return answer()


async def test_publish_data_waits_for_the_broker() -> None:
    """A position that is not there at once is waited for."""
    async with running() as board:
        node = board.rt.node()
        await node.broker.aclose()
        node.broker = SlowBroker(node.settings)
        await node.broker.start(node)
        position = await board.orders.publish_data("news:1", Publication(b"x"))

        assert 1 == position.offset


async def test_publish_data_that_fails() -> None:
    """What the broker did not take is not counted."""
    async with running() as board:
        await board.rt.node().broker.aclose()
        with pytest.raises(BrokerClosed):
            await board.orders.publish_data("news:1", Publication(b"x"))

        assert 0 == board.rt.node().statistics.published_count


async def test_broadcast() -> None:
    """Each channel has its own answer, and one that fails stops no other."""
    async with running() as board:
        answers = await board.orders.broadcast(["news:1", "", "plain:1"], {"a": 1})

        assert isinstance(answers[0], StreamPosition)
        assert 1 == answers[0].offset
        assert isinstance(answers[1], CommandError)
        assert StreamPosition() == answers[2]


async def test_broadcast_lets_others_run() -> None:
    """A long broadcast ends no turn of the loop late, and has a bound."""
    async with running() as board:
        peer = await board.connect()
        await peer.subscribe("plain:0")
        peer.heard()
        await board.orders.broadcast([f"plain:{n}" for n in range(1000)], 1)

        assert 1 == len(peer.pushes())
        with pytest.raises(LimitExceeded, match="at most 10000 channels, got 10001"):
            await board.orders.broadcast(["plain:1"] * (CHANNELS_MAX + 1), 1)


async def test_publish_to_pattern() -> None:
    """Every channel of the pattern that somebody listens to gets it, and no other."""
    async with running() as board:
        peer = await board.connect()
        for channel in ("news:1", "news:2", "plain:1"):
            await peer.subscribe(channel)
        peer.heard()
        answers = await board.orders.publish_to_pattern("news:*", "x")
        nobody = await board.orders.publish_to_pattern("room:*", "x")
        await turns()

        assert {"news:1", "news:2"} == answers.keys() == {push["channel"] for push in peer.pushes()}
        assert {} == nobody


async def test_channels() -> None:
    """Channels are counted by their subscribers, and chosen by a pattern."""
    async with running() as board:
        ann, ben = await board.connect(), await board.connect()
        for peer, channel in ((ann, "plain:1"), (ben, "plain:1"), (ben, "news:2")):
            await peer.subscribe(channel)
        everything = await board.orders.channels()
        await ben.leave()

        assert {"plain:1": 2, "news:2": 1} == everything
        assert {"plain:1": 1} == await board.orders.channels("{plain,news}:*")
        assert {} == await board.orders.channels("*2")


async def test_presence() -> None:
    """Who is in a channel, and how many; a channel that keeps none says so."""
    async with running() as board:
        ann, again = await board.connect("ann"), await board.connect("ann")
        for peer in (ann, again):
            await peer.subscribe("room:1")
        stats = await board.orders.presence_stats("room:1")

        members = await board.orders.presence("room:1")
        assert {ann.client_id, again.client_id} == members.keys()
        assert (2, 1) == (stats.client_count, stats.user_count)
        with pytest.raises(BadRequest, match="keeps no presence"):
            await board.orders.presence("plain:1")


async def test_history() -> None:
    """History is read from both ends, as far as asked, and can be forgotten."""
    async with running() as board:
        positions = [await board.orders.publish("news:1", number) for number in range(1, 5)]
        last = positions[-1]
        read = board.orders.history
        parts = [
            await read("news:1", limit=2),
            await read("news:1", limit=-1),
            await read("news:1", limit=2, reverse=True),
            await read("news:1", since=StreamPosition(3, last.epoch)),
            await read("news:1", limit=0),
        ]
        await board.orders.history_remove("news:1")

        assert [[1, 2], [1, 2, 3, 4], [4, 3], [4], []] == [
            [each.offset for each in part.publications] for part in parts
        ]
        assert () == tuple((await read("news:1")).publications)
        assert last == (await read("news:1")).top


async def test_history_that_is_not_kept() -> None:
    """A channel that keeps nothing says so."""
    async with running() as board:
        for work in (board.orders.history("plain:1"), board.orders.history_remove("plain:1")):
            with pytest.raises(BadRequest, match="keeps no history"):
                await work


@pytest.mark.parametrize(
    ("channel", "code", "text"),
    [
        ("", ErrorCode.BAD_REQUEST, "bad request"),
        ("nope:1", ErrorCode.UNKNOWN_CHANNEL, "unknown channel"),
        ("map:1", ErrorCode.NOT_AVAILABLE, "not available"),
        ("a\nb", ErrorCode.BAD_REQUEST, "printable characters"),
        ("x" * 4097, ErrorCode.BAD_REQUEST, "at most 4096 bytes, got 4097"),
    ],
)
async def test_find_options(channel: str, code: ErrorCode, text: str) -> None:
    """Names that the server API does not take are told apart."""
    async with running() as board:
        with pytest.raises(CommandError, match=text) as raised:
            board.orders.find_options(channel)

        assert code == raised.value.code


async def test_find_options_of_long_names() -> None:
    """The server API takes names that clients may not use."""
    async with running() as board:
        assert board.orders.find_options("room:é" + "x" * 4089).presence


async def test_recover_since_of_another_epoch() -> None:
    """A position that cannot be told is refused before anybody is subscribed."""
    async with running() as board:
        peer = await board.connect("ann")
        top = await board.orders.publish("news:1", 1)
        for channel, since in (
            ("news:1", StreamPosition(1, "other")),
            ("news:1", StreamPosition(2, top.epoch)),
            ("plain:1", StreamPosition(1, top.epoch)),
        ):
            with pytest.raises(ProtocolError, match="unrecoverable position"):
                await board.orders.subscribe("ann", channel, options=ServerSubscribe(since=since))
        assert [] == peer.pushes()

        assert 1 == await board.orders.subscribe(
            "ann", "news:1", options=ServerSubscribe(since=top)
        )
