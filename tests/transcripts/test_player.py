"""The player sees deviations: it is given a server that replays recordings, and one that lies."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.transcripts.framing import decode_frame
from tests.transcripts.player import Player
from tests.transcripts.recordings import FOLDER_LATER, FOLDERS, list_recordings, read_recording
from tests.transcripts.replay import ReplayServer, recorded_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transcripts.recordings import Event, Recording

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

AT_ONCE = 16


async def replay(
    played: Recording,
    replayed: Recording | None = None,
    rename: Callable[[str], str] = str,
    patience_seconds: float = 3.0,
) -> tuple[list[str], list[str]]:
    """Play one recording against a server that replays another.

    Returns:
        Differences that the player reports, and problems that the server reports.
    """
    async with ReplayServer(replayed or played, rename) as server:
        made = Player(played, server.url, is_hasty=True, patience_seconds=patience_seconds)
        differences = await made.play()
        return [str(difference) for difference in differences], server.problems


async def test_replayed_recordings_agree_with_themselves() -> None:
    """A server that says what was recorded is reported without any difference."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def play(name: str) -> tuple[str, list[str], list[str]]:
        recording = read_recording(name)
        async with turns:
            return (name, *await replay(recording))

    names = [name for name in list_recordings() if not read_recording(name).needs_backend]
    results = await asyncio.gather(*map(play, names))

    assert [] == [result for result in results if result[1] or result[2]]


CARRIED = (
    "websocket-json/recovery_success",
    "websocket-json/presence",
    "websocket-json/disconnect_api",
    "sse/session",
    "http-stream/session",
)


@pytest.mark.parametrize("name", CARRIED)
async def test_names_of_this_run_are_carried(name: str) -> None:
    """Client ids, sessions, nodes and epochs of the server under test are what the player sends."""
    recording = read_recording(name)
    other = {old: hashlib.sha256(old.encode()).hexdigest() for old in recorded_names(recording)}

    def rename(text: str) -> str:
        for old, new in other.items():
            text = text.replace(old, new)
        return text

    assert ([], []) == await replay(recording, rename=rename)


def change_event(recording: Recording, line: int, **fields: Any) -> Recording:
    """Return a recording with other members in one event."""
    events = [
        replace(event, fields={**event.fields, **fields}) if event.line == line else event
        for event in recording.events
    ]
    return replace(recording, events=tuple(events))


def leave_out(recording: Recording, line: int) -> Recording:
    """Return a recording without one event."""
    kept = tuple(event for event in recording.events if event.line != line)
    return replace(recording, events=kept)


def find(recording: Recording, kind: str, number: int = 0) -> Event:
    """Return the event of a kind, counted from 0."""
    return [event for event in recording.events if event.kind == kind][number]


MUTATIONS = (
    pytest.param(
        "subscribe_plain", '"subscribe":{}', '"subscribe":{"recoverable":true}', id="more"
    ),
    pytest.param("subscribe_plain", '"pub":{"data"', '"pub":{"offset":1,"data"', id="offset"),
    pytest.param("publish_allowed", '"user":"42"', '"user":"43"', id="user"),
    pytest.param("subscribe_errors", '"code":103', '"code":102', id="code"),
    pytest.param("subscribe_errors", '"message":"permission denied"', '"message":"no"', id="text"),
    pytest.param("connect_token_exp", '"ttl":3600', '"ttl":60', id="ttl"),
    pytest.param("history_limit", '"offset":2}', '"offset":3}', id="inner offset"),
    pytest.param("history_empty_channel", '"publications":[]', '"publications":null', id="null"),
    pytest.param("delta_live", "17@0,2:2}", "17@0,2:3}", id="patch"),
)


@pytest.mark.parametrize(("scenario", "old", "new"), MUTATIONS)
async def test_another_value_is_reported(scenario: str, old: str, new: str) -> None:
    """One other value in one message is one difference, at its line."""
    recording = read_recording(f"websocket-json/{scenario}")
    event = next(e for e in recording.events if old in e.fields.get("text", "") and not e.is_ours)
    text = event.fields["text"].replace(old, new, 1)
    differences, _ = await replay(recording, change_event(recording, event.line, text=text))

    assert [f"line {event.line}"] == [text.partition(",")[0] for text in differences]


async def test_another_epoch_of_the_same_stream_is_reported() -> None:
    """A name may be any, but must be the same wherever the recorded one is."""
    recording = read_recording("websocket-json/recovery_success")
    answers = [e.fields.get("response_body", "") for e in recording.events]
    epoch = json.loads(next(filter(None, answers)))["result"]["epoch"]
    events = [e for e in recording.events if epoch in e.fields.get("text", "") and not e.is_ours]
    text = events[-1].fields["text"].replace(epoch, "another1")
    changed = change_event(recording, events[-1].line, text=text)
    differences, _ = await replay(recording, changed)

    assert 1 == len(differences)
    assert "as before" in differences[0]


async def test_a_missing_message_is_reported() -> None:
    """A message that does not come ends the scenario with its line."""
    recording = read_recording("websocket-json/publish_allowed")
    missing = find(recording, "receive", 4)
    differences, _ = await replay(
        recording, leave_out(recording, missing.line), patience_seconds=0.5
    )

    assert 1 == len([text for text in differences if text.startswith(f"line {missing.line}")])


async def test_a_message_too_many_is_reported() -> None:
    """A message that was not recorded is a difference, also the very last one."""
    recording = read_recording("websocket-json/subscribe_plain")
    last = find(recording, "receive", -1)
    differences, _ = await replay(leave_out(recording, last.line), recording)

    assert 1 == len(differences)
    assert "not recorded" in differences[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"code": 3500}, "code is 3501, ours 3500"), ({"reason": "x"}, "reason is 'bad request'")],
)
async def test_another_close_is_reported(fields: dict[str, Any], said: str) -> None:
    """Code and reason of a close frame are compared."""
    recording = read_recording("websocket-json/command_before_connect")
    close = find(recording, "close")
    differences, _ = await replay(recording, change_event(recording, close.line, **fields))

    assert 1 == len(differences)
    assert said in differences[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": 500}, "status is 200, ours 500"),
        ({"response_body": '{"result":{"offset":7}}'}, "result.offset is left out, ours 7"),
        ({"response_body": "OK"}, "body is"),
        ({"response_headers": {"content-type": "text/html"}}, "header content-type"),
    ],
)
async def test_another_answer_is_reported(fields: dict[str, Any], said: str) -> None:
    """Status, body and the headers that matter are compared."""
    recording = read_recording("http-api/auth")
    request = find(recording, "http")
    differences, _ = await replay(recording, change_event(recording, request.line, **fields))

    assert 1 == len([text for text in differences if said in text])


async def test_another_stream_is_reported() -> None:
    """Fields of server-sent events that were not recorded are differences."""
    recording = read_recording("sse/session")
    event = find(recording, "receive", 2)
    text = "id: 1\n" + event.fields["text"]
    differences, _ = await replay(recording, change_event(recording, event.line, text=text))

    assert [f"line {event.line}, a: sse id is left out, ours '1'"] == differences


async def test_something_too_early_is_reported() -> None:
    """Where the recorded server waited for a second, coming at once is a difference."""
    recording = read_recording("websocket-json/stale_no_connect")
    async with ReplayServer(recording) as server:
        differences = await Player(recording, server.url).play()

    assert 1 == len(differences)
    assert "came after" in str(differences[0])


def test_protobuf_is_decoded_as_recorded() -> None:
    """Our schema reads every recorded protobuf message as the recording explains it."""
    compared = 0
    for name in list_recordings((*FOLDERS, *FOLDER_LATER)):
        for event in read_recording(name).events:
            if event.kind == "receive" and "decoded" in event.fields:
                assert event.fields["decoded"] == decode_frame(event.payload), (name, event.line)
                compared += 1

    assert compared > 90
