"""Whatever a peer sends into a connection: order, one answer each, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings, strategies as st
from starlette.requests import HTTPConnection

from tests.unit.clients import CODECS, Peer, encode_frame
from tests.unit.clocks import JumpingLoop, turns
from tests.unit.nodes import Rig, running
from wirebell import Denied, Realtime, Settings
from wirebell.authorization import Authorizer
from wirebell.errors import DISCONNECT_REASONS
from wirebell.model import ChannelOptions, ChannelPermissions, History
from wirebell.options import ClientOptions
from wirebell.protocol.codec import Codec
from wirebell.session import Session

ALL = ChannelPermissions(
    allow_subscribe_for_client=True,
    allow_subscribe_for_anonymous=True,
    allow_publish_for_client=True,
    allow_publish_for_anonymous=True,
    allow_presence_for_client=True,
    allow_presence_for_anonymous=True,
    allow_history_for_client=True,
    allow_history_for_anonymous=True,
)
NAMESPACES = {
    "plain": ChannelOptions(permissions=ALL),
    "kept": ChannelOptions(
        history=History(size=3),
        presence=True,
        join_leave=True,
        force_push_join_leave=True,
        allow_recovery=True,
        allow_positioning=True,
        allowed_delta_types=("fossil",),
        delta_publish=True,
        allow_tags_filter=True,
        permissions=ALL,
    ),
    "closed": ChannelOptions(history=History(), presence=True),
}
CHANNELS = st.sampled_from(
    ["plain:1", "kept:1", "kept:2", "closed:1", "nope:1", "", "plain:é", "plain:\x00", "x" * 300]
)
SMALL = st.integers(0, 3)
NUMBERS = st.one_of(SMALL, st.sampled_from([2**31 - 1, 2**31, 2**63, 2**64]))


def some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Draw a request."""
    return st.fixed_dictionaries(required, optional=optional)


LEAF = st.fixed_dictionaries(
    {"cmp": st.sampled_from(["eq", "gt", "x"]), "key": st.just("k"), "val": st.just("1")}
)
FILTER = st.one_of(
    LEAF, st.fixed_dictionaries({"op": st.sampled_from(["and", "?"]), "nodes": st.lists(LEAF)})
)
WISH = {
    "recover": st.booleans(),
    "recoverable": st.booleans(),
    "positioned": st.booleans(),
    "join_leave": st.booleans(),
    "offset": NUMBERS,
    "epoch": st.sampled_from(["", "_", "abcdefgh"]),
    "delta": st.sampled_from(["", "fossil", "fossil", "x"]),
    "tf": FILTER,
    "flag": SMALL,
    "type": st.sampled_from([0, 0, 0, 1, 4, 9]),
    "token": st.sampled_from(["", "a.b.c"]),
}
ON_CHANNEL = {"channel": CHANNELS}
DATA = st.recursive(st.none() | st.booleans() | SMALL | st.text(max_size=9), st.lists, max_leaves=4)
REQUESTS: dict[str, st.SearchStrategy[Any]] = {
    "connect": some({}, {"subs": st.dictionaries(CHANNELS, some({}, WISH), max_size=2)}),
    "subscribe": some(ON_CHANNEL, WISH),
    "unsubscribe": some(ON_CHANNEL, {}),
    "publish": some({**ON_CHANNEL, "data": DATA}, {"type": SMALL}),
    "presence": some(ON_CHANNEL, {}),
    "presence_stats": some(ON_CHANNEL, {}),
    "history": some(
        ON_CHANNEL,
        {
            "limit": st.integers(-1, 4),
            "reverse": st.booleans(),
            "since": some({}, {"offset": NUMBERS, "epoch": st.sampled_from(["", "_"])}),
        },
    ),
    "rpc": some({}, {"method": st.sampled_from(["", "echo", "deny", "break"]), "data": DATA}),
    "send": some({}, {"data": DATA}),
    "refresh": some({}, {"token": st.sampled_from(["", "a.b.c"])}),
    "sub_refresh": some({}, {"channel": CHANNELS, "token": st.just("a.b.c")}),
    "ping": st.just({}),
}
HARMLESS = [name for name in REQUESTS if name not in {"connect", "refresh", "sub_refresh", "ping"}]


def commands_of(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw commands; the ids are given later."""
    return st.one_of([st.fixed_dictionaries({name: REQUESTS[name]}) for name in names])


# Mostly what can be done, so that connections live; now and then what ends them.
COMMAND = st.one_of(*[commands_of(*HARMLESS)] * 8, commands_of(*REQUESTS), st.just({}))
RECOVERING = {"subscribe": {"channel": "kept:1", "recoverable": True, "delta": "fossil"}}
FRAMES = st.lists(
    st.one_of(*[st.lists(COMMAND, min_size=1, max_size=4)] * 6, st.text(max_size=20)), max_size=8
)


class Run:
    """A node with an application, and what its peers were told."""

    def __init__(self, rig: Rig, rt: Realtime) -> None:
        self.rig = rig
        self.rt = rt

    def peer(self, codec: Codec) -> Peer:
        """Open a connection."""
        handshake = HTTPConnection(
            {"type": "websocket", "headers": [], "path": "/", "query_string": b""}
        )
        return Peer(self.rig, codec, access=Authorizer(self.rt.authority, handshake))

    def assert_empty(self) -> None:
        """Check that nothing is left of anybody."""
        node, hub = self.rig.node, self.rig.node.hub
        left = {
            "connections": node.connections,
            "users": node.users,
            "addresses": node.admission.by_address,
            "live": hub.live,
            "catching up": hub.catching_up,
            "pending": hub.pending,
            "replies": hub.replies,
            "taken": hub.taken,
            "backlogs": hub.backlogs,
            "bases": hub.bases,
            "tops": hub.tops,
            "presence": self.rig.store.presence.channels,
            "hooks": self.rt.hooks.tasks,
        }
        assert {} == {name: value for name, value in left.items() if value}
        assert node.timers is not None
        # The node's own: pings, presence, positions.
        assert sum(len(bucket) for bucket in node.timers.wheel.buckets.values()) <= 3


def run(work: Callable[[Run], Awaitable[None]]) -> None:
    """Run a node on a loop whose clock jumps."""

    async def main() -> None:
        config = Settings(
            channels_per_connection_max=3, history_publications_max=3, publication_bytes_max=500
        )
        clients = ClientOptions(allow_anonymous_connect_without_token=True)
        rt = Realtime(config, clients=clients, namespaces=NAMESPACES)
        rt.permissions.join(FastAPI())
        rt.rpc("echo")(lambda caller, data: data)
        rt.rpc("deny")(_deny)
        rt.rpc("break")(_break)
        rt.on_message(lambda caller, data: None)
        rt.on_disconnect(_wait)
        async with running(config) as rig:
            rig.node.options_for = rt.authority.known_options
            rt.running = rig.node
            await work(Run(rig, rt))

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


def _deny(caller: object, data: object) -> None:
    raise Denied("no")


def _break(caller: object, data: object) -> None:
    raise RuntimeError("broken")


async def _wait(caller: object) -> None:
    await asyncio.sleep(0)


def number(frames: list[Any]) -> list[Any]:
    """Give every command an id of its own; messages and pongs have none."""
    count = 1
    numbered: list[Any] = []
    for frame in frames:
        if not isinstance(frame, list):
            numbered.append(frame)
            continue
        commands = []
        for command in frame:
            if command and "send" not in command:
                count += 1
                commands.append({"id": count, **command})
            else:
                commands.append(command)
        numbered.append(commands)
    return numbered


def encode(codec: Codec, frame: Any) -> str | bytes | None:
    """Write a frame; ``None`` for what the schema has no room for."""
    if isinstance(frame, str):
        return frame if not codec.is_binary else frame.encode()
    try:
        return encode_frame(codec, *frame)
    except Exception:  # noqa: BLE001 - numbers out of bounds cannot be written in protobuf.
        return None


def assert_answered(peer: Peer, ids: list[int]) -> None:
    """Check replies: in the order of the commands, each once; all of them, unless it was closed."""
    told = [message["id"] for message in peer.messages if message.get("id")]
    assert told == ids[: len(told)]
    if not peer.closed and not is_failed(peer):
        assert told == ids


def is_failed(peer: Peer) -> bool:
    """Tell whether connect was answered with an error: then nothing more is."""
    return any(message.get("id") == 1 and "error" in message for message in peer.messages)


async def speak(peer: Peer, frames: list[Any]) -> list[int]:
    """Send frames; return the ids whose answers are owed."""
    ids: list[int] = []
    for frame in frames:
        data = encode(peer.codec, frame)
        if data is None:
            continue
        if not peer.closed and not isinstance(frame, str):
            ids += [command["id"] for command in frame if command.get("id")]
        before = len(peer.transport.messages)
        was_closed = bool(peer.closed)
        await (peer.hand_over(data) or turns(0))
        await turns(3)
        if was_closed:
            assert before == len(peer.transport.messages)
    return ids


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=120)
@given(frames=FRAMES, connects=st.booleans(), connect=REQUESTS["connect"])
@example(frames=[[{"subscribe": {"channel": "kept:1"}}], ""], connects=True, connect={})
def test_commands_in_any_order(
    codec: Codec, frames: list[Any], connects: bool, connect: dict[str, Any]
) -> None:
    """No exception escapes; answers keep the order, one each; after the end there is nothing."""

    async def work(it: Run) -> None:
        peer, watcher = it.peer(codec), it.peer(CODECS[0])
        await watcher.connect()
        await watcher.say({"id": 2, "subscribe": {"channel": "kept:1"}})
        numbered = number(frames)
        if connects:
            numbered = [[{"id": 1, "connect": connect}], *numbered]

        ids = await speak(peer, numbered)

        assert_answered(peer, ids)
        assert len(peer.closed) <= 1
        assert {code for code, _ in peer.closed} <= set(DISCONNECT_REASONS)
        assert [] == watcher.closed
        await peer.leave()
        await watcher.leave()
        await turns(20)
        it.assert_empty()

    run(work)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=60)
@given(
    frame=st.lists(commands_of(*HARMLESS), min_size=1, max_size=3),
    gates=st.lists(st.sampled_from(["subscribe", "history", "add", "join", "publish"]), max_size=3),
    how=st.sampled_from(["leave", "close", "unsubscribe", "cancel"]),
)
@example(frame=[RECOVERING], gates=["history"], how="leave")
@example(frame=[RECOVERING], gates=["history"], how="unsubscribe")
@example(frame=[RECOVERING], gates=["history"], how="cancel")
def test_leaving_at_any_moment(codec: Codec, frame: list[Any], gates: list[str], how: str) -> None:
    """Whatever is waited for when a peer leaves, or is ended by the server: nothing is left."""

    async def work(it: Run) -> None:
        peer, watcher = it.peer(codec), it.peer(CODECS[0])
        await peer.connect()
        # Somebody else, so that the history is not empty.
        await watcher.connect()
        await watcher.say({"id": 2, "publish": {"channel": "kept:1", "data": 1}})
        await watcher.leave()
        held = [it.rig.gates.hold(name) for name in gates]
        ids = [command["id"] for command in number([frame])[0] if command.get("id")]
        encoded = encode(codec, number([frame])[0])
        if encoded is None:
            return
        before = len(peer.messages)

        async def handle() -> None:
            await (peer.hand_over(encoded) or turns(0))

        task = asyncio.create_task(handle())
        await turns()
        match how:
            case "leave":
                await peer.leave()
            case "close":
                peer.receiver.receive_shutdown()
            case "unsubscribe":
                for channel in list(peer.client.connection.channels):
                    peer.client.unsubscribe(channel, 2000, "server unsubscribe")
            case _:
                task.cancel()
        for gate in held:
            gate.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await turns(20)

        told = [message["id"] for message in peer.messages[before:] if message.get("id")]
        assert told == ids[: len(told)]
        if how == "unsubscribe" and not peer.closed:
            assert told == ids
        await peer.leave()
        await turns(20)
        it.assert_empty()

    run(work)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=200)
@given(data=st.one_of(st.binary(max_size=64), st.text(max_size=64)))
def test_noise(codec: Codec, data: str | bytes) -> None:
    """Frames without sense end a session with 3501, or are commands that come out in order."""
    session = Session(codec)
    session.receive_data(
        '{"id":1,"connect":{}}' if not codec.is_binary else b"\x04\x08\x01\x22\x00"
    )
    assert session.next_command() is not None
    session.connecting()
    session.connected()
    assert session.next_command() is None

    session.receive_data(data)
    with contextlib.suppress(Exception):
        while (found := session.next_command()) is not None:
            assert found[1].id >= 0
    assert session.waiting is None


def test_memory_does_not_grow() -> None:
    """Hundreds of connections that say all kinds of things, right and wrong, leave no bytes."""
    frames = [
        {"id": 2, "subscribe": {"channel": "kept:1", "delta": "fossil", "positioned": True}},
        {"id": 3, "publish": {"channel": "kept:1", "data": {"a": 1}}},
        {"id": 4, "rpc": {"method": "echo", "data": 1}},
        {"id": 5, "history": {"channel": "kept:1", "limit": 2}},
        {"id": 6, "subscribe": {"channel": "nope:1"}},
        {"id": 7, "ping": {}},
    ]

    async def visit(it: Run, codec: Codec) -> None:
        peer = it.peer(codec)
        await peer.connect()
        for frame in frames:
            await (peer.hand_over(encode_frame(codec, frame)) or turns(0))
        await peer.leave()

    async def work(it: Run) -> None:
        async def visits(count: int) -> int:
            for index in range(count):
                await visit(it, CODECS[index % 2])
            await turns(20)
            it.rig.gates.calls.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            first = await visits(100)
            last = await visits(300)
        finally:
            tracemalloc.stop()
        it.assert_empty()
        # Bounded caches remember some of the last; a client that stayed would be 5,000 bytes.
        assert last - first < 300 * 500

    run(work)
