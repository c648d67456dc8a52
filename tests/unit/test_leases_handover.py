"""Who is sent to another node: others see it come back before they see it leave."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import Rig, running
from tests.unit.test_leases import memberships
from wirebell.connection import Connection
from wirebell.control import Hello
from wirebell.errors import Disconnect, DisconnectCode
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio

MOVED = Disconnect(DisconnectCode.SHUTDOWN, "shutdown")


def join_node(rig: Rig) -> None:
    """Have another node live."""
    info = msgspec.structs.replace(rig.node.describe(), node_id="other")
    rig.node.cluster.members.hear_hello(Hello(info), 0.0)


async def enter(rig: Rig, user_id: str) -> tuple[Connection, FakeTransport]:
    """Connect somebody who is in a channel with presence and joins."""
    peer, transport = rig.connect(user_id, is_json=True)
    await rig.node.subscribe(peer, "p")
    return peer, transport


def end(rig: Rig, connection: Connection, disconnect: Disconnect) -> None:
    """Close a connection, and hear of its end."""
    rig.node.close(connection, disconnect)
    rig.node.disconnect(connection)


async def users(rig: Rig) -> set[str]:
    """Return who is in presence."""
    return {info.user_id for info in (await rig.node.presence("p")).values()}


@pytest.mark.parametrize("code", [DisconnectCode.SHUTDOWN, DisconnectCode.SERVICE_RESTART])
async def test_moved(code: DisconnectCode) -> None:
    """Whoever is sent elsewhere has time to be back there: until then it has not left."""
    async with running() as rig:
        join_node(rig)
        _, told = await enter(rig, "watcher")
        ann, _ = await enter(rig, "ann")

        end(rig, ann, Disconnect(code, "shutting down"))
        await pass_time(2.9)
        there, before = await users(rig), memberships(told)
        await pass_time(0.2)

        assert ({"watcher", "ann"}, ("join", "ann")) == (there, before[-1])
        assert ({"watcher"}, ("leave", "ann")) == (await users(rig), memberships(told)[-1])


async def test_each_has_the_same_time() -> None:
    """A drain takes a while: each one's time begins with its own end."""
    async with running() as rig:
        join_node(rig)
        _, told = await enter(rig, "watcher")
        for user in ("ann", "bob"):
            peer, _ = await enter(rig, user)
            end(rig, peer, MOVED)
            await pass_time(2.0)
        after_four = memberships(told)[3:]
        await pass_time(1.1)

        assert [("leave", "ann")] == after_four
        assert [("leave", "ann"), ("leave", "bob")] == memberships(told)[3:]


@pytest.mark.parametrize(
    "disconnect",
    [
        Disconnect(DisconnectCode.FORCE_DISCONNECT, "force disconnect"),
        Disconnect(DisconnectCode.SLOW, "slow"),
    ],
)
async def test_others_leave_at_once(disconnect: Disconnect) -> None:
    """Whoever is ended for another reason, or goes by itself, has left."""
    async with running() as rig:
        join_node(rig)
        _, told = await enter(rig, "watcher")
        ann, _ = await enter(rig, "ann")
        bob, _ = await enter(rig, "bob")

        end(rig, ann, disconnect)
        rig.node.disconnect(bob)
        await turns()

        assert {("leave", "ann"), ("leave", "bob")} == set(memberships(told)[3:])
        assert {"watcher"} == await users(rig)


async def test_nobody_is_waited_for_alone() -> None:
    """Where no other node lives nobody could see it: the process ends as soon as it can."""
    loop = asyncio.get_running_loop()
    async with running() as rig:
        ann, _ = await enter(rig, "ann")
        began = loop.time()

        end(rig, ann, MOVED)
        await turns()

        assert set() == await users(rig)
    assert loop.time() == began


async def test_switched_off() -> None:
    """With no time to come back each leave is told at once."""
    async with running(Settings(handover_seconds=0)) as rig:
        join_node(rig)
        ann, _ = await enter(rig, "ann")

        end(rig, ann, MOVED)
        await turns()

        assert set() == await users(rig)


async def test_a_node_ends_after_its_leaves() -> None:
    """A node that closes tells the leaves that it owes, each once, before its broker is closed."""
    loop = asyncio.get_running_loop()
    async with running() as rig:
        join_node(rig)
        ann, _ = await enter(rig, "ann")
        await enter(rig, "bob")
        end(rig, ann, MOVED)
        await pass_time(1.0)
        began = loop.time()

        await rig.node.aclose()

        assert 3.0 == pytest.approx(loop.time() - began, abs=0.1)
        assert 2 == rig.gates.calls.count("leave") == rig.gates.calls.count("remove")
        assert {} == await rig.store.members("p")
