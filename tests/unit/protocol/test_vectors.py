"""Golden frames: both codecs read and write what is in ``protocol/vectors``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.protocol.vectors import (
    build_command,
    build_push,
    build_reply,
    fill,
    load,
    read_payload,
    spell,
    split_frames,
)
from wirebell.model import Membership, Publication
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import PONG, BadFrame, Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import Command
from wirebell.protocol.protobuf import PROTOBUF

Case = dict[str, Any]


def list_cases(name: str) -> list[Any]:
    """List the cases of a file, each under its name."""
    return [pytest.param(case, id=case["name"]) for case in load(name)]


def list_frames(case: Case) -> list[tuple[Codec, str | bytes]]:
    """List a case's frames with the codec that reads them."""
    frames: list[tuple[Codec, str | bytes]] = []
    if "json" in case:
        frames.append((JSON, case["json"]))
    if "protobuf" in case:
        frames.append((PROTOBUF, bytes.fromhex(case["protobuf"])))
    return frames


def build_commands(case: Case) -> list[Command]:
    """Build the commands of a case; one without an id that is no ``send`` is a pong."""
    commands = [build_command(model) for model in case.get("commands", [])]
    return [command if command.id or command.send else PONG for command in commands]


def encode_push(codec: Codec, case: Case) -> str | bytes:
    """Write the push of a case."""
    model, is_bare = case["push"], case.get("is_bare", False)
    told = build_push(model)
    if isinstance(told, Membership):
        return codec.encode_membership(model["channel"], told, is_bare=is_bare)
    if isinstance(told, Publication):
        patch = read_payload(model["pub"]["data"]) if model["pub"].get("delta") else None
        return codec.encode_publication(
            model["channel"],
            told,
            is_bare=is_bare,
            is_delta=case.get("is_delta", False),
            patch=patch,
        )
    return codec.encode_push(told, is_bare=is_bare)


def without_formats(model: Any) -> Any:
    """Leave out what protobuf does not tell: the format of payloads, and empty ones."""
    if isinstance(model, dict):
        return {
            key: without_formats(value)
            for key, value in model.items()
            if key != "format" and not (key == "data" and not value)
        }
    return [without_formats(value) for value in model] if isinstance(model, list) else model


@pytest.mark.parametrize("case", list_cases("commands"))
def test_commands_are_read(case: Case) -> None:
    """Both codecs read the same commands out of both forms of a frame."""
    for codec, frame in list_frames(case):
        assert build_commands(case) == codec.decode_commands(frame), codec.name


@pytest.mark.parametrize("case", list_cases("commands"))
def test_commands_are_written(case: Case) -> None:
    """The schema writes the model as the frame has it: client.proto is the recorded one's twin."""
    frame = b""
    for model in case["commands"]:
        message = pb.Command()
        fill(message, model)
        body = message.SerializeToString(deterministic=True)
        assert model == spell(message)
        frame += pb_length(len(body)) + body

    assert case["protobuf"] == frame.hex()


@pytest.mark.parametrize("case", list_cases("replies"))
def test_replies(case: Case) -> None:
    """Both codecs write a reply as a real server does, and the schema reads the model back."""
    reply = build_reply(case["reply"])
    (body,) = split_frames(bytes.fromhex(case["protobuf"]))

    assert json.loads(case["json"]) == json.loads(JSON.encode_reply(reply))
    assert case["protobuf"] == PROTOBUF.encode_reply(reply).hex()
    assert case["reply"] == spell(pb.Reply.FromString(body))


@pytest.mark.parametrize("case", list_cases("pushes"))
def test_pushes(case: Case) -> None:
    """Both codecs write a push as a real server does, and the schema reads the model back."""
    text = encode_push(JSON, case)
    (body,) = split_frames(bytes.fromhex(case["protobuf"]))
    push = pb.Push.FromString(body) if case.get("is_bare") else pb.Reply.FromString(body).push

    assert "\n" not in str(text)
    assert json.loads(case["json"]) == json.loads(text)
    assert case["protobuf"] == bytes(encode_push(PROTOBUF, case)).hex()  # type: ignore[arg-type]
    assert without_formats(case["push"]) == without_formats(spell(push))


@pytest.mark.parametrize("case", list_cases("bad_frames"))
def test_bad_frames(case: Case) -> None:
    """What cannot be read is refused, with the commands that stood before it."""
    for codec, frame in list_frames(case):
        with pytest.raises(BadFrame) as caught:
            codec.decode_commands(frame)

        assert build_commands(case) == caught.value.commands, codec.name


def pb_length(size: int) -> bytes:
    """Write a varint."""
    length = b""
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return length + bytes((size,))
