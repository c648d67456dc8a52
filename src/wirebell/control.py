"""What nodes say to each other, as bytes with a schema version. Pure.

There are four messages. A `Hello` tells all nodes that one lives, a `Bye` that it ends; a
`Question` is answered by each node that it reaches with an `Answer`, in parts where it is long.
What can be asked is a method's name and its body, so a node of another release that does not know
the method says so instead of guessing. A later field is added at a message's end; a message of a
kind that is not known is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from wirebell.errors import CommandError, ErrorCode, UnknownRecord

__all__ = (
    "ANSWER_BYTES_MAX",
    "QUESTION_BYTES_MAX",
    "Answer",
    "Bye",
    "Collection",
    "Control",
    "Hello",
    "NodeInfo",
    "Question",
    "create_answers",
    "create_refusal",
    "decode_control",
    "encode_control",
)

SCHEMA = 1

QUESTION_BYTES_MAX = 1_000_000
"""Longest body of a question: what a broker carries in one message, without what goes around."""

ANSWER_BYTES_MAX = 16_777_216
"""Longest body of an answer: about 400,000 channels' names, or 50,000 connections."""

# 256 KiB: far below what a broker carries at once, so that others get their turn.
PART_BYTES_MAX = 262_144
PARTS_MAX = ANSWER_BYTES_MAX // PART_BYTES_MAX


class NodeInfo(msgspec.Struct, frozen=True, array_like=True):
    """What a node has to do at this moment.

    Attributes:
        node_id: Unique for ever.
        name: Of the machine.
        version: Wirebell's.
        client_count: Connections.
        user_count: Different users among them, without anonymous ones.
        subscription_count: Channels of all connections together.
        channel_count: Channels that somebody is subscribed to.
        uptime_seconds: Since the process loaded Wirebell.
        processor_percent: Of one processor, on average since the process began.
        resident_bytes: Memory of the process; 0 where the system does not tell.
        counters: Name → what the node counted since it started.
        is_silent: It did not answer: this is what it told last.
    """

    node_id: str
    name: str
    version: str
    client_count: int
    user_count: int
    subscription_count: int
    channel_count: int
    uptime_seconds: float
    processor_percent: float
    resident_bytes: int
    counters: Mapping[str, float]
    is_silent: bool = False


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A node lives.

    Attributes:
        info: Which, and what it has to do.
        has_given_name: Its name was configured, so no other node should have it.
        wants_answer: Who hears it says hello to it alone: it has just come, or come back.
        revocations: Fingerprint of what it knows to be revoked; 0 for nothing.
    """

    info: NodeInfo
    has_given_name: bool = False
    wants_answer: bool = False
    revocations: int = 0


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A node ends, of its own will.

    Attributes:
        node_id: Which.
    """

    node_id: str


class Question(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A node asks others, or tells them to do something.

    Attributes:
        node_id: Who asks.
        number: The asker's own, 1 or more.
        method: What it asks.
        body: As the method has it, at most `QUESTION_BYTES_MAX` bytes.
    """

    node_id: str
    number: int
    method: str
    body: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A part of what a node answers, or that it refuses.

    Attributes:
        node_id: Who answers.
        number: The question's.
        body: This part of it.
        part: 0 for the first.
        part_count: 1 or more.
        code: Of an error; 0 for none.
        message: Of the error.
        is_temporary: The same question may be answered later.
    """

    node_id: str
    number: int
    body: bytes
    part: int = 0
    part_count: int = 1
    code: int = 0
    message: str = ""
    is_temporary: bool = False


Control = Hello | Bye | Question | Answer
"""Any message."""

_VERSION = bytes((SCHEMA,))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Hello | Bye | Question | Answer).decode


def encode_control(message: Control) -> bytes:
    """Write a message."""
    return _VERSION + _encode(message)


def decode_control(data: bytes) -> Control:
    """Read a message.

    Raises:
        UnknownRecord: It is damaged, of a kind that is not known, or of a newer schema.
    """
    if not data or data[0] != SCHEMA:
        raise UnknownRecord(
            f"a message of another node has the schema version {data[0] if data else 'none'}, "
            f"this release reads {SCHEMA}: upgrade this node too"
        )
    try:
        message: Control = _decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnknownRecord(f"a message of another node cannot be read: {error}") from error
    return message


def create_answers(question: Question, node_id: str, body: bytes) -> list[Answer]:
    """Create the parts of an answer, in the order in which they are sent.

    A body that is too long becomes a refusal.
    """
    if len(body) > ANSWER_BYTES_MAX:
        error = CommandError(
            f"the answer of node {node_id} has {len(body)} bytes, limit {ANSWER_BYTES_MAX}: "
            f"ask for less"
        )
        error.code = ErrorCode.LIMIT_EXCEEDED
        return [create_refusal(question, node_id, error)]
    starts = range(0, max(1, len(body)), PART_BYTES_MAX)
    return [
        Answer(
            node_id,
            question.number,
            body[start : start + PART_BYTES_MAX],
            part,
            len(starts),
        )
        for part, start in enumerate(starts)
    ]


def create_refusal(question: Question, node_id: str, error: CommandError) -> Answer:
    """Create the answer of a node that refuses."""
    return Answer(
        node_id,
        question.number,
        b"",
        code=int(error.code),
        message=error.message,
        is_temporary=error.temporary,
    )


@dataclass(slots=True)
class Collection:
    """The answers to one question, as they come.

    Mutable state: who has not answered yet, parts of answers, and whole ones.

    Attributes:
        waiting: Node ids of those who are expected and have not answered.
        bodies: Node id → its whole answer.
        refusals: Node id → why it gives none.
    """

    waiting: set[str]
    bodies: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, CommandError] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def add(self, answer: Answer) -> bool:
        """Take a part of an answer, also of a node that was not expected.

        Returns:
            True when nobody is waited for any more.
        """
        node_id = answer.node_id
        if node_id in self.bodies or node_id in self.refusals:
            return not self.waiting
        if answer.code:
            error = CommandError(answer.message)
            error.code, error.temporary = answer.code, answer.is_temporary
            self.refusals[node_id] = error
        elif not 0 <= answer.part < answer.part_count <= PARTS_MAX:
            self.refusals[node_id] = CommandError(
                f"node {node_id} answers part {answer.part} of {answer.part_count}, "
                f"limit {PARTS_MAX}"
            )
        else:
            parts = self.parts.setdefault(node_id, {})
            parts[answer.part] = answer.body
            if len(parts) < answer.part_count:
                return False
            self.bodies[node_id] = b"".join(parts[part] for part in sorted(parts))
        self.parts.pop(node_id, None)
        self.waiting.discard(node_id)
        return not self.waiting
