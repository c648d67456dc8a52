"""What this process publishes: in batches, each publication once.

Strategy: what was published in one turn goes out in one write, a frame for each channel that keeps
history, and its answers are awaited together. A frame names the frame before it, and JetStream
takes it only if that is still the last one of its channel
(``Nats-Expected-Last-Subject-Sequence``). So offsets have no hole, whoever publishes; and a frame
that is sent again because its answer was lost is stored once, since whatever was stored meanwhile
is its successor.

Invariants: one frame of a channel is under way at a time; what was given up can never be stored
after another frame of its channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from wirebell.backoff import Backoff
from wirebell.batching import PENDING_MAX, Batcher
from wirebell.brokers.nats.chains import Chains, Item, Lane, Sent, Tail
from wirebell.brokers.nats.faults import (
    Declined,
    TooLarge,
    WireLost,
    explain,
)
from wirebell.brokers.nats.frames import decode_frame, encode_claim, encode_frame
from wirebell.brokers.nats.link import Link
from wirebell.brokers.nats.messages import Ack, Answer, read_ack
from wirebell.brokers.nats.once import EXPECTED, Once, digest_of
from wirebell.brokers.nats.streams import Stream, Streams
from wirebell.brokers.nats.wire import Request, Wire
from wirebell.deferred import Deferred
from wirebell.errors import BrokerUnavailable, UnknownRecord
from wirebell.model import Published, StreamPosition

__all__ = ("Publisher",)

# So many batches are under way, of different channels: JetStream stores one while the answers to
# another are read.
BATCHERS = 4
PENDING_BYTES_MAX = 64 * 1024 * 1024

# Others publish in the same channel: whose turn it is decides itself quickly.
FIRST_RETRY_SECONDS = 0.001
LONGEST_RETRY_SECONDS = 0.1

# A stream without a leader leaves a frame without an answer: it is looked for, and sent again.
TRY_SECONDS = 1.0
_NOT_KEPT = Published(StreamPosition())


class Publisher:
    """Carries batches.

    Mutable state: what waits for the next batches, and the chains.

    Args:
        link: Leads to the server.
        streams: Of the same.
    """

    def __init__(self, link: Link, streams: Streams) -> None:
        self.link = link
        self.streams = streams
        self.once = Once(link, streams)
        self.chains = Chains(link, streams)
        self.batchers: list[Batcher[Item, Published]] = [
            Batcher(
                self._run,
                size_of=_size_of,
                pending_max=PENDING_MAX // BATCHERS,
                pending_bytes_max=PENDING_BYTES_MAX // BATCHERS,
            )
            for _ in range(BATCHERS)
        ]

    def add(self, item: Item) -> Deferred[Published]:
        """Have an item carried with the others of this turn; those of a channel in order.

        Raises:
            BrokerUnavailable: As much waits already as may.
            BrokerClosed: The publisher was closed.
        """
        item = item._replace(deadline=self.link.deadline())
        return self.batchers[hash(item.word) % BATCHERS].add(item)

    async def aclose(self) -> None:
        """Carry what waits, within bounds, and take no more."""
        await asyncio.gather(*(each.aclose() for each in self.batchers))

    # A batch

    async def _run(self, items: Sequence[Item]) -> list[Published | Exception]:
        """Carry a batch."""
        # The first one's: it has waited for the batch before this one.
        deadline = items[0].deadline
        wire = await self.link.wait_writable(deadline)
        trouble_count = wire.trouble_count
        results: list[Published | Exception] = [_NOT_KEPT] * len(items)
        lanes: dict[bytes, Lane] = {}
        direct: list[int] = []
        for place, item in enumerate(items):
            lane = lanes.get(item.word) if item.word else None
            if lane is None and item.history is None and item.how is None:
                try:
                    _deliver(wire, item)
                    direct.append(place)
                except Declined as error:
                    results[place] = explain(error).at(self.link.place)
                continue
            if lane is None:
                lane = lanes[item.word] = Lane(item.word, [], [])
            lane.places.append(place)
            lane.items.append(item)
        # The server has taken it then, and what comes back to us is here.
        taken = wire.sync() if direct else None
        if lanes:
            await self._carry_all(wire, list(lanes.values()), results, deadline)
        if taken is not None:
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(taken)
                if wire.trouble_count != trouble_count:
                    # It may not publish there, which is told ahead of the confirmation.
                    raise Declined(0, wire.trouble)
            except (WireLost, TimeoutError, Declined) as error:
                for place in direct:
                    results[place] = explain(error).at(self.link.place)
        return results

    async def _carry_all(
        self,
        wire: Wire,
        lanes: Sequence[Lane],
        results: list[Published | Exception],
        deadline: float,
    ) -> None:
        """Publish in all channels at once; where the last frame is known, without a task each."""
        sent: list[tuple[Lane, Sent]] = []
        rest: list[Lane] = []
        for lane in lanes:
            plan = self.chains.plan_known(lane)
            if plan is None:
                rest.append(lane)
            else:
                sent.append((lane, plan))
        work = [asyncio.ensure_future(self._carry(lane, None, results, deadline)) for lane in rest]
        try:
            if sent:
                await self._send_all(wire, [plan for _, plan in sent], deadline)
            for lane, plan in sent:
                left = None if self._accept(lane, plan, results) else plan
                if lane.at < len(lane.items):
                    work.append(asyncio.ensure_future(self._carry(lane, left, results, deadline)))
            if work:
                await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()

    async def _send_all(self, wire: Wire, plans: Sequence[Sent], deadline: float) -> None:
        """Send frames, and wait for what is answered."""
        requests = []
        for plan in plans:
            headers = b"%b%d\r\n" % (EXPECTED, plan.expected)
            if wire.info.cluster:
                # Servers up to 2.9 compare with what is stored, not with what is on its way
                # to it; an id they compare with both. One frame may follow another.
                headers += b"Nats-Msg-Id: %b.%d\r\n" % (plan.subject, plan.expected)
            requests.append(Request(plan.subject, plan.payload, headers + b"\r\n"))
        answers = await wire.ask_all(requests, min(deadline, wire.loop.time() + TRY_SECONDS))
        for plan, answer in zip(plans, answers, strict=True):
            plan.answer = read_ack(*answer)

    def _accept(self, lane: Lane, plan: Sent, results: list[Published | Exception]) -> bool:
        """Take the results of a frame, if it was stored; tells whether it was."""
        ack = plan.answer
        if not isinstance(ack, Ack) or ack.duplicate:
            self.chains.forget(lane.word)
            return False
        self._advance(lane, plan, ack.seq, results)
        return True

    def _advance(
        self,
        lane: Lane,
        plan: Sent,
        sequence: int,
        results: list[Published | Exception],
    ) -> None:
        """Go on behind a frame that was stored."""
        self.chains.remember(lane.word, plan, sequence)
        lane.settle(plan.results, results)

    # A channel

    async def _carry(
        self,
        lane: Lane,
        left: Sent | None,
        results: list[Published | Exception],
        deadline: float,
    ) -> None:
        """Publish what is left of a channel, whatever it takes."""
        try:
            while lane.at < len(lane.items):
                try:
                    await self._carry_next(lane, left, results, deadline)
                except TooLarge as error:
                    # It alone.
                    lane.settle((explain(error).at(self.link.place),), results)
                left = None
        except Exception as error:  # noqa: BLE001 - it is raised to everybody who waits
            fate = error
            if isinstance(error, (Declined, WireLost, TimeoutError)):
                fate = explain(error).at(self.link.place)
            elif isinstance(error, UnknownRecord):
                fate = BrokerUnavailable(f"NATS at {self.link.place}: {error}")
            lane.settle([fate] * (len(lane.items) - lane.at), results)

    async def _carry_next(
        self,
        lane: Lane,
        left: Sent | None,
        results: list[Published | Exception],
        deadline: float,
    ) -> None:
        """Publish what comes next in a channel: one item, or those that fit into a frame."""
        item = lane.items[lane.at]
        if item.how is not None and item.how.idempotency_key:
            lane.settle((await self._publish_once(lane, item, deadline),), results)
        elif item.history is None:
            await self._publish_unkept(item, deadline)
            lane.settle((_NOT_KEPT,), results)
        else:
            await self._append(lane, left, results, deadline)

    async def _publish_unkept(self, item: Item, deadline: float) -> None:
        """Publish what is kept nowhere, behind what is."""
        wire = await self.link.wait_wire(deadline)
        _deliver(wire, item)
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(wire.sync())

    async def _append(
        self,
        lane: Lane,
        left: Sent | None,
        results: list[Published | Exception],
        deadline: float,
    ) -> None:
        """Store one frame of a channel, again and again while others come first.

        Args:
            lane: Whose next publications.
            left: A frame of it that was sent, and not stored as far as is known.
            results: Of the batch.
            deadline: Of the loop's clock.

        Raises:
            Declined: JetStream does not take it.
            BrokerUnavailable: It did not answer in time.
        """
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        loop = asyncio.get_running_loop()
        while True:
            if left is not None:
                sequence = await self._find(left, lane.word, deadline)
                if sequence:
                    self._advance(lane, left, sequence, results)
                    return
                fault = left.answer if isinstance(left.answer, Declined) else None
                if fault is not None and not (fault.is_taken or fault.is_temporary):
                    raise fault
                delay = backoff.next_delay()
                if loop.time() + delay >= deadline:
                    raise explain(fault or TimeoutError()).at(self.link.place)
                if fault is not None and fault.is_temporary:
                    # Was it removed? It is made again.
                    left.stream.life = ""
                await asyncio.sleep(delay)
            plan = await self.chains.plan(lane, left, deadline)
            if not plan.frame.records:
                # All of it was left out.
                lane.settle(plan.results, results)
                return
            await self._send_all(await self.link.wait_wire(deadline), [plan], deadline)
            if self._accept(lane, plan, results):
                return
            left = plan

    async def _find(self, left: Sent, word: bytes, deadline: float) -> int:
        """Return the sequence of a frame that may have been stored; 0 when it was not.

        Raises:
            BrokerUnavailable: It cannot be told any more.
        """
        if isinstance(left.answer, Declined) and left.doubts == 0:
            # It was refused, and sent once.
            return 0
        question = {"seq": left.expected + 1, "next_by_subj": left.subject.decode()}
        message = await self.streams.get(left.stream, question, deadline)
        if message is None:
            return 0
        frame = decode_frame(message.data)
        is_ours = frame.ident == left.frame.ident
        if is_ours and (frame.epoch, frame.offset) == (left.frame.epoch, left.frame.offset):
            wire = await self.link.wait_wire(deadline)
            # It may have been stored by a server that died before it told anybody; whoever has
            # it leaves it out.
            wire.publish(self.streams.live(word), message.data)
            return message.seq
        if not is_ours and frame.previous in {left.expected, 0}:
            # What came after the frame before it is another one.
            return 0
        raise BrokerUnavailable(
            f"NATS at {self.link.place} did not answer in time, and by now it cannot be told "
            "whether the publication was stored"
        )

    # Removing

    async def remove(self, word: bytes) -> None:
        """Forget what is kept of a channel, wherever it is; its offset and epoch stay.

        A frame without publications says from where on there is something. What was before it is
        then freed; it is not read even if that fails.

        Raises:
            Declined: JetStream says no.
            BrokerUnavailable: It did not answer in time.
            UnknownRecord: A newer release wrote there.
        """
        deadline = self.link.deadline()
        for name in await self.streams.names(deadline):
            stream = self.streams.known(name)
            if stream is not None:
                await self._remove_from(stream, word, deadline)

    async def _remove_from(self, stream: Stream, word: bytes, deadline: float) -> None:
        """Forget what a stream has of a channel."""
        await self.streams.open(stream, deadline=deadline)
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while (found := await self.streams.last(stream, word, deadline)) is not None:
            tail = Tail.of(found[0].seq, found[0].stored_at, found[1])
            frame = self.chains.frame_behind(tail, (), tail.version, tail.version_epoch)
            payload = encode_frame(replace(frame, floor=tail.top + 1))
            plan = Sent(stream, stream.subject + word, frame, payload, tail.sequence, [])
            self.chains.forget(word)
            await self._send_all(await self.link.wait_wire(deadline), [plan], deadline)
            if isinstance(plan.answer, Ack):
                purge = {"filter": plan.subject.decode(), "seq": plan.answer.seq}
                await self.link.call(b"STREAM.PURGE." + stream.name, purge, Answer, deadline)
                return
            fault = plan.answer
            if fault is not None and not (fault.is_taken or fault.is_temporary):
                raise fault
            await asyncio.sleep(backoff.next_delay())

    # Once

    async def _publish_once(self, lane: Lane, item: Item, deadline: float) -> Published:
        """Publish what carries an idempotency key."""
        assert item.how is not None
        word = lane.word + b"." + digest_of(item.how.idempotency_key)
        stream = None if item.history is None else self.streams.kept(item.history)
        ident = self.chains.next_ident()
        payload = item.record if stream is None else encode_claim(ident)
        if item.heard is not None:
            # Before anything happens: the copy is longer than what is claimed with.
            (await self.link.wait_wire(deadline)).check_size(len(item.heard[1]))
        known = await self.once.claim(word, payload, stream, lane.word, deadline)
        if known is not None:
            return known
        if stream is None:
            if item.heard is not None:
                (await self.link.wait_wire(deadline)).publish(*item.heard)
            return _NOT_KEPT
        one = Lane(lane.word, [0], [item], ident=ident)
        results: list[Published | Exception] = [_NOT_KEPT]
        await self._append(one, None, results, deadline)
        published = results[0]
        if isinstance(published, Exception):
            raise published
        await self.once.note(word, published.position, deadline)
        return published


def _deliver(wire: Wire, item: Item) -> None:
    """Publish what is kept nowhere: the longer copy first, since both are refused, or none."""
    if item.heard is not None:
        wire.publish(*item.heard)
    wire.publish(item.subject, item.record)


def _size_of(item: Item) -> int:
    """Return the bytes of an item, what stands around it estimated."""
    return len(item.record) + (0 if item.heard is None else len(item.heard[1])) + 256
