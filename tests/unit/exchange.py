"""Several nodes in one process, joined by a broker whose links can be cut, slow and lossy."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.unit.fakes import FakeControl, FakeTransport
from tests.unit.nodes import options_for
from wirebell.connection import Connection, Subscription
from wirebell.errors import BrokerClosed, BrokerUnavailable
from wirebell.history import HistoryLog, IdempotentResults, StreamSlice
from wirebell.interfaces import BrokerListener
from wirebell.model import (
    ChannelItem,
    ChannelOptions,
    ClientInfo,
    History,
    Membership,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.node import Node
from wirebell.presence import Presence
from wirebell.protocol.encoding import ChannelEncoding
from wirebell.protocol.json import JSON
from wirebell.protocol.text import TEXT
from wirebell.settings import Settings


class Exchange:
    """What the links share: logs, presence, and who is linked."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.log = HistoryLog(lambda: f"e{next(numbers)}", channels_max=1_000, bytes_max=10**9)
        self.results = IdempotentResults(1_000)
        self.presence = Presence()
        self.links: list[Link] = []

    def now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def rewind(self, channel: str, count: int) -> None:
        """Come back from an older copy: the newest publications are gone, and the epoch stays."""
        stream = self.log.streams[channel]
        for _ in range(min(count, len(stream.publications))):
            self.log.byte_count -= len(stream.publications[-1].data)
            stream.byte_count -= len(stream.publications.pop().data)
            stream.offset -= 1

    def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None,
    ) -> Published:
        """Append a publication, and send it to all links."""
        how, now = how or PublishOptions(), self.now()
        if how.idempotency_key:
            known = self.results.find(channel, how.idempotency_key, now)
            if known is not None:
                return Published(known, is_suppressed=True)
        history = None if how.skip_history else options.history
        position = StreamPosition()
        if history is not None:
            if how.version and not self.log.accept_version(channel, history, how, now):
                return Published(self.log.top(channel, history, now), is_suppressed=True)
            publication = self.log.append(channel, publication, history, now)
            position = StreamPosition(publication.offset, publication.epoch)
        else:
            publication = Publication(publication.data, publication.format)
        if how.idempotency_key:
            self.results.add(channel, how.idempotency_key, position, now)
        for link in self.links:
            link.send(channel, publication)
        return Published(position)


class Link:
    """A `wirebell.interfaces.Broker`: one node's link to an exchange.

    Mutable state: faults. ``lost`` are channels whose items do not arrive; ``silenced`` are node
    ids whose control messages do not; ``failures`` are names of calls that fail; ``is_slow`` keeps
    what arrives until `let_go`; ``gates`` are names of calls that wait.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.listener: BrokerListener | None = None
        self.node_id = ""
        self.subscribed: set[str] = set()
        self.is_cut = False
        self.is_slow = False
        self.reconnect_count = 0
        self.lost: set[str] = set()
        self.silenced: set[str] = set()
        self.failures: set[str] = set()
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.late: list[Callable[[], None]] = []

    @property
    def is_connected(self) -> bool:
        """Whether the link stands."""
        return self.listener is not None and not self.is_cut

    async def start(self, listener: BrokerListener, node_id: str = "") -> None:
        """Link the node."""
        await self.enter("start")
        self.listener, self.node_id = listener, node_id
        self.exchange.links.append(self)

    async def check(self) -> None:
        """Say whether the link stands."""
        self.running()
        await self.enter("check")

    async def aclose(self) -> None:
        """Unlink the node."""
        self.calls.append("aclose")
        if self.listener is not None:
            self.listener = None
            self.exchange.links.remove(self)

    async def subscribe(self, channel: str) -> None:
        """Receive a channel."""
        self.running()
        await self.enter("subscribe")
        self.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Receive it no more."""
        self.running()
        await self.enter("unsubscribe")
        self.subscribed.discard(channel)

    async def publish(
        self,
        channel: str,
        publication: Publication,
        options: ChannelOptions,
        how: PublishOptions | None = None,
    ) -> Published:
        """Publish; the answer comes later."""
        self.running()
        await self.enter("publish")
        published = self.exchange.publish(channel, publication, options, how)
        await asyncio.sleep(0)
        return published

    async def publish_membership(self, channel: str, membership: Membership) -> None:
        """Tell of a join or a leave."""
        self.running()
        await self.enter("join" if membership.joined else "leave")
        for link in self.exchange.links:
            link.send(channel, membership)

    async def publish_control(self, data: bytes, node_id: str = "") -> None:
        """Tell one node or all."""
        self.running()
        await self.enter("control")
        for link in self.exchange.links:
            if node_id in {"", link.node_id}:
                link.tell(data, self.node_id)

    async def history(
        self,
        channel: str,
        options: ChannelOptions,
        *,
        since: StreamPosition | None,
        limit: int,
        reverse: bool = False,
    ) -> StreamSlice:
        """Read, then wait: what is published meanwhile is not in the answer."""
        self.running()
        if "history" in self.failures or self.is_cut:
            await self.enter("history")
        part = self.exchange.log.read(
            channel,
            options.history or History(),
            self.exchange.now(),
            since=since,
            limit=limit,
            reverse=reverse,
        )
        await self.enter("history")
        return part

    async def remove_history(self, channel: str) -> None:
        """Forget what is kept."""
        self.running()
        self.exchange.log.remove(channel)

    # Faults

    def cut(self) -> None:
        """Lose the link: nothing arrives, nothing is answered."""
        self.is_cut = True
        self.late.clear()

    def heal(self) -> None:
        """Get it back with all subscriptions."""
        self.is_cut = False
        self.reconnect_count += 1
        if self.listener is not None:
            self.listener.handle_reconnect()

    def let_go(self) -> None:
        """Deliver what came late, and what comes from now on."""
        self.is_slow = False
        late, self.late = self.late, []
        for deliver in late:
            deliver()

    def hold(self, name: str) -> asyncio.Event:
        """Have calls of a name wait until the event is set."""
        self.gates[name] = asyncio.Event()
        return self.gates[name]

    async def enter(self, name: str) -> None:
        """Note a call, and have it wait or fail as told."""
        self.calls.append(name)
        await asyncio.sleep(0)
        if name in self.gates:
            await self.gates[name].wait()
        if self.is_cut or name in self.failures:
            raise BrokerUnavailable(f"{name}: the exchange is away")

    # What arrives

    def send(self, channel: str, item: ChannelItem) -> None:
        """Take an item for a channel, if this link is subscribed and does not lose it."""
        if channel in self.subscribed and channel not in self.lost:
            self.arrive(lambda listener: listener.handle_item(channel, item))

    def tell(self, data: bytes, sender: str) -> None:
        """Take a control message."""
        if sender not in self.silenced:
            self.arrive(lambda listener: listener.handle_control(data))

    def arrive(self, deliver: Callable[[BrokerListener], None]) -> None:
        """Deliver with a later turn of the loop, in order."""

        def work() -> None:
            if self.listener is not None and not self.is_cut:
                deliver(self.listener)

        if self.is_cut:
            return
        if self.is_slow:
            self.late.append(work)
        else:
            asyncio.get_running_loop().call_soon(work)

    def running(self) -> None:
        """Refuse to be used before the start, or after the end."""
        if self.listener is None:
            raise BrokerClosed("the link is not running")


class LinkedStore:
    """A `wirebell.interfaces.PresenceStore` that the nodes of an exchange share."""

    def __init__(self, exchange: Exchange, link: Link) -> None:
        self.exchange = exchange
        self.link = link
        self.is_running = False

    async def start(self) -> None:
        """Begin."""
        await self.link.enter("start store")
        self.is_running = True

    async def aclose(self) -> None:
        """Stop."""
        self.is_running = False

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry."""
        await self.link.enter("add")
        self.exchange.presence.add(channel, info, expires_at=self.exchange.now() + ttl_seconds)

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry."""
        await self.link.enter("remove")
        self.exchange.presence.remove(channel, client_id)

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there."""
        await self.link.enter("members")
        return self.exchange.presence.members(channel, self.exchange.now())


class Listener:
    """A connection that notes what it hears and which gaps it is told."""

    def __init__(self, node: Node, user_id: str, *, is_json: bool) -> None:
        self.node = node
        self.control = FakeControl()
        self.transport = FakeTransport()
        encoding = ChannelEncoding(JSON) if is_json else TEXT
        self.connection: Connection = node.connect(self.transport, encoding, "", self.control)
        node.identify(self.connection, user_id)

    @property
    def heard(self) -> list[str]:
        """What came, in order."""
        return [str(message) for message in self.transport.messages]

    @property
    def gaps(self) -> list[str]:
        """Channels in which it was told that something is missing."""
        return self.control.gaps

    async def subscribe(self, channel: str, *, since: StreamPosition | None = None) -> None:
        """Subscribe, counting on every publication where there is history."""
        options = options_for(channel)
        subscription = Subscription(
            None, options.history is not None, options.presence, options.join_leave
        )
        subscribed = await self.node.subscribe(
            self.connection, channel, subscription=subscription, since=since
        )
        if subscription.is_positioned:
            if subscribed.recovery is not None:
                self.transport.messages += [
                    publication.data.decode() for publication in subscribed.recovery.publications
                ]
            self.node.release(self.connection, channel, subscribed.position)


class Site:
    """One node of an exchange."""

    def __init__(self, exchange: Exchange, settings: Settings, name: str) -> None:
        self.link = Link(exchange)
        self.store = LinkedStore(exchange, self.link)
        self.node = Node(settings, self.link, self.store, options_for, name=name)

    def listener(self, user_id: str = "", *, is_json: bool = False) -> Listener:
        """Connect somebody."""
        return Listener(self.node, user_id, is_json=is_json)

    async def publish(self, channel: str, *texts: str) -> None:
        """Publish texts, one after the other."""
        for text in texts:
            await self.node.publish(channel, Publication(text.encode()))

    def kill(self) -> None:
        """End without a word, as ``kill -9`` does."""
        self.link.cut()
        self.link.failures.add("control")


@asynccontextmanager
async def joined(
    *names: str, settings: Settings | None = None, exchange: Exchange | None = None
) -> AsyncIterator[list[Site]]:
    """Run a node for each name; an empty name is the machine's."""
    exchange = exchange or Exchange()
    sites = [Site(exchange, settings or Settings(), name) for name in names]
    for site in sites:
        await site.node.start()
    try:
        yield sites
    finally:
        for site in sites:
            for gate in site.link.gates.values():
                gate.set()
            site.link.failures.clear()
            site.link.is_cut = False
        for site in sites:
            await site.node.aclose()
