"""Keys, bodies, answers and batches of the server API."""

from __future__ import annotations

import json
import logging

import pytest
from fastapi import FastAPI

from tests.unit.clocks import turns
from tests.unit.orders import KEY, Orders, running
from wirebell import Realtime, Settings
from wirebell.errors import ErrorCode
from wirebell.http_api import create_api_router, routes
from wirebell.model import ChannelOptions
from wirebell.options import APIOptions

pytestmark = pytest.mark.anyio

_PLAIN = ChannelOptions()
BODY = {"channel": "plain:1", "data": {}}
TEXT = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/publish", {"x-api-key": KEY}, 200),
        ("/publish", {"authorization": f"apikey {KEY}"}, 200),
        ("/publish", {"authorization": f"ApiKey  {KEY}"}, 200),
        (f"/publish?api_key={KEY}", {}, 200),
        (f"/publish?api_key={KEY}", {"x-api-key": "wrong"}, 200),
        ("/publish", {}, 401),
        ("/publish", {"x-api-key": ""}, 401),
        ("/publish", {"x-api-key": KEY + "x"}, 401),
        ("/publish", {"x-api-key": "é"}, 401),
        ("/publish", {"authorization": f"Bearer {KEY}"}, 401),
        ("/publish", {"authorization": KEY}, 401),
        ("/publish?api_key=wrong", {}, 401),
        ("/batch", {}, 401),
        ("", {}, 401),
        ("/info", {}, 401),
    ],
)
async def test_keys(path: str, headers: dict[str, str], status: int) -> None:
    """The key is shown in one of three ways."""
    async with running() as board:
        answer = await board.ask(path, BODY, headers=headers)

        assert status == answer[0]
        if status == 401:
            assert (b"", "apikey") == (answer[2], answer[1]["www-authenticate"])


async def test_no_key() -> None:
    """Where no key is set nobody is let in, with an empty one neither."""
    async with running(api=APIOptions()) as board:
        for headers in ({}, {"x-api-key": ""}, {"authorization": "apikey "}):
            assert 401 == (await board.ask("/publish", BODY, headers=headers))[0]


async def test_insecure(caplog: pytest.LogCaptureFixture) -> None:
    """In insecure mode nobody is asked for a key, and the log warns of it."""
    with caplog.at_level(logging.WARNING):
        async with running(api=APIOptions(insecure=True)) as board:
            assert 200 == (await board.ask("/publish", BODY, headers={}))[0]

    assert "takes orders from everybody" in caplog.text


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_content_types(content_type: str) -> None:
    """The body is JSON whatever its type says, in however many pieces it comes."""
    async with running() as board:
        headers = {"x-api-key": KEY, "content-type": content_type}
        status, answered, body = await board.ask("/publish", BODY, headers=headers, parts=3)

        assert (200, b'{"result":{}}') == (status, body)
        assert "application/json" == answered["content-type"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"channel":',
        b"[]",
        b'"x"',
        b'{"channel":1,"data":{}}',
        b'{"channel":"plain:1","data":{}} more',
        b'{"channel":"plain:1","data":{},"version":-1}',
        b'{"channel":"plain:1","data":{},"tags":{"a":1}}',
        b'{"channel":"\xff","data":{}}',
        b'{"channel":"\\ud800","data":{}}',
        b"[" * 100_000,
        b'{"channel":"plain:1","zzz":' + b"[" * 100_000,
    ],
)
async def test_malformed(body: bytes) -> None:
    """What is no request of JSON is answered 400."""
    async with running() as board:
        status, headers, answer = await board.ask("/publish", body)

        assert (400, b"Bad Request\n") == (status, answer)
        assert headers.items() >= TEXT.items()


async def test_data_that_is_no_text() -> None:
    """Data with bytes that are no UTF-8 reaches nobody."""
    async with running() as board:
        answer = await board.ask("/publish", b'{"channel":"plain:1","data":"\xff"}')

        assert (200, 107) == (answer[0], json.loads(answer[2])["error"]["code"])


async def test_unknown_members() -> None:
    """Members that nobody knows are ignored."""
    async with running() as board:
        assert {"result": {}} == await board.post("publish", {**BODY, "zzz": [1]})


async def test_long_bodies() -> None:
    """A body of as many bytes as it may have is taken, one more is not."""
    async with running(body_bytes_max=50) as board:
        body = json.dumps(BODY).encode()
        taken = await board.ask("/publish", body.ljust(50))
        refused = await board.ask("/publish", body.ljust(51), parts=2)

        assert (200, 413) == (taken[0], refused[0])
        assert b"a body has at most 50 bytes\n" == refused[2]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/info", 405),
        ("PUT", "/publish", 405),
        ("OPTIONS", "/batch", 405),
        ("GET", "", 405),
        ("POST", "/nope", 404),
        ("GET", "/nope", 404),
        ("POST", "/publish/", 404),
        ("POST", "/publish/x", 404),
    ],
)
async def test_other_paths(method: str, path: str, status: int) -> None:
    """Other methods are answered 405, other paths 404, with a key or without."""
    async with running() as board:
        for headers in (None, dict[str, str]()):
            answer = await board.ask(path, BODY, method=method, headers=headers)

            assert status == answer[0]
            if status == 404:
                assert b"404 page not found\n" == answer[2]
                assert answer[1].items() >= TEXT.items()
            else:
                assert (b"", "POST") == (answer[2], answer[1]["allow"])


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/publish", {"channel": "nope:1", "data": 1}, 404, 102),
        ("/publish", {"channel": "map:1", "data": 1}, 400, 108),
        ("/publish", {}, 400, 107),
        ("/rpc", {"method": "x"}, 404, 104),
        ("/history", {"channel": "news:1", "since": {"epoch": "x"}}, 416, 112),
        ("/broadcast", {"channels": ["plain:1"] * 10_001}, 400, 106),
        ("", {"method": "publish", "params": {}}, 400, 107),
    ],
)
async def test_statuses(path: str, body: object, status: int, code: int) -> None:
    """Who asks for it is told errors by the status too, and without their wrapping."""
    asking = {"x-api-key": KEY, "x-centrifugo-error-mode": "transport"}
    async with running() as board:
        asked = await board.ask(path, body, headers=asking)
        plain = await board.ask(path, body)
    async with running(api=APIOptions(key=KEY, transport_errors=True)) as board:
        configured = await board.ask(path, body)

    assert (status, status, 200) == (asked[0], configured[0], plain[0])
    assert code == json.loads(asked[2])["code"] == json.loads(configured[2])["code"]
    assert {"error": json.loads(asked[2])} == json.loads(plain[2])


def test_every_code_has_a_status() -> None:
    """No error is without a status."""
    assert set(ErrorCode) == routes.STATUSES.keys()


async def test_results_have_status_200() -> None:
    """The mode changes errors only, and not those inside an answer."""
    async with running(api=APIOptions(key=KEY, transport_errors=True)) as board:
        done = await board.post("publish", BODY)
        broadcast = await board.post("broadcast", {"channels": ["nope:1"], "data": 1})
        batch = await board.post("batch", {"commands": [{"rpc": {}}]})

        assert {"result": {}} == done
        assert 102 == broadcast["result"]["responses"][0]["error"]["code"]
        assert 107 == batch["replies"][0]["error"]["code"]


async def test_a_broker_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What breaks on our side is a temporary error, and the log says more."""
    async with running() as board:
        await board.rt.node().broker.aclose()
        answer = await board.post("history", {"channel": "news:1"})
        commands = [{"history": {"channel": "news:1"}}, {"channels": {}}]
        batch = await board.post("batch", {"commands": commands})

        error = {"code": 100, "message": "internal server error", "temporary": True}
        assert {"error": error} == answer
        assert {"replies": [{"error": error}, {"channels": {"channels": {}}}]} == batch
        assert "history of the server API failed" in caplog.text


async def test_an_application_that_does_not_run() -> None:
    """Before its lifespan an application answers that it is not there yet."""
    rt = Realtime(Settings(), namespaces={"plain": _PLAIN})
    app = FastAPI()
    app.include_router(create_api_router(Orders(rt), APIOptions(key=KEY)), prefix="/api")
    async with running() as board:
        board.app = app
        answer = await board.post("publish", BODY)

    assert 100 == answer["error"]["code"]


@pytest.mark.parametrize("parallel", [False, True])
async def test_batch(parallel: bool) -> None:
    """Each command is answered in its place, by its name or by an error."""
    async with running() as board:
        commands = [
            {"publish": {"channel": "news:1", "data": 1}},
            {"publish": {"channel": "nope:1", "data": 1}},
            {"broadcast": {"channels": ["plain:1"], "data": 1}},
            {"nope": {}},
            {},
            None,
            {"publish": None},
            {"channels": None, "presence_stats": {"channel": "room:1"}},
        ]
        replies = (await board.post("batch", {"commands": commands, "parallel": parallel}))[
            "replies"
        ]

        assert 1 == replies[0]["publish"]["offset"]
        assert {"responses": [{"result": {}}]} == replies[2]["broadcast"]
        codes = [reply.get("error", {}).get("code") for reply in replies]
        assert [None, 102, None, 104, 104, 107, 104, None] == codes
        assert {"presence_stats": {"num_clients": 0, "num_users": 0}} == replies[7]


async def test_batch_of_nothing() -> None:
    """An empty batch has an empty answer."""
    async with running() as board:
        bodies: list[dict[str, object]] = [{}, {"commands": []}, {"commands": None}]
        for body in bodies:
            assert {} == await board.post("batch", body)


async def test_batch_that_is_malformed() -> None:
    """If one command cannot be read none is done."""
    async with running() as board:
        commands = [{"publish": BODY}, {"publish": {"channel": 1}}]
        status, _, _ = await board.ask("/batch", {"commands": commands})

        assert 400 == status
        assert 0 == board.rt.node().statistics.published_count


async def test_batch_out_of_bounds() -> None:
    """A batch has a bound; in a parallel one commands are started in groups."""
    async with running(batch_commands_max=200) as board:
        command = {"publish": BODY}
        taken = await board.post("batch", {"commands": [command] * 200, "parallel": True})
        refused = await board.post("batch", {"commands": [command] * 201})

        assert [{"publish": {}}] * 200 == taken["replies"]
        message = "one call has at most 200 commands, got 201"
        assert {"error": {"code": 106, "message": message}} == refused


async def test_batch_lets_others_run() -> None:
    """A long batch does not hold up those who wait for its publications."""
    async with running() as board:
        peer = await board.connect()
        await peer.subscribe("plain:1")
        peer.heard()
        await board.post("batch", {"commands": [{"publish": BODY}] * 500})

        assert len(peer.transport.messages) >= 2
        await turns()


async def test_the_root_takes_the_method_inside() -> None:
    """A request to the root names its method; one of no method is answered 400."""
    async with running() as board:
        _, _, done = await board.ask("", {"method": "publish", "params": BODY})
        _, _, batch = await board.ask("", {"method": "batch", "params": {"commands": [None]}})
        _, _, info = await board.ask("", {"method": "channels"})
        unknown = await board.ask("", {"method": "nope", "params": {}})

        assert b'{"result":{}}' == done
        assert b'{"replies":[{"error":{"code":107,"message":"bad request"}}]}' == batch
        assert b'{"result":{"channels":{}}}' == info
        assert (400, b"Bad Request\n") == (unknown[0], unknown[2])


async def test_a_caller_that_goes() -> None:
    """A caller that goes before its body has come does nothing."""
    async with running() as board:
        sent = []

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/api/publish",
            "raw_path": b"",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"x-api-key", KEY.encode())],
            "client": None,
            "server": ("app.example", 80),
        }
        await board.app(scope, receive, send)

        assert 0 == board.rt.node().statistics.published_count
