"""The recordings of a real server as Python objects, and the differences that we accept.

A recording is one scenario of ``protocol/transcripts``: options, then events in order. Lines are
counted as an editor shows them: the options are line 1, the first event is line 2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = (
    "API_KEY",
    "FOLDERS",
    "FOLDER_LATER",
    "TRANSCRIPTS",
    "Accepted",
    "Event",
    "Recording",
    "list_accepted",
    "list_recordings",
    "read_recording",
)

TRANSCRIPTS = Path(__file__).parents[2] / "protocol" / "transcripts"
"""Where the recordings are."""

FOLDERS = (
    "http-api",
    "http-stream",
    "sse",
    "uni-http-stream",
    "uni-sse",
    "uni-websocket",
    "websocket-json",
    "websocket-protobuf",
)
"""Folders that are played."""

FOLDER_LATER = ("map", "shared-poll")
"""Folders of features that Wirebell does not have yet."""

API_KEY = "api-key-for-tests"
"""What requests of the client ``api`` carry as ``X-API-Key``."""

PING_INTERVAL_SECONDS = 25.0
"""The default of the protocol; a scenario without its own never sees a ping."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a recording.

    Attributes:
        line: Its number in the file, from 2.
        at_ms: Milliseconds since the start of the recording.
        client: The connection, ``"api"``, or ``"backend"``.
        kind: The ``dir`` of the file: ``send``, ``receive``, ``close`` or ``http``.
        fields: Everything else of the line.
    """

    line: int
    at_ms: int
    client: str
    kind: str
    fields: Mapping[str, Any]

    @property
    def payload(self) -> str | bytes:
        """What was sent or received: text, or bytes where the recording has ``hex``."""
        if "hex" in self.fields:
            return bytes.fromhex(self.fields["hex"])
        if "text_parts" in self.fields:
            parts = self.fields["text_parts"]
            return "".join(p if isinstance(p, str) else p["repeat"] * p["times"] for p in parts)
        text: str = self.fields["text"]
        return text

    @property
    def frame(self) -> str:
        """``"ping"`` or ``"pong"`` for native WebSocket frames, else empty."""
        return str(self.fields.get("frame", ""))

    @property
    def body(self) -> bytes:
        """Body of an HTTP request."""
        if "request_body_hex" in self.fields:
            return bytes.fromhex(self.fields["request_body_hex"])
        return str(self.fields.get("request_body", "")).encode()

    @property
    def is_upgrade(self) -> bool:
        """Whether the HTTP request opens a WebSocket, or tried to."""
        headers = self.fields.get("request_headers", {})
        return self.fields.get("status") == 101 or "Upgrade" in headers

    @property
    def is_ours(self) -> bool:
        """Whether the test does this, instead of the server."""
        if self.kind == "http":
            return self.client != "backend"
        return self.kind == "send" or str(self.fields.get("by")) == "client"


@dataclass(frozen=True, slots=True)
class Recording:
    """One scenario.

    Attributes:
        name: ``folder/scenario``.
        header: The first line: options of the server.
        events: In the order of the file.
        varies: Paths of values that differ on each run.
    """

    name: str
    header: Mapping[str, Any]
    events: Sequence[Event]
    varies: Sequence[str]

    @property
    def transport(self) -> str:
        """Folder in which it lies."""
        return self.name.partition("/")[0]

    @property
    def is_timed(self) -> bool:
        """Whether the distances of ``at_ms`` must be kept."""
        return bool(self.header.get("timed"))

    @property
    def has_pings(self) -> bool:
        """Whether the interval is so short that pings come while it is played."""
        return str(self.header["client_options"].get("ping_interval")) == "1s"

    @property
    def is_slow(self) -> bool:
        """Whether somebody waits for a second or more while it is played."""
        gaps = zip(self.events, self.events[1:], strict=False)
        waits = (b.at_ms - a.at_ms for a, b in gaps if not b.is_ours)
        return self.is_timed or any(wait >= 400 for wait in waits)

    @property
    def needs_backend(self) -> bool:
        """Whether the server asks an application backend."""
        return "http://BACKEND" in json.dumps(self.header)

    def configuration(self, backend_url: str = "") -> dict[str, Any]:
        """Return the configuration of the server: the tree of a Centrifugo file.

        Args:
            backend_url: Takes the place of ``http://BACKEND``.
        """
        tree: dict[str, Any] = {"http_api": {"key": API_KEY}, "channel": {}}
        tree["client"] = dict(self.header["client_options"])
        for section, options in self.header.get("server_options", {}).items():
            tree[section] = {**tree.get(section, {}), **options}
        namespaces = dict(self.header["namespace_options"])
        if "" in namespaces:
            tree["channel"]["without_namespace"] = namespaces.pop("")
        listed = [{"name": name, **options} for name, options in namespaces.items()]
        tree["channel"]["namespaces"] = listed
        text = json.dumps(tree).replace("http://BACKEND", backend_url)
        result: dict[str, Any] = json.loads(text)
        return result

    def with_accepted(self, rows: Sequence[Accepted]) -> Recording:
        """Return the scenario as it should go with us: with `rows` in place of their lines."""
        instead = {line: events for row in rows for line, events in row.lines.items()}
        events = (
            _change(event, fields)
            for event in self.events
            for fields in instead.get(event.line, ({},))
        )
        varies = [*self.varies, *(path for row in rows for path in row.varies)]
        return replace(self, events=tuple(events), varies=tuple(varies))


@dataclass(frozen=True, slots=True)
class Accepted:
    """A difference to the recorded server that we want, a row of the table.

    Attributes:
        scenario: Name of the recording.
        recorded: What the recorded server does, in words.
        ours: What we do, in words.
        reason: Why.
        lines: Line → what stands there with us: members of events in place of the recorded ones;
            none means that nothing happens there.
        varies: Further paths that differ on each run.
        is_played: Whether the scenario is played at all.
    """

    scenario: str
    recorded: str
    ours: str
    reason: str
    lines: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    varies: Sequence[str] = ()
    is_played: bool = True


def _change(event: Event, fields: Mapping[str, Any]) -> Event:
    """Return `event` with the members of `fields`; a member that is ``None`` is left out."""
    own = {"dir": event.kind, "client": event.client, "at_ms": event.at_ms}
    members = {**own, **event.fields} if fields.get("dir", event.kind) == event.kind else own
    return _create_event(event.line, {**members, **fields})


def _create_event(line: int, members: Mapping[str, Any]) -> Event:
    rest = {key: value for key, value in members.items() if value is not None}
    at_ms, client, kind = rest.pop("at_ms"), rest.pop("client"), rest.pop("dir")
    return Event(line, at_ms, client, kind, rest)


def list_recordings(folders: Sequence[str] = FOLDERS) -> Iterator[str]:
    """Yield the names of all recordings in `folders`, sorted."""
    for folder in folders:
        for path in sorted((TRANSCRIPTS / folder).glob("*.jsonl")):
            yield f"{folder}/{path.stem}"


def read_recording(name: str) -> Recording:
    """Return the recording `name`, as ``folder/scenario``."""
    text = (TRANSCRIPTS / f"{name}.jsonl").read_text(encoding="utf-8")
    # Not `splitlines`: it also splits at U+2028 and others that JSON leaves as they are.
    header, *lines, last = (json.loads(line) for line in text.rstrip("\n").split("\n"))
    events = tuple(_create_event(number, line) for number, line in enumerate(lines, 2))
    return Recording(name, header, events, tuple(last["varies"]))


@cache
def list_accepted() -> tuple[Accepted, ...]:
    """Return the table of accepted differences, in the order of its file."""
    rows = json.loads((TRANSCRIPTS / "differences.json").read_text(encoding="utf-8"))
    return tuple(
        Accepted(**{**row, "lines": {int(k): v for k, v in row.get("lines", {}).items()}})
        for row in rows["differences"]
    )
