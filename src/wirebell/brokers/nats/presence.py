"""Presence in NATS: the last message of a subject for each member, with leases by its clock."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from wirebell.backoff import Backoff
from wirebell.batching import Batcher
from wirebell.broker_options import NATSOptions
from wirebell.brokers.nats.addresses import read_place
from wirebell.brokers.nats.faults import NO_STREAM, Declined, explain
from wirebell.brokers.nats.frames import decode_lease, encode_lease, word_of
from wirebell.brokers.nats.link import Link
from wirebell.brokers.nats.messages import Answer, Message, read_ack
from wirebell.brokers.nats.streams import Streams
from wirebell.brokers.nats.wire import Request, Wire
from wirebell.errors import BrokerClosed
from wirebell.model import ClientInfo
from wirebell.records import UnknownRecord, decode_info, encode_info

__all__ = ("NATSPresenceStore",)

logger = logging.getLogger(__name__)

CALLS_MAX = 500
FIRST_RETRY_SECONDS = 0.01
LONGEST_RETRY_SECONDS = 0.25
# As long one answer is waited for, before it is asked again.
TRY_SECONDS = 1.0
# Whose lease ended so long ago is removed by who reads; the clocks differ by less.
SWEEP_SECONDS = 1.0


class _Call(NamedTuple):
    """An entry that is to be written, or removed where it has no record."""

    subject: bytes
    payload: bytes


class _State(msgspec.Struct, frozen=True):
    """Of the stream: subject → messages, as many subjects as fit into an answer."""

    subjects: Mapping[str, int] = {}


class _Page(Answer, frozen=True):
    """A part of what the stream has."""

    state: _State = _State()
    total: int = 0


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
        self._connect_anew()

    def _connect_anew(self) -> None:
        """Make the parts of a store that was not started."""
        self.link = Link(self.place, self._prepare, _ignore)
        self.streams = Streams(self.place, self.link, secrets.token_hex(8).encode())
        self.stream = self.streams.presence()
        self.batcher: Batcher[_Call, None] = Batcher(
            self._run, size_of=_size_of, count_max=CALLS_MAX
        )

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
            await self.streams.compare_clocks(deadline)
            entries = await self._read(self._subject(channel) + b"*", deadline)
        except Declined as error:
            # Was the stream removed? It is looked for, and made again.
            self.stream.life = ""
            if error.code == NO_STREAM:
                return {}
            raise explain(error).at(self.place) from error
        members: dict[str, ClientInfo] = {}
        ended: list[tuple[str, Message]] = []
        now = self.streams.now()
        for subject, message in entries:
            try:
                lease, record = decode_lease(message.data)
                info = decode_info(record)
            except UnknownRecord as error:
                logger.warning("a member of a channel is left out: %s", error)
                continue
            left = message.stored_at + lease / 1000 - now
            if left > 0:
                members[info.client_id] = info
            elif left < -SWEEP_SECONDS:
                ended.append((subject, message))
        self._sweep(ended[:CALLS_MAX])
        return members

    # Inside

    async def _read(self, filter_: bytes, deadline: float) -> list[tuple[str, Message]]:
        """Read the newest message of each subject below one.

        Raises:
            Declined: JetStream says no.
            BrokerUnavailable: There was no answer in time.
        """
        await self.streams.open(self.stream, deadline=deadline)
        subjects: dict[str, int] = {}
        while True:
            question = {"subjects_filter": filter_.decode(), "offset": len(subjects)}
            page = await self.link.call(
                b"STREAM.INFO." + self.stream.name, question, _Page, deadline
            )
            subjects |= page.state.subjects
            if len(subjects) >= page.total or not page.state.subjects:
                break
        if not subjects:
            return []
        questions = [{"last_by_subj": subject} for subject in subjects]
        messages = await self.streams.get_all(self.stream, questions, deadline)
        # One of them may have left meanwhile.
        return [
            (subject, message)
            for subject, message in zip(subjects, messages, strict=True)
            if message is not None
        ]

    def _sweep(self, entries: Sequence[tuple[str, Message]]) -> None:
        """Remove entries whose lease has ended, unless they were renewed meanwhile."""
        wire = self.link.wire
        if wire is None:
            return
        for subject, message in entries:
            purge = msgspec.json.encode({"filter": subject, "seq": message.seq + 1})
            wire.publish(b"$JS.API.STREAM.PURGE." + self.stream.name, purge)

    async def _run(self, calls: Sequence[_Call]) -> list[Exception | None]:
        """Carry calls at once; of those of one entry the last one decides."""
        deadline = self.link.deadline()
        fates: dict[bytes, Exception | None] = {}
        left = list({call.subject: call for call in calls}.values())
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while left:
            await self._open(deadline)
            wire = await self.link.wait_wire(deadline)
            until = min(deadline, wire.loop.time() + TRY_SECONDS)
            answers = await wire.ask_all([self._request(call) for call in left], until)
            lost: list[_Call] = []
            for call, answer in zip(left, answers, strict=True):
                ack = read_ack(*answer)
                if ack is None or (isinstance(ack, Declined) and _is_worth_trying(ack)):
                    # Twice is once, so it is carried again.
                    lost.append(call)
                elif isinstance(ack, Declined):
                    fates[call.subject] = explain(ack).at(self.place)
            left = lost
            if left:
                # Was the stream removed? It is looked for, and made again.
                self.stream.life = ""
                delay = backoff.next_delay()
                if wire.loop.time() + delay >= deadline:
                    raise self.link.unavailable()
                await asyncio.sleep(delay)
        return [fates.get(call.subject) for call in calls]

    def _request(self, call: _Call) -> Request:
        """Write a call."""
        if call.payload:
            return Request(call.subject, call.payload)
        purge = msgspec.json.encode({"filter": call.subject.decode()})
        return Request(b"$JS.API.STREAM.PURGE." + self.stream.name, purge)

    async def _open(self, deadline: float) -> None:
        """See that the stream is there."""
        try:
            await self.streams.open(self.stream, deadline=deadline)
        except Declined as error:
            raise explain(error).at(self.place) from error

    def _subject(self, channel: str, client_id: str = "") -> bytes:
        """Return the subject of an entry, or what those of a channel begin with."""
        ahead = b"%b.p.0.%b." % (self.streams.prefix, word_of(channel))
        return ahead + word_of(client_id) if client_id else ahead

    def _running(self) -> None:
        """Raise `BrokerClosed` unless it runs."""
        if not self.is_running:
            raise BrokerClosed("the presence store of NATS is not running")


def _is_worth_trying(fault: Declined) -> bool:
    """Tell whether a call may succeed when the stream was looked for, and made again."""
    return fault.is_temporary or fault.code == NO_STREAM


def _size_of(call: _Call) -> int:
    """Return the bytes of a call."""
    return len(call.payload) + len(call.subject) + 256


def _ignore() -> None:
    """Do nothing."""
