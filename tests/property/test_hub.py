"""The hub against a dictionary of lists: publications and replies, each in its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.unit.fakes import FakeSubscriber
from wirebell.hub import Hub
from wirebell.model import Frames, Publication, StreamPosition

CHANNELS = st.sampled_from(["a", "b"])


@dataclass
class Expected:
    """What one subscription must get.

    Attributes:
        subscriber: Of this subscription alone.
        first: Offset of the first publication that it gets from the hub.
        joined_at: The channel's top when it subscribed: history is read later than that.
        is_released: It has read history, or needs none.
        replies: Text → offset of the newest publication that stands before it.
    """

    subscriber: FakeSubscriber
    first: int
    joined_at: int
    is_released: bool = True
    replies: dict[str, int] = field(default_factory=dict)

    @property
    def publications(self) -> list[str]:
        """What it got, without replies."""
        return [text for text in self.subscriber.messages if not text.startswith("reply")]

    def check_replies(self) -> None:
        """Check that each reply came once, in order, between the right publications."""
        messages = self.subscriber.messages
        assert list(self.replies) == [text for text in messages if text.startswith("reply")]
        for text, last in self.replies.items():
            at = messages.index(text)
            numbers = [int(other) for other in messages[:at] if other.isdigit()]
            later = [int(other) for other in messages[at:] if other.isdigit()]
            assert all(number <= last for number in numbers)
            assert all(number > last for number in later)


class HubMachine(RuleBasedStateMachine):
    """Subscribes with and without catching up, publishes, ends ticks, and leaves."""

    @initialize()
    def start(self) -> None:
        """Begin with nobody."""
        self.hub = Hub(held_items_max=10_000, backlog_bytes_max=1)
        self.reply_count = 0
        self.published = {"a": 0, "b": 0}
        self.flushed = {"a": 0, "b": 0}
        # Offset of the first publication that waits for the tick's end.
        self.waiting: dict[str, int] = {}
        self.here: dict[str, list[Expected]] = {"a": [], "b": []}

    @rule(channel=CHANNELS)
    def subscribe(self, channel: str) -> None:
        """Subscribe to what comes, and to what still waits for the tick's end."""
        subscriber = FakeSubscriber()
        subscriber.channels[channel] = True
        is_first = self.hub.subscribe(channel, subscriber)

        assert is_first == (not self.here[channel])
        top = self.published[channel]
        first = self.waiting.get(channel, top + 1)
        self.here[channel].append(Expected(subscriber, first, top))

    @rule(channel=CHANNELS)
    def subscribe_to_catch_up(self, channel: str) -> None:
        """Subscribe before reading history."""
        subscriber = FakeSubscriber()
        subscriber.channels[channel] = True
        self.hub.subscribe(channel, subscriber, catch_up=True)
        self.here[channel].append(
            Expected(subscriber, 0, self.published[channel], is_released=False)
        )

    @rule(channel=CHANNELS, data=st.data())
    def release(self, channel: str, data: st.DataObject) -> None:
        """Read history up to the top, which may be ahead of the ticks, and go on from there."""
        waiting = [expected for expected in self.here[channel] if not expected.is_released]
        if not waiting:
            return
        expected = data.draw(st.sampled_from(waiting))
        top = self.published[channel]
        held = self.hub.release(channel, expected.subscriber, StreamPosition(top, "e"))

        assert () == held.messages
        assert [] == expected.publications
        expected.first, expected.is_released = top + 1, True

    @rule(channel=CHANNELS, data=st.data())
    def release_from_an_older_answer(self, channel: str, data: st.DataObject) -> None:
        """Use an answer of history that was overtaken: what came after it was held."""
        waiting = [expected for expected in self.here[channel] if not expected.is_released]
        if not waiting:
            return
        expected = data.draw(st.sampled_from(waiting))
        position = data.draw(st.integers(expected.joined_at, self.published[channel]))
        held = self.hub.release(channel, expected.subscriber, StreamPosition(position, "e"))

        got = [int(text) for text in held.messages]
        assert list(range(position + 1, self.flushed[channel] + 1)) == got
        first = max(position, self.flushed[channel]) + 1
        expected.first, expected.is_released = first, True

    @rule(channel=CHANNELS, count=st.integers(1, 3))
    def publish(self, channel: str, count: int) -> None:
        """Publish within the tick."""
        for _ in range(count):
            self.published[channel] += 1
            number = self.published[channel]
            if self.here[channel]:
                self.waiting.setdefault(channel, number)
            self.hub.enqueue(channel, Publication(b"%d" % number, offset=number, epoch="e"))

    @precondition(lambda self: any(self.here.values()))
    @rule(data=st.data(), is_ahead=st.booleans())
    def reply(self, data: st.DataObject, is_ahead: bool) -> None:
        """Send something to one subscriber alone, in its place or ahead of the tick."""
        channel = data.draw(st.sampled_from([name for name in self.here if self.here[name]]))
        expected = data.draw(st.sampled_from(self.here[channel]))
        self.reply_count += 1
        text = f"reply {self.reply_count}"
        self.hub.reply(expected.subscriber, Frames.from_text(text), is_ahead=is_ahead)

        if not expected.is_released:
            # What it is going to be released with is newer, whatever was published already.
            last = 0
        elif is_ahead:
            last = max([self.flushed[channel], *expected.replies.values()])
        else:
            last = self.published[channel]
        expected.replies[text] = last

    @rule()
    def flush(self) -> None:
        """End the tick: everybody has exactly its publications, in order."""
        assert [] == self.hub.flush()
        self.flushed = dict(self.published)
        self.waiting.clear()
        for channel, subscriptions in self.here.items():
            for expected in subscriptions:
                last = self.published[channel] if expected.is_released else -1
                numbers = [str(number) for number in range(expected.first, last + 1)]
                assert numbers == expected.publications
                expected.check_replies()

    @precondition(lambda self: any(self.here.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Unsubscribe: what was not flushed is not got, and the last one leaves no entry."""
        channel = data.draw(st.sampled_from([name for name in self.here if self.here[name]]))
        expected = data.draw(st.sampled_from(self.here[channel]))
        before = list(expected.subscriber.messages)
        is_last = self.hub.unsubscribe(channel, expected.subscriber)
        self.here[channel].remove(expected)
        expected.subscriber.channels.clear()
        if is_last:
            self.waiting.pop(channel, None)

        assert is_last == (not self.here[channel])
        assert before == expected.subscriber.messages
        assert is_last == (not self.hub.has_subscribers(channel))

    def teardown(self) -> None:
        """End the tick, and count."""
        self.flush()
        used = [channel for channel, subscriptions in self.here.items() if subscriptions]
        assert len(used) == self.hub.channel_count


HubMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHub = HubMachine.TestCase
