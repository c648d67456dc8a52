"""What no schema has room for is refused by both codecs alike."""

from __future__ import annotations

import pytest

from wirebell.errors import BadRequest
from wirebell.model import StreamPosition
from wirebell.protocol.codec import ID_MAX, PONG, BadFrame, check_command, check_connect
from wirebell.protocol.messages import (
    Command,
    ConnectRequest,
    HistoryRequest,
    PingRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    RPCRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)


@pytest.mark.parametrize(
    "command",
    [
        Command(1, connect=ConnectRequest()),
        Command(1, subscribe=SubscribeRequest()),
        Command(1, unsubscribe=UnsubscribeRequest()),
        Command(ID_MAX, publish=PublishRequest()),
        Command(1, presence=PresenceRequest()),
        Command(1, presence_stats=PresenceStatsRequest()),
        Command(1, history=HistoryRequest(since=StreamPosition(2**64 - 1))),
        Command(1, ping=PingRequest()),
        Command(0, send=SendRequest()),
        Command(1, rpc=RPCRequest()),
        Command(1, refresh=RefreshRequest()),
        Command(1, sub_refresh=SubRefreshRequest()),
    ],
)
def test_good_commands(command: Command) -> None:
    """Every request of the schema passes as it is."""
    assert command is check_command(command)


@pytest.mark.parametrize("command", [Command(), Command(0, publish=PublishRequest("c"))])
def test_pong(command: Command) -> None:
    """A command without an id that is no message is a pong and nothing else."""
    assert PONG is check_command(command)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Command(-1, publish=PublishRequest()), "id -1 is not within 0 and 4294967295"),
        (Command(ID_MAX + 1, rpc=RPCRequest()), "id 4294967296 is not within 0 and 4294967295"),
        (Command(5), "command 5 has no known request"),
        (
            Command(1, history=HistoryRequest(limit=2**31)),
            "limit 2147483648 is not within -2147483648 and 2147483647",
        ),
        (
            Command(1, subscribe=SubscribeRequest(offset=-1)),
            "offset -1 is not within 0 and 18446744073709551615",
        ),
        (
            Command(1, subscribe=SubscribeRequest(offset=-1), publish=PublishRequest("c")),
            "offset -1 is not within 0 and 18446744073709551615",
        ),
        (
            Command(1, history=HistoryRequest(limit=2**31), rpc=RPCRequest()),
            "limit 2147483648 is not within -2147483648 and 2147483647",
        ),
    ],
)
def test_bad_commands(command: Command, message: str) -> None:
    """What is out of bounds is named with its bounds."""
    with pytest.raises(BadRequest) as caught:
        check_command(command)

    assert message == caught.value.message


@pytest.mark.parametrize(
    "request_",
    [
        ConnectRequest(flag=2**63),
        ConnectRequest(subs={"a": SubscribeRequest(offset=2**64)}),
        ConnectRequest(subs={"a": SubscribeRequest(type=-(2**31) - 1)}),
        ConnectRequest(subs={"a": SubscribeRequest(phase=2**31)}),
        ConnectRequest(subs={"a": SubscribeRequest(limit=2**31)}),
        ConnectRequest(subs={"a": SubscribeRequest(flag=-(2**63) - 1)}),
    ],
)
def test_bad_connect_requests(request_: ConnectRequest) -> None:
    """The bounds hold in a connect request too."""
    with pytest.raises(BadRequest):
        check_connect(request_)


def test_bad_frame_keeps_commands() -> None:
    """A bad frame is a bad request that knows what stood before it."""
    before = [PONG]

    error = BadFrame("why", before)
    before.clear()

    assert isinstance(error, BadRequest)
    assert ("why", [PONG]) == (error.message, error.commands)
    assert [] == BadFrame("why").commands
