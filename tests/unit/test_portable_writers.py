"""The tasks that write for all links: nobody waits for somebody else's peer."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clocks import turns
from tests.unit.links import Link
from wirebell.errors import Disconnect
from wirebell.portable import Writers

pytestmark = pytest.mark.anyio


async def open_links(count: int) -> tuple[Writers, list[Link], list[asyncio.Task[None]]]:
    """Open links that share their writers."""
    writers = Writers()
    links = [Link(writers=writers) for _ in range(count)]
    return writers, links, [await link.start() for link in links]


async def leave(links: list[Link], tasks: list[asyncio.Task[None]]) -> None:
    """Have all peers leave."""
    for link in links:
        link.peer.gate.set()
        link.peer.leave()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("slow", [(), (0,), (1,), (0, 1), (0, 2, 4), (0, 1, 2, 3)])
async def test_slow_peers_delay_nobody(slow: tuple[int, ...]) -> None:
    """Whoever takes messages gets them, tick after tick, wherever slow peers stand."""
    writers, links, tasks = await open_links(5)
    for number in slow:
        links[number].peer.gate.clear()

    for tick in ("1", "2", "3"):
        for link in links:
            assert link.write(tick)
        await turns()
    quick = [link.peer.texts for number, link in enumerate(links) if number not in slow]
    busy = len(writers.tasks)
    await leave(links, tasks)

    assert [["1", "2", "3"]] * (5 - len(slow)) == quick
    assert len(slow) == busy


async def test_slow_peers_get_theirs_later() -> None:
    """A peer that was slow gets all that waited, in order, and no task is left."""
    writers, links, tasks = await open_links(3)
    links[0].peer.gate.clear()
    for tick in ("1", "2"):
        for link in links:
            link.write(tick)
        await turns()

    links[0].peer.gate.set()
    await turns()
    texts = [link.peer.texts for link in links]
    left = len(writers.tasks)
    await leave(links, tasks)

    assert ([["1", "2"]] * 3, 0) == (texts, left)


async def test_writes_while_others_are_written() -> None:
    """What is written while a tick goes out is not forgotten."""
    _, links, tasks = await open_links(4)
    links[0].peer.gate.clear()
    links[1].peer.gate.clear()
    for link in links:
        link.write("1")
    await turns(1)
    for link in links:
        link.write("2")
    links[0].peer.gate.set()
    await turns(1)
    links[3].write("3")
    await turns()
    texts = [link.peer.texts for link in links]
    await leave(links, tasks)

    assert [["1", "2"], [], ["1", "2"], ["1", "2", "3"]] == texts


async def test_given_up_peer_harms_nobody() -> None:
    """When a stuck peer is given up its writer ends, and the others' messages go on."""
    _, links, tasks = await open_links(2)
    links[0].peer.gate.clear()
    links[0].write("1")
    await turns()

    links[0].carrier.close(Disconnect(1000, "done"))
    await tasks[0]
    links[1].write("2")
    await turns()
    await leave(links[1:], tasks[1:])

    assert (["abort"], ["2"]) == (links[0].aborts, links[1].peer.texts)


async def test_failing_peer_harms_nobody() -> None:
    """A peer whose server raises ends alone."""
    _, links, tasks = await open_links(3)
    links[1].peer.failure = OSError("gone")
    for link in links:
        link.write("1")
    await tasks[1]
    await turns()
    texts = [link.peer.texts for link in links]
    await leave(links[::2], tasks[::2])

    assert [["1"], [], ["1"]] == texts


async def test_aclose() -> None:
    """Closing ends all writing, also where a peer makes it wait, and can be repeated."""
    writers, links, tasks = await open_links(2)
    links[0].peer.gate.clear()
    for link in links:
        link.write("1")
    await turns()
    links[1].write("2")

    await writers.aclose()
    await writers.aclose()

    assert (set(), ["1"]) == (writers.tasks, links[1].peer.texts)
    await leave(links, tasks)
