"""A client whose answers wait, that comes back at once, or that names an odd position."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clients import CODECS, Peer
from tests.unit.clocks import pass_time, turns
from tests.unit.nodes import Rig, running
from wirebell.protocol.codec import Codec
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


async def test_a_refused_position_is_heard_by_nobody() -> None:
    """Who is refused for its position never joined, and was never there."""
    async with running() as rig:
        await rig.publish("hp", "1")
        watcher, peer = Peer(rig), Peer(rig)
        for who in (watcher, peer):
            await who.connect()
        await watcher.ask({"id": 2, "subscribe": {"channel": "hp", "join_leave": True}})
        before = list(rig.gates.calls)

        wish = {"channel": "hp", "recover": True, "offset": 1, "epoch": "_", "flag": 2}
        (refused,) = await peer.ask({"id": 2, "subscribe": wish})

        assert 112 == refused["error"]["code"]
        assert [] == watcher.news()
        assert ["history"] == rig.gates.calls[len(before) :]
        assert {} == peer.client.connection.channels


@both
async def test_a_position_past_everything(codec: Codec) -> None:
    """The largest offset that the wire can carry is not recovered, like any other ahead."""
    async with running() as rig:
        await rig.publish("h", "1")
        peer = Peer(rig, codec)
        await peer.connect()
        last = 2**64 - 1

        (reply,) = await peer.ask(
            {"id": 2, "subscribe": {"channel": "h", "recover": True, "offset": last}}
        )
        (history,) = await peer.ask(
            {"id": 3, "history": {"channel": "h", "limit": 9, "since": {"offset": last}}}
        )

        assert (1, True) == (reply["subscribe"]["offset"], reply["subscribe"]["was_recovering"])
        assert "recovered" not in reply["subscribe"]
        assert (1, []) == (
            int(history["history"]["offset"]),
            history["history"].get("publications", []),
        )


async def test_coming_back_in_one_frame() -> None:
    """Who unsubscribes and subscribes in one frame is there; others hear a leave, then a join."""
    async with running() as rig:
        watcher, peer = Peer(rig), Peer(rig)
        for who in (watcher, peer):
            await who.connect()
            await who.say({"id": 2, "subscribe": {"channel": "p", "join_leave": True}})
        watcher.news()

        await peer.say(
            {"id": 3, "unsubscribe": {"channel": "p"}}, {"id": 4, "subscribe": {"channel": "p"}}
        )

        assert ["leave", "join"] == [list(item["push"])[1] for item in watcher.news()]
        assert {watcher.client.client_id, peer.client.client_id} == set(
            await rig.node.presence("p")
        )


async def ask_much(rig: Rig) -> tuple[Peer, asyncio.Task[None]]:
    """Have somebody who does not read ask five times in one frame for a lot of history."""
    await rig.publish("h", *["x" * 1_000] * 5)
    peer = Peer(rig)
    await peer.connect()
    peer.transport.is_writable = False
    peer.news()
    reads = [{"id": number, "history": {"channel": "h", "limit": 9}} for number in range(2, 7)]
    return peer, await peer.begin(*reads)


async def test_answers_do_not_pile_up() -> None:
    """Past the bound of a queue commands wait until the peer has read; none is lost."""
    async with running(Settings(send_queue_bytes_max=8_000)) as rig:
        peer, task = await ask_much(rig)

        meanwhile = [reply["id"] for reply in peer.news()]
        await pass_time(20)
        assert [] == peer.news()
        peer.transport.is_writable = True
        await task
        await turns()

        assert ([2, 3], [4, 5, 6]) == (meanwhile, [reply["id"] for reply in peer.news()])


async def test_answers_of_a_peer_that_never_reads() -> None:
    """Who takes nothing is waited for as long as the ring needs to find that out."""
    settings = Settings(send_queue_bytes_max=8_000, ping_interval_seconds=25)
    async with running(settings) as rig:
        peer, task = await ask_much(rig)
        peer.news()

        await pass_time(26)
        first = [reply["id"] for reply in peer.news()]
        await pass_time(26)
        await task

        assert ([4, 5], [6]) == (first, [reply["id"] for reply in await peer.wait_news()])


@pytest.mark.parametrize("is_closed", [True, False])
async def test_answers_of_a_peer_that_leaves(is_closed: bool) -> None:
    """Nobody waits for a peer that is closed, or gone."""
    async with running(Settings(send_queue_bytes_max=8_000)) as rig:
        peer, task = await ask_much(rig)
        peer.news()

        if is_closed:
            peer.receiver.receive_shutdown()
        else:
            peer.receiver.receive_eof()
        await pass_time(0.1)

        assert task.done()
        assert [] == peer.news()


async def test_the_node_stops() -> None:
    """Who is still there is sent elsewhere, in the protocol's words."""
    async with running() as rig:
        peer = Peer(rig)
        await peer.connect()

    assert [(3001, "shutdown")] == peer.closed
