"""The JSON codec: what the golden frames do not say."""

from __future__ import annotations

import json

import msgspec
import pytest

from wirebell.errors import BadRequest
from wirebell.model import ClientInfo, Frames, PayloadFormat, Publication
from wirebell.protocol.codec import PONG, BadFrame
from wirebell.protocol.json import JSON, _encode_short_info
from wirebell.protocol.messages import (
    Command,
    ConnectRequest,
    EmulationRequest,
    PresenceResult,
    PublishRequest,
    Reply,
    RPCResult,
    SubscribeRequest,
    SubscribeResult,
)
from wirebell.protocol.pushes import MessagePush

BIG = PayloadFormat.BINARY


def test_says_what_it_is() -> None:
    """It is text, and its ping is an empty reply."""
    assert ("json", False, Frames(("{}",), 2)) == (JSON.name, JSON.is_binary, JSON.ping)


@pytest.mark.parametrize("frame", ["{}", b"{}", "{}\n", '{"id":0}', ' {"publish":{}} \r'])
def test_pong(frame: str | bytes) -> None:
    """A command without an id is a pong, whatever else it says, in a text or binary frame."""
    assert [PONG] == JSON.decode_commands(frame)


def test_binary_frame() -> None:
    """A binary frame that holds JSON is read like a text frame."""
    commands = JSON.decode_commands('{"id":1,"refresh":{"token":"ä"}}\n{}'.encode())

    assert ["ä", None] == [command.refresh and command.refresh.token for command in commands]


def test_unknown_fields() -> None:
    """What nobody knows is passed over."""
    commands = JSON.decode_commands('{"id":1,"x":[{}],"unsubscribe":{"channel":"c","y":null}}')

    assert ["c"] == [command.unsubscribe and command.unsubscribe.channel for command in commands]


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (r'"\ud83d"', r'"\ufffd"'),
        (r'"\uDE00x\ud83d\ude00"', r'"\ufffdx\ud83d\ude00"'),
        (r'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\\ud83d\ud83d\u0041"', r'"\\ud83d\ufffd\u0041"'),
    ],
)
def test_half_a_character(data: str, kept: str) -> None:
    """Text that a browser cut within an emoji does not end the connection."""
    (command,) = JSON.decode_commands(f'{{"id":1,"publish":{{"channel":"c","data":{data}}}}}')

    assert Command(1, publish=PublishRequest("c", msgspec.Raw(kept))) == command


def test_half_a_character_in_a_name() -> None:
    """The same holds for what is read, not only embedded."""
    (command,) = JSON.decode_commands(r'{"id":1,"refresh":{"token":"\udc00"}}')

    assert command.refresh is not None
    assert "\ufffd" == command.refresh.token


@pytest.mark.parametrize(
    "frame",
    [
        b'{"id":1,"refresh":{"token":"\xff"}}',
        '{"id":1,"refresh":{"token":"\ud800"}}',
        r'{"id":1,"refresh":{"token":"\ud800"}',
        r'{"id":1,"refresh":{"token":"\u12"}}',
        '{"id":1,"publish":{"data":' + "[" * 100_000,
        '{"id":1,"subscribe":{"tf":' + '{"nodes":[' * 100_000,
        '{"id":' + "9" * 10_000 + "}",
        '{"id":1,"publish":{"channel":"c"},"subscribe":{"channel":"c","offset":-1}}',
        '{"id":1,"publish":{"channel":"c"},"connect":{"flag":9223372036854775808}}',
    ],
)
def test_bad_frame(frame: str | bytes) -> None:
    """Broken text and escapes, endless nesting and numbers out of bounds are a bad frame."""
    with pytest.raises(BadFrame):
        JSON.decode_commands(frame)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("{}", ConnectRequest()),
        (b'{"token":"t","x":1}\n', ConnectRequest("t")),
        ('{"subs":{"a":{}}}', ConnectRequest(subs={"a": SubscribeRequest()})),
        (
            '{"subs":{"a":{"recover":true,"offset":5,"epoch":"e"}}}',
            ConnectRequest(subs={"a": SubscribeRequest(recover=True, offset=5, epoch="e")}),
        ),
    ],
)
def test_connect_request(text: str | bytes, request_: ConnectRequest) -> None:
    """The first message of a unidirectional connection has no command around it."""
    assert request_ == JSON.decode_connect(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "1",
        b"\xff",
        '{"subs":[]}',
        '{"subs":{"a":null}}',
        '{"subs":{"a":{"offset":-1}}}',
        '{"subs":{"a":{"offset":1.5}}}',
        '{"token":1}',
        "{}{}",
        "[" * 100_000,
        '{"x":' * 100_000,
    ],
)
def test_not_a_connect_request(text: str | bytes) -> None:
    """Whatever else comes first is a bad request, never another error."""
    with pytest.raises(BadRequest):
        JSON.decode_connect(text)


def test_emulation_request() -> None:
    """The commands of an emulation request stand in a string, one to a line."""
    commands = '{"id":1,"rpc":{"method":"ä"}}\n{}'
    body = json.dumps({"node": "n", "session": "s", "data": commands}).encode()

    request = JSON.decode_emulation(body)

    assert EmulationRequest("n", "s", commands.encode()) == request
    assert 2 == len(JSON.decode_commands(request.data))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"data":{}}', b'{"node":1}'])
def test_not_an_emulation_request(body: bytes) -> None:
    """Anything else is a bad request."""
    with pytest.raises(BadRequest):
        JSON.decode_emulation(body)


def test_reply_without_a_result() -> None:
    """A reply with nothing in it is its id."""
    assert '{"id":1}' == JSON.encode_reply(Reply(1))


@pytest.mark.parametrize(("length", "is_kept"), [(1021, True), (1022, False)])
def test_long_infos_are_not_kept(length: int, is_kept: bool) -> None:
    """What others see of a client is remembered if it is short, and told in full either way."""
    info = ClientInfo("1", "2", b'"%b"' % (b"x" * length))
    publication = Publication(b"1", PayloadFormat.JSON, info=info)
    before = _encode_short_info.cache_info()

    messages = [json.loads(JSON.encode_publication("c", publication)) for _ in range(2)]

    told = {"user": "2", "client": "1", "conn_info": "x" * length}
    assert [told, told] == [message["push"]["pub"]["info"] for message in messages]
    assert is_kept == (_encode_short_info.cache_info().hits > before.hits)


def test_no_line_feeds() -> None:
    """Payloads of replies and pushes lose their line feeds, which separate messages."""
    reply = JSON.encode_reply(Reply(1, rpc=RPCResult(b'{\n"a":\n1}')))

    assert '{"id":1,"rpc":{"data":{"a":1}}}' == reply
    assert '{"message":{"data":[1]}}' == JSON.encode_push(MessagePush(b"[\n1]\n"), is_bare=True)


def test_payload_that_is_no_text() -> None:
    """A payload of another process that is no UTF-8 takes nobody's tick."""
    publication = Publication(b'"\xff"', PayloadFormat.JSON)

    message = JSON.encode_publication("c", publication)

    assert '{"push":{"channel":"c","pub":{"data":"\ufffd"}}}' == message


def test_empty_payload() -> None:
    """A JSON payload of no bytes is no JSON: it is written as null."""
    publication = Publication(b"", PayloadFormat.JSON)

    assert '{"push":{"channel":"c","pub":{"data":null}}}' == JSON.encode_publication(
        "c", publication
    )
    assert b"null" == JSON.get_document(publication)


@pytest.mark.parametrize(
    ("publication", "document"),
    [
        (Publication(b'{"a": 1}', PayloadFormat.JSON), b'{"a": 1}'),
        (Publication(b'{"a":\n1}', PayloadFormat.JSON), b'{"a":1}'),
        (Publication(b'x\n"'), b'"x\\n\\""'),
        (Publication(b"\x00", BIG), b'"AA=="'),
    ],
)
def test_document(publication: Publication, document: bytes) -> None:
    """A patch is made of the JSON value that a subscriber without patches sees."""
    assert document == JSON.get_document(publication)


def test_join() -> None:
    """Messages are joined by line feeds, so many of them to a WebSocket message."""
    assert () == JSON.join([])
    assert ("a",) == JSON.join(["a"])
    assert ("a\nb", "c") == JSON.join(["a", "b", "c"], 2)
    assert [16, 1] == [len(message.split("\n")) for message in map(str, JSON.join(["{}"] * 17))]


def test_patches_belong_to_publications() -> None:
    """A result with patches has one for each publication, or ``None``."""
    result = SubscribeResult(publications=[Publication(b"1"), Publication(b"2")], patches=[None])

    with pytest.raises(ValueError, match="zip"):
        JSON.encode_reply(Reply(1, subscribe=result))


def test_names_are_escaped() -> None:
    """A channel with quotes or line feeds in its name breaks no message."""
    message = JSON.encode_publication('a"\n', Publication(b"1", PayloadFormat.JSON))
    presence = JSON.encode_reply(Reply(1, presence=PresenceResult({})))

    assert {"push": {"channel": 'a"\n', "pub": {"data": 1}}} == json.loads(message)
    assert "\n" not in message
    assert '{"id":1,"presence":{"presence":{}}}' == presence
