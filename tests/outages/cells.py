"""One cell of the table: a broker, its nodes and clients, steady publishing, a fault, a verdict."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from tests.outages import networks
from tests.outages.api import API, Unanswered
from tests.outages.brokers import BROKERS, HOST, Subject
from tests.outages.clients import Crowd, crowd
from tests.outages.nodes import Node, write_configuration
from tests.outages.publisher import Publisher
from tests.outages.verdict import Position, Verdict, judge
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.outages.api import Address
    from tests.outages.networks import Network

__all__ = ("FAULTS", "SHORT", "Cell", "Plan", "list_faults", "run_cell")

RECOVERY_SECONDS_MAX = 60.0
SETTLE_SECONDS_MAX = 20.0
NODE_PORT = 8000
"""Of each node that has a network of its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a cell is, and how long each part of it takes.

    Attributes:
        clients: How many come.
        nodes: How many processes they come to.
        channels: To how many is published; each client is in two.
        per_second: Publications.
        steady_seconds: Before the fault, and after everybody receives again.
        away_seconds: Between the end of a process and its next start.
        pause_seconds: How long a broker is paused, and a link is cut.
        freeze_seconds: How long a node is paused.
    """

    clients: int = 300
    nodes: int = 3
    channels: int = 20
    per_second: float = 100.0
    steady_seconds: float = 2.0
    away_seconds: float = 2.0
    pause_seconds: float = 10.0
    freeze_seconds: float = 12.0


SHORT = Plan(
    clients=24,
    nodes=2,
    channels=4,
    per_second=40.0,
    steady_seconds=0.3,
    away_seconds=0.3,
    pause_seconds=1.2,
    freeze_seconds=1.2,
)
"""For a test."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of a fault.

    Attributes:
        broker: Which.
        fault: Key of `FAULTS`.
        verdict: What was lost, doubled or hidden.
        acknowledged: Publications.
        failed: Tries to publish that were refused: reason → how many.
        unknown: Tries to publish without an answer.
        given_up: Publications that nobody acknowledged.
        ends: Why links and subscriptions of clients ended, and how often.
        recovery_seconds: From the end of the fault until each client had something that was
            published after it, in each of its channels; ``None`` when that took too long.
        complaints: What else must not be: nodes that ended by themselves, tracebacks.
    """

    broker: str
    fault: str
    verdict: Verdict
    acknowledged: int
    failed: Mapping[str, int]
    unknown: int
    given_up: int
    ends: Mapping[str, int]
    recovery_seconds: float | None
    complaints: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing happened that must not."""
        return self.verdict.is_clean and not self.complaints


@dataclass(slots=True)
class Scene:
    """Where a fault happens.

    Attributes:
        healed: Is given the time at which the fault was over.
    """

    plan: Plan
    subject: Subject
    nodes: list[Node]
    network: Network | None
    healed: asyncio.Future[float]

    def heal(self) -> None:
        """Note that the fault is over."""
        self.healed.set_result(time.monotonic())


async def kill_node(scene: Scene) -> None:
    """Kill a node; its clients need not wait until it is back."""
    await asyncio.to_thread(scene.nodes[0].kill)
    scene.heal()
    await asyncio.sleep(scene.plan.away_seconds)
    await asyncio.to_thread(scene.nodes[0].start)


async def freeze_node(scene: Scene) -> None:
    """Stop a node where it is, and let it go on."""
    scene.nodes[0].pause()
    await asyncio.sleep(scene.plan.freeze_seconds)
    scene.nodes[0].resume()
    scene.heal()


async def _end_broker(scene: Scene, end: Callable[[], None] | None) -> None:
    """End the broker, and start it again."""
    assert end is not None
    assert scene.subject.start is not None
    await asyncio.to_thread(end)
    await asyncio.sleep(scene.plan.away_seconds)
    await asyncio.to_thread(scene.subject.start)
    scene.heal()


async def stop_broker(scene: Scene) -> None:
    """Stop the broker, and start it again with its data."""
    await _end_broker(scene, scene.subject.stop)


async def kill_broker(scene: Scene) -> None:
    """Kill the broker, and start it again with its data."""
    await _end_broker(scene, scene.subject.kill)


async def wipe_broker(scene: Scene) -> None:
    """Kill the broker, and start it again without its data."""
    if scene.subject.kill is not None:
        await asyncio.to_thread(scene.subject.kill)
        await asyncio.sleep(scene.plan.away_seconds)
    await asyncio.to_thread(scene.subject.wipe)
    scene.heal()


async def pause_broker(scene: Scene) -> None:
    """Stop the broker where it is, and let it go on."""
    await asyncio.to_thread(scene.subject.pause)
    await asyncio.sleep(scene.plan.pause_seconds)
    await asyncio.to_thread(scene.subject.resume)
    scene.heal()


async def cut_node(scene: Scene) -> None:
    """Cut a node off from the broker, and not from its clients."""
    assert scene.network is not None
    await asyncio.to_thread(scene.network.cut, 0)
    await asyncio.sleep(scene.plan.pause_seconds)
    await asyncio.to_thread(scene.network.heal, 0)
    scene.heal()


FAULTS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "node": kill_node,
    "freeze": freeze_node,
    "stop": stop_broker,
    "kill": kill_broker,
    "wipe": wipe_broker,
    "pause": pause_broker,
    "cut": cut_node,
}
"""Name → what happens."""
OF_SERVERS = {"stop", "kill", "cut"}


def list_faults(broker: str) -> list[str]:
    """Name the faults that can befall a broker."""
    return [name for name in FAULTS if broker != "sqlite" or name not in OF_SERVERS]


def run_cell(broker: str, fault: str, plan: Plan) -> Cell:
    """Play one fault on one broker.

    Raises:
        OSError: The fault is a cut, and no network can be made here.
    """
    with ExitStack() as stack:
        network = None
        host = HOST
        if fault == "cut":
            network = stack.enter_context(networks.network(plan.nodes))
            stack.enter_context(networks.inside(network.hub))
            host = networks.BROKER_HOST
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wirebell-outage-")))
        subject = stack.enter_context(BROKERS[broker](host))
        configuration = write_configuration(folder)
        nodes = [
            create_node(configuration, subject.url, number, network) for number in range(plan.nodes)
        ]
        for node in nodes:
            stack.callback(node.kill)
        with ThreadPoolExecutor() as starters:
            list(starters.map(Node.start, nodes))
        return uvloop.run(play(broker, fault, plan, subject, nodes, network))


def create_node(configuration: Path, url: str, number: int, network: Network | None) -> Node:
    """Create a node, here or in its network."""
    if network is None:
        return Node(configuration, url, HOST, free_port())
    namespace = network.nodes[number]
    return Node(
        configuration,
        url,
        network.host_of(number),
        NODE_PORT,
        lambda: networks.inside(namespace),
    )


async def play(
    broker: str,
    fault: str,
    plan: Plan,
    subject: Subject,
    nodes: list[Node],
    network: Network | None,
) -> Cell:
    """Have clients come, publish, let the fault happen, and judge."""
    channels = [f"channel{number}" for number in range(plan.channels)]
    urls = [node.url for node in nodes]
    scene = Scene(plan, subject, nodes, network, asyncio.get_running_loop().create_future())
    complaints = []
    recovery_seconds = None
    async with (
        API() as api,
        crowd(urls, channels, plan.clients) as here,
        asyncio.TaskGroup() as group,
    ):
        addresses = [(node.host, node.port) for node in nodes]
        publisher = Publisher(api, addresses, channels, plan.per_second)
        publishing = group.create_task(publisher.run())
        await wait_receiving(here, time.monotonic())
        await asyncio.sleep(plan.steady_seconds)
        striking = group.create_task(strike(scene, FAULTS[fault]))
        healed_at = await scene.healed
        try:
            await wait_receiving(here, healed_at)
            recovery_seconds = time.monotonic() - healed_at
        except TimeoutError as error:
            complaints.append(str(error))
        await striking
        await asyncio.sleep(plan.steady_seconds)
        publisher.is_stopped = True
        await publishing
        tops = await settle(here, channels, api, addresses[-1])
    verdict = judge([each.log for each in here.subscriptions], publisher.acknowledged, tops)
    if fault == "wipe" and verdict.epochs_changed < plan.channels:
        complaints.append(f"{plan.channels - verdict.epochs_changed} channels kept their epoch")
    return Cell(
        broker,
        fault,
        verdict,
        len(publisher.acknowledged),
        dict(publisher.failed),
        publisher.unknown,
        publisher.given_up,
        dict(here.ends),
        recovery_seconds,
        (*complaints, *complain(nodes)),
    )


async def strike(scene: Scene, fault: Callable[[Scene], Awaitable[None]]) -> None:
    """Let a fault happen; nobody waits for the end of one that failed."""
    try:
        await fault(scene)
    except BaseException as error:
        if not scene.healed.done():
            scene.healed.set_exception(error)
        raise


async def wait_receiving(here: Crowd, since: float) -> None:
    """Wait until each subscription got something that was published later."""
    await here.wait(lambda each: each.begun >= since, "receive nothing", RECOVERY_SECONDS_MAX)


async def settle(
    here: Crowd, channels: list[str], api: API, address: Address
) -> Mapping[str, Position]:
    """Wait until everybody is at the newest position, at most so long; returns these positions."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while True:
        tops = {}
        for channel in channels:
            try:
                result = await api.call(address, "history", {"channel": channel})
            except Unanswered:
                # The server ended a link that nobody used, as it was used again.
                result = await api.call(address, "history", {"channel": channel})
            tops[channel] = Position(result["epoch"], result["offset"])
        is_there = all(each.position == tops[each.log.channel] for each in here.subscriptions)
        if is_there or time.monotonic() > deadline:
            return tops
        await asyncio.sleep(0.1)  # between two looks


def complain(nodes: list[Node]) -> list[str]:
    """List what nodes did that they must not."""
    found = [f"{node.url} ended by itself" for node in nodes if node.has_ended()]
    logs = nodes[0].configuration.parent.glob("*.log")
    tracebacks = sum(path.read_text().count("Traceback") for path in logs)
    return [*found, *([f"{tracebacks} tracebacks"] if tracebacks else [])]
