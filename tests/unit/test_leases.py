"""Who is in a channel: entering, leaving and staying, against a store that takes its time."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import running
from wirebell.connection import Subscription
from wirebell.errors import BrokerUnavailable, ConnectionClosed
from wirebell.leases import LEASES_IN_A_TURN, RENEWALS_AT_ONCE
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio


def memberships(transport: FakeTransport) -> list[tuple[str, str]]:
    """Return joins and leaves that a JSON peer saw."""
    pushes = [
        json.loads(line)["push"] for text in transport.messages for line in str(text).splitlines()
    ]
    return [
        (kind, push[kind]["info"].get("user", ""))
        for push in pushes
        for kind in ("join", "leave")
        if kind in push
    ]


async def test_presence() -> None:
    """Others see a join and a leave once each, and presence is who is there."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "p")
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")

        there = {info.user_id for info in (await rig.node.presence("p")).values()}
        rig.node.disconnect(ann)
        await turns()

        assert {"", "ann"} == there
        assert [("join", ""), ("join", "ann"), ("leave", "ann")] == memberships(transport)
        assert [watcher.info("p")] == list((await rig.node.presence("p")).values())


async def test_gone_before_presence() -> None:
    """Who left while the broker was asked never joined: nobody is told anything."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "ph")
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("history")
        work = asyncio.create_task(rig.node.subscribe(ann, "ph"))
        await turns()

        rig.node.disconnect(ann)
        gate.set()
        with pytest.raises(ConnectionClosed):
            await work
        await turns()

        assert [] == [user for _, user in memberships(transport) if user]
        assert [watcher.info("p")] == list((await rig.node.presence("ph")).values())


async def test_gone_while_entering() -> None:
    """Who left while presence was written is not there afterwards, and its leave comes last."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "p")
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("add")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()

        rig.node.disconnect(ann)
        await turns()
        gate.set()
        with pytest.raises(ConnectionClosed):
            await work
        await turns()

        seen = [kind for kind, user in memberships(transport) if user == "ann"]
        assert [watcher.info("p")] == list((await rig.node.presence("p")).values())
        assert seen in ([], ["join", "leave"])


async def test_cancelled_while_entering() -> None:
    """A subscriber cancelled while the join is told leaves no entry behind."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("join")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()

        work.cancel()
        await turns()
        gate.set()
        await turns()

        assert {} == await rig.node.presence("p")
        assert (set(), {}) == (rig.broker.subscribed, ann.channels)


async def test_join_fails() -> None:
    """When the join cannot be told the connection is not subscribed and not present."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        rig.gates.failures["join"] = BrokerUnavailable("away")

        with pytest.raises(BrokerUnavailable):
            await rig.node.subscribe(ann, "p")
        await turns()

        assert {} == await rig.node.presence("p")
        assert {} == ann.channels


async def test_leases_are_renewed() -> None:
    """Entries of those who are connected are renewed in time, of others never."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        bob, _ = rig.connect("bob")
        for peer in (ann, bob):
            await rig.node.subscribe(peer, "p")
            await rig.node.subscribe(peer, "a")
        await pass_time(10.5)
        renewed = rig.gates.calls.count("add")
        rig.node.disconnect(bob)

        await pass_time(10.0)

        assert (4, 5) == (renewed, rig.gates.calls.count("add"))


async def test_lease_that_cannot_be_renewed() -> None:
    """A store that fails is counted, and asked again soon, and the next time."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")
        rig.gates.failures["add"] = BrokerUnavailable("away")
        await pass_time(10.5)
        failed = rig.node.statistics.broker_error_count
        there = await rig.node.presence("p")
        rig.gates.failures.clear()

        await pass_time(10.0)

        assert (1, 4) == (failed, rig.gates.calls.count("add"))
        assert [ann.info("p")] == list(there.values())


async def test_gone_while_a_lease_is_renewed() -> None:
    """Who leaves while its lease is renewed leaves no entry behind."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")
        gate = rig.gates.hold("add")
        await pass_time(10.5)

        rig.node.disconnect(ann)
        await turns()
        gate.set()
        await turns()

        assert {} == await rig.node.presence("p")


@pytest.mark.parametrize(
    ("has_presence", "has_join_leave"), [(True, False), (False, True), (False, False)]
)
async def test_each_by_itself(has_presence: bool, has_join_leave: bool) -> None:
    """Presence and joins are two things: a subscription may have either, whatever the channel."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "a")
        ann, _ = rig.connect("ann")
        subscription = Subscription(has_presence=has_presence, has_join_leave=has_join_leave)

        await rig.node.subscribe(ann, "p", subscription=subscription)
        there = await rig.node.presence("p")
        rig.node.disconnect(ann)
        await turns()

        assert has_presence == bool(there)
        assert {} == await rig.node.presence("p")
        told = [call for call in rig.gates.calls if call in {"join", "leave"}]
        assert (["join", "leave"] if has_join_leave else []) == told
        assert (["add", "remove"] if has_presence else []) == [
            call for call in rig.gates.calls if call in {"add", "remove"}
        ]
        assert [] == transport.messages


async def test_info_of_the_channel() -> None:
    """What the application said of it in this channel is what others see there."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        subscription = Subscription(has_presence=True, chan_info=b'"admin"')
        await rig.node.subscribe(ann, "p", subscription=subscription)

        (info,) = (await rig.node.presence("p")).values()

        assert (b'"admin"', "ann") == (info.chan_info, info.user_id)


async def test_coming_back_unseen() -> None:
    """Who comes back without presence while its old entry is written does not stay there."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("add")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()

        rig.node.unsubscribe(ann, "p")
        await rig.node.subscribe(ann, "p", subscription=Subscription())
        gate.set()
        await work
        await turns()

        assert {} == await rig.node.presence("p")
        assert "join" not in rig.gates.calls


async def test_coming_back_at_once() -> None:
    """Who leaves and comes back in one turn is there, and its leave is told before its join."""
    async with running() as rig:
        watcher, transport = rig.connect(is_json=True)
        await rig.node.subscribe(watcher, "p")
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")

        rig.node.unsubscribe(ann, "p")
        await rig.node.subscribe(ann, "p")
        await turns()

        told = [kind for kind, user in memberships(transport) if user == "ann"]
        assert ["join", "leave", "join"] == told
        assert {"", "ann"} == {info.user_id for info in (await rig.node.presence("p")).values()}
        assert {} == rig.node.leases.leaving


async def test_leaving_again_before_coming_back() -> None:
    """Who is gone again before its last leave is done does not enter once more."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")
        gate = rig.gates.hold("remove")
        rig.node.unsubscribe(ann, "p")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()

        rig.node.unsubscribe(ann, "p")
        gate.set()
        await work
        await turns()

        assert {} == await rig.node.presence("p")
        assert (1, 1) == (rig.gates.calls.count("add"), rig.gates.calls.count("join"))


async def test_coming_back_before_a_failure() -> None:
    """A subscribe that fails when its peer is back already leaves the newer one alone."""
    async with running() as rig:
        ann, _ = rig.connect("ann")
        gate = rig.gates.hold("add")
        work = asyncio.create_task(rig.node.subscribe(ann, "p"))
        await turns()
        rig.node.unsubscribe(ann, "p")
        del rig.gates.held["add"]
        await rig.node.subscribe(ann, "p")

        rig.gates.failures["add"] = BrokerUnavailable("away")
        gate.set()
        with pytest.raises(BrokerUnavailable):
            await work
        await turns()

        assert ["p"] == list(ann.channels)
        assert [ann.info("p")] == list((await rig.node.presence("p")).values())


async def test_one_renewal_at_a_time() -> None:
    """While the store takes its time no second renewal begins."""
    async with running(Settings(presence_refresh_seconds=10)) as rig:
        ann, _ = rig.connect("ann")
        await rig.node.subscribe(ann, "p")
        gate = rig.gates.hold("add")

        await pass_time(45)
        meanwhile = rig.gates.calls.count("add")
        gate.set()
        await pass_time(10)

        assert (2, 3) == (meanwhile, rig.gates.calls.count("add"))


async def test_others_get_their_turn() -> None:
    """With many leases the loop is let go in between, and each is renewed."""
    async with running() as rig:
        in_a_turn = LEASES_IN_A_TURN * RENEWALS_AT_ONCE
        count = 2 * in_a_turn + 1
        peers = [rig.connect()[0] for _ in range(count)]
        for peer in peers:
            await rig.node.subscribe(peer, "p")

        work = asyncio.create_task(rig.node.leases.renew(peers))
        await asyncio.sleep(0)  # the workers start
        await asyncio.sleep(0)
        first = rig.gates.calls.count("add") - count
        await work

        assert (in_a_turn, 2 * count) == (first, rig.gates.calls.count("add"))
