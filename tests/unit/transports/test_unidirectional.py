"""The unidirectional connection: what the client says once, and what it hears."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import Rig, running
from wirebell.errors import Denied, Disconnect, LimitExceeded
from wirebell.model import Identity
from wirebell.settings import Settings
from wirebell.transports.unidirectional import UnidirectionalReceiver

pytestmark = pytest.mark.anyio


class Gate:
    """Lets a peer into channels, unless a name says otherwise."""

    def __init__(self) -> None:
        self.slow = asyncio.Event()

    async def __call__(self, channel: str) -> None:
        """Decide by the name."""
        if "denied" in channel:
            raise Denied("not you")
        if "slow" in channel:
            await self.slow.wait()
        if "broken" in channel:
            raise RuntimeError("broken")


class Client:
    """A peer of the unidirectional connection."""

    def __init__(self, rig: Rig, identity: Identity | None = None) -> None:
        self.transport = FakeTransport()
        self.gate = Gate()
        self.receiver = UnidirectionalReceiver(
            rig.node, self.transport, identity or Identity(), self.gate
        )
        self.receiver.connect("10.0.0.1")
        self.receiver.receive_open()

    async def say(self, message: object) -> None:
        """Send a message."""
        text = message if isinstance(message, str) else json.dumps(message)
        await (self.receiver.receive_text(text) or turns())

    @property
    def pushes(self) -> list[dict[str, Any]]:
        """What the peer heard."""
        return [json.loads(message) for message in self.transport.messages]


async def test_connect_and_listen() -> None:
    """The first push is the answer with each channel's position; publications follow.

    They are in order within a channel, not among channels.
    """
    async with running() as rig:
        await rig.publish("h", "0")
        client = Client(rig)

        await client.say({"subs": {"h": {}, "a": {}}})
        await rig.publish("h", "1")
        await rig.publish("a", "2")
        await turns()

        connect, *live = client.pushes
        pubs = {push["channel"]: push["pub"] for push in live}
        subs = connect["connect"]["subs"]
        assert (1, True, {}) == (subs["h"]["offset"], subs["h"]["recoverable"], subs["a"])
        assert connect["connect"]["ping"] == 25
        assert {"h": {"data": "1", "offset": 2}, "a": {"data": "2"}} == pubs
        assert len(live) == 2


async def test_recovery() -> None:
    """A client that comes back gets what it missed inside the answer, then the live ones."""
    async with running() as rig:
        await rig.publish("h", "1", "2", "3")
        client = Client(rig)

        await client.say({"subs": {"h": {"recover": True, "offset": 1}}})
        await rig.publish("h", "4")
        await turns()

        connect, live = client.pushes
        sub = connect["connect"]["subs"]["h"]
        assert (1, True, ["2", "3"]) == (
            sub["offset"],
            sub["recovered"],
            [publication["data"] for publication in sub["publications"]],
        )
        assert live["pub"] == {"data": "4", "offset": 4}


async def test_answer_comes_first() -> None:
    """Nothing is pushed before the answer, whatever happens in channels subscribed meanwhile."""
    async with running() as rig:
        client = Client(rig)
        work = asyncio.create_task(client.say({"subs": {"a": {}, "slow": {}}}))
        await turns()

        await rig.publish("a", "1")
        await turns()
        client.gate.slow.set()
        await work
        await turns()

        kinds = [next(iter(push)) for push in client.pushes]
        assert "connect" == kinds[0]


async def test_own_join_comes_after_the_answer() -> None:
    """A client hears of itself in a channel only after it knows that it is there."""
    async with running() as rig:
        client = Client(rig)
        work = asyncio.create_task(client.say({"subs": {"p": {}, "slow": {}}}))
        await turns()
        client.gate.slow.set()
        await work
        await turns()

        assert "connect" in client.pushes[0]


@pytest.mark.parametrize(
    ("message", "closed"),
    [
        ("hello", (3501, "bad request")),
        ({"subs": {"": {}}}, (3501, "bad request")),
        ({"subs": {"denied": {}}}, (3507, "permission denied")),
        ({"subs": {"a": {}, "b": {}, "c": {}}}, (3504, "connection limit")),
        ({"subs": {"broken": {}}}, (1011, "internal error")),
    ],
)
async def test_refused(message: object, closed: tuple[int, str]) -> None:
    """One refusal ends the connection with its code, told in a push as well."""
    async with running(Settings(channels_per_connection_max=2)) as rig:
        client = Client(rig)

        await client.say(message)

        code, reason = closed
        assert [closed] == client.transport.closed
        assert {"disconnect": {"code": code, "reason": reason}} == json.loads(
            client.transport.notices[0] or ""
        )


async def test_ended_while_connecting(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that ends while it connects is no failure: nothing is logged or counted."""
    async with running() as rig:
        client = Client(rig)
        work = asyncio.create_task(client.say({"subs": {"slow": {}}}))
        await turns()

        client.receiver.receive_eof()
        client.gate.slow.set()
        await work

        assert ({}, "") == (rig.node.statistics.disconnect_counts, caplog.text)


async def test_connecting_before_the_opening() -> None:
    """A client whose request is there already is in no deadline's way."""
    async with running() as rig:
        transport = FakeTransport()
        receiver = UnidirectionalReceiver(rig.node, transport, Identity(), Gate())
        receiver.connect("10.0.0.1")

        await (receiver.receive_text("{}") or turns())
        await turns()

        assert "connect" in json.loads(transport.messages[0])


async def test_later_messages_are_ignored() -> None:
    """After the first message the client is not listened to."""
    async with running() as rig:
        client = Client(rig)
        await client.say({})

        await client.say("rubbish")

        assert (1, []) == (len(client.pushes), client.transport.closed)


async def test_binary() -> None:
    """A binary message is a bad request."""
    async with running() as rig:
        client = Client(rig)

        client.receiver.receive_bytes(b"x")

        assert [(3501, "bad request")] == client.transport.closed


async def test_silent_client() -> None:
    """A client that does not say what it wants is ended in time, one that does is not."""
    async with running(Settings(first_message_timeout_seconds=2)) as rig:
        silent, spoke = Client(rig), Client(rig)
        await spoke.say({})

        await pass_time(2.1)

        assert ([(3502, "stale")], []) == (silent.transport.closed, spoke.transport.closed)


async def test_pings() -> None:
    """Pings come in the interval that was told, until the end."""
    async with running(Settings(ping_interval_seconds=10)) as rig:
        client = Client(rig)
        await client.say({})

        await pass_time(20.5)
        client.receiver.receive_eof()
        await pass_time(20)

        assert [{}, {}] == client.pushes[1:]
        assert client.pushes[0]["connect"]["ping"] == 10


async def test_ping_of_a_slow_client() -> None:
    """A client that takes no pings is cut."""
    async with running() as rig:
        client = Client(rig)
        await client.say({})
        client.transport.is_full = True

        await pass_time(25.5)

        assert [(3008, "slow consumer")] == client.transport.closed


async def test_shutdown() -> None:
    """A process that stops says so in a push, with the code that brings clients back."""
    async with running() as rig:
        client = Client(rig)

        client.receiver.receive_shutdown()

        assert [(3001, "shutdown")] == client.transport.closed
        assert {"disconnect": {"code": 3001, "reason": "shutdown"}} == json.loads(
            client.transport.notices[0] or ""
        )


async def test_a_client_reads_again() -> None:
    """What a channel that may drop kept for a slow client is written when it reads again."""
    async with running() as rig:
        client = Client(rig)
        nobody = UnidirectionalReceiver(rig.node, FakeTransport(), Identity(), Gate())
        nobody.receive_writable()
        nobody.receive_shutdown()
        await client.say({"subs": {"d": {}}})
        await turns()
        client.transport.is_writable = False
        await rig.publish("d", "1")
        await turns()
        before = len(client.pushes)

        client.transport.is_writable = True
        client.receiver.receive_writable()

        assert (1, "1") == (before, client.pushes[1]["pub"]["data"])


async def test_expiry() -> None:
    """When the credentials end the connection is ended and told why."""
    async with running() as rig:
        client = Client(rig, Identity("ann", datetime.now(UTC) + timedelta(seconds=60)))
        await client.say({})

        await pass_time(61)

        assert [(3005, "connection expired")] == client.transport.closed


async def test_user_limit() -> None:
    """A user over the limit is not connected, and nothing is left behind."""
    async with running(Settings(connections_per_user_max=1)) as rig:
        Client(rig, Identity("ann"))

        with pytest.raises(LimitExceeded):
            Client(rig, Identity("ann"))
        assert 1 == rig.node.admission.connection_count


async def test_eof() -> None:
    """At the end the connection has left everything; before it connected, there is nothing."""
    async with running() as rig:
        client = Client(rig)
        await client.say({"subs": {"a": {}}})

        client.receiver.receive_eof()
        UnidirectionalReceiver(rig.node, FakeTransport(), Identity(), Gate()).receive_eof()

        assert (0, 0) == (rig.node.hub.channel_count, len(rig.node.connections))


async def test_an_oversize_message_is_refused() -> None:
    """A message over the limit ends the connection with 1009."""
    async with running() as rig:
        client = Client(rig)

        reason = "message has 70000 bytes, limit 65536"
        client.receiver.close(Disconnect(1009, reason))

        assert [(1009, reason)] == client.transport.closed
