"""The protobuf codec: what the golden frames do not say."""

from __future__ import annotations

import pytest

from tests.unit.protocol.vectors import split_frames
from wirebell.errors import BadRequest
from wirebell.model import ClientInfo, Frames, Publication
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import PONG, BadFrame
from wirebell.protocol.messages import (
    ConnectRequest,
    EmulationRequest,
    PresenceResult,
    Reply,
    RPCResult,
    SubscribeRequest,
)
from wirebell.protocol.protobuf import PROTOBUF


def test_says_what_it_is() -> None:
    """It is bytes, and its ping is a reply of no bytes."""
    said = (PROTOBUF.name, PROTOBUF.is_binary, PROTOBUF.ping)

    assert ("protobuf", True, Frames((b"\x00",), 1)) == said


def test_pong() -> None:
    """A command of no bytes is a pong, however its length is written; two may share a frame."""
    assert [PONG, PONG] == PROTOBUF.decode_commands(b"\x00\x00")
    assert [PONG, PONG] == PROTOBUF.decode_commands(b"\x80\x00\x00")


def test_text_frame() -> None:
    """A text frame is none of ours, whatever it says."""
    with pytest.raises(BadFrame, match="text frame"):
        PROTOBUF.decode_commands("\x00")
    with pytest.raises(BadRequest, match="text frame"):
        PROTOBUF.decode_connect("")


@pytest.mark.parametrize("digits", [b"\x80", b"\x80\x80\x80\x80\x80\x00"])
def test_a_length_that_is_none(digits: bytes) -> None:
    """A length ends within five bytes; the commands before it are kept."""
    with pytest.raises(BadFrame, match="a length is cut off or too long") as caught:
        PROTOBUF.decode_commands(b"\x00" + digits)

    assert [PONG] == caught.value.commands


def test_fields_of_other_servers() -> None:
    """What the schema has and our model has not is passed over."""
    command = pb.Command(id=1, sub_refresh=pb.SubRefreshRequest(channel="c", untrack=["k"]))
    body = command.SerializeToString()

    (read,) = PROTOBUF.decode_commands(bytes((len(body),)) + body)

    assert read.sub_refresh is not None
    assert "c" == read.sub_refresh.channel


def test_deep_filter() -> None:
    """A filter that is nested without end is a bad frame, never another error."""
    node = b""
    for _ in range(2000):
        node = pb.FilterNode(op="not").SerializeToString() + b"\x32" + length(node) + node
    body = b"\x08\x01\x2a" + length(b"\x6a" + length(node) + node) + b"\x6a" + length(node) + node

    with pytest.raises(BadFrame):
        PROTOBUF.decode_commands(length(body) + body)


def length(data: bytes) -> bytes:
    """Write how many bytes there are."""
    size, parts = len(data), b""
    while size > 127:
        parts += bytes((size & 127 | 128,))
        size >>= 7
    return parts + bytes((size,))


def test_connect_request() -> None:
    """The first message of a unidirectional connection has neither a command nor a length."""
    request = pb.ConnectRequest(token="t")
    request.subs["a"].offset = 7

    read = PROTOBUF.decode_connect(request.SerializeToString())

    assert ConnectRequest("t", subs={"a": SubscribeRequest(offset=7)}) == read
    with pytest.raises(BadRequest):
        PROTOBUF.decode_connect(b"\xff")


def test_emulation_request() -> None:
    """An emulation request holds a frame as bytes."""
    body = pb.EmulationRequest(node="n", session="s", data=b"\x00").SerializeToString()

    assert EmulationRequest("n", "s", b"\x00") == PROTOBUF.decode_emulation(body)
    with pytest.raises(BadRequest):
        PROTOBUF.decode_emulation(b"\x08")


def test_reply_without_a_result() -> None:
    """A reply with nothing in it is its id."""
    assert b"\x02\x08\x01" == PROTOBUF.encode_reply(Reply(1))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 300_000])
def test_lengths(size: int) -> None:
    """A message of any size stands behind its length."""
    message = PROTOBUF.encode_reply(Reply(1, rpc=RPCResult(b"x" * size)))
    push = PROTOBUF.encode_publication("c", Publication(b"x" * size))

    assert [size] == [len(pb.Reply.FromString(part).rpc.data) for part in split_frames(message)]
    assert [size] == [len(pb.Reply.FromString(part).push.pub.data) for part in split_frames(push)]


def test_many_members() -> None:
    """Presence tells every member."""
    members = {str(number): ClientInfo(str(number), "u") for number in range(3)}

    (body,) = split_frames(PROTOBUF.encode_reply(Reply(1, presence=PresenceResult(members))))

    told = pb.Reply.FromString(body).presence.presence
    assert {"0": "u", "1": "u", "2": "u"} == {client: info.user for client, info in told.items()}


def test_document() -> None:
    """A patch is made of the payload."""
    assert b"\xff" == PROTOBUF.get_document(Publication(b"\xff"))


def test_join() -> None:
    """Messages stand one behind the other, so many of them to a WebSocket message."""
    assert () == PROTOBUF.join([])
    assert (b"a",) == PROTOBUF.join([b"a"])
    assert (b"ab", b"c") == PROTOBUF.join([b"a", b"b", b"c"], 2)
    assert [16, 1] == [len(message) for message in PROTOBUF.join([b"\x00"] * 17)]
