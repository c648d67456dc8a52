"""A connection as the engine sees it."""

from __future__ import annotations

from tests.unit.fakes import FakeTransport
from wirebell.connection import Connection, Subscription
from wirebell.errors import Disconnect
from wirebell.model import ClientInfo, Frames
from wirebell.protocol.text import TEXT


def test_new_connection() -> None:
    """A new connection is anonymous, open and in no channel."""
    connection = Connection("1", "10.0.0.1", TEXT, FakeTransport())

    assert ClientInfo("1", "") == connection.info()
    assert ({}, False, TEXT, "10.0.0.1") == (
        connection.channels,
        connection.is_closed,
        connection.encoding,
        connection.address,
    )


def test_info_in_a_channel() -> None:
    """What others see of it depends on the channel, where the application said something there."""
    connection = Connection("1", "", TEXT, FakeTransport())
    connection.user_id, connection.conn_info = "ann", b'"c"'
    connection.channels["a"] = Subscription(chan_info=b'"a"')
    connection.channels["b"] = Subscription()

    assert ClientInfo("1", "ann", b'"c"', b'"a"') == connection.info("a")
    assert ClientInfo("1", "ann", b'"c"', b"") == connection.info("b") == connection.info()


def test_hands_through() -> None:
    """Writing and closing are the transport's, its answers included."""
    transport = FakeTransport()
    connection = Connection("1", "", TEXT, transport)

    taken = connection.write(Frames(("x",), 1))
    transport.is_full = True
    refused = connection.write(Frames(("y",), 1))
    writable = [connection.is_writable]
    transport.is_writable = False
    writable.append(connection.is_writable)
    connection.close(Disconnect(1000, "done"), notice="bye")

    assert [True, False] == writable
    assert (True, False, ["x"]) == (taken, refused, transport.messages)
    assert ([(1000, "done")], ["bye"]) == (transport.closed, transport.notices)
