"""A node among the others: who lives, and what they are asked."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from tests.unit.clocks import JumpingLoop, pass_time, turns
from tests.unit.exchange import Exchange, Site, joined
from wirebell import cluster, revocations
from wirebell.control import QUESTION_BYTES_MAX, Bye, Question, encode_control
from wirebell.errors import (
    BadRequest,
    BrokerUnavailable,
    CommandError,
    ErrorCode,
    LimitExceeded,
    NodesSilent,
    NotRunning,
)
from wirebell.revocations import Revocation
from wirebell.settings import Settings

pytestmark = pytest.mark.anyio


def names(site: Site) -> list[str]:
    """Return the names of the nodes that one knows."""
    return sorted(member.info.name for member in site.node.cluster.members.known.values())


async def echo(body: bytes) -> bytes:
    """Answer what was asked."""
    return body + body


async def test_all_know_all() -> None:
    """Who comes knows the others when its start returns, and they know it."""
    async with joined("a", "b", "c") as (a, b, c):
        assert ["b", "c"] == names(a)
        assert ["a", "c"] == names(b)
        assert ["a", "b"] == names(c)


async def test_alone() -> None:
    """Who is alone waits a moment for others, once, and asks nobody."""
    async with joined("a") as (a,):
        waited = asyncio.get_running_loop().time()
        survey = await a.node.cluster.ask_all("echo", b"x")

        assert cluster.JOIN_SECONDS == pytest.approx(waited)
        assert ({}, {}, ()) == (survey.bodies, survey.refusals, survey.silent)


async def test_bye() -> None:
    """Who ends says so, after its leaves; nobody waits for it any more."""
    async with joined("a", "b") as (a, b):
        b.link.hold("publish")
        asking = asyncio.create_task(a.node.cluster.ask_all("wait", b""))
        await turns()
        await b.node.aclose()
        await turns()
        survey = await asking

        assert ([], ()) == (names(a), tuple(survey.silent))


async def test_killed() -> None:
    """Who says nothing any more is forgotten after ``node_forget_seconds``, with a warning."""
    async with joined("a", "b") as (a, b):
        b.kill()
        await pass_time(9)
        before = names(a)
        await pass_time(4)

        assert (["b"], []) == (before, names(a))


async def test_killed_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """A node that comes back after a kill is welcome under its name, and takes its old place."""
    exchange = Exchange()
    async with joined("a", "b", exchange=exchange) as (a, b):
        b.kill()
        again = Site(exchange, Settings(), "b")
        await again.node.start()
        both = names(a)
        await pass_time(6.5)
        known = names(a), names(again)
        await again.node.aclose()

    assert (["b", "b"], (["b"], ["a"])) == (both, known)
    assert "two living nodes" not in caplog.text


async def test_two_with_one_name(caplog: pytest.LogCaptureFixture) -> None:
    """Two that live under one configured name are warned once each, and told apart by id."""
    async with joined("same", "same", "other") as (one, two, other):
        await pass_time(10)
        labels = {other.node.cluster.members.label(each.node.node_id) for each in (one, two)}

    warnings = [text for text in caplog.messages if "two living nodes" in text]
    assert 2 == len(warnings)
    assert {f"same ({each.node.node_id})" for each in (one, two)} == labels


async def test_the_machines_name_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    """Nodes without a configured name may have the same one."""
    async with joined("", "") as (one, two):
        assert one.node.name == two.node.name
        await pass_time(10)

    assert "two living nodes" not in caplog.text


async def test_ask_all() -> None:
    """Every other node answers, each with its own."""
    async with joined("a", "b", "c") as (a, b, c):
        for site in (a, b, c):
            site.node.cluster.handlers["echo"] = echo
        survey = await a.node.cluster.ask_all("echo", b"x")

        assert {b.node.node_id: b"xx", c.node.node_id: b"xx"} == dict(survey.bodies)
        assert () == tuple(survey.silent)


async def test_ask_one() -> None:
    """A question to one node reaches nobody else, and what it refuses is raised."""
    async with joined("a", "b", "c") as (a, b, c):
        asked = []

        async def refuse(body: bytes) -> bytes:
            asked.append(body)
            raise BadRequest("no")

        b.node.cluster.handlers |= {"echo": echo, "refuse": refuse}
        c.node.cluster.handlers["refuse"] = refuse

        assert b"xx" == await a.node.cluster.ask(b.node.node_id, "echo", b"x")
        with pytest.raises(CommandError, match=r"^no$") as raised:
            await a.node.cluster.ask(b.node.node_id, "refuse", b"x")
        assert (ErrorCode.BAD_REQUEST, [b"x"]) == (raised.value.code, asked)


async def test_long_answers() -> None:
    """An answer longer than a message comes in parts."""
    async with joined("a", "b") as (a, b):
        b.node.cluster.handlers["echo"] = echo
        body = bytes(QUESTION_BYTES_MAX)

        assert body + body == await a.node.cluster.ask(b.node.node_id, "echo", body)
        with pytest.raises(LimitExceeded, match="at most 1000000 bytes, got 1000001"):
            await a.node.cluster.ask(b.node.node_id, "echo", body + b"x")


async def test_silent() -> None:
    """Who does not answer in time is named; the next question does not wait for it."""
    async with joined("a", "b", "c") as (a, b, c):
        b.node.cluster.handlers["echo"] = echo
        c.link.is_slow = True
        loop = asyncio.get_running_loop()
        first = await a.node.cluster.ask_all("echo", b"x")
        asked_at = loop.time()
        second = await a.node.cluster.ask_all("echo", b"x")
        took = loop.time() - asked_at
        error = a.node.cluster.complain(second.silent)
        with pytest.raises(NodesSilent, match="of: c;") as raised:
            await a.node.cluster.ask(c.node.node_id, "echo", b"x")

        assert [c.node.node_id] == list(first.silent) == list(second.silent)
        assert [b.node.node_id] == list(first.bodies)
        assert (0, True) == (took, raised.value.temporary)
        assert "no answer within 3 s of: c;" in error.message


async def test_silent_no_more() -> None:
    """Who says anything again is waited for again."""
    async with joined("a", "b") as (a, b):
        b.node.cluster.handlers["echo"] = echo
        b.link.is_slow = True
        await a.node.cluster.ask_all("echo", b"x")
        b.link.let_go()
        await pass_time(3.5)
        survey = await a.node.cluster.ask_all("echo", b"x")

        assert ([b.node.node_id], []) == (list(survey.bodies), list(survey.silent))


async def test_handlers_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """What breaks on another node is an answer too."""
    async with joined("a", "b") as (a, b):

        async def broken(body: bytes) -> bytes:
            raise ZeroDivisionError

        async def away(body: bytes) -> bytes:
            raise BrokerUnavailable("gone")

        async def slow(body: bytes) -> bytes:
            await asyncio.sleep(100)
            return b""

        async def ending(body: bytes) -> bytes:
            raise NotRunning

        b.node.cluster.handlers |= {
            "broken": broken, "away": away, "slow": slow, "ending": ending
        }  # fmt: skip
        seen = {}
        for method in ("broken", "away", "unknown"):
            with pytest.raises(CommandError) as raised:
                await a.node.cluster.ask(b.node.node_id, method, b"")
            seen[method] = (raised.value.code, raised.value.temporary)
        for method in ("slow", "ending"):
            with pytest.raises(NodesSilent):
                await a.node.cluster.ask(b.node.node_id, method, b"")

    assert {
        "broken": (ErrorCode.INTERNAL, True),
        "away": (ErrorCode.INTERNAL, True),
        "unknown": (ErrorCode.METHOD_NOT_FOUND, False),
    } == seen
    assert "broken, asked by node" in caplog.text


async def test_too_many_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions that wait are bounded, on both sides."""
    monkeypatch.setattr(cluster, "QUESTIONS_MAX", 1)
    async with joined("a", "b", "c") as (a, b, c):
        gate = asyncio.Event()

        async def wait(body: bytes) -> bytes:
            await gate.wait()
            return b"done"

        b.node.cluster.handlers["wait"] = wait
        first = asyncio.create_task(a.node.cluster.ask(b.node.node_id, "wait", b""))
        await turns()
        with pytest.raises(LimitExceeded, match="1 questions to other nodes wait"):
            await a.node.cluster.ask(b.node.node_id, "wait", b"")
        with pytest.raises(CommandError, match="1 questions are being answered") as raised:
            await c.node.cluster.ask(b.node.node_id, "wait", b"")
        gate.set()

        assert (b"done", ErrorCode.LIMIT_EXCEEDED) == (await first, raised.value.code)


async def test_broker_is_away() -> None:
    """While the link is cut nobody can be asked, and nobody is forgotten."""
    async with joined("a", "b") as (a, b):
        b.node.cluster.handlers["echo"] = echo
        a.link.cut()
        with pytest.raises(BrokerUnavailable):
            await a.node.cluster.ask_all("echo", b"x")
        await pass_time(30)
        known = names(a), names(b)
        a.link.heal()
        await turns()
        survey = await a.node.cluster.ask_all("echo", b"x")

        assert (["b"], []) == known
        assert (["b"], ["a"], 1) == (names(a), names(b), len(survey.bodies))


async def test_broker_takes_no_question() -> None:
    """When the question itself does not go out in time it is the broker that is named."""
    async with joined("a", "b") as (a, b):
        b.node.cluster.handlers["echo"] = echo
        a.link.hold("control")
        with pytest.raises(BrokerUnavailable, match="took no question to other nodes within 3 s"):
            await a.node.cluster.ask_all("echo", b"x")
        a.link.gates.pop("control").set()
        survey = await a.node.cluster.ask_all("echo", b"x")

        assert ([b.node.node_id], ()) == (list(survey.bodies), tuple(survey.silent))


async def test_a_process_that_stood_still() -> None:
    """Who was stopped for a while forgets nobody: what others said is still to be read."""
    async with joined("a", "b") as (a, _):
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        await pass_time(1)
        loop.jumps.skipped_seconds += 60
        a.node.cluster._announce()
        known = names(a)
        await pass_time(4)

        assert (["b"], ["b"]) == (known, names(a))


async def test_alone_and_cut_off() -> None:
    """Who knows nobody, and hears nobody, does not say that there is nobody."""
    async with joined("a") as (a,):
        a.link.cut()
        with pytest.raises(BrokerUnavailable, match="cannot be asked"):
            await a.node.cluster.ask_all("echo", b"x")


async def test_unreadable(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read is left out, counted, and told once in a while."""
    async with joined("a") as (a,):
        for _ in range(3):
            a.node.handle_control(b"\x07")
        await pass_time(61)
        a.node.handle_control(b"")

        assert 4 == a.node.cluster.dropped_count
    assert 2 == sum("were left out" in text for text in caplog.messages)


async def test_before_and_after() -> None:
    """A node that does not run takes no message."""
    async with joined("a", "b") as (a, b):
        data = encode_control(Question(a.node.node_id, 1, "echo", b""))
        await b.node.aclose()
        b.node.handle_control(data)
        b.node.handle_reconnect()
        b.node.cluster.handle_control(data)
        b.node.cluster.handle_reconnect()
        await b.node.cluster.aclose()

        assert 0 == b.node.cluster.answering_count


async def test_bye_while_the_broker_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """A node ends also when it cannot say so."""
    caplog.set_level(logging.INFO)
    async with joined("a") as (a,):
        a.link.cut()
        await a.node.aclose()

    assert "not told that this node ends" in caplog.text


async def test_start_that_fails() -> None:
    """When one part cannot start nothing of the node runs."""
    exchange = Exchange()
    for name in ("start", "start store", "control"):
        site = Site(exchange, Settings(), "a")
        site.link.failures.add(name)
        with pytest.raises(BrokerUnavailable, match=name):
            await site.node.start()

        assert (None, [], False) == (site.node.loop, exchange.links, site.store.is_running)


async def test_revocations_reach_who_comes() -> None:
    """A node that starts knows what is revoked before its start returns."""
    exchange = Exchange()
    until = time.time() + 100
    async with joined("a", exchange=exchange) as (a,):
        a.node.cluster.revoke([Revocation("ann", "", until, until)])
        b = Site(exchange, Settings(), "b")
        await b.node.start()
        known = b.node.cluster.revocations.refuses("ann", "", None, time.time())
        await b.node.aclose()

        assert known


async def test_who_comes_hears_all() -> None:
    """Who starts waits for the slowest to answer: it may be the one that knows."""
    exchange = Exchange()
    until = time.time() + 100
    async with joined("a", "b", exchange=exchange) as (a, b):
        a.node.cluster.revoke([Revocation("ann", "", until, until)])
        a.link.is_slow = True
        c = Site(exchange, Settings(), "c")
        starting = asyncio.create_task(c.node.start())
        await pass_time(cluster.JOIN_SECONDS / 2)
        early = names(c)
        a.link.let_go()
        await starting
        known = c.node.cluster.revocations.refuses("ann", "", None, time.time())
        await c.node.aclose()

        assert (["b"], True) == (early, known)
        assert b.node.cluster.members


async def test_many_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into one answer is asked for until there is no more."""
    monkeypatch.setattr(revocations, "TOLD_MAX", 3)
    until = time.time() + 100
    async with joined("a", "b") as (a, b):
        told = [Revocation("", f"t{number}", 0.0, until) for number in range(20)]
        a.node.cluster.revoke(told)
        a.node.cluster.question_count = b.node.cluster.question_count = 0
        await pass_time(4)

        assert len(told) == len(b.node.cluster.revocations)
        assert 7 >= b.node.cluster.question_count >= 5
        assert a.node.cluster.revocations.marks == b.node.cluster.revocations.marks


async def test_revocations_after_a_cut() -> None:
    """What was revoked while a link was cut is learned when it stands again, on both sides."""
    until = time.time() + 100
    async with joined("a", "b", "c") as (a, b, c):
        a.link.cut()
        a.node.cluster.revoke([Revocation("ann", "", until, until)])
        b.node.cluster.revoke([Revocation("ben", "", until, until)])
        ended: list[str] = []
        a.node.cluster.handle_revoked = lambda new: ended.extend(each.user_id for each in new)
        a.link.heal()
        await pass_time(4)
        known = [sorted(each.user_id for each in site.node.cluster.revocations) for site in (a, b)]
        await pass_time(20)

        assert [["ann", "ben"]] * 2 == known
        assert ["ann", "ben"] == sorted(each.user_id for each in c.node.cluster.revocations)
        assert ["ben"] == ended


async def test_revocations_that_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Who does not say what it knows is asked again later."""
    until = time.time() + 100
    async with joined("a", "b") as (a, b):
        handlers = a.node.cluster.handlers
        told = handlers.pop(cluster.SYNC_METHOD)
        a.node.cluster.revoke([Revocation("ann", "", until, until)])
        await pass_time(7)
        before = len(b.node.cluster.revocations)
        handlers[cluster.SYNC_METHOD] = told
        await pass_time(10)

        assert (0, 1) == (before, len(b.node.cluster.revocations))
    assert "not known in full" in caplog.text


async def test_too_many_revocations(caplog: pytest.LogCaptureFixture) -> None:
    """Past the bound the oldest is forgotten, which is told; nobody is asked in vain."""
    until = time.time() + 100
    async with joined("a", "b", settings=Settings(revocations_max=1)) as (a, b):
        for name in ("t1", "t2"):
            a.node.cluster.revoke([Revocation("", name, 0.0, until)])
        b.node.cluster.revoke([Revocation("", "t3", 0.0, until)])
        await pass_time(30)

        assert ["t2"] == [each.token_id for each in a.node.cluster.revocations]
        assert ["t3"] == [each.token_id for each in b.node.cluster.revocations]
    assert 1 == sum("revocations_max (1) is reached" in text for text in caplog.messages)


async def test_bye_of_a_stranger() -> None:
    """The end of a node that nobody knows changes nothing."""
    async with joined("a", "b") as (a, _):
        a.node.handle_control(encode_control(Bye("stranger")))

        assert ["b"] == names(a)
