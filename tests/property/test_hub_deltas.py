"""The hub with patches, lost and late deliveries: whoever applies what it gets has the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import Frames, PayloadFormat, Publication, StreamPosition
from wirebell.protocol.delta import apply_delta
from wirebell.protocol.encoding import ChannelEncoding, Delta
from wirebell.protocol.json import JSON

WORDS = ("Lorem ipsum dolor sit amet, consectetur", "adipiscing elit, sed do eiusmod", "ä😀")
PAYLOADS = st.builds(
    lambda words, number: json.dumps({"words": words, "number": number}).encode(),
    st.lists(st.sampled_from(WORDS), max_size=4),
    st.integers(0, 9),
)
READERS = ("one", "two", "three")


@dataclass
class Reader:
    """A client that counts on every publication, and comes back when it is told of a gap.

    Attributes:
        name: Its client id, the same whenever it comes back.
        delta: How it wants publications.
        subscriber: Of the running subscription; ``None`` when it is away.
        position: What it read from history and was not released with yet.
        is_released: Items follow what it got from history.
        last: Offset of the newest publication that it has, or that was before its time.
        document: What it has of that one; ``None`` when it has nothing.
        read_count: Messages that it has read.
    """

    name: str
    delta: Delta
    subscriber: FakeSubscriber | None = None
    position: StreamPosition | None = None
    is_released: bool = False
    last: int | None = None
    document: bytes | None = None
    read_count: int = 0

    def read(self, stream: list[Publication]) -> None:
        """Apply what arrived: each is the next one, and says the truth."""
        assert self.subscriber is not None
        messages = self.subscriber.messages[self.read_count :]
        self.read_count += len(messages)
        for line in "\n".join(messages).splitlines():
            if line == "reply":
                continue
            body = json.loads(line)["push"]["pub"]
            offset, data = body["offset"], body["data"]
            if self.delta is Delta.NONE:
                self.document = json.dumps(data).encode()
            elif body.get("delta"):
                assert self.document is not None
                self.document = apply_delta(self.document, data.encode())
            else:
                self.document = data.encode()
            assert self.last is not None
            missed = [item.exclude for item in stream[self.last : offset - 1]]
            assert offset > self.last
            assert missed == [self.name] * len(missed)
            assert stream[offset - 1].exclude != self.name
            assert stream[offset - 1].data == self.document
            self.last = offset


@dataclass
class Listener:
    """A subscriber that counts on nothing, and gets all that is delivered while it is there."""

    subscriber: FakeSubscriber
    expected: list[int] = field(default_factory=list)

    def offsets(self) -> list[int]:
        """Return what it got."""
        lines = "\n".join(self.subscriber.messages).splitlines()
        return [json.loads(line)["push"]["pub"]["offset"] for line in lines]


class DeltaMachine(RuleBasedStateMachine):
    """Publishes, delivers later, loses, and has readers come, read history, and leave."""

    @initialize()
    def start(self) -> None:
        """Begin with two readers, and an empty stream."""
        self.hub = Hub(held_items_max=10_000, backlog_bytes_max=1)
        self.stream: list[Publication] = []
        self.in_flight: list[Publication] = []
        deltas = (Delta.FRESH, Delta.FRESH, Delta.NONE)
        self.readers = [Reader(name, delta) for name, delta in zip(READERS, deltas, strict=True)]
        self.listeners: list[Listener] = []
        self.delivered = 0
        self.advance(0, 3, wants_all=True)
        self.advance(1, 3, wants_all=True)

    @rule(
        payloads=st.lists(PAYLOADS, min_size=1, max_size=3),
        has_delta=st.sampled_from((True, True, False)),
        exclude=st.sampled_from(("", "", *READERS)),
        is_slow=st.sampled_from((False, False, True)),
        replied=st.sampled_from((None, 0, 1)),
        ends_tick=st.booleans(),
    )
    def publish(
        self,
        payloads: list[bytes],
        has_delta: bool,
        exclude: str,
        is_slow: bool,
        replied: int | None,
        ends_tick: bool,
    ) -> None:
        """Publish: it is in history at once, and arrives at once or later, with a reply behind."""
        for data in payloads:
            item = Publication(
                data,
                PayloadFormat.JSON,
                offset=len(self.stream) + 1,
                epoch="e",
                has_delta=has_delta,
                exclude=exclude,
            )
            self.stream.append(item)
            self.in_flight.append(item)
            if not is_slow:
                self.deliver(len(self.in_flight))
            if replied is not None:
                self.reply(replied)
        if ends_tick:
            self.flush()

    @precondition(lambda self: self.in_flight)
    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        """Have some arrive."""
        for _ in range(min(count, len(self.in_flight))):
            item = self.in_flight.pop(0)
            gap = self.hub.find_gap("a", item)
            assert gap is not None
            if gap:
                told = self.hub.subscribers("a")
                for reader in self.readers:
                    if reader.subscriber in told:
                        self.end(reader)
            self.hub.enqueue("a", item)
            self.delivered = item.offset
            for listener in self.listeners:
                listener.expected.append(item.offset)

    @precondition(lambda self: self.in_flight)
    @rule()
    def lose(self) -> None:
        """Lose what should arrive next."""
        self.in_flight.pop(0)

    @rule(
        reader=st.integers(0, 2),
        steps=st.sampled_from((1, 1, 3)),
        wants_all=st.sampled_from((True, True, False)),
    )
    def advance(self, reader: int, steps: int, wants_all: bool) -> None:
        """Have a reader subscribe, read history, be released: so many of these steps."""
        who = self.readers[reader]
        for _ in range(steps):
            if who.subscriber is None:
                self.come(who)
            elif who.position is None:
                self.read_history(who, who.subscriber, wants_all=wants_all)
            elif not who.is_released:
                self.release(who, who.subscriber, who.position)

    def come(self, who: Reader) -> None:
        """Subscribe, and read history later."""
        who.subscriber = FakeSubscriber(client_id=who.name)
        who.subscriber.channels["a"] = True
        who.position, who.is_released, who.read_count = None, False, 0
        encoding = ChannelEncoding(JSON, delta=who.delta)
        self.hub.subscribe("a", who.subscriber, encoding, catch_up=True)

    def read_history(self, who: Reader, subscriber: FakeSubscriber, *, wants_all: bool) -> None:
        """Read the position, and what was missed by who was there before."""
        who.position = StreamPosition(len(self.stream), "e")
        if who.last is None or not wants_all:
            self.hub.know_top("a", who.position, None)
            who.last, who.document = len(self.stream), None
            return
        self.hub.know_top("a", who.position, self.stream[-1] if self.stream else None)
        who.last = len(self.stream)
        who.document = self.stream[-1].data if self.stream else None
        self.hub.recode("a", subscriber, ChannelEncoding(JSON, delta=who.delta).settled)

    def release(self, who: Reader, subscriber: FakeSubscriber, position: StreamPosition) -> None:
        """Have items follow, unless some are missing already."""
        if self.hub.is_torn("a", subscriber, position):
            self.end(who)
            return
        held = self.hub.release("a", subscriber, position)
        self.hub.reply(subscriber, held, is_ahead=True)
        who.is_released = True

    @rule(reader=st.integers(0, 2))
    def reply(self, reader: int) -> None:
        """Send something between what was delivered and what will be."""
        who = self.readers[reader]
        if who.subscriber is not None:
            self.hub.reply(who.subscriber, Frames.from_text("reply"))

    @rule(reader=st.integers(0, 2))
    def leave(self, reader: int) -> None:
        """Leave; what waits for the tick's end goes with it."""
        if self.readers[reader].is_released and self.readers[reader].subscriber is not None:
            self.end(self.readers[reader])

    @rule()
    def come_listening(self) -> None:
        """Subscribe without history, when no tick runs."""
        self.flush()
        subscriber = FakeSubscriber(client_id="listener")
        subscriber.channels["a"] = True
        self.hub.subscribe("a", subscriber, ChannelEncoding(JSON))
        self.listeners.append(Listener(subscriber))

    def end(self, who: Reader) -> None:
        """End a subscription; who had read nothing yet is as before."""
        assert who.subscriber is not None
        self.hub.unsubscribe("a", who.subscriber)
        who.subscriber.channels.clear()
        self.hub.forget(who.subscriber)
        if who.position is not None:
            who.read(self.stream)
        who.subscriber, who.is_released = None, False

    @rule()
    def flush(self) -> None:
        """End the tick: every reader has all that was delivered, and has it right."""
        assert [] == self.hub.flush()
        for who in self.readers:
            if who.subscriber is None or not who.is_released:
                continue
            who.read(self.stream)
            assert who.last is not None
            rest = [item.exclude for item in self.stream[who.last : self.delivered]]
            assert rest == [who.name] * len(rest)
        for listener in self.listeners:
            assert listener.expected == listener.offsets()

    def teardown(self) -> None:
        """Have everybody come and see the end of the stream."""
        self.flush()


DeltaMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestHubDeltas = DeltaMachine.TestCase
