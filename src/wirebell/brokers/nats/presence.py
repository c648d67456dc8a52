"""Presence in NATS: the last message of a subject for each member, with leases by its clock."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from wirebell.backoff import Backoff
from wirebell.batching import Batcher
from wirebell.broker_options import NATSOptions
from wirebell.brokers.nats.addresses import read_place
from wirebell.brokers.nats.faults import Declined, WireLost, explain
from wirebell.brokers.nats.frames import decode_lease, encode_lease, word_of
from wirebell.brokers.nats.link import Answer, Link, Problem, ask
from wirebell.brokers.nats.streams import Streams
from wirebell.brokers.nats.wire import LOST, NO_RESPONDERS, Wire
from wirebell.errors import BrokerClosed, BrokerError
from wirebell.model import ClientInfo
from wirebell.records import UnknownRecord, decode_info, encode_info

__all__ = ("NATSPresenceStore",)

logger = logging.getLogger(__name__)

CALLS_MAX = 500
FIRST_RETRY_SECONDS = 0.01
LONGEST_RETRY_SECONDS = 0.25
# As long one answer is waited for, before it is asked again.
TRY_SECONDS = 1.0
NANOSECONDS = 1_000_000_000
# What nobody reads any more is removed by the server after so long.
READER_SECONDS = 5
LOST_PROBLEM = Problem(description="the answer was lost")


class _Call(NamedTuple):
    """An entry that is to be written, or removed where it has no record."""

    subject: bytes
    payload: bytes


class _Consumer(Answer, frozen=True):
    """Who reads a part of a stream."""

    name: str = ""
    created: dt.datetime | None = None
    num_pending: int = 0


class NATSPresenceStore:
    """A `wirebell.interfaces.PresenceStore` in a stream of NATS.

    A member of a channel has a subject of its own, of which the stream keeps the newest message:
    how long the lease lasts. When it began is the server's word. Whoever reads leaves out what has
    ended, and removes it.

    Args:
        options: Where NATS is.

    Raises:
        ConfigError: A value of the options is out of its bounds.
    """

    def __init__(self, options: NATSOptions) -> None:
        self.place = read_place(options)
        self.is_running = False
        self.numbers = itertools.count(1)
        self._connect_anew()

    def _connect_anew(self) -> None:
        """Make the parts of a store that was not started."""
        self.link = Link(self.place, self._prepare, _ignore)
        self.streams = Streams(self.place, self.link, b"")
        self.stream = self.streams.presence()
        self.batcher: Batcher[_Call, None] = Batcher(
            self._run, size_of=_size_of, count_max=CALLS_MAX
        )
        self.sweeps: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: It cannot be reached.
            ConfigError: It refuses, or JetStream is off.
        """
        self._connect_anew()
        await self.link.start()
        self.is_running = True
        try:
            await self.streams.open(self.stream)
        except Declined as error:
            await self.aclose()
            raise explain(error).at_start(self.place) from error
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop; idempotent. Entries stay until their leases end."""
        self.is_running = False
        await self.batcher.aclose()
        for task in self.sweeps:
            task.cancel()
        await asyncio.gather(*self.sweeps, return_exceptions=True)
        await self.link.aclose()

    async def _prepare(self, wire: Wire) -> None:
        """See on a new wire that JetStream is there."""
        await self.streams.prepare(wire)

    async def add(self, channel: str, info: ClientInfo, *, ttl_seconds: float) -> None:
        """Write an entry, or renew its lease."""
        self._running()
        lease = max(1, round(ttl_seconds * 1000))
        payload = encode_lease(lease, encode_info(info))
        await self.batcher.add(_Call(self._subject(channel, info.client_id), payload))

    async def remove(self, channel: str, client_id: str) -> None:
        """Remove an entry; idempotent."""
        self._running()
        await self.batcher.add(_Call(self._subject(channel, client_id), b""))

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Read who is there."""
        self._running()
        deadline = self.link.deadline()
        try:
            await self.streams.open(self.stream, deadline=deadline)
            while True:
                wire = await self.link.wait_wire(deadline)
                try:
                    async with asyncio.timeout_at(deadline):
                        now, entries = await self._read(wire, self._subject(channel))
                except WireLost:
                    continue
                return self._choose(now, entries)
        except (Declined, TimeoutError) as error:
            self.stream.life = ""
            raise explain(error).at(self.place) from error

    # Inside

    async def _read(
        self, wire: Wire, subject: bytes
    ) -> tuple[float, list[tuple[float, bytes, bytes]]]:
        """Read the newest message of each subject below one.

        Returns:
            The server's time, and for each when it was stored, its subject and its payload.
        """
        entries: list[tuple[float, bytes, bytes]] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def receive(where: bytes, reply: bytes, _: bytes, data: bytes) -> None:
            # $JS.ACK.stream.consumer.delivered.sequence.sequence.nanoseconds.pending
            words = reply.rsplit(b".", 2)
            if len(words) < 3:
                return
            entries.append((int(words[1]) / NANOSECONDS, where, data))
            if words[2] == b"0" and not done.done():
                done.set_result(None)

        inbox = wire.inbox + b"p%d" % next(self.numbers)
        # What is behind the dot is not of `Wire.inbox`, which takes one word.
        inbox = inbox.replace(b"_INBOX.", b"_INBOX.r.", 1)
        sid = wire.subscribe(inbox, receive)
        name = self.stream.name
        try:
            made = await ask(
                wire,
                b"CONSUMER.CREATE." + name,
                {
                    "stream_name": name.decode(),
                    "config": {
                        "deliver_subject": inbox.decode(),
                        "deliver_policy": "last_per_subject",
                        "filter_subject": (subject + b"*").decode(),
                        "ack_policy": "none",
                        "replay_policy": "instant",
                        "mem_storage": True,
                        "num_replicas": 1,
                        "inactive_threshold": READER_SECONDS * NANOSECONDS,
                    },
                },
                _Consumer,
            )
            assert made.created is not None
            if made.num_pending:
                await done
        finally:
            wire.unsubscribe(sid)
        wire.publish(b"$JS.API.CONSUMER.DELETE.%b.%b" % (name, made.name.encode()), b"")
        return made.created.timestamp(), entries

    def _choose(
        self, now: float, entries: Sequence[tuple[float, bytes, bytes]]
    ) -> dict[str, ClientInfo]:
        """Return those whose lease lasts, and have the others removed."""
        members: dict[str, ClientInfo] = {}
        ended: list[bytes] = []
        for stored_at, subject, data in entries:
            try:
                lease, record = decode_lease(data)
                info = decode_info(record)
            except UnknownRecord as error:
                logger.warning("a member of a channel is left out: %s", error)
                continue
            if stored_at + lease / 1000 > now:
                members[info.client_id] = info
            else:
                ended.append(subject)
        if ended and not self.sweeps:
            task = asyncio.get_running_loop().create_task(self._sweep(ended))
            self.sweeps.add(task)
            task.add_done_callback(self.sweeps.discard)
        return members

    async def _sweep(self, subjects: Sequence[bytes]) -> None:
        """Remove entries whose lease has ended, unless they were renewed meanwhile."""
        with contextlib.suppress(BrokerError, Declined):
            for subject in subjects:
                message = await self.streams.get(self.stream, {"last_by_subj": subject.decode()})
                if message is None:
                    continue
                lease, _ = decode_lease(message.data)
                now = self.streams.now()
                if message.time.timestamp() + lease / 1000 < now - READER_SECONDS:
                    await self.link.call(
                        b"STREAM.PURGE." + self.stream.name,
                        {"filter": subject.decode(), "seq": message.seq + 1},
                        Answer,
                    )

    async def _run(self, calls: Sequence[_Call]) -> list[Exception | None]:
        """Carry calls: those of one entry one after the other, all others at once."""
        deadline = self.link.deadline()
        await self._open(deadline)
        results: list[Exception | None] = [None] * len(calls)
        left = list(range(len(calls)))
        while left:
            wave: dict[bytes, int] = {}
            rest: list[int] = []
            for place in left:
                if calls[place].subject in wave:
                    rest.append(place)
                else:
                    wave[calls[place].subject] = place
            await self._carry(calls, list(wave.values()), results, deadline)
            left = rest
        return results

    async def _open(self, deadline: float) -> None:
        """See that the stream is there."""
        try:
            await self.streams.open(self.stream, deadline=deadline)
        except Declined as error:
            raise explain(error).at(self.place) from error

    async def _carry(
        self,
        calls: Sequence[_Call],
        places: Sequence[int],
        results: list[Exception | None],
        deadline: float,
    ) -> None:
        """Carry calls at once; twice is once, so what was lost is carried again."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while places:
            wire = await self.link.wait_wire(deadline)
            problems = await self._send(wire, [calls[place] for place in places], deadline)
            lost: list[int] = []
            for place, problem in zip(places, problems, strict=True):
                if problem is LOST_PROBLEM:
                    lost.append(place)
                elif problem is not None:
                    self.stream.life = ""
                    fault = Declined(problem.err_code or problem.code, problem.description)
                    results[place] = explain(fault).at(self.place)
            places = lost
            if lost:
                delay = backoff.next_delay()
                if asyncio.get_running_loop().time() + delay >= deadline:
                    raise explain(TimeoutError()).at(self.place)
                await asyncio.sleep(delay)
                # Was it removed? It is looked for, and made again.
                self.stream.life = ""
                await self._open(deadline)

    async def _send(
        self, wire: Wire, calls: Sequence[_Call], deadline: float
    ) -> list[Problem | None]:
        """Send calls, and return what was wrong with each."""
        problems: list[Problem | None] = [LOST_PROBLEM] * len(calls)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        missing = len(calls)

        def take(place: int, _: bytes, __: bytes, head: bytes, body: bytes) -> None:
            nonlocal missing
            problems[place] = _read_problem(head, body)
            missing -= 1
            if not missing and not done.done():
                done.set_result(None)

        if wire.is_lost:
            return problems
        tokens = []
        purge = b"$JS.API.STREAM.PURGE." + self.stream.name
        for place, call in enumerate(calls):
            token, reply = wire.expect(partial(take, place))
            tokens.append(token)
            if call.payload:
                wire.publish(call.subject, call.payload, reply)
            else:
                wire.publish(purge, msgspec.json.encode({"filter": call.subject.decode()}), reply)
        try:
            async with asyncio.timeout_at(min(deadline, done.get_loop().time() + TRY_SECONDS)):
                await done
        except TimeoutError:
            for token in tokens:
                wire.answers.pop(token, None)
        return problems

    def _subject(self, channel: str, client_id: str = "") -> bytes:
        """Return the subject of an entry, or what those of a channel begin with."""
        ahead = b"%b.p.0.%b." % (self.streams.prefix, word_of(channel))
        return ahead + word_of(client_id) if client_id else ahead

    def _running(self) -> None:
        """Raise `BrokerClosed` unless it runs."""
        if not self.is_running:
            raise BrokerClosed("the presence store of NATS is not running")


def _read_problem(head: bytes, body: bytes) -> Problem | None:
    """Read what was wrong with a call; ``None`` for nothing."""
    if head == LOST:
        return LOST_PROBLEM
    if head.startswith(NO_RESPONDERS):
        # A stream that was just made, or that has no leader at this moment.
        return LOST_PROBLEM
    try:
        return msgspec.json.decode(body, type=Answer).error
    except msgspec.MsgspecError:
        return Problem(0, 0, "it answers what cannot be read")


def _size_of(call: _Call) -> int:
    """Return the bytes of a call."""
    return len(call.payload) + len(call.subject) + 256


def _ignore() -> None:
    """Do nothing."""
