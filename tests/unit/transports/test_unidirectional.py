"""The unidirectional connection: what the client says once, and what it hears."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.unit.clients import FakeAccess
from tests.unit.clocks import pass_time, turns
from tests.unit.fakes import FakeTransport
from tests.unit.nodes import Rig, running
from wirebell.access import ConnectGrant
from wirebell.errors import (
    BrokerUnavailable,
    ClientDisconnected,
    CommandError,
    Denied,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    LimitExceeded,
    ProtocolError,
    create_disconnect,
)
from wirebell.model import ServerSubscribe
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import ConnectRequest
from wirebell.settings import Settings
from wirebell.transports.unidirectional import UnidirectionalReceiver

pytestmark = pytest.mark.anyio

QUICK = Settings(first_message_timeout_seconds=5.0, expired_close_delay_seconds=5.0)


def grant(*channels: str, **how: Any) -> ConnectGrant:
    """Grant a connection with server-side subscriptions."""
    return ConnectGrant(channels=dict.fromkeys(channels, ServerSubscribe()), **how)


class Listener:
    """A peer of the unidirectional connection."""

    def __init__(self, rig: Rig, *channels: str, **how: Any) -> None:
        self.transport = FakeTransport()
        self.access = FakeAccess()
        self.access.connect_grant = grant(*channels)
        self.receiver = UnidirectionalReceiver(rig.node, self.transport, JSON, self.access, **how)

    def open(self) -> Awaitable[None] | None:
        """Have the link open."""
        return self.receiver.receive_open()

    async def say(self, message: object) -> None:
        """Send a message."""
        text = message if isinstance(message, str) else json.dumps(message)
        await (self.receiver.receive_text(text) or turns())
        await turns()

    @property
    def pushes(self) -> list[Any]:
        """What the peer heard."""
        return [
            json.loads(line)
            for message in self.transport.messages
            for line in str(message).split("\n")
        ]

    @property
    def kinds(self) -> list[str]:
        """What the pushes are."""
        return [next((key for key in push if key != "channel"), "ping") for push in self.pushes]


async def test_connect_and_listen() -> None:
    """The first push is the result, with each channel's position; publications follow."""
    async with running() as rig:
        await rig.publish("h", "0")
        listener = Listener(rig, "h", "a")
        listener.open()

        await listener.say({})
        await rig.publish("h", "1")
        await rig.publish("a", "2")
        await turns()

        connect, *live = listener.pushes
        result = connect["connect"]
        assert {"client", "version", "subs", "ping", "session"} == set(result)
        assert (1, True, {}) == (
            result["subs"]["h"]["offset"],
            result["subs"]["h"]["recoverable"],
            result["subs"]["a"],
        )
        assert {"h": {"data": "1", "offset": 2}, "a": {"data": "2"}} == {
            push["channel"]: push["pub"] for push in live
        }


async def test_recovery() -> None:
    """Who comes back gets what it missed inside the result, then the live ones."""
    async with running() as rig:
        await rig.publish("h", "1", "2", "3")
        listener = Listener(rig, "h")

        await listener.say({"subs": {"h": {"recover": True, "offset": 1}}})
        await rig.publish("h", "4")
        await turns()

        connect, live = listener.pushes
        sub = connect["connect"]["subs"]["h"]
        assert (1, True, ["2", "3"]) == (
            sub["offset"],
            sub["recovered"],
            [publication["data"] for publication in sub["publications"]],
        )
        assert {"data": "4", "offset": 4} == live["pub"]


async def test_the_result_comes_first() -> None:
    """Nothing is pushed before it, whatever happens meanwhile."""
    async with running() as rig:
        listener = Listener(rig, "a", "h")
        gate = rig.gates.hold("history")
        work = listener.receiver.receive_text("{}")
        assert work is not None
        task = asyncio.ensure_future(work)
        await turns()

        await rig.publish("a", "1")
        listener.receiver.send_ping()
        await turns()
        assert [] == listener.pushes
        gate.set()
        await task
        await turns()

        assert ["connect", "pub"] == listener.kinds


async def test_a_request_that_the_handshake_had() -> None:
    """It is done with the opening; later messages are ignored."""
    async with running() as rig:
        listener = Listener(rig, "a", first="{}")

        await (listener.open() or turns())
        await listener.say("{}")
        await listener.say("nonsense")
        assert None is listener.receiver.receive_bytes(b"{}")
        assert None is listener.open()
        await turns()

        assert (["connect"], []) == (listener.kinds, listener.transport.closed)


async def test_bytes() -> None:
    """The request may come as bytes."""
    async with running() as rig:
        listener = Listener(rig)

        await (listener.receiver.receive_bytes(b"{}") or turns())
        await turns()

        assert ["connect"] == listener.kinds


async def test_a_request_of_the_carrier() -> None:
    """A carrier that has read the request hands it over."""
    async with running() as rig:
        listener = Listener(rig)

        await listener.receiver.connect(ConnectRequest())
        await turns()

        assert ["connect"] == listener.kinds


@pytest.mark.parametrize("text", ["", "x", "[]", '{"subs":1}', '{"flag":99999999999999999999}'])
async def test_a_request_that_cannot_be_read(text: str) -> None:
    """It is told by a push and by the close: 3501."""
    async with running() as rig:
        listener = Listener(rig)

        await listener.say(text)

        assert [(3501, "bad request")] == listener.transport.closed
        (notice,) = listener.transport.notices
        assert {"disconnect": {"code": 3501, "reason": "bad request"}} == json.loads(notice or "")


def custom_error() -> CommandError:
    """Make an application's own error."""
    error = CommandError("come back on Monday")
    error.code = 1_000
    return error


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ProtocolError(ErrorCode.TOKEN_EXPIRED), 3005),
        (ProtocolError(ErrorCode.EXPIRED), 3005),
        (Denied("no"), 3507),
        (ProtocolError(ErrorCode.LIMIT_EXCEEDED), 3505),
        (ProtocolError(ErrorCode.INTERNAL), 3004),
        (ProtocolError(ErrorCode.UNKNOWN_CHANNEL), 3501),
        (custom_error(), 3501),
        (ClientDisconnected(create_disconnect(DisconnectCode.INVALID_TOKEN)), 3500),
        (RuntimeError("broken"), 3004),
        (BrokerUnavailable("away"), 3004),
    ],
)
async def test_a_connect_that_fails(failure: Exception, code: int) -> None:
    """There are no errors here: each of them is how the connection ends (section 1.16, 6)."""
    async with running() as rig:
        listener = Listener(rig)
        listener.access.failures["connect"] = failure

        await listener.say({})

        assert ([code], []) == ([end[0] for end in listener.transport.closed], listener.pushes)
        listener.receiver.receive_eof()
        assert "disconnected" not in listener.access.told


@pytest.mark.parametrize("code", [109, 3500])
async def test_other_words_for_a_failure(code: int) -> None:
    """What is told may be configured, by the code of the error or of the disconnect."""
    async with running() as rig:
        listener = Listener(rig, disconnects={code: Disconnect(4001, "sign in again")})
        listener.access.failures["connect"] = (
            ProtocolError(ErrorCode.TOKEN_EXPIRED)
            if code == 109
            else ClientDisconnected(create_disconnect(DisconnectCode.INVALID_TOKEN))
        )

        await listener.say({})

        assert [(4001, "sign in again")] == listener.transport.closed


@pytest.mark.parametrize("answers", [True, False])
async def test_a_carrier_that_tells_the_failure_itself(answers: bool) -> None:
    """It is asked first, and may answer with an HTTP status."""
    async with running() as rig:
        asked: list[tuple[int, int]] = []

        def refuse(code: int, disconnect: Disconnect) -> bool:
            asked.append((code, int(disconnect.code)))
            return answers

        listener = Listener(rig, on_failure=refuse)
        listener.access.failures["connect"] = ProtocolError(ErrorCode.TOKEN_EXPIRED)
        await listener.say({})

        assert [(109, 3005)] == asked
        assert ([] if answers else [3005]) == [end[0] for end in listener.transport.closed]


async def test_an_end_without_a_push() -> None:
    """The push that says why may be switched off."""
    async with running() as rig:
        listener = Listener(rig, has_disconnect_push=False)
        await listener.say({})

        listener.receiver.receive_shutdown()

        assert [None] == listener.transport.notices
        assert [(3001, "shutdown")] == listener.transport.closed


@pytest.mark.parametrize("first", [None, "{}"])
async def test_stale(first: str | None) -> None:
    """Who says nothing in time is closed, and so is whose connect takes too long."""
    async with running(QUICK) as rig:
        listener = Listener(rig, first=first)
        listener.access.hold("connect")
        work = listener.open()
        task = None if work is None else asyncio.ensure_future(work)

        await pass_time(6)

        assert [(3502, "stale")] == listener.transport.closed
        if task is not None:
            listener.access.held["connect"].set()
            await task
        assert [] == listener.pushes


async def test_nobody_is_stale_who_connected() -> None:
    """The time to ask ends with the result."""
    async with running(QUICK) as rig:
        listener = Listener(rig)
        listener.open()
        await listener.say({})

        await pass_time(6)

        assert [] == listener.transport.closed


async def test_the_end_of_credentials() -> None:
    """They cannot be refreshed here: the connection ends after the grace."""
    async with running(QUICK) as rig:
        listener = Listener(rig)
        end = time.time() + 10
        listener.access.connect_grant = ConnectGrant(expires_at=end, grace_seconds=5.0)
        await listener.say({})

        await pass_time(14)
        assert [] == listener.transport.closed
        await pass_time(2)

        assert [(3005, "connection expired")] == listener.transport.closed


async def test_pings() -> None:
    """Who has connected is told that the server lives; the carrier pings besides."""
    async with running() as rig:
        listener = Listener(rig)
        assert not listener.receiver.send_ping()
        await listener.say({})

        assert not listener.receiver.send_ping()
        await turns()

        assert ["connect", "ping"] == listener.kinds


@pytest.mark.parametrize(("joins", "count"), [(False, 4), (True, 2)])
async def test_pushes_that_share_a_message(joins: bool, count: int) -> None:
    """Each push is a message of its own, unless they may be joined."""
    async with running() as rig:
        listener = Listener(rig, "a", joins_messages=joins)
        await listener.say({})

        await rig.publish("a", "1", "2", "3")
        await turns()

        assert ["connect", "pub", "pub", "pub"] == listener.kinds
        assert count == len(listener.transport.messages)


async def test_what_the_server_does() -> None:
    """Pushes of the server's own are bare too."""
    async with running() as rig:
        listener = Listener(rig, "a")
        await listener.say({})

        await listener.receiver.client.subscribe("h", ServerSubscribe())
        listener.receiver.client.unsubscribe("a", 2000, "server unsubscribe")
        listener.receiver.client.refresh(None)
        await turns()

        assert ["connect", "subscribe", "unsubscribe", "refresh"] == listener.kinds


async def test_leaving() -> None:
    """Who leaves, also while connecting, leaves nothing behind; later ends are nothing."""
    async with running() as rig:
        for name in ("", "connect", "history"):
            listener = Listener(rig, "hp")
            gate = rig.gates.hold(name) if name == "history" else listener.access.hold("connect")
            if not name:
                gate.set()
            listener.open()
            work = listener.receiver.receive_text("{}")
            assert work is not None
            task = asyncio.ensure_future(work)
            await turns()

            listener.receiver.receive_eof()
            gate.set()
            await task
            await turns()
            listener.receiver.receive_shutdown()

            assert [] == listener.transport.closed
            assert (["connect"] if not name else []) == listener.kinds
            assert (0 if name else 1) == listener.access.told.count("disconnected")
        assert ({}, {}) == (rig.node.connections, rig.store.presence.channels)
        assert {} == rig.node.statistics.disconnect_counts


async def test_the_limit_of_connections() -> None:
    """A connection too many is refused while it is made."""
    async with running(Settings(connections_max=1)) as rig:
        Listener(rig)

        with pytest.raises(LimitExceeded):
            Listener(rig)


async def test_who_reads_again() -> None:
    """What waited for a slow reader follows."""
    async with running() as rig:
        listener = Listener(rig)
        await listener.say({})

        listener.receiver.receive_writable()

        assert [] == listener.transport.closed
