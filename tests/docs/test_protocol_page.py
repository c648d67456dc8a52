"""What docs/protocol.md shows was recorded, can be read, and is complete."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from wirebell.errors import (
    DISCONNECT_REASONS,
    ERROR_MESSAGES,
    TEMPORARY_CODES,
    UNSUBSCRIBE_REASONS,
)
from wirebell.protocol import filters
from wirebell.protocol.json import JSON

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
# What is another one in each recording.
VARIES = frozenset(("client", "epoch", "id", "token", "version"))


def lines(kind: str) -> list[str]:
    """Return the lines of the examples that `client` or `server` sends."""
    found = re.findall(rf"^```json {kind}\n(.*?)^```$", PAGE, re.M | re.S)
    return "".join(found).splitlines()


def mask(value: Any) -> Any:
    """Put a star in the place of what varies."""
    if isinstance(value, dict):
        return {
            key: "*" if key in VARIES and not isinstance(each, dict) else mask(each)
            for key, each in value.items()
        }
    return [mask(each) for each in value] if isinstance(value, list) else value


@cache
def recorded(direction: str) -> frozenset[str]:
    """Collect all JSON messages that were ever sent or received, masked."""
    found = set()
    for path in (ROOT / "protocol" / "transcripts" / "websocket-json").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event.get("dir") != direction:
                continue
            for part in event.get("text", "").split("\n"):
                if part.startswith("{") and part.endswith("}"):
                    found.add(normalise(part))
    return frozenset(found)


def normalise(message: str) -> str:
    """Write a message so that equal ones are equal texts."""
    try:
        return json.dumps(mask(json.loads(message)), sort_keys=True)
    except ValueError:
        return message  # recordings of malformed frames


def test_every_command_was_sent_and_can_be_read() -> None:
    """Each command of the page is one of a recording, and our codec takes it."""
    commands = lines("client")

    assert len(commands) >= 8
    for line in commands:
        assert normalise(line) in recorded("send"), line
        assert len(JSON.decode_commands(line)) == 1


def test_every_answer_was_received() -> None:
    """Each reply and push of the page is one of a recording."""
    answers = lines("server")

    assert len(answers) >= 15
    for line in answers:
        assert normalise(line) in recorded("receive"), line


def test_every_code_is_on_the_page() -> None:
    """Errors, unsubscribe codes and the protocol's disconnect codes stand there, in our words."""
    for code, message in ERROR_MESSAGES.items():
        row = next(row for row in PAGE.splitlines() if row.startswith(f"| {code:d} | {message} |"))
        assert (code in TEMPORARY_CODES) == ("temporary" in row)
    for unsubscribe, reason in UNSUBSCRIBE_REASONS.items():
        assert f"| {unsubscribe:d} | {reason} |" in PAGE
    for disconnect, reason in DISCONNECT_REASONS.items():
        assert f"| {disconnect:d} | {reason} |" in PAGE


def test_the_filters_bounds_are_on_the_page() -> None:
    """The bounds are those of the module."""
    assert f"{filters.DEPTH_MAX} nodes deep, with {filters.NODES_MAX} nodes" in PAGE
    assert f"{filters.VALUES_MAX:,} values in lists" in PAGE
    assert f"{filters.TEXT_CHARACTERS_MAX:,} characters" in PAGE
