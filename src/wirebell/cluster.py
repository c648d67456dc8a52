"""This node among the others: who lives, and what they are asked.

Strategy: each node says hello to all at an interval, and answers the hello of one that has just
come, so all know all within a moment. A question goes to one node or to all, and is over when
everybody answered who was expected to, or when time is up; who did not answer is named. What is
revoked is known to all: a hello has its fingerprint, and whoever has another asks for what differs.

It knows the broker by its interface, and of users and channels nothing: methods are given to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from wirebell.background import Background
from wirebell.control import (
    QUESTION_BYTES_MAX,
    Answer,
    Bye,
    Collection,
    Control,
    Hello,
    NodeInfo,
    Question,
    create_answers,
    create_refusal,
    decode_control,
    encode_control,
)
from wirebell.errors import (
    BrokerError,
    BrokerUnavailable,
    CommandError,
    ErrorCode,
    LimitExceeded,
    NodesSilent,
    NotRunning,
    ProtocolError,
    UnknownRecord,
)
from wirebell.interfaces import Broker
from wirebell.members import Members
from wirebell.revocations import PLACES, Marks, Revocation, Revocations, Told
from wirebell.settings import Settings

__all__ = ("Cluster", "Handler", "Survey")

logger = logging.getLogger(__name__)

Handler = Callable[[bytes], Awaitable[bytes]]
"""Answers a question of another node: the body of one, and that of the other.

May raise `CommandError`, which the asker gets.
"""

# An answer takes milliseconds; a node waits so long for all of them at its start, once.
JOIN_SECONDS = 0.2
# Questions of others that are answered at once, and our own that wait: more are refused.
QUESTIONS_MAX = 1_000
# What cannot be read is told so often, however much of it comes.
COMPLAINT_SECONDS = 60.0
# Who knows of other revocations is asked so often.
SYNC_SECONDS = 10.0
SYNC_METHOD = "revocations"


@dataclass(frozen=True, slots=True)
class Survey:
    """What other nodes answered.

    Attributes:
        bodies: Node id → answer.
        refusals: Node id → why it gives none.
        silent: Node ids of those who live as far as is known, and did not answer in time.
    """

    bodies: Mapping[str, bytes]
    refusals: Mapping[str, CommandError]
    silent: Sequence[str] = ()


NOBODY = Survey({}, {})


class Cluster:
    """The other nodes, as one of them sees and asks them. Used on the node's event loop.

    Mutable state: the members; questions that wait for answers; those of others that are being
    answered. A broker that has ``is_shared = False`` reaches no other node: then nobody is looked
    for, and every question is answered by nobody at once.

    Args:
        node_id: Our own; unique for ever.
        name: Our own.
        has_given_name: It was configured, and no other node should have it.
        broker: Carries the messages.
        settings: Intervals and time-outs.
        revocations: What is revoked.
        describe: Tells what this node has to do.
        background: Runs what nobody waits for.
    """

    def __init__(
        self,
        node_id: str,
        name: str,
        broker: Broker,
        settings: Settings,
        revocations: Revocations,
        describe: Callable[[], NodeInfo],
        background: Background,
        *,
        has_given_name: bool = False,
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.has_given_name = has_given_name
        self.broker = broker
        self.settings = settings
        self.revocations = revocations
        self.describe = describe
        self.spawn, self.begin = background.spawn, background.begin
        self.is_shared: bool = getattr(broker, "is_shared", True)
        self.members = Members(
            node_id,
            name,
            forget_seconds=settings.node_forget_seconds,
            # One announcement may be late, not more.
            succeed_seconds=min(1.5 * settings.node_announce_seconds, settings.node_forget_seconds),
        )
        self.handlers: dict[str, Handler] = {SYNC_METHOD: self._tell_revocations}
        self.handle_revoked: Callable[[Sequence[Revocation]], None] = lambda _: None
        self.collections: dict[int, tuple[Collection, asyncio.Event]] = {}
        self.question_count = 0
        self.answering_count = 0
        self.timer: asyncio.TimerHandle | None = None
        self.announced_at = 0.0
        self.asked_at: dict[str, float] = {}
        self.syncing: asyncio.Task[None] | None = None
        self.complained_at = float("-inf")
        self.has_warned_of_name = False
        self.is_announcing = False
        self.dropped_count = 0

    # Life

    async def start(self) -> None:
        """Say hello, and wait a moment for the others; what they know is revoked is known then.

        Raises:
            BrokerError: Nobody can be told.
        """
        if not self.is_shared:
            return
        self._plan()
        await self._say_hello(wants_answer=True)
        await asyncio.sleep(JOIN_SECONDS)
        if self.syncing is not None:
            # It has a time-out of its own.
            await asyncio.wait((self.syncing,))

    async def aclose(self) -> None:
        """Say bye; idempotent. Nobody is waited for, and a broker that is away is no error."""
        if self.timer is None:
            return
        self.timer.cancel()
        self.timer = None
        for _, is_done in self.collections.values():
            is_done.set()
        try:
            await self.broker.publish_control(encode_control(Bye(self.node_id)))
        except BrokerError as error:
            logger.info("the others are not told that this node ends: %s", error)

    def handle_reconnect(self) -> None:
        """Learn that the link to the broker was cut and stands again."""
        if self.timer is not None:
            self.members.forgive(self._now())
            self.spawn(self._say_hello(wants_answer=True))

    # Asking

    async def ask_all(self, method: str, body: bytes) -> Survey:
        """Ask all other nodes that live.

        Returns:
            What they answered within ``survey_timeout_seconds``; at once where there are none.

        Raises:
            BrokerUnavailable: Nobody can be asked.
            LimitExceeded: The body is too long, or too many questions wait.
        """
        if not self.members:
            if self.is_shared and not self.broker.is_connected:
                raise BrokerUnavailable("the broker is away: the other nodes cannot be asked")
            return NOBODY
        silent = self.members.silent()
        awaited = self.members.awaited()
        collection = await self._ask(method, body, awaited)
        late = collection.waiting | (silent - collection.bodies.keys() - collection.refusals.keys())
        return Survey(collection.bodies, collection.refusals, sorted(late))

    async def ask(self, node_id: str, method: str, body: bytes) -> bytes:
        """Ask one node, a known one.

        Raises:
            CommandError: It refuses.
            NodesSilent: It does not answer in time.
            BrokerUnavailable: It cannot be asked.
            LimitExceeded: The body is too long, or too many questions wait.
        """
        collection = await self._ask(method, body, {node_id}, node_id)
        if node_id in collection.refusals:
            raise collection.refusals[node_id]
        if node_id not in collection.bodies:
            raise self.complain((node_id,))
        return collection.bodies[node_id]

    def complain(self, node_ids: Iterable[str]) -> NodesSilent:
        """Create the error that names nodes which did not answer."""
        names = ", ".join(self.members.label(node_id) for node_id in node_ids)
        return NodesSilent(
            f"no answer within {self.settings.survey_timeout_seconds:g} s of: {names}; "
            f"whether it was done there is not known, and it may be done again"
        )

    async def _ask(
        self, method: str, body: bytes, awaited: set[str], node_id: str = ""
    ) -> Collection:
        """Ask one node or all, and wait for those who are expected to answer.

        Raises:
            BrokerUnavailable: The broker does not take it in time.
            LimitExceeded: As `ask`.
        """
        if len(body) > QUESTION_BYTES_MAX:
            raise LimitExceeded(
                f"an order to other nodes has at most {QUESTION_BYTES_MAX} bytes, got {len(body)}"
            )
        if len(self.collections) >= QUESTIONS_MAX:
            raise LimitExceeded(f"{QUESTIONS_MAX} questions to other nodes wait for answers")
        self.question_count += 1
        number = self.question_count
        collection, is_done = Collection(awaited), asyncio.Event()
        self.collections[number] = collection, is_done
        question, is_sent = encode_control(Question(self.node_id, number, method, body)), False
        try:
            async with asyncio.timeout(self.settings.survey_timeout_seconds):
                await self.broker.publish_control(question, node_id)
                is_sent = True
                if awaited:
                    await is_done.wait()
        except TimeoutError as error:
            if not is_sent:
                seconds = self.settings.survey_timeout_seconds
                raise BrokerUnavailable(
                    f"the broker took no question to other nodes within {seconds:g} s"
                ) from error
            for each in collection.waiting:
                self.members.note_silence(each)
        finally:
            del self.collections[number]
        return collection

    # Hearing

    def handle_control(self, data: bytes) -> None:
        """Take a message of a node, perhaps our own; see `wirebell.interfaces.BrokerListener`."""
        try:
            message = decode_control(data)
        except UnknownRecord as error:
            self._complain(error)
            return
        node_id = message.info.node_id if isinstance(message, Hello) else message.node_id
        if node_id == self.node_id or self.timer is None:
            return
        self.members.hear(node_id, self._now())
        self._take(message, node_id)

    def _take(self, message: Control, node_id: str) -> None:
        """Take a message of another node."""
        if isinstance(message, Hello):
            self._take_hello(message)
        elif isinstance(message, Bye):
            self._lose(node_id)
        elif isinstance(message, Question):
            self.spawn(self._answer(message))
        else:
            waiting = self.collections.get(message.number)
            if waiting is not None and waiting[0].add(message):
                waiting[1].set()

    def _take_hello(self, hello: Hello) -> None:
        """Learn of a node."""
        info = hello.info
        if self.members.hear_hello(hello, self._now()):
            logger.info("node %s (%s) is there", info.name, info.node_id)
        if hello.wants_answer:
            self.spawn(self._say_hello(to=info.node_id))
        if (
            info.name == self.name
            and self.has_given_name
            and hello.has_given_name
            and not self.has_warned_of_name
        ):
            self.has_warned_of_name = True
            logger.warning(
                "two living nodes have the name %r: %s is this one, %s another; give each its own",
                self.name,
                self.node_id,
                info.node_id,
            )
        self._sync(hello)

    def _lose(self, node_id: str) -> None:
        """Forget a node, and do not wait for it."""
        self.members.leave(node_id)
        self.asked_at.pop(node_id, None)
        for collection, is_done in self.collections.values():
            collection.waiting.discard(node_id)
            if not collection.waiting:
                is_done.set()

    async def _answer(self, question: Question) -> None:
        """Answer another node."""
        if self.answering_count >= QUESTIONS_MAX:
            error: CommandError = LimitExceeded(f"{QUESTIONS_MAX} questions are being answered")
            answers = [create_refusal(question, self.node_id, error)]
        else:
            self.answering_count += 1
            try:
                answers = await self._find_answers(question)
            finally:
                self.answering_count -= 1
        for answer in answers:
            await self.broker.publish_control(encode_control(answer), question.node_id)

    async def _find_answers(self, question: Question) -> list[Answer]:
        """Do what another node asks for, in the time in which it waits."""
        handler = self.handlers.get(question.method)
        try:
            if handler is None:
                raise ProtocolError(ErrorCode.METHOD_NOT_FOUND)
            async with asyncio.timeout(self.settings.survey_timeout_seconds):
                body = await handler(question.body)
        except CommandError as error:
            return [create_refusal(question, self.node_id, error)]
        except TimeoutError:
            # Nobody waits for it any more.
            return []
        except NotRunning:
            # This node ends, and says bye in a moment.
            return []
        except BrokerError as error:
            refusal = NodesSilent(f"node {self.name}: {error}")
            return [create_refusal(question, self.node_id, refusal)]
        except Exception:
            logger.exception("%s, asked by node %s, failed", question.method, question.node_id)
            internal = ProtocolError(ErrorCode.INTERNAL)
            return [create_refusal(question, self.node_id, internal)]
        return create_answers(question, self.node_id, body)

    def _complain(self, error: UnknownRecord) -> None:
        """Tell of what cannot be read, once in a while."""
        self.dropped_count += 1
        now = self._now()
        if now - self.complained_at >= COMPLAINT_SECONDS:
            self.complained_at = now
            logger.warning("%d messages were left out: %s", self.dropped_count, error)

    # Announcing

    def _plan(self) -> None:
        """Plan the next announcement."""
        self.announced_at = self._now()
        self.timer = asyncio.get_running_loop().call_later(
            self.settings.node_announce_seconds, self._announce
        )

    def _announce(self) -> None:
        """Say hello again, and forget who said nothing."""
        late_seconds = self._now() - self.announced_at - self.settings.node_announce_seconds
        self._plan()
        if late_seconds >= self.settings.node_announce_seconds:
            # It was this process that stood still: what others said meanwhile is still to be read.
            self.members.forgive(self._now())
        elif self.broker.is_connected:
            # While our own link is cut nobody could be heard.
            for member in self.members.forget(self._now()):
                logger.warning(
                    "node %s (%s) said nothing for %g s and counts as dead",
                    member.info.name,
                    member.info.node_id,
                    self.settings.node_forget_seconds,
                )
                self._lose(member.info.node_id)
        if not self.is_announcing:
            self.is_announcing = True
            self.spawn(self._say_hello_again())
        self.revocations.expire(time.time())

    async def _say_hello_again(self) -> None:
        """Say hello, also where only a part of the broker is away; one at a time."""
        try:
            await self._say_hello()
        finally:
            self.is_announcing = False

    async def _say_hello(self, *, to: str = "", wants_answer: bool = False) -> None:
        """Tell all nodes, or one, that this one lives."""
        hello = Hello(
            self.describe(), self.has_given_name, wants_answer, self.revocations.fingerprint
        )
        await self.broker.publish_control(encode_control(hello), to)

    # Revocations

    async def _tell_revocations(self, body: bytes) -> bytes:
        """Tell another node what is revoked as far as it does not know it."""
        asked = msgspec.msgpack.decode(body, type=Marks)
        return msgspec.msgpack.encode(self.revocations.tell(asked))

    def _sync(self, hello: Hello) -> None:
        """Ask a node for what it knows to be revoked, where that is not what is known here."""
        if hello.revocations in {0, self.revocations.fingerprint} or self.revocations.is_full:
            return
        node_id, now = hello.info.node_id, self._now()
        is_idle = self.syncing is None or self.syncing.done()
        if is_idle and now - self.asked_at.get(node_id, float("-inf")) >= SYNC_SECONDS:
            self.asked_at[node_id] = now
            self.syncing = self.begin(self._ask_revocations(node_id))

    async def _ask_revocations(self, node_id: str) -> None:
        """Learn what another node knows to be revoked."""
        start, marks = 0, tuple(self.revocations.marks)
        while start < PLACES:
            question = msgspec.msgpack.encode(Marks(marks, start))
            try:
                body = await self.ask(node_id, SYNC_METHOD, question)
            except CommandError as error:
                logger.warning("what is revoked is not known in full: %s", error)
                return
            told = msgspec.msgpack.decode(body, type=Told)
            self.revoke(told.revocations)
            # A node of another kind must not keep this one at it for ever.
            start = max(told.end, start + 1)

    def revoke(self, revocations: Iterable[Revocation]) -> None:
        """Take what is revoked, and have connections ended that live by it."""
        dropped = self.revocations.dropped_count
        new = self.revocations.add(revocations, time.time())
        if self.revocations.dropped_count > dropped:
            logger.warning(
                "revocations_max (%d) is reached: %d were forgotten, and their tokens count again",
                self.revocations.entries_max,
                self.revocations.dropped_count - dropped,
            )
        if new:
            self.handle_revoked(new)

    def _now(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()
