"""Plays one recording against a server and reports every difference.

Events are taken in the order of the file: what a client sends is sent when everything before it
has arrived, what a client receives is waited for. How messages share frames, and the order between
clients, is free. Time is looked at where the recorded server made somebody wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2

from tests.transcripts.comparison import Comparison
from tests.transcripts.framing import (
    create_decoder,
    decode_frame,
    replace_in_commands,
    replace_in_emulation,
)
from tests.transcripts.links import Closed, NativePing, Socket, Stream, open_socket
from tests.transcripts.recordings import API_KEY
from tests.transcripts.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.transcripts.backend import Backend
    from tests.transcripts.framing import Decoder
    from tests.transcripts.recordings import Event, Recording

__all__ = ("Difference", "Player")

PATIENCE_SECONDS = 30.0
"""How much later than recorded something may come, on a machine that is busy."""

SETTLE_SECONDS = 0.1
"""How long nothing more may come at the end of a scenario."""

NOTICEABLE_MS = 400
"""Where the recorded server took longer, waiting was part of the scenario."""

EARLY_SHARE = 0.3
"""Something may come after this share of the recorded wait, not before: a ping comes at a random
moment, and tokens expire at whole seconds."""

HEADERS = (
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-max-age",
    "cache-control",
    "content-type",
    "sec-websocket-protocol",
    "x-accel-buffering",
)
"""Response headers that are compared. The others belong to the HTTP server, or are no headers that
anybody reads (``expire``, without an s)."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Unused; but without it each HTTP client reads all certificates of the system, 80 ms long."""

ABOUT_ORIGIN = frozenset({"access-control-allow-credentials", "access-control-allow-origin"})
"""Without an ``Origin`` in the request they say nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as recorded."""

    line: int
    client: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.client}: {self.text}"


class Player:
    """All clients of one scenario."""

    def __init__(
        self,
        recording: Recording,
        url: str,
        *,
        backend: Backend | None = None,
        stop_server: Callable[[], Awaitable[None]] | None = None,
        is_hasty: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            recording: What to play.
            url: Base of HTTP addresses of the server, without a slash at the end.
            backend: What the server asks, for recordings that need one.
            stop_server: Shuts the server down, for the recording in which it does.
            is_hasty: Take no time where the recording does, for a server that takes none.
            patience_seconds: How much later than recorded something may come.
        """
        self._recording = recording
        self._url = url
        self._backend = backend
        self._stop_server = stop_server
        self._is_hasty = is_hasty
        self._patience_seconds = patience_seconds
        self._comparison = Comparison(recording.varies)
        secret = recording.header["client_options"]["token"]["hmac_secret_key"]
        self._tokens = TokenMaker(secret)
        self._links: dict[str, Socket | Stream] = {}
        self._decoders: dict[str, Decoder] = {}
        self._pings: Counter[str] = Counter()
        self._ahead: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._acted_ms, self._acted_at = 0, time.monotonic()
        self._differences: list[Difference] = []
        # A kept connection may be closed by the server just when it is used again.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._http = httpx2.AsyncClient(
            timeout=PATIENCE_SECONDS, trust_env=False, verify=NO_TLS, limits=limits
        )

    async def play(self) -> list[Difference]:
        """Play everything; the first thing that does not come ends it."""
        previous_ms, previous_at = 0, time.monotonic()
        try:
            for event in self._recording.events:
                gap_ms = event.at_ms - previous_ms
                if event.is_ours:
                    await self._keep_distance(previous_at + gap_ms / 1000)
                    self._acted_ms, self._acted_at = event.at_ms, time.monotonic()
                if not await self._play_event(event, gap_ms):
                    break
                if gap_ms >= NOTICEABLE_MS and not event.is_ours:
                    self._check_wait(event)
                previous_ms, previous_at = event.at_ms, time.monotonic()
            else:
                await self._settle()
        finally:
            await asyncio.gather(*(link.close() for link in self._links.values()))
            await self._http.aclose()
        return self._differences

    async def _keep_distance(self, until: float) -> None:
        """Wait as long as the recorded clients did, where that is part of the scenario."""
        if self._recording.is_timed and not self._is_hasty:
            await asyncio.sleep(until - time.monotonic())

    async def _play_event(self, event: Event, gap_ms: int) -> bool:
        """Do what `event` says, or wait for it; false when it did not happen."""
        patience = self._patience_seconds + 2 * max(gap_ms, 0) / 1000
        try:
            match event.kind:
                case "send":
                    await self._send(event)
                case "http" if event.client == "backend":
                    await self._answer_as_backend(event, patience)
                case "http":
                    await self._request(event)
                case "receive":
                    await self._receive(event, patience)
                case "close" if event.is_ours:
                    await self._close(event)
                case _:
                    await self._wait_closed(event, patience)
        except TimeoutError:
            self._report(event, f"did not come: {_short(event.fields)}")
        except (ConnectionError, httpx2.HTTPError) as error:
            self._report(event, f"{error!r} at {_short(event.fields)}")
        else:
            return True
        return False

    def _link(self, client: str) -> Socket | Stream:
        if client not in self._links:
            raise ConnectionError("there is no connection")
        return self._links[client]

    def _report(self, event: Event, text: str) -> None:
        self._differences.append(Difference(event.line, event.client, text))

    def _compare(self, event: Event, recorded: Any, ours: Any, where: str = "") -> None:
        for text in self._comparison.differences(recorded, ours):
            self._report(event, f"{where}{text}")

    def _check_wait(self, event: Event) -> None:
        """Check that what the recorded server took its time for did not come at once.

        Since our last action: before that the server cannot have begun to wait.
        """
        recorded_ms = event.at_ms - self._acted_ms
        waited_ms = (time.monotonic() - self._acted_at) * 1000
        if waited_ms < recorded_ms * EARLY_SHARE and not (event.frame or self._is_hasty):
            self._report(event, f"came after {waited_ms:.0f} ms, recorded {recorded_ms} ms")

    def _adapt(self, text: str) -> str:
        """Return what is sent instead of a recorded text."""
        return self._comparison.substitute(self._tokens.replace(text))

    # What the test does

    async def _send(self, event: Event) -> None:
        if event.frame:
            return  # a native pong: the link has answered already
        link = self._link(event.client)
        assert isinstance(link, Socket)
        payload = event.payload
        self._learn_tokens(event)
        if isinstance(payload, str):
            await link.send(self._adapt(payload))
        elif "decoded" in event.fields:
            await link.send(replace_in_commands(payload, self._adapt))
        else:
            await link.send(payload)  # malformed on purpose

    def _learn_tokens(self, event: Event) -> None:
        text = json.dumps(event.fields)
        self._tokens.learn(text, event.fields.get("tokens", ()))

    async def _request(self, event: Event) -> None:
        self._learn_tokens(event)
        path = self._adapt(event.fields["path"])
        if event.is_upgrade:
            await self._upgrade(event, path)
            return
        is_streaming = bool(event.fields.get("streaming"))
        response = await self._http.send(self._create_request(event, path), stream=True)
        if is_streaming and response.status_code == 200:
            self._links[event.client] = Stream(response)
        else:
            await response.aread()
            await response.aclose()
            self._compare_body(event, response.content)
        self._compare_head(event, response.status_code, dict(response.headers))

    def _create_request(self, event: Event, path: str) -> httpx2.Request:
        # An empty Accept-Encoding, because a compressed answer is no difference.
        headers = {"Accept-Encoding": "identity"}
        if event.client == "api" and "request_headers" not in event.fields:
            headers |= {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        headers |= event.fields.get("request_headers", {})
        body = event.body
        if "request_body_hex" not in event.fields:
            body = self._adapt(body.decode()).encode()
        elif path.startswith("/emulation"):
            body = replace_in_emulation(body, self._adapt)
        else:
            body = replace_in_commands(body, self._adapt)
        method = event.fields["method"]
        return self._http.build_request(method, self._url + path, headers=headers, content=body)

    async def _upgrade(self, event: Event, path: str) -> None:
        headers = event.fields.get("request_headers", {})
        is_push = self._recording.transport.startswith("uni-")
        url = "ws" + self._url.removeprefix("http") + path
        socket, answer = await open_socket(url, headers, is_push=is_push)
        if socket is not None:
            self._links[event.client] = socket
        else:
            self._compare_body(event, answer.body)
        self._compare_head(event, answer.status, answer.headers)

    async def _close(self, event: Event) -> None:
        link = self._link(event.client)
        await asyncio.sleep(SETTLE_SECONDS)
        await link.close(event.fields.get("code", 1000))
        self._check_drained(event, event.client)

    # What the server does

    async def _receive(self, event: Event, patience: float) -> None:
        if event.frame == "ping":
            await self._wait_ping(event, patience)
            return
        for recorded in self._decode(event):
            ours = await self._next(event, patience)
            if isinstance(ours, Closed):
                self._report(event, f"closed with {ours.code} {ours.reason!r} before {recorded!r}")
                raise ConnectionResetError("closed too early")
            self._compare(event, recorded, ours)

    def _decode(self, event: Event) -> list[Any]:
        """Return the recorded messages that `event` completes."""
        is_push = self._recording.transport.startswith("uni-")
        if not isinstance(self._link(event.client), Stream):
            return decode_frame(event.payload, is_push=is_push)
        if event.client not in self._decoders:
            self._decoders[event.client] = create_decoder(self._recorded_type(event.client))
        payload = event.payload
        data = payload.encode() if isinstance(payload, str) else payload
        return self._decoders[event.client].feed(data)

    def _recorded_type(self, client: str) -> str:
        events = (e for e in self._recording.events if e.client == client and e.kind == "http")
        headers = next(events).fields.get("response_headers", {})
        return str(headers.get("content-type", ""))

    async def _next(self, event: Event, patience: float) -> Any:
        """Return the next message or `Closed`."""
        link = self._link(event.client)
        if self._ahead[event.client]:
            return self._ahead[event.client].popleft()
        while isinstance(item := await link.inbox.get(patience), NativePing):
            self._pings[event.client] += 1
        return item

    async def _wait_ping(self, event: Event, patience: float) -> None:
        """Wait for a native ping; its place between messages is free."""
        link = self._link(event.client)
        while not self._pings[event.client]:
            item = await link.inbox.get(patience)
            if isinstance(item, NativePing):
                self._pings[event.client] += 1
            else:
                self._ahead[event.client].append(item)
        self._pings[event.client] -= 1

    async def _wait_closed(self, event: Event, patience: float) -> None:
        if event.fields.get("code") == 3001 and self._stop_server is not None:
            await self._stop_server()
        while not isinstance(item := await self._next(event, patience), Closed):
            self._report(event, f"not recorded: {item!r}")
        if "code" in event.fields:
            recorded = {"code": event.fields["code"], "reason": event.fields["reason"]}
            self._compare(event, recorded, {"code": item.code, "reason": item.reason})

    async def _answer_as_backend(self, event: Event, patience: float) -> None:
        assert self._backend is not None
        async with asyncio.timeout(patience):
            request = await self._backend.requests.get()
        self._compare(event, event.fields["path"], request.path)
        recorded, ours = json.loads(event.fields["request_body"]), json.loads(request.body)
        # The recording says of the client's messages what varies, not of the backend's.
        self._comparison.name(recorded.get("client", ""), ours.get("client", ""))
        recorded = json.loads(self._comparison.substitute(json.dumps(recorded)))
        self._compare(event, recorded, ours, "request ")
        request.answer(event.fields["status"], event.fields.get("response_body", "").encode())

    def _check_drained(self, event: Event, client: str) -> None:
        for item in (*self._ahead[client], *self._links[client].inbox.drain()):
            is_late_ping = item == {} and self._recording.has_pings
            if not isinstance(item, NativePing | Closed) and not is_late_ping:
                self._report(event, f"not recorded: {item!r}")

    async def _settle(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        last = self._recording.events[-1]
        for client in self._links:
            self._check_drained(last, client)

    # HTTP answers

    def _compare_head(self, event: Event, status: int, headers: Mapping[str, str]) -> None:
        if status != event.fields["status"]:
            self._report(event, f"status is {event.fields['status']}, ours {status}")
        if "response_headers" not in event.fields:
            return
        ours = {name.lower(): value for name, value in headers.items()}
        ignored = {"content-type"} if status >= 400 else set()
        if "Origin" not in event.fields.get("request_headers", {}):
            ignored |= ABOUT_ORIGIN
        for name in HEADERS:
            a = _normalise(name, event.fields["response_headers"])
            b = _normalise(name, ours)
            if a != b and name not in ignored:
                self._report(event, f"header {name} is {a!r}, ours {b!r}")

    def _compare_body(self, event: Event, body: bytes) -> None:
        text = event.fields.get("response_body", "")
        with contextlib.suppress(ValueError):
            recorded = json.loads(text)
            try:
                ours = json.loads(body)
            except ValueError:
                self._report(event, f"body is {text!r}, ours {body!r}")
            else:
                self._compare(event, recorded, ours)
            return
        if event.fields["status"] < 400 and text.encode() != body:
            # Error pages are for people: their words are free.
            self._report(event, f"body is {text!r}, ours {body!r}")


def _normalise(name: str, headers: Mapping[str, str]) -> str:
    """Return the value of a header without what may differ: charset, order of a list, case."""
    value = headers.get(name, "")
    if name == "content-type":
        value = value.partition(";")[0]
    return ", ".join(sorted(part.strip().lower() for part in value.split(",")))


def _short(fields: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in fields.items() if k not in {"tokens", "hex"}})
    return text if len(text) < 300 else f"{text[:300]}…"
