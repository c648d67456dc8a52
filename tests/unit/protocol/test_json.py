"""The client protocol in JSON: what goes out, byte by byte, and what is understood."""

from __future__ import annotations

import json

import pytest

from wirebell.errors import BadRequest, Disconnect
from wirebell.model import (
    ClientInfo,
    Frames,
    Membership,
    PayloadFormat,
    Publication,
    StreamPosition,
)
from wirebell.protocol.json import (
    JSON,
    PING,
    ConnectRequest,
    SubscribeRequest,
    SubscribeResult,
    decode_connect,
    encode_connect,
    encode_disconnect,
)

TOP = StreamPosition(7, "e")


def test_publication_push() -> None:
    """A JSON payload is embedded as it is, a text as a string; offset 0 is left out."""
    frames = JSON.join(
        "room",
        [
            Publication(b'{"a": 1}', PayloadFormat.JSON, 5, "e"),
            Publication('sp\u00e4t "x"\n'.encode(), PayloadFormat.TEXT),
        ],
    )

    messages = (
        '{"channel":"room","pub":{"data":{"a": 1},"offset":5}}',
        '{"channel":"room","pub":{"data":"spät \\"x\\"\\n"}}',
    )
    assert Frames(messages, sum(len(message.encode()) for message in messages)) == frames


def test_membership_push() -> None:
    """A join and a leave carry user and client, also where the user is nobody."""
    frames = JSON.join(
        "room",
        [
            Membership(ClientInfo("1", "ann"), joined=True),
            Membership(ClientInfo("2"), joined=False),
        ],
    )

    assert (
        '{"channel":"room","join":{"info":{"user":"ann","client":"1"}}}',
        '{"channel":"room","leave":{"info":{"user":"","client":"2"}}}',
    ) == frames.messages


def test_ping() -> None:
    """A ping is the empty push."""
    assert Frames(("{}",), 2) == PING


def test_no_items() -> None:
    """Nothing happened: no message."""
    assert Frames((), 0) == JSON.join("room", [])


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("{}", ConnectRequest()),
        ('{"token":"t","name":"js"}', ConnectRequest(token="t")),
        ('{"subs":{"a":{}}}', ConnectRequest(subs={"a": SubscribeRequest()})),
        (
            '{"subs":{"a":{"recover":true,"offset":5,"epoch":"e"}}}',
            ConnectRequest(subs={"a": SubscribeRequest(recover=True, offset=5, epoch="e")}),
        ),
    ],
)
def test_connect_request(text: str, request_: ConnectRequest) -> None:
    """A first message is read; fields that nobody knows are passed over."""
    assert request_ == decode_connect(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "null",
        "1",
        '{"subs":[]}',
        '{"subs":{"a":null}}',
        '{"subs":{"a":{"offset":"5"}}}',
        '{"subs":{"a":{"offset":1.5}}}',
        '{"token":1}',
        '{"token":"\ud800"}',
        "{}{}",
        "[" * 100_000,
        '{"x":' * 100_000,
    ],
)
def test_not_a_connect_request(text: str) -> None:
    """Whatever else comes first is a bad request, never another error."""
    with pytest.raises(BadRequest, match="the first message is no ConnectRequest"):
        decode_connect(text)


def test_connect_push() -> None:
    """The answer names the client, the version, its channels and the time between pings."""
    subs = {"room": SubscribeResult.create(TOP), "hall": SubscribeResult.create(None)}

    frames = encode_connect("id", "1.0", subs, ping_seconds=25)

    text = (
        '{"connect":{"client":"id","version":"1.0","subs":{"room":{"recoverable":true,'
        '"epoch":"e","offset":7,"positioned":true},"hall":{}},"ping":25}}'
    )
    assert Frames((text,), len(text)) == frames


def test_connect_push_without_channels() -> None:
    """Without channels there is no ``subs``."""
    frames = encode_connect("id", "1.0", {}, ping_seconds=1)

    assert ('{"connect":{"client":"id","version":"1.0","ping":1}}',) == frames.messages


def test_recovered() -> None:
    """After a recovery the offset is the request's: the client advances by what it missed."""
    missed = [Publication(b"1", PayloadFormat.JSON, 6, "e"), Publication(b"x", offset=7)]

    result = SubscribeResult.create(TOP, missed, since=StreamPosition(5, "e"), recovered=True)

    expected = SubscribeResult(
        recoverable=True,
        epoch="e",
        publications=result.publications,
        recovered=True,
        offset=5,
        positioned=True,
        was_recovering=True,
    )
    frames = encode_connect("id", "1", {"room": result}, ping_seconds=1)
    room = json.loads(frames.messages[0])["connect"]["subs"]["room"]
    assert expected == result
    assert [{"data": 1, "offset": 6}, {"data": "x", "offset": 7}] == room["publications"]


def test_not_recovered() -> None:
    """Who could not be recovered learns the top, and that it was not."""
    result = SubscribeResult.create(TOP, since=StreamPosition(1, "old"))

    assert (7, False, True, []) == (
        result.offset,
        result.recovered,
        result.was_recovering,
        result.publications,
    )


def test_recovery_without_history() -> None:
    """A channel without history recovers nobody, and says that it was asked."""
    result = SubscribeResult.create(None, since=StreamPosition(1, "old"))

    assert SubscribeResult(was_recovering=True) == result


def test_disconnect_push() -> None:
    """The last push says code and reason."""
    text = encode_disconnect(Disconnect(3005, "connection expired"))

    assert text == '{"disconnect":{"code":3005,"reason":"connection expired"}}'
