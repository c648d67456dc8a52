"""The NATS broker on a real server: what is lost, cut, paused and emptied under it."""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random
from typing import TYPE_CHECKING

import nats as client
import pytest

from tests.integration.nats_links import KEPT, LossyLink, Running, broker_at, publish, store_at
from tests.services import nats
from wirebell.errors import BrokerUnavailable
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Membership,
    Publication,
    PublishOptions,
    StreamPosition,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wirebell.brokers.nats import NATSBroker

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

UNKEPT = ChannelOptions()


@pytest.fixture(scope="module")
def server() -> Iterator[nats.NATSServer]:
    """A server for those who leave it as it was."""
    with nats.single() as started:
        yield started


async def wait_disconnected(broker: NATSBroker) -> None:
    """Wait until a broker knows that its link is cut."""
    async with asyncio.timeout(10):
        while broker.is_connected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_lost_answer_publishes_once(server: nats.NATSServer) -> None:
    """A frame whose answer was lost is looked for, and happened once: in history and for nodes."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        await running.broker.subscribe("once")
        await publish(running, "once", b"1")
        link.lost_answers = 1
        second, third = await asyncio.gather(
            publish(running, "once", b"2"), publish(running, "once", b"3")
        )
        await publish(running, "once", b"4")
        await running.listener.wait_reconnect()

        assert 0 == link.lost_answers
        assert [2, 3] == [second.position.offset, third.position.offset]
        assert [b"1", b"2", b"3", b"4"] == await running.payloads("once")
        assert sorted(set(running.arrived("once"))) == running.arrived("once")


async def test_lost_answer_of_what_is_not_kept(server: nats.NATSServer) -> None:
    """Without history a lost answer is told, since the server remembers nothing of it."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        link.lost_answers = 1
        with pytest.raises(BrokerUnavailable):
            await publish(running, "unkept", b"1", UNKEPT)


async def test_lost_answer_with_a_key(server: nats.NATSServer) -> None:
    """Whatever answer is lost, an idempotency key publishes once, and always gives its position."""
    how = PublishOptions(idempotency_key="k")
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        for number in range(5):
            channel = f"key:{number}"
            link.lost_answers = 1 + number % 2
            first = await publish(running, channel, b"1", KEPT, how)
            again = await publish(running, channel, b"2", KEPT, how)
            assert (first.position, True) == (again.position, again.is_suppressed)
            assert [b"1"] == await running.payloads(channel)


async def test_cut_link_comes_back(
    server: nats.NATSServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a cut everything is subscribed to again, and the node is told; it is logged once."""
    caplog.set_level(logging.INFO, "wirebell.brokers.nats")
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        channels = [f"cut:{number}" for number in range(2500)]
        await asyncio.gather(*(running.broker.subscribe(channel) for channel in channels))
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        with pytest.raises(BrokerUnavailable, match="is away"):
            await running.broker.check()
        await asyncio.sleep(0.3)
        link.refuses = False
        await running.listener.wait_reconnect()

        await asyncio.gather(*(publish(running, channel, b"x") for channel in channels[::100]))
        for channel in channels[::100]:
            await running.listener.wait_count(channel, 1)
        assert running.broker.is_connected
        assert 1 == running.broker.reconnect_count
    messages = [record.getMessage() for record in caplog.records]
    assert 1 == sum("is lost" in message for message in messages)
    assert 1 == sum("stands again" in message for message in messages)


async def test_cuts_while_publishing(server: nats.NATSServer) -> None:
    """Whatever is cut and whenever, what was acknowledged is kept once, in its order."""
    channels, count = ("storm:a", "storm:b", "storm:c"), 100
    options = ChannelOptions(history=History(size=2 * count, ttl_seconds=60))
    random = Random(7)  # noqa: S311 - not a secret
    acknowledged: dict[str, list[tuple[int, bytes]]] = {channel: [] for channel in channels}
    async with LossyLink(server.port) as link, broker_at(link.url) as running:

        async def write(channel: str) -> None:
            for number in range(count):
                data = b"%d" % number
                published = await publish(running, channel, data, options)
                acknowledged[channel].append((published.position.offset, data))

        async def disturb() -> None:
            for _ in range(10):
                await asyncio.sleep(random.uniform(0, 0.05))
                if random.random() < 0.5:
                    link.cut()
                else:
                    link.lost_answers = random.randint(1, 2)

        for channel in channels:
            await running.broker.subscribe(channel)
        await asyncio.gather(disturb(), *(write(channel) for channel in channels))
        for channel in channels:
            part = await running.broker.history(channel, options, since=None, limit=2 * count)
            kept = [(each.offset, each.data) for each in part.publications]
            assert acknowledged[channel] == kept
            assert list(range(1, count + 1)) == [offset for offset, _ in kept]
            # What arrived is a part of that, in the same order.
            arrived = [
                item.offset
                for item in running.listener.of(channel)
                if isinstance(item, Publication)
            ]
            assert sorted(set(arrived)) == arrived


async def test_subscribing_while_the_link_is_cut(server: nats.NATSServer) -> None:
    """Who subscribes during a cut waits for the link, and misses nothing afterwards."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        waiting = asyncio.ensure_future(running.broker.subscribe("late"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        link.refuses = False
        await waiting

        await publish(running, "late", b"x")
        await running.listener.wait_count("late", 1)


async def test_unsubscribing_while_the_link_comes_back(server: nats.NATSServer) -> None:
    """What is let go while everything is subscribed to again, and then wanted, arrives once."""
    async with LossyLink(server.port) as link, broker_at(link.url) as running:
        await running.broker.subscribe("again")
        link.is_open.clear()
        link.cut()
        async with asyncio.timeout(10):
            await link.has_held.wait()
        await running.broker.unsubscribe("again")
        link.is_open.set()
        await running.listener.wait_reconnect()
        await running.broker.subscribe("again")
        await publish(running, "again", b"1", UNKEPT)
        await publish(running, "again", b"2", UNKEPT)
        await running.listener.wait_count("again", 2)

        assert [b"1", b"2"] == running.arrived("again")


async def test_subscribing_is_bounded(server: nats.NATSServer) -> None:
    """Who subscribes while the server stays away is told so in time, and it is not subscribed."""
    async with (
        LossyLink(server.port) as link,
        broker_at(f"{link.url}?io_timeout=0.3") as running,
    ):
        link.refuses = True
        link.cut()
        await wait_disconnected(running.broker)
        with pytest.raises(BrokerUnavailable, match="nothing can be subscribed to"):
            await running.broker.subscribe("never")
        link.refuses = False
        await running.listener.wait_reconnect()
        await publish(running, "never", b"x")
        await running.broker.check()
        assert [] == running.listener.of("never")


async def test_paused_server() -> None:
    """A server that stands still: publishing fails in time and for good, and goes on later."""
    with nats.single() as server:
        async with broker_at(f"{server.url}?io_timeout=0.5") as running:
            await running.broker.subscribe("paused")
            await publish(running, "paused", b"1")
            server.pause()
            started = time.monotonic()
            results = await asyncio.gather(
                publish(running, "paused", b"given up"),
                running.broker.check(),
                return_exceptions=True,
            )
            took = time.monotonic() - started
            server.resume()
            assert all(isinstance(result, BrokerUnavailable) for result in results), results
            assert took < 2

            await publish(running, "paused", b"2")
            await running.broker.check()
            kept = await running.payloads("paused")
            # It raised, so it is in both or in neither, and never comes late.
            assert kept in ([b"1", b"2"], [b"1", b"given up", b"2"])
            assert kept == running.arrived("paused")


async def test_waiting_behind_a_call_that_is_not_answered() -> None:
    """Who publishes while another call waits for the server has the same bound, not twice."""
    with nats.single() as server:
        async with broker_at(f"{server.url}?io_timeout=1") as running:
            await publish(running, "paused", b"1")
            server.pause()
            first = asyncio.ensure_future(publish(running, "paused", b"2"))
            await asyncio.sleep(0.1)  # it is on its way, and the next one waits behind it
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await publish(running, "paused", b"3")
            took = time.monotonic() - started
            server.resume()
            await asyncio.gather(first, return_exceptions=True)

    assert took < 1.5


async def test_silent_server_is_left() -> None:
    """A server that says nothing is lost in time, without anybody publishing."""
    with nats.single() as server:
        async with broker_at(f"{server.url}?io_timeout=0.5") as running:
            server.pause()
            await wait_disconnected(running.broker)
            server.resume()
            await running.listener.wait_reconnect()
            await running.broker.check()


async def test_restart_with_data() -> None:
    """A killed server that comes back with its files: epochs and offsets go on, and delivery."""
    with nats.single() as server:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("restarted")
            before = [
                (await publish(running, "restarted", b"%d" % number)).position
                for number in range(5)
            ][-1]
            server.restart(keeps_data=True)
            await running.listener.wait_reconnect()
            after = (await publish(running, "restarted", b"5")).position
            await running.listener.wait_count("restarted", 6)

            assert StreamPosition(before.offset + 1, before.epoch) == after
            assert [b"%d" % number for number in range(6)] == await running.payloads("restarted")
            assert 1 == running.broker.reconnect_count


async def test_restart_without_data() -> None:
    """A server that comes back empty: another epoch, and nothing of before."""
    with nats.single() as server:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("emptied")
            before = (await publish(running, "emptied", b"1")).position
            server.restart(keeps_data=False)
            await running.listener.wait_reconnect()
            part = await running.broker.history("emptied", KEPT, since=before, limit=10)
            after = (await publish(running, "emptied", b"2")).position
            items = await running.listener.wait_count("emptied", 2)

            assert (0, 1) == (part.top.offset, after.offset)
            assert before.epoch != part.top.epoch == after.epoch
            assert after.epoch == getattr(items[-1], "epoch", None)


async def test_restart_with_older_data(caplog: pytest.LogCaptureFixture) -> None:
    """A server that comes back with an older copy: no offset is given twice in one epoch."""
    with nats.single() as server:
        async with broker_at(server.url) as running:
            first = (await publish(running, "older", b"1")).position
            server.save(server.folder / "copy")
            await publish(running, "older", b"2")
            server.restart(keeps_data=False, data=server.folder / "copy")
            await running.listener.wait_reconnect()
            part = await running.broker.history("older", KEPT, since=None, limit=10)
            again = (await publish(running, "older", b"3")).position

            assert first.epoch != part.top.epoch == again.epoch
            assert (0, 1) == (part.top.offset, again.offset)
    assert "lost data that it had acknowledged" in caplog.text


async def test_removed_streams(server: nats.NATSServer) -> None:
    """Streams that somebody removes under running nodes are made again, with another epoch."""
    async with broker_at(server.url) as running, store_at(server.url) as store:
        await running.broker.subscribe("removed")
        before = (await publish(running, "removed", b"1")).position
        link = await client.connect(server.url)
        for name in await link.jetstream().streams_info():
            await link.jetstream().delete_stream(name.config.name or "")
        await link.close()
        after = (await publish(running, "removed", b"2")).position
        await running.broker.check()
        await store.add("lobby", ClientInfo("1"), ttl_seconds=60)
        await running.listener.wait_count("removed", 2)

        assert (1, 1) == (before.offset, after.offset)
        assert before.epoch != after.epoch
        assert [b"2"] == await running.payloads("removed")
        assert {"1"} == set(await store.members("lobby"))


async def fill(running: Running, channel: str, options: ChannelOptions) -> None:
    """Publish more than a small server keeps."""
    for _ in range(100):
        await publish(running, channel, bytes(20_000), options)


async def test_full_server() -> None:
    """A server whose storage is full refuses at once, says what to do, and delivers nothing."""
    config = "jetstream { max_file_store: 400KB }"
    options = ChannelOptions(history=History(size=1000))
    with nats.single(config=config) as server:
        async with broker_at(server.url) as running:
            await running.broker.subscribe("full")
            await publish(running, "full", b"1", options)
            with pytest.raises(BrokerUnavailable, match="max_file_store"):
                await fill(running, "full", options)
            kept = await running.broker.history("full", options, since=None, limit=1000)
            assert kept.top.offset == len(running.listener.of("full"))


async def test_message_that_is_too_large(server: nats.NATSServer) -> None:
    """What is larger than the server takes is refused alone, with the bound; the rest goes on."""
    async with broker_at(server.url) as running:
        results = await asyncio.gather(
            publish(running, "large", bytes(2_000_000)),
            publish(running, "large", bytes(2_000_000), UNKEPT),
            publish(running, "small", b"1"),
            publish(running, "small", b"1", UNKEPT),
            return_exceptions=True,
        )

        for result in results[:2]:
            assert isinstance(result, BrokerUnavailable)
            assert "raise max_payload" in str(result)
        assert not any(isinstance(result, Exception) for result in results[2:]), results


async def test_many_messages_that_are_too_large() -> None:
    """Each of a thousand in one channel is refused alone; what comes behind them is not."""
    with nats.single(config="max_payload: 4096") as server:
        async with broker_at(server.url) as running:
            *refused, last = await asyncio.gather(
                *(publish(running, "large", bytes(5000)) for _ in range(999)),
                publish(running, "large", b"1"),
                return_exceptions=True,
            )

            assert {BrokerUnavailable} == {type(result) for result in refused}
            assert all("raise max_payload" in str(result) for result in refused)
            assert not isinstance(last, BaseException)


async def test_control_has_a_bound(server: nats.NATSServer) -> None:
    """What nodes tell each other has at most a MiB, and so much arrives."""
    async with broker_at(server.url, "me") as running:
        with pytest.raises(ValueError, match="limit 1048576"):
            await running.broker.publish_control(bytes(1024 * 1024 + 1))
        await running.broker.publish_control(bytes(1024 * 1024), "me")
        assert [bytes(1024 * 1024)] == await running.listener.wait_controls(1)


async def test_records_of_a_newer_release(
    server: nats.NATSServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a newer release wrote is left out with a word, and the rest of it is delivered."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("newer")
        link = await client.connect(server.url)
        await link.publish("wirebell.c.newer.c", b"\x09future")
        await link.publish("wirebell.c.newer.c", b"\x01\x09future")
        await link.publish("wirebell.c.newer.c", b"\x02short")
        await link.flush()
        await link.close()
        await publish(running, "newer", b"1", UNKEPT)
        await running.listener.wait_count("newer", 1)

        assert [b"1"] == running.arrived("newer")
    assert 1 == caplog.text.count("left out")


async def test_names_of_all_kinds(server: nats.NATSServer) -> None:
    """A channel may have any name: of NATS' own signs, of other alphabets, and very long."""
    names = ("a.b", "a b", "*", ">", "a\r\n", "=", "späť:☃", "$x", "x" * 3000, "\0", "ü" * 200)
    async with broker_at(server.url) as running:
        for name in names:
            await running.broker.subscribe(name)
        for number, name in enumerate(names):
            await publish(running, name, b"%d" % number)
        for number, name in enumerate(names):
            await running.listener.wait_count(name, 1)
            assert [b"%d" % number] == running.arrived(name) == await running.payloads(name)


async def test_history_ends(server: nats.NATSServer) -> None:
    """Publications end with the ttl, positions with the meta ttl, by the server's clock."""
    options = ChannelOptions(history=History(ttl_seconds=0.2, meta_ttl_seconds=0.6))
    async with broker_at(server.url) as running:
        first = (await publish(running, "short", b"1", options)).position
        kept = await running.payloads("short", options)
        await asyncio.sleep(0.3)
        ended = await running.broker.history("short", options, since=None, limit=10)
        later = (await publish(running, "short", b"2", options)).position
        behind = await running.payloads("short", options)
        await asyncio.sleep(0.7)
        anew = await running.broker.history("short", options, since=None, limit=10)
        again = (await publish(running, "short", b"3", options)).position

        assert [b"1"] == kept
        assert ((), first) == (ended.publications, ended.top)
        assert StreamPosition(2, first.epoch) == later
        # What had ended does not come back with what is new.
        assert [b"2"] == behind
        assert 0 == anew.top.offset
        assert first.epoch != anew.top.epoch
        assert 1 == again.offset
        assert first.epoch != again.epoch
        assert [b"3"] == await running.payloads("short", options)


async def test_long_history(server: nats.NATSServer) -> None:
    """A long history is read whole, in parts, and backwards."""
    options = ChannelOptions(history=History(size=100))
    async with broker_at(server.url) as running:
        for first in range(0, 150, 3):
            await asyncio.gather(
                *(publish(running, "long", b"%d" % (first + each), options) for each in range(3))
            )
        whole = await running.payloads("long", options)
        part = await running.broker.history("long", options, since=StreamPosition(60, ""), limit=5)
        back = await running.broker.history(
            "long", options, since=StreamPosition(60, ""), limit=100, reverse=True
        )

        assert [b"%d" % number for number in range(50, 150)] == whole
        assert [61, 62, 63, 64, 65] == [each.offset for each in part.publications]
        assert list(range(59, 50, -1)) == [each.offset for each in back.publications]


async def test_order_of_one_turn(server: nats.NATSServer) -> None:
    """What one process puts into a channel in one turn arrives in that order, kept or not."""
    async with broker_at(server.url) as running:
        await running.broker.subscribe("mixed")
        joined = Membership(ClientInfo("1"), joined=True)
        skip = PublishOptions(skip_history=True)
        await asyncio.gather(
            publish(running, "mixed", b"0"),
            publish(running, "mixed", b"1", KEPT, skip),
            publish(running, "mixed", b"2", KEPT, PublishOptions(idempotency_key="k")),
            running.broker.publish_membership("mixed", joined),
            publish(running, "mixed", b"3"),
        )
        items = await running.listener.wait_count("mixed", 5)

        told = [item if isinstance(item, Membership) else item.data for item in items]
        assert [b"0", b"1", b"2", joined, b"3"] == told


async def test_versions_and_keys_of_one_turn(server: nats.NATSServer) -> None:
    """Versions and idempotency keys hold within one batch, too, and stay for the next."""
    async with broker_at(server.url) as running, broker_at(server.url) as other:
        hows = (
            PublishOptions(version=2),
            PublishOptions(version=1),
            PublishOptions(idempotency_key="k", version=3),
            PublishOptions(idempotency_key="k", version=9),
            None,
            PublishOptions(version=3),
            PublishOptions(version=2**63),
        )
        results = await asyncio.gather(
            *(
                publish(running, "versions", b"%d" % number, KEPT, how)
                for number, how in enumerate(hows)
            )
        )
        later = await publish(other, "versions", b"x", KEPT, PublishOptions(version=2**63))

        assert [1, 1, 2, 2, 3, 3, 4] == [result.position.offset for result in results]
        assert [False, True, False, True, False, True, False] == [
            result.is_suppressed for result in results
        ]
        assert (True, 4) == (later.is_suppressed, later.position.offset)
        assert [b"0", b"2", b"4", b"6"] == await running.payloads("versions")


async def test_keys_without_history(server: nats.NATSServer) -> None:
    """Without history, too, a key publishes once, on all nodes together."""
    how = PublishOptions(idempotency_key="k")
    async with broker_at(server.url) as running, broker_at(server.url) as other:
        await running.broker.subscribe("keys")
        results = await asyncio.gather(
            *(publish(each, "keys", b"1", UNKEPT, how) for each in (running, other) * 3)
        )
        await publish(other, "keys", b"2", UNKEPT)
        await running.listener.wait_count("keys", 2)

        assert [b"1", b"2"] == running.arrived("keys")
        assert {StreamPosition()} == {result.position for result in results}


async def test_prefixes_do_not_hear_each_other(server: nats.NATSServer) -> None:
    """Channels of one name behind two prefixes are two channels, live and kept."""
    async with broker_at(server.url) as one, broker_at(f"{server.url}?prefix=other") as other:
        for each in (one, other):
            await each.broker.subscribe("prefix")
        await publish(one, "prefix", b"one")
        await publish(other, "prefix", b"other")
        await one.broker.publish_control(b"one")
        await other.broker.check()

        assert [b"one"] == await one.payloads("prefix")
        assert [b"other"] == await other.payloads("prefix")
        assert ([b"one"], [b"other"]) == (one.arrived("prefix"), other.arrived("prefix"))
        assert [] == other.listener.controls


async def test_closing_carries_what_was_published(server: nats.NATSServer) -> None:
    """What was published before the end is in history, though nobody waited for it."""
    async with broker_at(server.url) as running, broker_at(server.url) as other:
        future = asyncio.ensure_future(publish(running, "last", b"1"))
        await asyncio.sleep(0)
        await running.broker.aclose()

        assert 1 == (await future).position.offset
        assert [b"1"] == await other.payloads("last")
