"""The engine's publications: when the broker answers, what history gives, what is held."""

from __future__ import annotations

import pytest

from tests.unit.clocks import turns
from tests.unit.nodes import running
from wirebell.model import (
    Publication,
    Published,
    PublishOptions,
    RecoveryMode,
    StreamPosition,
)

pytestmark = pytest.mark.anyio


async def test_publishing_at_once() -> None:
    """Where the broker answers at once nobody waits."""
    async with running() as rig:
        published = rig.node.begin_publish("h", Publication(b"1"))

        assert isinstance(published, Published)
        assert (1, 1) == (published.position.offset, rig.node.statistics.published_count)


async def test_publishing_later() -> None:
    """Where the broker takes its time the position comes with its answer, and counts then."""
    async with running() as rig:
        gate = rig.gates.hold("publish")
        published = rig.node.begin_publish("h", Publication(b"1"))
        assert not isinstance(published, Published)
        before = rig.node.statistics.published_count

        gate.set()
        position = (await published).position

        assert (0, 1, 1) == (before, position.offset, rig.node.statistics.published_count)
        assert 2 == (await rig.node.publish("h", Publication(b"2"))).offset


async def test_publishing_once() -> None:
    """What holds for one publication alone reaches the broker."""
    async with running() as rig:
        how = PublishOptions(idempotency_key="k")

        positions = [await rig.node.publish("h", Publication(b"1"), how) for _ in range(2)]

        assert positions[0] == positions[1]


async def test_history_in_reverse() -> None:
    """The newest come first when they are asked for."""
    async with running() as rig:
        await rig.publish("h", "1", "2", "3")

        part = await rig.node.history("h", since=None, limit=2, reverse=True)

        assert [b"3", b"2"] == [publication.data for publication in part.publications]


async def test_held_without_history() -> None:
    """Who is to be answered first gets what came meanwhile when it is released."""
    async with running() as rig:
        connection, transport = rig.connect()
        subscribed = await rig.node.subscribe(connection, "a", hold=True)
        await rig.publish("a", "1")
        await turns()
        before = list(transport.messages)

        rig.node.release(connection, "a", subscribed.position)
        await rig.publish("a", "2")
        await turns()

        assert (None, [], ["1", "2"]) == (subscribed.position, before, transport.messages)


@pytest.mark.parametrize(
    ("since", "missed", "recovered"),
    [(None, None, None), (0, [b"3"], True), (2, [b"3"], True), (3, [], True)],
)
async def test_recovery_of_the_newest(
    since: int | None, missed: list[bytes] | None, recovered: bool | None
) -> None:
    """Who wants the newest one only gets that, unless it has it."""
    async with running() as rig:
        await rig.publish("h", "1", "2", "3")
        epoch = (await rig.node.history("h", since=None, limit=0)).top.epoch
        connection, _ = rig.connect()
        position = None if since is None else StreamPosition(since, epoch)

        subscribed = await rig.node.subscribe(
            connection, "h", since=position, mode=RecoveryMode.CACHE
        )

        recovery = subscribed.recovery
        assert subscribed.position == StreamPosition(3, epoch)
        assert missed == (recovery and [item.data for item in recovery.publications])
        assert recovered == (recovery and recovery.recovered)
