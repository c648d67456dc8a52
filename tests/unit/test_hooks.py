"""The application's own functions: which are asked, which are told, and what their failures do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from tests.unit.clocks import turns
from wirebell.errors import CommandError, ConfigError, Denied, ProtocolError
from wirebell.hooks import Caller, Hooks
from wirebell.model import Identity

pytestmark = pytest.mark.anyio

CALLER = Caller("client", "ann", HTTPConnection({"type": "http", "headers": []}))


async def test_who_decides_is_asked_in_order() -> None:
    """Plain and async functions are asked one after the other; the first that raises ends it."""
    hooks, asked = Hooks(), list[str]()

    async def first(caller: Caller) -> None:
        await asyncio.sleep(0)
        asked.append(f"first {caller.user_id}")

    def second(caller: Caller) -> None:
        raise Denied("no")

    hooks.on_connect = [first, second, first]
    hooks.on_subscribe = [lambda caller, channel: asked.append(channel)]

    with pytest.raises(Denied, match="no"):
        await hooks.connect(CALLER)
    await hooks.subscribe(CALLER, "a")

    assert ["first ann", "a"] == asked


async def test_refresh() -> None:
    """Without a function nobody lives on; what it returns must be an identity."""
    hooks = Hooks()
    assert None is await hooks.refresh(CALLER)
    hooks.on_refresh = lambda caller: Identity(caller.user_id)
    assert Identity("ann") == await hooks.refresh(CALLER)
    hooks.on_refresh = lambda caller: None
    assert None is await hooks.refresh(CALLER)

    hooks.on_refresh = lambda caller: True
    with pytest.raises(TypeError, match="returns an Identity, got bool"):
        await hooks.refresh(CALLER)


async def test_who_is_told_is_nobodys_problem(caplog: pytest.LogCaptureFixture) -> None:
    """Each function runs in a task of its own; its failure is in the log, by its name."""
    hooks, told = Hooks(), list[Any]()

    async def broken(caller: Caller) -> None:
        raise RuntimeError("broken")

    hooks.on_disconnect = [broken, told.append]
    hooks.on_unsubscribe = [lambda *values: told.append(values[1:])]
    hooks.disconnect(CALLER)
    hooks.unsubscribe(CALLER, "a", 2000, "why")
    assert [] == told
    await turns()

    assert [CALLER, ("a", 2000, "why")] == told
    assert "broken failed" in caplog.text
    assert set() == hooks.tasks


async def test_aclose_is_bounded() -> None:
    """What runs may finish; what does not in time is cancelled."""
    hooks, ended = Hooks(), list[str]()

    async def slow(caller: Caller) -> None:
        try:
            await asyncio.sleep(100 if caller.user_id else 1)
        finally:
            ended.append(caller.user_id)

    hooks.on_disconnect = [slow]
    await hooks.aclose(1.0)
    hooks.disconnect(CALLER)
    hooks.disconnect(Caller("other", "", CALLER.handshake))
    await turns()
    start = asyncio.get_running_loop().time()
    await hooks.aclose(5.0)

    assert 5.0 == asyncio.get_running_loop().time() - start
    assert (["", "ann"], set()) == (ended, hooks.tasks)


async def test_rpc() -> None:
    """A handler gets decoded data, and what it returns is encoded; nothing is nothing."""
    hooks = Hooks()

    async def add(caller: Caller, data: Any) -> Any:
        return sum(data) if data is not None else None

    hooks.add_rpc("add", add)
    hooks.add_rpc("nan", lambda caller, data: float("nan"))

    assert b"3" == await hooks.call(CALLER, "add", b"[1,2]")
    assert b"" == await hooks.call(CALLER, "add", b"")
    assert b"null" == await hooks.call(CALLER, "nan", b"")
    with pytest.raises(ConfigError, match="'add' has a function already"):
        hooks.add_rpc("add", add)


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("other", b"1", 104),
        ("", b"1", 104),
        ("echo", b"{", 107),
        ("echo", b'"\xff"', 107),
        ("echo", b"[" * 10_000, 107),
    ],
)
async def test_rpc_that_cannot_be_called(method: str, data: bytes, code: int) -> None:
    """An unknown method is 104, data that is no JSON 107."""
    hooks = Hooks()
    hooks.add_rpc("echo", lambda caller, value: value)

    with pytest.raises(ProtocolError) as caught:
        await hooks.call(CALLER, method, data)
    assert code == caught.value.code


async def test_rpc_that_refuses() -> None:
    """What the handler raises reaches whoever answers."""
    hooks = Hooks()

    def refuse(caller: Caller, data: Any) -> None:
        error = CommandError("sold out")
        error.code = 1_000
        raise error

    hooks.add_rpc("buy", refuse)

    with pytest.raises(CommandError, match="sold out"):
        await hooks.call(CALLER, "buy", b"")


@pytest.mark.parametrize(
    ("has_function", "data", "taken"),
    [(False, b"1", False), (True, b'{"a":1}', True), (True, b"", True), (True, b"{", False),
     (True, b'"\xff"', False)],
)  # fmt: skip
async def test_messages(has_function: bool, data: bytes, taken: bool) -> None:
    """They are taken where there is a function, and where they are JSON."""
    hooks, heard = Hooks(), list[Any]()
    if has_function:
        hooks.on_send = lambda caller, value: heard.append(value)

    assert taken == await hooks.send(CALLER, data)
    assert (1 if taken else 0) == len(heard)
