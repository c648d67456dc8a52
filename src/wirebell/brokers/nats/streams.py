"""The streams of JetStream in which everything lies, made when they are needed.

Strategy: histories lie in a stream for each size and each age, both rounded up to a power of two,
so that there are few streams and a channel may change its options. The exact size and time to live
hold when history is read. A stream's subjects have a word of its own, its *life*, so that nothing
that was meant for a stream that was lost goes into the one that came after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wirebell.backoff import Backoff
from wirebell.brokers.nats.addresses import Place
from wirebell.brokers.nats.faults import (
    NAME_TAKEN,
    NO_MESSAGE,
    NO_STREAM,
    NOBODY,
    OTHER_CONFIG,
    Declined,
    Refused,
    explain,
)
from wirebell.brokers.nats.frames import Frame, decode_frame
from wirebell.brokers.nats.link import TRY_SECONDS, Link, ask
from wirebell.brokers.nats.messages import Ack, Answer, Got, Message, read_ack, read_direct
from wirebell.brokers.nats.wire import Request, Wire
from wirebell.history import IDEMPOTENCY_SECONDS
from wirebell.model import History

__all__ = ("Stream", "Streams", "epoch_of")

logger = logging.getLogger(__name__)

# What was not told between servers of a cluster within this time never comes.
DUPLICATE_SECONDS = 5.0
# 512 s: more often than that no stream has to be looked through.
AGE_EXPONENT_MIN = 9
# Leases are minutes; whoever died leaves an entry for so long, which no reader shows.
PRESENCE_AGE_SECONDS = 86_400
NANOSECONDS = 1_000_000_000
REPLICAS_IN_CLUSTER = 3
# A clock is compared again after so long: two good clocks drift apart by 10 ms in it.
CLOCK_SECONDS = 60.0
# A stream that somebody removes under running nodes is noticed so soon.
SEEN_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.01
LONGEST_RETRY_SECONDS = 0.25
# So many messages are read at once.
QUESTIONS_MAX = 1000
# What a single server says of a message is final.
NOT_FOUND = b"NATS/1.0 404"
# Of no kind that anybody reads.
PROBE = b"\0"


class _State(msgspec.Struct, frozen=True):
    """Of a stream."""

    last_seq: int = 0


class _Config(msgspec.Struct, frozen=True):
    """Likewise."""

    subjects: tuple[str, ...] = ()


class _Info(Answer, frozen=True):
    """A stream."""

    config: _Config = _Config()
    state: _State = _State()


class _Names(Answer, frozen=True):
    """Names of streams."""

    streams: tuple[str, ...] | None = None


@dataclass(slots=True)
class Stream:
    """A stream, and what is known of it.

    Attributes:
        name: As JetStream has it.
        base: Of its subjects, up to its life.
        pattern: Of its subjects, behind that.
        config: With which it is made, subjects left out.
        is_live: What it stores is published anew.
        life: Its own word; empty before it is known to be there.
        acknowledged: The highest sequence that this process has an answer to.
        seen_at: When its life was looked at last, by the monotonic clock.
        lock: Of who looks for it, or makes it.
    """

    name: bytes
    base: str
    pattern: str
    config: dict[str, Any]
    is_live: bool
    life: str = ""
    acknowledged: int = 0
    seen_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def subject(self) -> bytes:
        """Of its messages, up to the channel's word."""
        return f"{self.base}{self.life}.".encode()


class Streams:
    """All streams of a prefix.

    Mutable state: what is known of them, and how the server's clock differs from ours.

    Args:
        place: Where they are.
        link: Leads there.
        node: Makes the probe's subject this process' own.
    """

    def __init__(self, place: Place, link: Link, node: bytes) -> None:
        self.place = place
        self.link = link
        self.prefix = place.prefix.encode()
        self.opened: dict[bytes, Stream] = {}
        self.keys = self._create(
            "k", "k", "*.*", max_msgs_per_subject=1, max_age=IDEMPOTENCY_SECONDS
        )
        self.node = node
        self.kept_streams: dict[tuple[int, float], Stream] = {}
        # Seconds to add to the monotonic clock for the server's time of day.
        self.clock_offset = time.time() - time.monotonic()
        self.clock_at = -CLOCK_SECONDS

    def live(self, word: bytes, kind: bytes = b"c") -> bytes:
        """Return where a channel's subscribers receive: ``*`` for all kinds."""
        return b"%b.c.%b.%b" % (self.prefix, word, kind)

    def kept(self, history: History) -> Stream:
        """Return the stream for histories of a kind; it may have to be opened."""
        key = (history.size, history.meta_ttl_seconds)
        stream = self.kept_streams.get(key)
        if stream is None:
            size = 1 << (history.size - 1).bit_length()
            seconds = int(history.meta_ttl_seconds) + 1
            exponent = max(AGE_EXPONENT_MIN, (seconds - 1).bit_length())
            known = self._create(
                f"h-{size}-{exponent}",
                f"h.{size}_{exponent}",
                "*",
                max_msgs_per_subject=size,
                max_age=float(1 << exponent),
            )
            stream = self.kept_streams[key] = self.opened.get(known.name, known)
            self.opened.setdefault(stream.name, stream)
        return stream

    def presence(self) -> Stream:
        """Return the stream of presence; it has to be opened."""
        return self._create(
            "p", "p", "*.*", max_msgs_per_subject=1, max_age=PRESENCE_AGE_SECONDS, is_live=False
        )

    def now(self) -> float:
        """Return the server's time in seconds since 1970."""
        return time.monotonic() + self.clock_offset

    async def open(self, stream: Stream, *, deadline: float | None = None) -> str:
        """See that a stream is there, and return its life.

        Raises:
            Declined: JetStream does not make it.
            BrokerUnavailable: There was no answer in time.
        """
        if stream.life:
            return stream.life
        try:
            async with (
                asyncio.timeout_at(self.link.deadline() if deadline is None else deadline) as bound,
                stream.lock,
            ):
                await self._open(stream, bound.when() or 0.0)
        except TimeoutError:
            raise self.link.unavailable() from None
        return stream.life

    async def _open(self, stream: Stream, deadline: float) -> None:
        """Look for a stream until it is there."""
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while not stream.life:
            try:
                await self._find(stream, deadline)
            except Declined as error:
                if error.code not in {NO_STREAM, NAME_TAKEN, OTHER_CONFIG}:
                    raise
                # Another node makes it at this moment.
                await asyncio.sleep(backoff.next_delay())

    async def _find(self, stream: Stream, deadline: float) -> None:
        """Find out the life of a stream, or make it."""
        try:
            info = await self.link.call(b"STREAM.INFO." + stream.name, None, _Info, deadline)
        except Declined as error:
            if error.code != NO_STREAM:
                raise
            wire = await self.link.wait_wire(deadline)
            # A cluster changes one that is there, unless that would change what it publishes anew;
            # leases need no life.
            life = secrets.token_hex(4) if stream.is_live else "0"
            made = self._describe(stream, life, wire)
            info = await self.link.call(b"STREAM.CREATE." + stream.name, made, _Info, deadline)
        self._note(stream, info)

    async def look(self, stream: Stream, deadline: float) -> bool:
        """See whether a stream is the one that is known, at most once a second; tells if not.

        Raises:
            Declined: JetStream says no.
            BrokerUnavailable: There was no answer in time.
        """
        if time.monotonic() - stream.seen_at < SEEN_SECONDS:
            return False
        life, stream.life = stream.life, ""
        return await self.open(stream, deadline=deadline) != life

    def _note(self, stream: Stream, info: _Info) -> None:
        """Remember what is known of a stream."""
        subjects = info.config.subjects
        life = subjects[0].removeprefix(stream.base).partition(".")[0] if subjects else ""
        if not life or not subjects[0].startswith(stream.base):
            raise Declined(
                0,
                f"the stream {stream.name.decode()} is not ours: choose another ?prefix=, or "
                "remove it",
            )
        stream.life, stream.seen_at = life, time.monotonic()
        self.opened[stream.name] = stream

    async def prepare(self, wire: Wire) -> None:
        """See on a new wire that JetStream is there, and what became of the streams.

        Raises:
            Refused: JetStream is off.
            Declined: It does not answer as it has to.
            WireLost: The connection ended.
        """
        # Another server has another clock, and this machine may have slept.
        self.clock_at = -CLOCK_SECONDS
        if not wire.info.headers:
            raise Refused("it does not know headers: is no_header_support set?")
        try:
            await ask(wire, b"INFO", None, Answer)
        except Declined as error:
            if error.code == NOBODY and not wire.info.jetstream and not wire.info.cluster:
                raise Declined(10076, "JetStream not enabled") from error
            raise
        for stream in list(self.opened.values()):
            if stream.life:
                await self._compare(wire, stream)

    async def _compare(self, wire: Wire, stream: Stream) -> None:
        """See whether a stream is the one that was known, and has all that it had."""
        life, stream.life = stream.life, ""
        try:
            info = await ask(wire, b"STREAM.INFO." + stream.name, None, _Info)
        except Declined as error:
            if error.code != NO_STREAM:
                stream.life = life
                raise
            stream.acknowledged = 0
            return
        self._note(stream, info)
        if stream.life != life:
            stream.acknowledged = 0
        elif info.state.last_seq < stream.acknowledged:
            logger.warning(
                "NATS at %s lost data that it had acknowledged: the channels of the stream %s "
                "start a new epoch",
                self.place,
                stream.name.decode(),
            )
            await ask(wire, b"STREAM.DELETE." + stream.name, None, Answer)
            stream.life, stream.acknowledged = "", 0

    async def store(
        self, stream: Stream, word: bytes, payload: bytes, headers: bytes, deadline: float
    ) -> Ack | Declined | None:
        """Have a stream store a message, once.

        Args:
            stream: Which; it is made where it is not there.
            word: Behind its subject.
            payload: What.
            headers: Whole; empty for none.
            deadline: Of the loop's clock.

        Returns:
            Where it was stored, or why not; ``None`` where the answer was lost.

        Raises:
            Declined: JetStream does not make the stream.
            BrokerUnavailable: It is not reached in time.
        """
        await self.open(stream, deadline=deadline)
        wire = await self.link.wait_wire(deadline)
        question = Request(stream.subject + word, payload, headers)
        until = min(deadline, wire.loop.time() + TRY_SECONDS)
        (answer,) = await wire.ask_all((question,), until)
        ack = read_ack(*answer)
        if isinstance(ack, Declined) and ack.is_temporary:
            # Was the stream removed? It is looked for, and made again.
            stream.life = ""
        return ack

    async def send(self, stream: Stream, word: bytes, payload: bytes, deadline: float) -> None:
        """Have a stream store what may be stored twice, again where the answer was lost.

        Raises:
            Declined: JetStream does not make the stream, or the stream does not take it.
            BrokerUnavailable: There was no answer in time.
        """
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while True:
            ack = await self.store(stream, word, payload, b"", deadline)
            if isinstance(ack, Ack):
                return
            if ack is not None and not ack.is_temporary:
                raise ack
            delay = backoff.next_delay()
            if asyncio.get_running_loop().time() + delay >= deadline:
                raise explain(ack or TimeoutError()).at(self.place)
            await asyncio.sleep(delay)

    async def names(self, deadline: float) -> list[bytes]:
        """Return the names of all streams with histories."""
        filter_ = {"subject": f"{self.place.prefix}.h.>"}
        names = (await self.link.call(b"STREAM.NAMES", filter_, _Names, deadline)).streams or ()
        ahead = f"{self.place.prefix}-h-"
        return [name.encode() for name in names if name.startswith(ahead)]

    def known(self, name: bytes) -> Stream | None:
        """Return the stream with histories that has a name."""
        if name not in self.opened:
            size, _, exponent = name.removeprefix(self.prefix + b"-h-").partition(b"-")
            if not (size.isdigit() and exponent.isdigit()):
                return None
            history = History(
                int(size), meta_ttl_seconds=float(1 << int(exponent)) - 1, ttl_seconds=1
            )
            return self.kept(history)
        return self.opened[name]

    async def get(
        self, stream: Stream, question: Mapping[str, Any], deadline: float | None = None
    ) -> Message | None:
        """Read a message; ``None`` where there is none.

        Raises:
            Declined: JetStream says no.
            BrokerUnavailable: There was no answer in time.
        """
        deadline = self.link.deadline() if deadline is None else deadline
        if self.link.is_cluster:
            # Somebody else might not have the newest yet.
            return await self._ask_leader(stream, question, deadline)
        (message,) = await self.get_all(stream, (question,), deadline)
        return message

    async def get_all(
        self, stream: Stream, questions: Sequence[Mapping[str, Any]], deadline: float
    ) -> list[Message | None]:
        """Read messages at once, past JetStream's queue; ``None`` for each that is not there.

        In a cluster any server may answer that has the stream: the newest may be missing.

        Raises:
            Declined: JetStream says no.
            BrokerUnavailable: There was no answer in time.
        """
        messages: list[Message | None] = []
        for start in range(0, len(questions), QUESTIONS_MAX):
            part = questions[start : start + QUESTIONS_MAX]
            messages += await self._get_some(stream, part, deadline)
        return messages

    async def _get_some(
        self, stream: Stream, questions: Sequence[Mapping[str, Any]], deadline: float
    ) -> list[Message | None]:
        """Read as many messages as are asked for in one write."""
        wire = await self.link.wait_wire(deadline)
        subject = b"$JS.API.DIRECT.GET." + stream.name
        asked = [Request(subject, msgspec.json.encode(each)) for each in questions]
        answers = await wire.ask_all(asked, min(deadline, wire.loop.time() + TRY_SECONDS))
        messages: list[Message | None] = []
        for question, (head, body) in zip(questions, answers, strict=True):
            message = read_direct(head, body)
            if message is None and (wire.info.cluster or not head.startswith(NOT_FOUND)):
                message = await self._ask_leader(stream, question, deadline)
            messages.append(message)
        return messages

    async def _ask_leader(
        self, stream: Stream, question: Mapping[str, Any], deadline: float
    ) -> Message | None:
        """Read a message from who has all of them."""
        try:
            got = await self.link.call(b"STREAM.MSG.GET." + stream.name, question, Got, deadline)
        except Declined as error:
            if error.code == NO_STREAM:
                stream.life = ""
                return None
            if error.code == NO_MESSAGE:
                return None
            raise
        return got.message

    async def last(
        self, stream: Stream, word: bytes, deadline: float | None = None
    ) -> tuple[Message, Frame] | None:
        """Read the last frame of a channel.

        Raises:
            UnknownRecord: It cannot be read.
        """
        message = await self.get(
            stream, {"last_by_subj": (stream.subject + word).decode()}, deadline
        )
        return None if message is None else (message, decode_frame(message.data))

    async def epoch(
        self, stream: Stream, word: bytes, history: History, deadline: float | None = None
    ) -> str:
        """Return the epoch of a channel that has no frame.

        It follows from the life of the stream, and changes at least once in
        ``meta_ttl_seconds``: a channel that was forgotten comes back with another one, and all
        nodes find the same without writing anything.
        """
        life = await self.open(stream, deadline=deadline)
        return epoch_of(life, word, history.meta_ttl_seconds, self.now())

    async def probe(self, deadline: float | None = None) -> None:
        """Have something stored, and learn the server's time from it.

        Raises:
            BrokerUnavailable: It is not stored in time.
            Declined: JetStream says no.
        """
        deadline = self.link.deadline() if deadline is None else deadline
        keys = self.keys
        await self.open(keys, deadline=deadline)
        word = b"-." + self.node
        asked_at = time.monotonic()
        await self.send(keys, word, PROBE, deadline)
        middle = (asked_at + time.monotonic()) / 2
        message = await self.get(keys, {"last_by_subj": (keys.subject + word).decode()}, deadline)
        if message is not None:
            self.clock_offset = message.stored_at - middle
            self.clock_at = middle

    async def compare_clocks(self, deadline: float) -> None:
        """Learn the server's time anew, once in a while."""
        if time.monotonic() - self.clock_at > CLOCK_SECONDS:
            await self.probe(deadline)

    def _replicas(self, wire: Wire) -> int:
        """Return how many servers keep each stream."""
        return self.place.replicas or (REPLICAS_IN_CLUSTER if wire.info.cluster else 1)

    def _create(
        self,
        name: str,
        subject: str,
        pattern: str,
        *,
        max_msgs_per_subject: int,
        max_age: float,
        is_live: bool = True,
    ) -> Stream:
        """Describe a stream."""
        prefix = self.place.prefix
        config: dict[str, Any] = {
            "name": f"{prefix}-{name}",
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_msgs_per_subject": max_msgs_per_subject,
            "allow_direct": True,
            "max_age": int(max_age * NANOSECONDS),
            "duplicate_window": int(DUPLICATE_SECONDS * NANOSECONDS),
        }
        ahead = f"{prefix}.{subject}."
        return Stream(config["name"].encode(), ahead, pattern, config, is_live)

    def _describe(self, stream: Stream, life: str, wire: Wire) -> dict[str, Any]:
        """Return all that JetStream needs to make a stream."""
        pattern = f"{stream.base}{life}.{stream.pattern}"
        made = stream.config | {"subjects": [pattern], "num_replicas": self._replicas(wire)}
        if stream.is_live:
            # Only what was stored is published anew: nobody receives what the stream refused.
            # NATS wants every word of the one to be in the other.
            last = "{{wildcard(2)}}" if stream.pattern.count("*") == 2 else "h"
            dest = f"{self.place.prefix}.c.{{{{wildcard(1)}}}}.{last}"
            made["republish"] = {"src": pattern, "dest": dest}
        return made


def epoch_of(life: str, word: bytes, meta_ttl_seconds: float, now: float) -> str:
    """Return the epoch in which a channel begins.

    Args:
        life: Of its stream.
        word: Its name.
        meta_ttl_seconds: How long an epoch is remembered, at least.
        now: Seconds since 1970.
    """
    digest = hashlib.blake2b(word, digest_size=8).digest()
    # Not all channels at one instant.
    shift = int.from_bytes(digest) / 2**64 * meta_ttl_seconds
    era = int((now + shift) / meta_ttl_seconds)
    seed = f"{life} {era} ".encode() + word
    return hashlib.blake2b(seed, digest_size=4).hexdigest()
