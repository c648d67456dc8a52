"""The link to NATS, supervised: it comes back by itself, with everything that was subscribed to."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from wirebell.backoff import Backoff
from wirebell.batching import Batcher
from wirebell.brokers.nats.addresses import Address, Place
from wirebell.brokers.nats.entering import open_wire
from wirebell.brokers.nats.faults import Declined, Refused, WireLost, explain
from wirebell.brokers.nats.messages import Answer
from wirebell.brokers.nats.scouts import Scouts
from wirebell.brokers.nats.wire import Receive, Wire
from wirebell.errors import BrokerClosed, BrokerError, BrokerUnavailable

__all__ = ("TRY_SECONDS", "Link", "ask")

logger = logging.getLogger(__name__)

ERRORS = (OSError, Refused, Declined, WireLost)
"""What goes wrong on the way to a server; ``TimeoutError`` is an ``OSError``."""

# So often a silent server is asked whether it is there; who wants faster answers asks as often.
KEEP_SECONDS = 3.0
FIRST_RETRY_SECONDS = 0.01
LONGEST_RETRY_SECONDS = 0.25
# A stream without a leader leaves a question without an answer: it is asked again.
TRY_SECONDS = 0.5
# Without a leader nobody answers: the next server, or the next try, may.
PREPARE_SECONDS = 2.0
# As servers have it, unless they were told otherwise.
PAYLOAD_BYTES = 1024 * 1024
# All that is subscribed to in one turn is confirmed at once.
CONFIRMED_MAX = 100_000
TROUBLE_LOG_SECONDS = 60.0


AnswerT = TypeVar("AnswerT", bound=Answer)


@dataclass(slots=True)
class _Subscription:
    """What is received under a subject, and on which wire, by which id; ``None`` on none."""

    receive: Receive
    wire: Wire | None = None
    sid: bytes = b""

    def begin(self, wire: Wire, subject: bytes) -> None:
        """Receive it on a wire."""
        self.wire, self.sid = wire, wire.subscribe(subject, self.receive)


class Link:
    """One connection at a time to one of a place's servers.

    Mutable state: the wire, what is subscribed to, and the tasks that look after both. To be used
    on the loop that called `start`.

    Args:
        place: Where to.
        prepare: Is called with each new wire before anything else uses it.
        handle_back: Is called when the link stands again.
    """

    def __init__(
        self,
        place: Place,
        prepare: Callable[[Wire], Awaitable[None]],
        handle_back: Callable[[], None],
    ) -> None:
        self.place = place
        self.prepare = prepare
        self.handle_back = handle_back
        self.wire: Wire | None = None
        self.is_running = False
        self.known: list[Address] = []
        self.subscriptions: dict[bytes, _Subscription] = {}
        self.trouble = ""
        self.trouble_logged_at = -TROUBLE_LOG_SECONDS
        self.back: asyncio.Event = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.scouts = Scouts(place)
        self.confirmer: Batcher[None, None] = Batcher(
            self._confirm, size_of=_size_of, count_max=CONFIRMED_MAX
        )

    @property
    def is_connected(self) -> bool:
        """Whether it stands."""
        return self.wire is not None

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: No server can be reached.
            ConfigError: One refuses, or is not the right one.
        """
        self.is_running = True
        try:
            await self._open()
        except ERRORS as error:
            await self.aclose()
            raise explain(error).at_start(self.place) from error
        except BaseException:
            await self.aclose()
            raise
        self._run(self._keep())

    async def aclose(self) -> None:
        """Let go of it; idempotent."""
        self.is_running = False
        self.back.set()
        await self.confirmer.aclose()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        # Only now nobody opens another one.
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()
        self.scouts.close()
        self.subscriptions.clear()

    async def wait_wire(self, deadline: float) -> Wire:
        """Return the wire that stands, or wait for one until an instant of the loop's clock.

        Raises:
            BrokerUnavailable: There is none in time.
            BrokerClosed: The link was closed.
        """
        while self.wire is None:
            if not self.is_running:
                raise BrokerClosed("the NATS broker is not running")
            try:
                async with asyncio.timeout_at(deadline):
                    await self.back.wait()
            except TimeoutError:
                raise self.unavailable() from None
        return self.wire

    async def wait_writable(self, deadline: float) -> Wire:
        """Return the wire when the server takes what is written, else as `wait_wire`."""
        wire = await self.wait_wire(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await wire.writable.wait()
        except TimeoutError:
            raise self.unavailable() from None
        return wire

    def unavailable(self) -> BrokerUnavailable:
        """Make the error of a server that is away, or does not answer in time."""
        if self.wire is not None:
            return explain(TimeoutError()).at(self.place)
        why = f": {self.trouble}" if self.trouble else ""
        return BrokerUnavailable(f"NATS at {self.place} is away{why}")

    def deadline(self) -> float:
        """Return until when a call that begins now has to be answered."""
        return asyncio.get_running_loop().time() + self.place.io_seconds

    async def call(
        self,
        subject: bytes,
        question: object,
        kind: type[AnswerT],
        deadline: float | None = None,
    ) -> AnswerT:
        """Ask JetStream what may be asked twice, again where the answer was lost.

        Args:
            subject: Behind ``$JS.API.``.
            question: To be written as JSON; ``None`` for nothing.
            kind: Of the answer.
            deadline: Of the loop's clock; ``None`` is a whole bound from now.

        Raises:
            Declined: It says no.
            BrokerUnavailable: There was no answer in time.
            BrokerClosed: The link was closed.
        """
        loop = asyncio.get_running_loop()
        deadline = self.deadline() if deadline is None else deadline
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while True:
            wire = await self.wait_wire(deadline)
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + TRY_SECONDS)):
                    return await ask(wire, subject, question, kind)
            except (WireLost, TimeoutError, Declined) as error:
                if isinstance(error, Declined) and not error.is_temporary:
                    raise
                delay = backoff.next_delay()
                if loop.time() + delay >= deadline:
                    raise explain(error).at(self.place) from error
                await asyncio.sleep(delay)

    @property
    def payload_bytes_max(self) -> int:
        """The largest message that the server takes."""
        return PAYLOAD_BYTES if self.wire is None else self.wire.info.max_payload

    @property
    def is_cluster(self) -> bool:
        """Whether streams may be kept by several servers."""
        return self.wire is not None and self.wire.info.cluster != ""

    # Subscriptions

    async def subscribe(self, subject: bytes, receive: Receive) -> None:
        """Receive a subject from now on; the server has confirmed it then.

        Raises:
            BrokerUnavailable: There is no link in time; nothing is subscribed to then.
        """
        deadline = self.deadline()
        known = self.subscriptions.get(subject)
        if known is None:
            known = self.subscriptions[subject] = _Subscription(receive)
            if self.wire is not None:
                known.begin(self.wire, subject)
        while True:
            try:
                await self.wait_wire(deadline)
                async with asyncio.timeout_at(deadline):
                    await self.confirmer.add(None)
            except WireLost:
                continue
            except (TimeoutError, BrokerUnavailable) as error:
                if self.subscriptions.get(subject) is known:
                    self.unsubscribe(subject)
                why = error if isinstance(error, BrokerUnavailable) else self.unavailable()
                raise BrokerUnavailable(f"nothing can be subscribed to: {why}") from error
            return

    def unsubscribe(self, subject: bytes) -> None:
        """Receive nothing of a subject any more."""
        known = self.subscriptions.pop(subject, None)
        if known is not None and known.wire is not None:
            known.wire.unsubscribe(known.sid)

    # Inside

    async def _open(self) -> None:
        """Connect to the first server that lets us in, and subscribe to everything.

        Raises:
            OSError: None can be reached.
            Refused: One does not let us in.
            Declined: JetStream is not there.
            WireLost: It closed the link.
        """
        # Those that were learned may be out of reach from here: they come behind.
        addresses = random.sample(self.place.addresses, len(self.place.addresses))
        learned = [each for each in self.known if each not in addresses]
        addresses += random.sample(learned, len(learned))
        problem: Exception | None = None
        for address in addresses:
            try:
                return await self._open_one(address)
            except ERRORS as error:
                if not isinstance(problem, Refused):
                    problem = error
        assert problem is not None
        raise problem

    async def _open_one(self, address: Address) -> None:
        """Connect to one server."""
        wire = await open_wire(address, self.place.connect_seconds, self.place.io_seconds)
        wire.handle_error = self._note
        try:
            async with asyncio.timeout(min(self.place.io_seconds, PREPARE_SECONDS)):
                await self.prepare(wire)
            await self._send_scouts(wire, address)
            async with asyncio.timeout(self.place.io_seconds):
                while any(each.wire is None for each in self.subscriptions.values()):
                    for subject, each in self.subscriptions.items():
                        if each.wire is None:
                            each.begin(wire, subject)
                    await self.scouts.confirm(wire)
            if wire.is_lost:
                raise WireLost(wire.trouble)
        except BaseException:
            wire.abort()
            self._forget_wire()
            raise
        self.wire = wire
        self.trouble = ""
        self.back.set()
        wire.handle_lost = self._handle_lost

    async def _send_scouts(self, wire: Wire, address: Address) -> None:
        """Learn of the other servers of a cluster, and connect to them, too."""
        if not wire.info.cluster:
            return
        # A known one may have a name that its certificate has, and this one a number only.
        name_for_tls = address.server_name or (address.host if address.tls else "")
        known = {(each.host, each.port): each for each in self.place.addresses}
        for name in wire.info.connect_urls:
            host, _, port = name.rpartition(":")
            key = (host.strip("[]"), int(port) if port.isdecimal() else 0)
            known.setdefault(
                key, replace(address, host=key[0], port=key[1], server_name=name_for_tls)
            )
        self.known = list(known.values())
        await self.scouts.refresh(self.known)

    async def _confirm(self, asked: Sequence[None]) -> list[Exception | None]:
        """Have all that was subscribed to confirmed."""
        wire = self.wire
        if wire is None:
            raise WireLost(self.trouble)
        trouble_count = wire.trouble_count
        await self.scouts.confirm(wire)
        if wire.trouble_count != trouble_count and "subscription" in wire.trouble.lower():
            raise BrokerUnavailable(f"NATS at {self.place}: {wire.trouble}")
        return [None] * len(asked)

    def _forget_wire(self) -> None:
        """Know of everything that no wire receives it."""
        for each in self.subscriptions.values():
            each.wire = None

    def _handle_lost(self) -> None:
        """Learn that the wire ended."""
        wire, self.wire = self.wire, None
        self._forget_wire()
        if not self.is_running:
            return
        self.back.clear()
        self.trouble = (wire.trouble if wire is not None else "") or "it closed the link"
        logger.warning("the link to NATS at %s is lost: %s", self.place, self.trouble)
        self._run(self._recover())

    async def _recover(self) -> None:
        """Try until the link stands again, later from time to time."""
        backoff = Backoff()
        while self.is_running:
            try:
                await self._open()
            except BrokerError as error:
                self.trouble = str(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self.trouble = explain(error).text
            else:
                logger.info("the link to NATS at %s stands again", self.place)
                self.handle_back()
                return
            await asyncio.sleep(backoff.next_delay())

    async def _keep(self) -> None:
        """Leave a server that says nothing."""
        while self.is_running:
            await asyncio.sleep(min(KEEP_SECONDS, self.place.io_seconds))
            wire = self.wire
            if wire is None:
                continue
            try:
                async with asyncio.timeout(self.place.io_seconds):
                    await asyncio.shield(wire.sync())
            except WireLost:
                continue
            except TimeoutError:
                wire.trouble = "it does not answer in time"
                wire.abort()
                continue
            await self._send_scouts(wire, self.place.addresses[0])

    def _note(self, trouble: str) -> None:
        """Log what a server complains about, at most once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self.trouble_logged_at >= TROUBLE_LOG_SECONDS:
            self.trouble_logged_at = now
            logger.warning("NATS at %s says: %s", self.place, trouble)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a task looked after."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def ask(wire: Wire, subject: bytes, question: object, kind: type[AnswerT]) -> AnswerT:
    """Ask JetStream once; who calls bounds the time.

    Raises:
        Declined: It says no, or nobody answers.
        WireLost: The connection ended first.
    """
    payload = b"" if question is None else msgspec.json.encode(question)
    _, body = await wire.ask(b"$JS.API." + subject, payload)
    try:
        answer = msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Declined(0, f"JetStream answers what cannot be read: {error}") from error
    if answer.fault is not None:
        raise answer.fault
    return answer


def _size_of(_: None) -> int:
    """Return next to nothing."""
    return 1
