"""The codecs of the client protocol: nothing a client sends breaks them; both say the same."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from tests.unit.protocol.vectors import (
    build_command,
    build_reply,
    fill,
    load,
    spell,
    split_frames,
)
from wirebell.errors import BadRequest
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import PONG, BadFrame, Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import Command
from wirebell.protocol.protobuf import PROTOBUF

CODECS: tuple[Codec, ...] = (JSON, PROTOBUF)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
BROKEN = st.text(max_size=60)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = VALUES.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")))
UINT32 = st.integers(1, 2**32 - 1)
UINT64 = st.integers(1, 2**64 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1).filter(bool)
NAMES = TEXTS.filter(bool)
TRUE = st.just(value=True)


def messages(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Make messages with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


LEAVES = messages(key=NAMES, cmp=NAMES, val=NAMES, vals=st.lists(TEXTS, min_size=1, max_size=3))
FILTERS = st.recursive(
    LEAVES,
    lambda inner: messages(op=NAMES, nodes=st.lists(inner, min_size=1, max_size=3)),
    max_leaves=5,
)
SUBSCRIBE = messages(
    channel=NAMES, token=NAMES, recover=TRUE, epoch=NAMES, offset=UINT64, data=PAYLOADS,
    positioned=TRUE, recoverable=TRUE, join_leave=TRUE, delta=NAMES, tf=FILTERS, flag=INT32,
    type=INT32, phase=INT32, cursor=NAMES, limit=INT32, asc=TRUE,
)  # fmt: skip
REQUESTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "connect": messages(
        token=NAMES, data=PAYLOADS, name=NAMES, version=NAMES, flag=INT32,
        subs=st.dictionaries(TEXTS, SUBSCRIBE, min_size=1, max_size=3),
        headers=st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3),
    ),
    "subscribe": SUBSCRIBE,
    "unsubscribe": messages(channel=NAMES),
    "publish": messages(channel=NAMES, data=PAYLOADS, type=INT32, key=NAMES, removed=TRUE),
    "presence": messages(channel=NAMES),
    "presence_stats": messages(channel=NAMES),
    "history": messages(
        channel=NAMES, limit=INT32, since=messages(offset=UINT64, epoch=NAMES), reverse=TRUE
    ),
    "ping": messages(),
    "send": messages(data=PAYLOADS),
    "rpc": messages(data=PAYLOADS, method=NAMES),
    "refresh": messages(token=NAMES),
    "sub_refresh": messages(channel=NAMES, token=NAMES, type=INT32),
}  # fmt: skip
COMMANDS = st.one_of(
    st.just({}),
    *(st.fixed_dictionaries({"id": UINT32, name: kind}) for name, kind in REQUESTS.items()),
)
INFOS = messages(user=NAMES, client=NAMES, conn_info=PAYLOADS, chan_info=PAYLOADS)
PUBLICATIONS = st.fixed_dictionaries(
    {"data": PAYLOADS},
    optional={
        "info": INFOS,
        "offset": st.integers(2, 2**64 - 1),
        "tags": st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3),
        "version": UINT64,
    },
)
RUNS = st.lists(PUBLICATIONS, min_size=1, max_size=3)
SUBSCRIBED = messages(
    expires=TRUE, ttl=UINT32, recoverable=TRUE, epoch=NAMES, publications=RUNS, recovered=TRUE,
    offset=UINT64, positioned=TRUE, data=PAYLOADS, was_recovering=TRUE,
)  # fmt: skip
RESULTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "error": messages(code=UINT32, message=NAMES, temporary=TRUE),
    "connect": messages(
        client=NAMES, version=NAMES, expires=TRUE, ttl=UINT32, data=PAYLOADS, ping=UINT32,
        pong=TRUE, session=NAMES, node=NAMES, time=st.integers(1, 2**63 - 1),
        subs=st.dictionaries(TEXTS, SUBSCRIBED, min_size=1, max_size=3),
    ),
    "subscribe": SUBSCRIBED,
    "unsubscribe": messages(),
    "publish": messages(),
    "presence": messages(presence=st.dictionaries(TEXTS, INFOS, min_size=1, max_size=3)),
    "presence_stats": messages(num_clients=UINT32, num_users=UINT32),
    "history": messages(publications=RUNS, epoch=NAMES, offset=UINT64),
    "rpc": messages(data=PAYLOADS),
    "refresh": messages(expires=TRUE, ttl=UINT32),
    "sub_refresh": messages(expires=TRUE, ttl=UINT32),
}  # fmt: skip
REPLIES = st.one_of(
    *(st.fixed_dictionaries({"id": UINT32, name: kind}) for name, kind in RESULTS.items())
)


def embed(model: Any) -> Any:
    """Make JSON's form of a model: payloads are embedded."""
    if isinstance(model, dict):
        return {
            name: msgspec.Raw(value) if name in {"data", "conn_info", "chan_info"} else embed(value)
            for name, value in model.items()
        }
    return [embed(value) for value in model] if isinstance(model, list) else model


def describe(value: Any) -> Any:
    """Make JSON comparable: what the encoding rules always send, and zero values, left out."""
    if isinstance(value, dict):
        told = {name: describe(entry) for name, entry in value.items()}
        return {name: entry for name, entry in told.items() if entry not in ("", 0, [], {})}
    return [describe(entry) for entry in value] if isinstance(value, list) else value


def frame_protobuf(model: dict[str, Any]) -> bytes:
    """Write a command by another way than the codec."""
    message = pb.Command()
    fill(message, model)
    size, length, body = message.ByteSize(), b"", message.SerializeToString()
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return length + bytes((size,)) + body


def expect(model: dict[str, Any]) -> Command:
    """Build the command that a frame of a model is read as."""
    return build_command(model) if model else PONG


@settings(max_examples=200)
@given(models=st.lists(COMMANDS, min_size=1, max_size=4))
def test_commands(models: list[dict[str, Any]]) -> None:
    """Both codecs read what a client wrote, any number of commands in a frame."""
    expected = [expect(model) for model in models]
    text = "\n".join(msgspec.json.encode(embed(model)).decode() for model in models)

    assert expected == JSON.decode_commands(text)
    assert expected == JSON.decode_commands(text.encode() + b"\n")
    assert expected == PROTOBUF.decode_commands(b"".join(map(frame_protobuf, models)))


@settings(max_examples=200)
@given(model=REPLIES)
def test_replies(model: dict[str, Any]) -> None:
    """Both codecs write what other decoders read as the same reply."""
    reply = build_reply(model)
    text = JSON.encode_reply(reply)
    (body,) = split_frames(PROTOBUF.encode_reply(reply))

    assert "\n" not in text
    assert describe(json.loads(msgspec.json.encode(embed(model)))) == describe(json.loads(text))
    assert model == spell(pb.Reply.FromString(body))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=300)
@given(frame=BROKEN | st.binary(max_size=60))
@example(frame="[" * 200_000)
@example(frame=b"[" * 200_000)
@example(frame='{"id":1,"subscribe":{"tf":' + '{"nodes":[' * 20_000)
@example(frame='{"id":1,"publish":{"channel":"\\ud800' * 3)
@example(frame="{}\n" * 20_000 + "x")
@example(frame=b"\x80" * 65_536)
@example(frame=b"\xff\xff\xff\xff\x0f")
def test_any_frame(codec: Codec, frame: str | bytes) -> None:
    """Any text and any bytes are commands or a bad frame, and never another error."""
    try:
        commands = codec.decode_commands(frame)
    except BadFrame as error:
        commands = error.commands
    else:
        assert commands

    for command in commands:
        assert command is PONG or command.send is not None or command.id > 0


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=200)
@given(data=st.data())
def test_damaged_frames(codec: Codec, data: st.DataObject) -> None:
    """A good frame with bytes changed, cut or doubled is commands or a bad frame."""
    case = data.draw(st.sampled_from(load("commands")))
    good = case.get("json", "").encode() if codec is JSON else bytes.fromhex(case["protobuf"])
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 3)))
    frame = good[:start] + data.draw(st.binary(max_size=3)) + good[end:]

    with contextlib.suppress(BadFrame):
        assert codec.decode_commands(frame)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=200)
@given(body=BROKEN | st.binary(max_size=60))
@example(body=b"[" * 200_000)
@example(body='{"subs":' * 50_000)
def test_any_first_message(codec: Codec, body: str | bytes) -> None:
    """Any first message and any emulation request is one, or a bad request."""
    with contextlib.suppress(BadRequest):
        codec.decode_connect(body)
    with contextlib.suppress(BadRequest):
        codec.decode_emulation(body.encode("utf-8", "replace") if isinstance(body, str) else body)
