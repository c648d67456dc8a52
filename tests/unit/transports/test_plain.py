"""Plain text sockets: what the endpoint asked for, and how they end."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import Rig, running
from wirebell.errors import (
    BadRequest,
    BrokerUnavailable,
    ConnectionClosed,
    Denied,
    Disconnect,
    LimitExceeded,
    PermissionDenied,
    WirebellError,
)
from wirebell.model import Identity
from wirebell.settings import Settings
from wirebell.transports.plain import PlainOptions, PlainReceiver, disconnect_for, notice

pytestmark = pytest.mark.anyio


async def attach(rig: Rig, **options: Any) -> tuple[PlainReceiver, FakeTransport]:
    """Attach a peer."""
    transport = FakeTransport()
    receiver = PlainReceiver(rig.node, transport, PlainOptions(**options))
    await receiver.connect("10.0.0.1")
    receiver.receive_open()
    return receiver, transport


async def say(receiver: PlainReceiver, text: str) -> None:
    """Have the peer send a text."""
    work = receiver.receive_text(text)
    if work is not None:
        await work


def errors(transport: FakeTransport) -> list[tuple[int, str]]:
    """Return the errors that were told as messages."""
    bodies = [json.loads(message)["error"] for message in transport.messages]
    return [(body["code"], body["message"]) for body in bodies]


class Banned(Denied):
    """A refusal of the application's own."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LimitExceeded("why"), 1013),
        (BadRequest("why"), 4400),
        (PermissionDenied("why"), 4403),
        (Denied("why"), 4403),
        (Banned("why"), 4403),
    ],
)
def test_disconnect_for(error: WirebellError, code: int) -> None:
    """Each refusal has its close code, and its message is the reason."""
    assert Disconnect(code, "why") == disconnect_for(error)


def test_what_breaks_inside_stays_inside() -> None:
    """An error that is not about the peer is not told to it."""
    assert Disconnect(1011, "internal error") == disconnect_for(BrokerUnavailable("db.internal:1"))


def test_disconnect_for_closed() -> None:
    """A connection that ended keeps the code it ended with."""
    disconnect = Disconnect(1001, "gone")

    assert disconnect == disconnect_for(ConnectionClosed(disconnect))


def test_long_reason() -> None:
    """A reason is cut to what a close frame carries, between characters."""
    assert "x" + "é" * 61 == disconnect_for(Denied("x" + "é" * 80)).reason


def test_notice() -> None:
    """What is told has the one shape of errors."""
    assert notice(Disconnect(4401, "why")) == '{"error": {"code": 4401, "message": "why"}}'


async def test_channels() -> None:
    """The peer hears its channels as text, from the moment it was connected."""
    async with running() as rig:
        _, transport = await attach(rig, channels=["a", "h"])

        await rig.publish("a", "1")
        await rig.publish("h", "2")
        await turns()

        assert ["1", "2"] == transport.messages


async def test_publish() -> None:
    """What the peer sends is published as it is."""
    async with running() as rig:
        receiver, transport = await attach(rig, channels=["a"], publish="a")

        await say(receiver, "späť")
        await turns()

        assert ["späť"] == transport.messages


async def test_publish_too_long() -> None:
    """A publication that is refused is told, and the socket stays."""
    async with running(Settings(publication_bytes_max=2)) as rig:
        receiver, transport = await attach(rig, publish="a")

        await say(receiver, "xyz")
        await turns()

        ((code, message),) = errors(transport)
        assert (107, "a publication has at most 2 bytes, got 3") == (code, message)
        assert [] == transport.closed


async def test_on_text() -> None:
    """A handler's text is the answer; nothing is no answer; it may be sync or async."""
    async with running() as rig:

        async def later(text: str) -> str | None:
            await turns(1)
            return text.upper() if text == "ab" else None

        one, one_transport = await attach(rig, on_text=lambda text: text * 2)
        two, two_transport = await attach(rig, on_text=later)
        three, three_transport = await attach(rig, on_text=lambda text: None)
        for receiver in (one, two, three):
            await say(receiver, "ab")
        await say(two, "no answer")
        await turns()

        assert (["abab"], ["AB"], []) == (
            one_transport.messages,
            two_transport.messages,
            three_transport.messages,
        )


async def test_plain_functions_wait_for_nobody() -> None:
    """A plain function has answered when it returns; only what is awaitable is waited for."""
    async with running() as rig:

        async def later(text: str) -> str:
            return text

        plain, _ = await attach(rig, on_text=lambda text: text)
        slow, _ = await attach(rig, on_text=later)

        now, waiting = plain.receive_text("x"), slow.receive_text("x")

        assert (True, False) == (now is None, waiting is None)
        assert waiting is not None
        await waiting


async def test_answers_stand_between_publications() -> None:
    """An answer comes behind what was published before it, ahead of the rest, in one write."""
    async with running() as rig:
        receiver, transport = await attach(rig, channels=["a"], on_text=lambda text: text)

        await rig.publish("a", "1")
        await say(receiver, "answer")
        await rig.publish("a", "2")
        await turns()

        assert [("1", "answer", "2")] == transport.writes


async def test_answers_stand_behind_what_their_handler_published() -> None:
    """A handler that publishes into a log and answers: the publication comes first, always."""
    async with running() as rig:

        async def handler(text: str) -> str:
            await rig.publish("h", text)
            return f"done {text}"

        receiver, transport = await attach(rig, channels=["h"], on_text=handler)

        await say(receiver, "1")
        await turns()
        await say(receiver, "2")
        await turns()

        assert ["1", "done 1", "2", "done 2"] == transport.messages


@pytest.mark.parametrize("answer", [7, b"bytes", "\ud800"])
async def test_answer_that_cannot_be_sent(answer: Any) -> None:
    """What is no text ends this socket and is logged, whether the function is plain or not."""
    async with running() as rig:

        async def later(text: str) -> Any:
            return answer

        plain, plain_transport = await attach(rig, on_text=lambda text: answer)
        slow, slow_transport = await attach(rig, on_text=later)

        await say(slow, "x")
        await say(plain, "x")
        await turns()

        internal_error = [(1011, "internal error")]
        assert (internal_error, internal_error) == (slow_transport.closed, plain_transport.closed)


@pytest.mark.parametrize(
    ("error", "closed", "told"),
    [
        (Denied("no"), [(4403, "no")], []),
        (BadRequest("bad"), [], [(107, "bad")]),
        (LimitExceeded("many"), [], [(106, "many")]),
        (RuntimeError("secret"), [(1011, "internal error")], []),
    ],
)
async def test_on_text_raises(
    error: Exception, closed: list[tuple[int, str]], told: list[tuple[int, str]]
) -> None:
    """A denial ends the socket, a refusal is told, a failure ends it without its words."""
    async with running() as rig:

        def handler(text: str) -> str:
            raise error

        receiver, transport = await attach(rig, on_text=handler)

        await say(receiver, "x")
        await turns()

        assert (closed, told) == (transport.closed, errors(transport))


async def test_takes_no_messages() -> None:
    """Without a handler a text is a violation, and a binary message always is."""
    async with running() as rig:
        texts, textless = await attach(rig), await attach(rig)

        await say(texts[0], "x")
        textless[0].receive_bytes(b"xy")

        assert [(1008, "this socket sends and takes no messages")] == texts[1].closed
        reason = "this socket speaks text, got a binary message of 2 bytes"
        assert [(1003, reason)] == textless[1].closed


async def test_answer_to_a_slow_peer() -> None:
    """A peer that does not take its answers is cut as a slow consumer."""
    async with running() as rig:
        receiver, transport = await attach(rig, on_text=lambda text: text)
        transport.is_full = True

        await say(receiver, "x")
        await turns()

        assert [(3008, "slow")] == transport.closed


async def test_heartbeat() -> None:
    """The heartbeat comes in its interval until the end."""
    async with running(Settings(heartbeat_interval_seconds=10)) as rig:
        receiver, transport = await attach(rig, heartbeat="beat")

        await pass_time(20.5)
        receiver.receive_eof()
        await pass_time(20)

        assert ["beat", "beat"] == transport.messages


async def test_heartbeat_after_the_cut() -> None:
    """A connection that the node has forgotten gets no more heartbeats."""
    async with running(Settings(heartbeat_interval_seconds=10)) as rig:
        receiver, transport = await attach(rig, heartbeat="beat")
        assert receiver.connection is not None
        rig.node.disconnect(receiver.connection)

        await pass_time(20.5)

        assert [] == transport.messages


async def test_expiry() -> None:
    """When the credentials end the socket is told and closed."""
    async with running() as rig:
        identity = Identity("ann", datetime.now(UTC) + timedelta(seconds=60))
        _, transport = await attach(rig, identity=identity)

        await pass_time(61)

        assert [(4401, "token expired")] == transport.closed
        assert [notice(Disconnect(4401, "token expired"))] == transport.notices


async def test_sign_in() -> None:
    """The first text says who it is; only then the channels are heard and handlers asked."""
    async with running() as rig:
        receiver, transport = await attach(
            rig, channels=["a"], on_text=lambda text: f"got {text}", first_text=Identity
        )
        await rig.publish("a", "before")
        await turns()

        await say(receiver, "ann")
        await rig.publish("a", "after")
        await turns()
        await say(receiver, "x")
        await pass_time(10)

        assert {"ann": 1} == rig.node.admission.by_user
        assert (["after", "got x"], []) == (transport.messages, transport.closed)


async def test_sign_in_before_the_opening() -> None:
    """A peer whose first text is there already is in no deadline's way."""
    async with running() as rig:
        receiver = PlainReceiver(rig.node, FakeTransport(), PlainOptions(first_text=Identity))
        await receiver.connect("10.0.0.1")

        await say(receiver, "ann")

        assert {"ann": 1} == rig.node.admission.by_user


async def test_silent_peer() -> None:
    """A peer that does not sign in within its time is told how, and closed."""
    async with running(Settings(first_message_timeout_seconds=2.5)) as rig:
        _, transport = await attach(rig, first_text=Identity)

        await pass_time(2.6)

        reason = "no credentials within 2.5 seconds: send the token as the first message"
        assert [(4401, reason)] == transport.closed


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        (Denied("bad token"), (4401, "bad token")),
        (LimitExceeded("many"), (1013, "many")),
        (RuntimeError("secret"), (1011, "internal error")),
    ],
)
async def test_sign_in_fails(error: Exception, closed: tuple[int, str]) -> None:
    """Who cannot sign in is told why and closed."""
    async with running() as rig:

        async def refuse(text: str) -> Identity:
            raise error

        receiver, transport = await attach(rig, first_text=refuse)

        await say(receiver, "x")

        assert [closed] == transport.closed


async def test_ended_while_signing_in(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that ends while it signs in is no failure: nothing is logged or counted."""
    async with running() as rig:
        answered = asyncio.Event()

        async def slow(text: str) -> Identity:
            await answered.wait()
            return Identity(text)

        receiver, _ = await attach(rig, channels=["a"], first_text=slow)
        work = asyncio.create_task(say(receiver, "ann"))
        await turns()

        receiver.receive_eof()
        answered.set()
        await work

        assert ({}, "") == (rig.node.statistics.disconnect_counts, caplog.text)
        assert {} == rig.node.admission.by_user


async def test_left_while_signing_in(caplog: pytest.LogCaptureFixture) -> None:
    """Who left keeps no deadline, and its next text is no other token."""
    async with running() as rig:
        answered, asked = asyncio.Event(), []

        async def slow(text: str) -> Identity:
            asked.append(text)
            await answered.wait()
            return Identity(text, datetime.now(UTC) + timedelta(hours=1))

        receiver, transport = await attach(rig, channels=["a"], first_text=slow)
        work = asyncio.create_task(say(receiver, "ann"))
        await turns()

        receiver.receive_leave()
        answered.set()
        await work
        await say(receiver, "bob")

        assert (["ann"], "", []) == (asked, caplog.text, transport.closed)
        assert (None, {}) == (receiver.deadlines, rig.node.connections)
        receiver.receive_eof()


async def test_left_while_a_text_is_handled() -> None:
    """It hears nothing more, what it said before is published, and its last words come last."""
    async with running() as rig:
        seen: list[str] = []
        answered = asyncio.Event()

        async def handle(text: str) -> str:
            await answered.wait()
            seen.append(text)
            if text == "2":
                raise RuntimeError("broken")
            return text

        receiver, transport = await attach(
            rig, channels=["a"], on_text=handle, on_close=lambda: seen.append("end")
        )
        work = asyncio.create_task(say(receiver, "1"))
        await turns()

        receiver.receive_leave()
        count = rig.node.hub.channel_count
        answered.set()
        await work
        await say(receiver, "2")
        await (receiver.receive_eof() or turns(1))

        assert (0, ["1", "2", "end"]) == (count, seen)
        assert ([], [], {}) == (
            transport.messages,
            transport.closed,
            rig.node.statistics.disconnect_counts,
        )


async def test_refused_at_connect() -> None:
    """Who cannot be connected leaves nothing behind."""
    async with running(Settings(connections_per_user_max=1)) as rig:
        await attach(rig, identity=Identity("ann"))

        with pytest.raises(LimitExceeded):
            await attach(rig, identity=Identity("ann"))
        with pytest.raises(BadRequest):
            await attach(rig, channels=["a", "\n"])
        await turns()

        assert (1, 0) == (len(rig.node.connections), rig.node.hub.channel_count)


async def test_on_close() -> None:
    """The endpoint's last words run after the channels were left; a failure harms nobody."""
    async with running() as rig:
        seen: list[int] = []

        async def last() -> None:
            seen.append(rig.node.hub.channel_count)

        def fail() -> None:
            raise RuntimeError("broken")

        one, _ = await attach(rig, channels=["a"], on_close=last)
        two, _ = await attach(rig, on_close=fail)
        three, _ = await attach(rig)
        for receiver in (one, two, three):
            await (receiver.receive_eof() or turns(1))

        assert ([0], {}) == (seen, rig.node.connections)


async def test_never_connected() -> None:
    """A receiver that was not connected ends without a word."""
    async with running() as rig:
        transport = FakeTransport()
        receiver = PlainReceiver(rig.node, transport, PlainOptions())

        receiver.close(Disconnect(1000, ""))
        receiver.receive_shutdown()
        receiver.receive_writable()

        assert receiver.receive_eof() is None
        assert [] == transport.closed


async def test_shutdown() -> None:
    """A process that stops says so with RFC 6455's own code, without a text."""
    async with running() as rig:
        receiver, transport = await attach(rig)

        receiver.receive_shutdown()

        assert ([(1012, "shutting down")], [None]) == (transport.closed, transport.notices)


async def test_a_peer_reads_again() -> None:
    """What a channel that may drop kept for a slow peer is written when it reads again."""
    async with running() as rig:
        receiver, transport = await attach(rig, channels=["d"])
        transport.is_writable = False
        await rig.publish("d", "1")
        await turns()
        before = list(transport.messages)

        transport.is_writable = True
        receiver.receive_writable()

        assert ([], ["1"]) == (before, transport.messages)


async def test_an_oversize_message_is_told_and_counted() -> None:
    """A message over the limit ends the socket with 1009, told why, counted by its code."""
    async with running() as rig:
        receiver, transport = await attach(rig)

        reason = "message has 70000 bytes, limit 65536"
        receiver.close(Disconnect(1009, reason))

        assert [(1009, reason)] == transport.closed
        assert 1 == rig.node.statistics.disconnect_counts[1009]


async def test_pings_are_the_carriers() -> None:
    """Text has no words for a ping: the carrier sends it."""
    async with running() as rig:
        assert not PlainReceiver(rig.node, FakeTransport(), PlainOptions()).send_ping()
