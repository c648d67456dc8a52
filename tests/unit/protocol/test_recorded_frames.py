"""Frames that clients sent to a real server: what it could not read, we cannot, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.unit.protocol.vectors import ROOT, spell, split_frames
from wirebell.errors import BadRequest
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.protocol.protobuf import PROTOBUF

CODECS: dict[str, Codec] = {"websocket-json": JSON, "websocket-protobuf": PROTOBUF}

UNREADABLE = {
    "websocket-json": {
        "frames_ids": {"negative_id", "id_too_large"},
        "frames_malformed": {
            "malformed_json",
            "malformed_json_array",
            "malformed_json_wrong_type",
            "empty_frame",
            "newline_frame",
            "null_frame",
            "unknown_command",
            "id_without_method",
        },
        "frames_separators": {
            "blank_line_between",
            "concatenated_without_newline",
            "good_then_malformed",
            "whitespace_in_command",
        },
    },
    "websocket-protobuf": {"frames": {"empty", "truncated", "text_frame", "id_only"}},
}
"""Folder → scenario → clients that sent a frame which cannot be read."""

BETTER = {("frames_separators", "concatenated_without_newline")}
"""The recorded server lost the second command in silence (section 1.16, point 15); we say 3501."""


class Sent(NamedTuple):
    """A frame, and how its connection ended if nothing was sent after it."""

    scenario: str
    client: str
    frame: str | bytes
    close: dict[str, Any] | None


def read_events(folder: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Read the events of every scenario of a folder."""
    for path in sorted((ROOT / "transcripts" / folder).glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        yield path.stem, [json.loads(line) for line in lines[1:-1]]


def read_frame(event: dict[str, Any]) -> str | bytes:
    """Give a frame as it was on the wire."""
    if "text_parts" in event:
        return "".join(
            part if isinstance(part, str) else part["repeat"] * part["times"]
            for part in event["text_parts"]
        )
    return str(event["text"]) if "text" in event else bytes.fromhex(event["hex"])


def list_sent(folder: str) -> Iterator[Sent]:
    """List what clients sent, without native WebSocket frames."""
    for scenario, events in read_events(folder):
        for index, event in enumerate(events):
            if event["dir"] != "send" or "frame" in event:
                continue
            after = (
                later
                for later in events[index + 1 :]
                if later["client"] == event["client"] and later["dir"] in {"send", "close"}
            )
            last = next(after, None)
            close = last if last is not None and last["dir"] == "close" else None
            yield Sent(scenario, event["client"], read_frame(event), close)


@pytest.mark.parametrize("folder", CODECS)
def test_client_frames(folder: str) -> None:
    """Frames are read, but for those after which the server closed with 3501."""
    unreadable: dict[str, set[str]] = {}
    count = 0
    for sent in list_sent(folder):
        count += 1
        try:
            commands = CODECS[folder].decode_commands(sent.frame)
        except BadRequest:
            unreadable.setdefault(sent.scenario, set()).add(sent.client)
            if (sent.scenario, sent.client) not in BETTER:
                assert sent.close is not None, sent
                assert ("server", 3501) == (sent.close["by"], sent.close["code"]), sent
        else:
            assert commands, sent

    assert count > 50
    assert UNREADABLE[folder] == unreadable


def test_decoded_frames() -> None:
    """Our schema reads every recorded protobuf frame as the recording's does."""
    count = 0
    for _, events in read_events("websocket-protobuf"):
        for event in events:
            if "decoded" not in event or "hex" not in event:
                continue
            kind = pb.Command if event["dir"] == "send" else pb.Reply
            frames = split_frames(bytes.fromhex(event["hex"]))
            assert event["decoded"] == [spell(kind.FromString(frame)) for frame in frames]
            count += 1

    assert count > 100
