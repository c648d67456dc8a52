"""What was lost, doubled or hidden, by what clients were told and what was acknowledged.

Pure: logs of subscriptions go in, counts come out. Nothing here trusts a server: a client is owed
each acknowledged publication behind the position at which it began, unless it was told that
something between two positions is missing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = (
    "Acknowledged",
    "Began",
    "Event",
    "Heard",
    "Log",
    "Position",
    "Recovered",
    "Told",
    "Verdict",
    "judge",
)


class Position(NamedTuple):
    """A place in a stream."""

    epoch: str
    offset: int


class Began(NamedTuple):
    """A subscription began: everything behind this position is owed."""

    position: Position


class Told(NamedTuple):
    """A client asked for what it missed, and was told that it cannot have all of it.

    It reads its state anew, which holds everything up to this position.
    """

    position: Position


class Recovered(NamedTuple):
    """A client asked for what it missed, and was told that here it comes.

    Attributes:
        epoch: Of the stream, as the answer has it.
        missed: Offset and number of each publication in the answer.
    """

    epoch: str
    missed: Sequence[tuple[int, int]]


class Heard(NamedTuple):
    """A publication came."""

    position: Position
    number: int


Event = Began | Told | Recovered | Heard


@dataclass(slots=True)
class Log:
    """What one client was told in one channel, in order.

    Attributes:
        channel: Which.
        events: The first of them is `Began`.
    """

    channel: str
    events: list[Event] = field(default_factory=list)


class Acknowledged(NamedTuple):
    """A publication of which somebody was told that it is published."""

    channel: str
    position: Position
    number: int


@dataclass(slots=True)
class Verdict:
    """Counts; the first four must be zero.

    Attributes:
        lost: Acknowledged publications that a client neither got nor was told of.
        doubled: Times that a client got something twice in one epoch.
        hidden: Holes in what a client got, of which it was not told; a client that is not at its
            channel's newest position at the end counts, and so does a position at which two
            clients got different things.
        false_recoveries: Times that a client was told that it recovered, and had not.
        told: Acknowledged publications that some client did not get, and was told so.
        recoveries: Times that clients were told that they recovered.
        refusals: Times that they were told that they did not.
        epochs_changed: Channels whose clients have seen more than one epoch.
    """

    lost: int = 0
    doubled: int = 0
    hidden: int = 0
    false_recoveries: int = 0
    told: int = 0
    recoveries: int = 0
    refusals: int = 0
    epochs_changed: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, hidden or falsely recovered."""
        return not (self.lost or self.doubled or self.hidden or self.false_recoveries)


@dataclass(slots=True)
class _Reading:
    """What a log says.

    Attributes:
        began: Where it began.
        place: Where the client is.
        heard: Numbers of what came.
        numbers: The same, with their epochs.
        places: Position → number of what came.
        jumps: From where to where the client was told that something is missing.
    """

    began: Position
    place: Position
    heard: set[int] = field(default_factory=set)
    numbers: set[tuple[str, int]] = field(default_factory=set)
    places: dict[Position, int] = field(default_factory=dict)
    jumps: list[tuple[Position, Position]] = field(default_factory=list)

    @property
    def epochs(self) -> set[str]:
        """The epochs in which it was."""
        jumps = (after.epoch for _, after in self.jumps)
        return {self.began.epoch, self.place.epoch, *jumps, *(each.epoch for each in self.places)}

    def hear(self, position: Position, number: int) -> tuple[bool, bool]:
        """Take a publication; tells whether it came before, and whether some are missing."""
        place = self.place
        if position.epoch == place.epoch and position.offset <= place.offset:
            return True, False
        is_doubled = (position.epoch, number) in self.numbers
        # Of a stream that never had a publication nothing can be missing.
        base = place.offset if position.epoch == place.epoch or not place.offset else -1
        self.place = position
        self.places[position] = number
        self.heard.add(number)
        self.numbers.add((position.epoch, number))
        return is_doubled, position.offset != base + 1

    def is_told(self, place: Position) -> bool:
        """Tell whether the client was told that something is missing there."""
        for before, after in self.jumps:
            if before.epoch == after.epoch == place.epoch:
                if before.offset < place.offset <= after.offset:
                    return True
            elif (before.epoch == place.epoch and before.offset < place.offset) or (
                after.epoch == place.epoch and place.offset <= after.offset
            ):
                return True
        # It jumped over the whole of that epoch.
        return place.epoch not in self.epochs and any(
            before.epoch != after.epoch for before, after in self.jumps
        )

    def is_older(self, place: Position) -> bool:
        """Tell whether that was published before the client began."""
        return place.epoch == self.began.epoch and place.offset <= self.began.offset


def judge(
    logs: Sequence[Log], acknowledged: Sequence[Acknowledged], tops: Mapping[str, Position]
) -> Verdict:
    """Judge what happened.

    Args:
        logs: Of all subscriptions; each has begun.
        acknowledged: All that was published before the end.
        tops: Channel → its newest position at the end, when nothing was on its way any more.
    """
    verdict = Verdict()
    readings: dict[str, list[_Reading]] = defaultdict(list)
    for log in logs:
        reading = _read(log, verdict)
        verdict.hidden += reading.place != tops[log.channel]
        readings[log.channel].append(reading)
    for channel, group in readings.items():
        verdict.epochs_changed += len({epoch for each in group for epoch in each.epochs}) > 1
        _compare(group, [each for each in acknowledged if each.channel == channel], verdict)
    return verdict


def _read(log: Log, verdict: Verdict) -> _Reading:
    """Follow one client through what it was told."""
    first, *rest = log.events
    assert isinstance(first, Began), "a log begins with the beginning"
    reading = _Reading(first.position, first.position)
    for event in rest:
        match event:
            case Told(position):
                verdict.refusals += 1
                reading.jumps.append((reading.place, position))
                reading.place = position
            case Recovered(epoch, missed):
                verdict.recoveries += 1
                is_false = epoch != reading.place.epoch
                reading.place = Position(epoch, reading.place.offset)
                for offset, number in missed:
                    is_doubled, has_hole = reading.hear(Position(epoch, offset), number)
                    is_false |= is_doubled or has_hole
                verdict.false_recoveries += is_false
            case Heard(position, number):
                is_doubled, has_hole = reading.hear(position, number)
                verdict.doubled += is_doubled
                verdict.hidden += has_hole
            case Began():
                raise AssertionError("a subscription begins once")
    return reading


def _compare(
    readings: Sequence[_Reading], acknowledged: Iterable[Acknowledged], verdict: Verdict
) -> None:
    """Compare what the clients of a channel got, and with what was acknowledged."""
    truth: dict[Position, int] = {}
    for _, position, number in acknowledged:
        verdict.hidden += truth.setdefault(position, number) != number
    for reading in readings:
        for position, number in reading.places.items():
            verdict.hidden += truth.setdefault(position, number) != number
    for _, position, number in acknowledged:
        missing = [
            reading
            for reading in readings
            if number not in reading.heard and not reading.is_older(position)
        ]
        told = [reading.is_told(position) for reading in missing]
        verdict.lost += not all(told)
        verdict.told += bool(told) and all(told)
