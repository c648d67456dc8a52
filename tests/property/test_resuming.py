"""Nodes behind faulty links: whatever is lost is delivered late, or told; nothing comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hypothesis import given, strategies as st

from tests.unit.clocks import JumpingLoop, pass_time, turns
from tests.unit.exchange import Exchange, Listener, Site, joined
from wirebell.settings import Settings

SETTINGS = Settings(recovery_publications_max=5, channel_position_check_seconds=10)

FAULTS = (
    "publish", "publish", "publish", "publish", "turn", "turn", "time", "cut", "heal", "lose",
    "slow", "let go", "history fails", "history works", "trim", "forget", "older copy", "come",
    "leave",
)  # fmt: skip


class World:
    """A node that hears, one that publishes, and what went wrong between them."""

    def __init__(self, exchange: Exchange, here: Site, there: Site) -> None:
        self.exchange = exchange
        self.here = here
        self.there = there
        self.count = 0
        # Who listens → the number of the last publication before it came.
        self.listeners: dict[Listener, int] = {}

    async def publish(self) -> None:
        """Publish the next number."""
        self.count += 1
        await self.there.publish("h", str(self.count))

    async def come(self) -> None:
        """Have somebody subscribe; while the broker is away nobody can."""
        if len(self.listeners) < 3 and not self.here.link.is_cut and not self.here.link.failures:
            listener = self.here.listener()
            before = self.count
            await listener.subscribe("h")
            self.listeners[listener] = before

    def leave(self) -> None:
        """Have the first one leave, and judge what it heard until then."""
        if self.listeners:
            listener = next(iter(self.listeners))
            check(listener, self.listeners.pop(listener))
            self.here.node.disconnect(listener.connection)

    async def lose(self) -> None:
        """Publish something that does not arrive."""
        self.here.link.lost.add("h")
        await self.publish()
        await turns(1)
        self.here.link.lost.clear()

    def heal(self) -> None:
        """Have the link stand again, if it was cut."""
        if self.here.link.is_cut:
            self.here.link.heal()

    def forget(self) -> None:
        """Lose the stream; what was lost of one of which nothing arrived is never found."""
        seen = self.here.node.hub.tops.get("h")
        if seen is not None and seen.offset:
            self.exchange.log.forget("h")

    async def rewind(self) -> None:
        """Come back from an older copy, by which this node knows less than it has seen.

        Where more is lost, or more follows before a turn of the loop, only the broker could tell.
        """
        seen, link = self.here.node.hub.tops.get("h"), self.here.link
        stream = self.exchange.log.streams.get("h")
        if seen is None or stream is None or link.is_cut or link.is_slow or link.failures:
            return
        await turns(20)
        if not self.here.node.receiving.held and self.here.node.hub.tops.get("h") is not None:
            seen = self.here.node.hub.tops["h"]
            if len(stream.publications) >= 2 and seen.offset == stream.offset:
                self.exchange.rewind("h", 2)
                await self.publish()
                await turns(20)

    def slow(self) -> None:
        """Have what arrives wait."""
        self.here.link.is_slow = True

    async def do(self, step: str) -> None:
        """Let something happen."""
        link, log = self.here.link, self.exchange.log
        at_once: dict[str, Callable[[], object]] = {
            "cut": link.cut,
            "heal": self.heal,
            "slow": self.slow,
            "let go": link.let_go,
            "history fails": lambda: link.failures.add("history"),
            "history works": lambda: link.failures.discard("history"),
            "trim": lambda: log.remove("h"),
            "forget": self.forget,
            "leave": self.leave,
        }
        later: dict[str, Callable[[], Awaitable[None]]] = {
            "publish": self.publish,
            "turn": lambda: turns(3),
            "time": lambda: pass_time(6),
            "lose": self.lose,
            "come": self.come,
            "older copy": self.rewind,
        }
        if step in at_once:
            at_once[step]()
        else:
            await later[step]()


def check(listener: Listener, before: int) -> None:
    """Judge what one heard: nothing twice, nothing out of order, nothing of before."""
    heard = [int(text) for text in listener.heard]
    assert heard == sorted(set(heard))
    assert not heard or heard[0] > before
    if not listener.gaps and heard:
        assert heard == list(range(before + 1, heard[-1] + 1))


async def live(steps: Sequence[str]) -> None:
    """Let it all happen, then let everything work again, and judge."""
    exchange = Exchange()
    async with joined("here", "there", settings=SETTINGS, exchange=exchange) as (here, there):
        world = World(exchange, here, there)
        await world.come()
        for step in steps:
            await world.do(step)
        here.link.failures.clear()
        if here.link.is_cut:
            here.link.heal()
        here.link.let_go()
        await pass_time(45)
        for listener, before in world.listeners.items():
            check(listener, before)
            if not listener.gaps:
                assert [str(number) for number in range(before + 1, world.count + 1)] == (
                    listener.heard
                )
        resuming = here.node.receiving.resuming
        assert ({}, {}, {}, 0) == (
            resuming.held, resuming.waiting, resuming.running, resuming.held_bytes
        )  # fmt: skip


@given(st.lists(st.sampled_from(FAULTS), max_size=25))
def test_nothing_is_lost_in_silence(steps: list[str]) -> None:
    """Who was told of no gap has heard everything, once and in order."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(live(steps))
