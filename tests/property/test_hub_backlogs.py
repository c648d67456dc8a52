"""The hub with subscribers that do not read, against lists: each way to drop keeps its word."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import Overflow, Publication

POLICIES = {
    "cut": Overflow.DISCONNECT,
    "drop": Overflow.DROP_OLDEST,
    "latest": Overflow.KEEP_LATEST,
}
KEYS = {"cut": [""], "drop": [""], "latest": ["x", "y", "z"]}
SUBSCRIBERS = st.integers(0, 2)
CHANNELS = st.sampled_from(sorted(POLICIES))
# 64 bytes an item and its payload of four: so many fit.
ITEMS_MAX = 4


@dataclass
class Published:
    """What happened in one channel.

    Attributes:
        texts: Of all publications.
        keys: Text → key.
    """

    texts: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)


class BacklogMachine(RuleBasedStateMachine):
    """Publishes, ends ticks, and has three subscribers of three channels stop and start reading."""

    @initialize()
    def start(self) -> None:
        """Begin with everybody subscribed to everything, and reading."""
        self.hub = Hub(
            held_items_max=10,
            backlog_bytes_max=68 * ITEMS_MAX,
            overflow_for=lambda channel: POLICIES[channel],
        )
        self.subscribers = [FakeSubscriber() for _ in range(3)]
        self.published = {channel: Published() for channel in POLICIES}
        self.flushed = dict.fromkeys(POLICIES, 0)
        self.count = 0
        for subscriber in self.subscribers:
            for channel in POLICIES:
                subscriber.channels[channel] = True
                self.hub.subscribe(channel, subscriber)

    @rule(channel=CHANNELS, count=st.integers(1, 6), data=st.data())
    def publish(self, channel: str, count: int, data: st.DataObject) -> None:
        """Publish within the tick."""
        for _ in range(count):
            self.count += 1
            text, key = f"{self.count:04}", data.draw(st.sampled_from(KEYS[channel]))
            self.published[channel].texts.append(text)
            self.published[channel].keys[text] = key
            self.hub.enqueue(channel, Publication(text.encode(), key=key))

    @rule()
    def flush(self) -> None:
        """End the tick."""
        assert [] == self.hub.flush()
        self.flushed = {name: len(entry.texts) for name, entry in self.published.items()}

    @rule(number=SUBSCRIBERS)
    def stop(self, number: int) -> None:
        """Have somebody read no more."""
        self.subscribers[number].is_writable = False

    @rule(number=SUBSCRIBERS)
    def resume(self, number: int) -> None:
        """Have somebody read again."""
        self.subscribers[number].is_writable = True
        assert self.hub.resume(self.subscribers[number])

    @rule(number=SUBSCRIBERS)
    def start_reading_untold(self, number: int) -> None:
        """Have somebody read again whom nobody tells it yet."""
        self.subscribers[number].is_writable = True

    def got(self, number: int, channel: str) -> list[str]:
        """Return what a subscriber got of a channel."""
        keys = self.published[channel].keys
        return [text for text in self.subscribers[number].messages if text in keys]

    def waiting(self, number: int, channel: str) -> list[str]:
        """Return what waits for a subscriber in a channel."""
        backlog = self.hub.backlogs.get(self.subscribers[number])
        runs = [] if backlog is None else backlog.runs()
        return [
            item.data.decode()
            for name, items in runs
            for item in items
            if name == channel and isinstance(item, Publication)
        ]

    @invariant()
    def nobody_gets_anything_out_of_order(self) -> None:
        """What was got, and what waits behind it, is in the order of publication, once each."""
        for channel in self.published:
            for number in range(3):
                seen = self.got(number, channel) + self.waiting(number, channel)
                assert sorted(set(seen)) == seen

    @invariant()
    def a_channel_that_cuts_drops_nothing(self) -> None:
        """Who is in a channel without dropping got all of every tick."""
        expected = self.published["cut"].texts[: self.flushed["cut"]]
        for number in range(3):
            assert expected == self.got(number, "cut")
            assert [] == self.waiting(number, "cut")

    @invariant()
    def drops_are_counted(self) -> None:
        """What was published was delivered, waits, or was counted as dropped."""
        published = 3 * sum(self.flushed.values())
        delivered = sum(len(subscriber.messages) for subscriber in self.subscribers)
        waiting = sum(
            len(self.waiting(number, channel)) for number in range(3) for channel in POLICIES
        )
        dropped = sum(self.hub.dropped_counts.values())
        assert published == delivered + waiting + dropped
        assert delivered == self.hub.delivered_count

    @invariant()
    def backlogs_are_bounded(self) -> None:
        """Only so many items wait, whatever was published, and the bytes are counted right."""
        for number, subscriber in enumerate(self.subscribers):
            waiting = [self.waiting(number, channel) for channel in POLICIES]
            backlog = self.hub.backlogs.get(subscriber)
            if backlog is not None:
                assert 1 <= sum(map(len, waiting)) <= ITEMS_MAX
                assert 68 * sum(map(len, waiting)) == backlog.byte_count

    @invariant()
    def newest_run_is_kept(self) -> None:
        """What waits of a channel that drops the oldest is its newest, without a hole."""
        texts = self.published["drop"].texts[: self.flushed["drop"]]
        for number in range(3):
            waiting = self.waiting(number, "drop")
            assert waiting == texts[len(texts) - len(waiting) :]

    @invariant()
    def newest_of_each_key_is_kept(self) -> None:
        """Of a key only the newest waits; what is not the newest was got or dropped."""
        entry = self.published["latest"]
        newest = {entry.keys[text]: text for text in entry.texts[: self.flushed["latest"]]}
        for number in range(3):
            waiting = self.waiting(number, "latest")
            assert set(waiting) <= set(newest.values())
            assert len(waiting) == len({entry.keys[text] for text in waiting})

    def teardown(self) -> None:
        """Have everybody read: each ends with the newest of each key that was not pushed out."""
        self.flush()
        before = [
            {channel: self.waiting(number, channel) for channel in POLICIES} for number in range(3)
        ]
        got = [len(subscriber.messages) for subscriber in self.subscribers]
        for number in range(3):
            self.resume(number)
        for number, waiting in enumerate(before):
            last = self.subscribers[number].messages[got[number] :]
            assert sorted(last) == sorted(text for texts in waiting.values() for text in texts)
        assert {} == self.hub.backlogs


BacklogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBacklogs = BacklogMachine.TestCase


@settings(max_examples=60, deadline=None)
@given(ticks=st.lists(st.lists(st.sampled_from("xyz"), min_size=1, max_size=4), max_size=8))
def test_the_newest_of_each_key_arrives(ticks: list[list[str]]) -> None:
    """Who reads again has the newest of every key, in the order in which these came."""
    hub = Hub(
        held_items_max=10, backlog_bytes_max=100_000, overflow_for=lambda _: Overflow.KEEP_LATEST
    )
    subscriber = FakeSubscriber()
    subscriber.is_writable = False
    hub.subscribe("a", subscriber)
    newest: dict[str, str] = {}
    for number, keys in enumerate(ticks):
        for at, key in enumerate(keys):
            text = f"{number}.{at}"
            newest.pop(key, None)
            newest[key] = text
            hub.enqueue("a", Publication(text.encode(), key=key))
        hub.flush()

    hub.resume(subscriber)

    assert list(newest.values()) == subscriber.messages
    dropped = sum(map(len, ticks)) - len(newest)
    assert dropped == hub.dropped_counts[Overflow.KEEP_LATEST]
