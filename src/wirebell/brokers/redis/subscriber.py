"""The connection on which one server tells what was published: supervised, and read bare.

Strategy: who wants what is a set of names, and the connection follows it. Whenever it comes back
it asks for all of them again, before anybody is told that it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import hiredis

from wirebell.backoff import Backoff
from wirebell.batching import Batcher
from wirebell.brokers.redis.addresses import Access, Address
from wirebell.brokers.redis.faults import explain, explain_start
from wirebell.brokers.redis.servers import Servers, check_server
from wirebell.brokers.redis.wire import ServerInfo, Wire, open_wire
from wirebell.deferred import Deferred
from wirebell.errors import BrokerClosed, BrokerError, BrokerUnavailable, ConfigError

__all__ = ("Subscriber", "SubscriberEvents")

logger = logging.getLogger(__name__)

PING_SECONDS = 3.0
"""A server that said nothing for so long, or for the bound of an answer where that is shorter, is
asked whether it is there."""

# One command of Redis names so many at most: 1,000 names of 100 bytes are 100 KB.
NAMES_IN_A_COMMAND = 1000

_CHANGED = frozenset((b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe"))


class SubscriberEvents(Protocol):
    """Who is told of what happens: a reader."""

    @property
    def receive(self) -> Callable[[bytes, bytes], None]:
        """Takes the channel of Redis and what was published there; must not raise."""

    def handle_lost(self, subscriber: Subscriber) -> None:
        """Learn that the connection is gone."""

    async def handle_back(self, subscriber: Subscriber) -> None:
        """Learn that it stands again, with all its names."""


@dataclass(slots=True)
class _Change:
    """A command whose confirmations are waited for."""

    verb: bytes
    count: int
    done: asyncio.Future[None]


class Subscriber:
    """One connection, and the names that are wanted through it.

    Mutable state: the names, the connection while it stands, and the commands that it has not
    confirmed, in their order.

    Args:
        servers: Of its shard.
        find: Where to connect to.
        kind: Of the shard.
        access: How it is entered.
        is_sharded: Speak of a cluster's shard channels.
        events: Is told.
    """

    def __init__(
        self,
        servers: Servers,
        find: Callable[[], Awaitable[Address]],
        kind: str,
        access: Access,
        events: SubscriberEvents,
        *,
        is_sharded: bool = False,
    ) -> None:
        self.servers = servers
        self.find = find
        self.kind = kind
        self.access = access
        self.events = events
        # Once for each message: nothing is looked up that does not change.
        self.receive = events.receive
        prefix = "S" if is_sharded else ""
        self.verbs = {True: f"{prefix}SUBSCRIBE", False: f"{prefix}UNSUBSCRIBE"}
        self.is_sharded = is_sharded
        self.names: set[bytes] = set()
        self.wire: Wire | None = None
        self.opening: Wire | None = None
        self.address: Address | None = None
        self.changes: deque[_Change] = deque()
        self.batcher: Batcher[tuple[bool, bytes], None] = Batcher(self._change, size_of=_size_of)
        self.lost = asyncio.Event()
        self.stands = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_closed = False

    @property
    def is_connected(self) -> bool:
        """Whether what is published arrives."""
        return self.wire is not None

    async def start(self) -> None:
        """Connect, and stay connected from now on.

        Raises:
            BrokerUnavailable: It cannot be reached.
            ConfigError: It refuses.
        """
        try:
            await self._connect()
        except (OSError, EOFError, hiredis.HiredisError) as error:
            fault = explain_start(error)
            raise fault.at_start(self.address or "its address") from error
        self.supervise()

    def supervise(self) -> None:
        """Stay connected from now on; the first connection may still be to come."""
        self.task = asyncio.create_task(self._supervise())

    async def aclose(self) -> None:
        """End it; idempotent."""
        self.is_closed = True
        self.stands.set()
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.handle_lost = _ignore
            wire.abort()
        self._fail(EOFError("closed by us"))
        await self.batcher.aclose()

    def subscribe(self, name: bytes) -> Deferred[None]:
        """Want a name; done when the server has confirmed it.

        Raises:
            BrokerUnavailable: It did not in time, now or where it is awaited.
        """
        return self.batcher.add((True, name))

    def unsubscribe(self, name: bytes) -> Deferred[None]:
        """Want it no more; likewise."""
        return self.batcher.add((False, name))

    def drop(self) -> None:
        """End the connection, also one that is just made; another one follows."""
        for wire in (self.wire, self.opening):
            if wire is not None:
                wire.abort()

    # Changes

    async def _change(self, changes: Sequence[tuple[bool, bytes]]) -> list[Exception | None]:
        """Carry what was wanted in one turn."""
        added: list[bytes] = []
        for is_wanted, name in changes:
            if not is_wanted:
                self.names.discard(name)
            elif name not in self.names:
                self.names.add(name)
                added.append(name)
        try:
            async with asyncio.timeout(self.access.io_seconds):
                await self._settle(changes)
        except (TimeoutError, hiredis.ReplyError) as error:
            self.names.difference_update(added)
            fault = explain(error)
            if self.wire is None:
                raise BrokerUnavailable(
                    f"Redis at {self.address} is away: nothing can be subscribed to"
                ) from error
            raise fault.at(self.address) from error
        return [None] * len(changes)

    async def _settle(self, changes: Sequence[tuple[bool, bytes]]) -> None:
        """Have the server know; a connection that is made meanwhile asks for everything."""
        is_wanting = any(is_wanted for is_wanted, _ in changes)
        while True:
            wire = self.wire
            if wire is None:
                if is_wanting:
                    await self.stands.wait()
                if self.is_closed:
                    raise BrokerClosed("the broker was closed before it answered")
                return
            waiting = [
                self._send(wire, self.verbs[is_wanted], names)
                for is_wanted, part in groupby(changes, key=lambda change: change[0])
                for names in self._split([name for _, name in part])
            ]
            try:
                await _wait_all(waiting)
            except (OSError, EOFError):
                continue
            return

    def _split(self, names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Split names into commands: in a cluster all of one command are of one slot."""
        if not self.is_sharded:
            groups = [list(names)]
        else:
            groups = [list(part) for _, part in groupby(sorted(names, key=_tag_of), key=_tag_of)]
        for group in groups:
            for first in range(0, len(group), NAMES_IN_A_COMMAND):
                yield group[first : first + NAMES_IN_A_COMMAND]

    def _send(
        self,
        wire: Wire,
        verb: str,
        names: Sequence[bytes],
    ) -> asyncio.Future[None]:
        """Send one command."""
        change = _Change(
            verb.lower().encode(), len(names), asyncio.get_running_loop().create_future()
        )
        self.changes.append(change)
        wire.write(verb, *names)
        return change.done

    # What arrives

    def _handle(self, reply: Any) -> None:
        """Take what the server says."""
        if type(reply) is list:
            kind = reply[0]
            if kind == b"message" or kind == b"smessage":
                self.receive(reply[1], reply[2])
            elif kind in _CHANGED:
                self._confirm(kind)
        elif isinstance(reply, hiredis.ReplyError):
            self._refuse(reply)

    def _confirm(self, verb: bytes) -> None:
        """Count a confirmation."""
        if not self.changes or self.changes[0].verb != verb:
            # Nobody asked: a slot of the cluster went elsewhere, and its channels with it.
            self.servers.forget()
            self.drop()
            return
        change = self.changes[0]
        change.count -= 1
        if not change.count:
            self.changes.popleft()
            if not change.done.done():
                change.done.set_result(None)

    def _refuse(self, error: hiredis.ReplyError) -> None:
        """Take the refusal of a whole command."""
        fault = explain(error)
        if fault.is_temporary:
            # Moved, or a server on its way: who has the slot now is looked for, and asked again.
            self.servers.forget()
            self.drop()
        elif self.changes:
            change = self.changes.popleft()
            if not change.done.done():
                change.done.set_exception(error)

    def _fail(self, error: Exception) -> None:
        """Tell those who wait for a confirmation."""
        while self.changes:
            change = self.changes.popleft()
            if not change.done.done():
                change.done.set_exception(error)
                # Nobody may be there to hear it.
                change.done.exception()

    # The connection

    async def _connect(self) -> None:
        """Connect, and ask for every name.

        Raises:
            BrokerError: It is not the right server.
            OSError: It cannot be reached; and all else that `open_wire` raises.
        """
        self.address = await self.find()
        wire, info = await open_wire(self.address, self.access)
        try:
            self._take_over(wire, info)
            async with asyncio.timeout(self.access.io_seconds * (1 + len(self.names) // 100_000)):
                await self._resubscribe(wire)
            if wire.is_lost:
                raise EOFError("closed by the server")
        except BaseException:
            wire.handle_lost = _ignore
            wire.abort()
            self._fail(EOFError("closed by us"))
            raise
        finally:
            self.opening = None
        self.lost.clear()
        wire.handle_lost = self._handle_lost
        self.wire = wire
        self.stands.set()

    def _take_over(self, wire: Wire, info: ServerInfo) -> None:
        """Have a connection that stands say everything to us."""
        assert self.address is not None
        check_server(self.address, info, self.kind)
        self.opening = wire
        wire.handle = self._handle
        wire.handle_lost = lambda: self._fail(EOFError("closed by the server"))

    async def _resubscribe(self, wire: Wire) -> None:
        """Ask for every name; what is added meanwhile too, and what is let go of is let go of."""
        asked: set[bytes] = set()
        while missing := self.names - asked:
            asked |= missing
            await _wait_all(
                [self._send(wire, self.verbs[True], names) for names in self._split(list(missing))]
            )
        for names in self._split(list(asked - self.names)):
            # Nobody waits for the confirmation, which is counted like any other.
            self._send(wire, self.verbs[False], names)  # type: ignore[unused-awaitable]

    def _handle_lost(self) -> None:
        """Learn that the connection has ended."""
        self.wire = None
        self.stands.clear()
        self._fail(EOFError("closed by the server"))
        self.lost.set()
        self.events.handle_lost(self)

    async def _supervise(self) -> None:
        """Watch the connection, and make another one when it is lost."""
        backoff = Backoff()
        while True:
            if self.wire is not None:
                await self._watch(self.wire)
                logger.warning("the link to Redis at %s is lost", self.address)
                self.servers.forget()
            await asyncio.sleep(backoff.next_delay())
            try:
                await self._connect()
            except (OSError, EOFError, hiredis.HiredisError, BrokerError, ConfigError) as error:
                self.servers.forget()
                logger.debug("Redis is not back: %s", explain(error).text)
                continue
            except Exception:
                # A link that nobody watches would stay dead without a word.
                logger.exception("the link to Redis at %s cannot be made", self.address)
                continue
            backoff.reset()
            logger.info("the link to Redis at %s stands again", self.address)
            try:
                await self.events.handle_back(self)
            except Exception:
                logger.exception("nobody could be told that Redis at %s is back", self.address)

    async def _watch(self, wire: Wire) -> None:
        """Return when the connection has ended; end it where the server is silent or another."""
        while not self.lost.is_set():
            chunk_count = wire.chunk_count
            await self._wait_lost(min(PING_SECONDS, self.access.io_seconds))
            if not self.lost.is_set() and self.kind == "sentinel":
                await self._check_master()
            if self.lost.is_set() or wire.chunk_count != chunk_count:
                continue
            wire.write("PING")
            await self._wait_lost(self.access.io_seconds)
            if wire.chunk_count == chunk_count:
                wire.abort()
                await self.lost.wait()

    async def _wait_lost(self, seconds: float) -> None:
        """Wait for the end of the connection, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.lost.wait()
        except TimeoutError:
            return

    async def _check_master(self) -> None:
        """Leave a server that the Sentinels do not call the master any more."""
        try:
            address = await self.servers.refresh()
        except BrokerError:
            return
        if address != self.address:
            self.drop()


async def _wait_all(futures: Sequence[asyncio.Future[None]]) -> None:
    """Wait for all; the first error is raised, and none is left behind."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _tag_of(name: bytes) -> bytes:
    """Return what decides of a name's slot."""
    return name[: name.index(b"}")]


def _size_of(change: tuple[bool, bytes]) -> int:
    """Return the bytes of a name."""
    return len(change[1])


def _ignore() -> None:
    """Do nothing."""
