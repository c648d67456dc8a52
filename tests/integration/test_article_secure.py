"""The article's secured socket: row `WS /ws/secure/{topic}` and `POST /ticket`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import websockets

from tests.integration.clients import (
    OPCODES,
    bearer,
    connect,
    eventually,
    http,
    raw,
    receive,
    refused,
    sign_in,
    told,
)

if TYPE_CHECKING:
    import httpx2
    from websockets.asyncio.client import ClientConnection

    from tests.servers import Server

pytestmark = pytest.mark.anyio

WAYS = ("header", "subprotocol", "first message", "first message as object", "cookie", "ticket")
FOREIGN = "https://evil.example"


async def ticket(client: httpx2.AsyncClient, token: str) -> str:
    """Buy a ticket."""
    answer = await client.post("/ticket", headers=bearer(token))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


async def enter(server: Server, way: str, token: str, topic: str = "tasks") -> ClientConnection:
    """Open a secure socket with `token`, given in one of `WAYS`."""
    path = f"/ws/secure/{topic}"
    options: dict[str, Any] = {}
    if way == "header":
        options["additional_headers"] = bearer(token)
    elif way == "subprotocol":
        options["subprotocols"] = ["bearer", token]
    elif way == "cookie":
        options |= {"additional_headers": {"Cookie": f"access_token={token}"}, "origin": server.url}
    elif way == "ticket":
        async with http(server) as client:
            path += f"?ticket={await ticket(client, token)}"
    ws = await connect(server, path, **options)
    if way == "first message":
        await ws.send(token)
    elif way == "first message as object":
        await ws.send(json.dumps({"token": token}))
    return ws


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_in_works_and_nothing_extra_is_sent(demo: Server, way: str) -> None:
    """With a valid token the first text that arrives is what somebody said: ``ann: {data}``."""
    async with http(demo) as client:
        token = await sign_in(client)
    async with await enter(demo, way, token) as ws:
        await ws.send("hello")

        assert await receive(ws) == "ann: hello"
        assert ws.subprotocol == ("bearer" if way == "subprotocol" else None)


async def test_all_subscribers_of_a_secure_topic_hear_each_other(demo: Server) -> None:
    """Everybody on the topic, the sender too, gets ``{username}: {data}``; other topics do not."""
    async with http(demo) as client:
        ann, bob = await sign_in(client), await sign_in(client, "bob")
    async with (
        await enter(demo, "header", ann, "lunch") as one,
        await enter(demo, "ticket", bob, "lunch") as two,
        await enter(demo, "first message", bob, "dinner") as other,
    ):
        await one.send("pizza?")
        first = [await receive(ws) for ws in (one, two)]
        await two.send("ünï ☃")
        second = [await receive(ws) for ws in (one, two)]
        await other.send("marker")

        assert first == ["ann: pizza?"] * 2
        assert second == ["bob: ünï ☃"] * 2
        assert await receive(other) == "bob: marker"


async def test_secure_tasks_hears_of_new_tasks_and_is_not_overheard(demo: Server) -> None:
    """What the open route gets comes here too; what is said here never gets there."""
    async with http(demo) as client:
        token = await sign_in(client)
        async with (
            await enter(demo, "header", token) as secure,
            connect(demo, "/ws/notifications/tasks") as public,
        ):
            await secure.send("a secret")
            assert await receive(secure) == "ann: a secret"
            await client.post("/tasks", json={"title": "public", "description": ""})

            assert await receive(public) == "New task created: public"
            assert await receive(secure) == "New task created: public"


@pytest.mark.parametrize("name", ["secure:x", "secure.x", "secure/x", "topic:secure:x"])
async def test_no_open_channel_name_leads_to_a_secure_topic(demo: Server, name: str) -> None:
    """Guessing how channels are named inside overhears nothing, on any open route."""
    quoted = name.replace("/", "%2F")
    async with http(demo) as client:
        token = await sign_in(client)
        async with (
            await enter(demo, "header", token, "x") as secure,
            contextlib.AsyncExitStack() as s,
        ):
            spies = []
            for path in (f"/ws/notifications/{quoted}", f"/ws/redis/{quoted}"):
                with contextlib.suppress(websockets.InvalidStatus):
                    spies.append(await s.enter_async_context(raw(demo, path)))
            await client.post(f"/publish/{quoted}", params={"message": "injected"})
            await secure.send("a secret")

            assert await receive(secure) == "ann: a secret"
            for spy in spies:
                if b" 101 " not in spy.response:
                    continue
                spy.send(spy.frame(OPCODES["ping"], b"marker"))
                heard = []
                while (frame := await spy.read_frame()) != (OPCODES["pong"], b"marker"):
                    heard.append(frame)
                assert heard in ([], [(OPCODES["text"], b"injected")])


async def test_the_pages_connection_does_not_lead_to_a_secure_topic(demo: Server) -> None:
    """A guest who asks the live connection for a secure channel hears nothing of it."""
    names = ["secure:x", "x", "secure", "topic:x", "secure/x", "board"]
    async with http(demo) as client:
        token = await sign_in(client)
    async with await enter(demo, "header", token, "x") as secure:
        for name in names:
            async with connect(demo, "/realtime/connection/uni_websocket") as page:
                await page.send(json.dumps({"subs": {name: {}}}))
                push = json.loads((await receive(page)).split("\n")[0])
                await secure.send("a secret")
                assert await receive(secure) == "ann: a secret"
                if name in push.get("connect", {}).get("subs", {}):
                    await client_task(demo)
                    assert "a secret" not in await receive(page)


async def client_task(server: Server) -> None:
    """Create a task: what the page's own channel hears."""
    async with http(server) as client:
        await client.post("/tasks", json={"title": "for the page", "description": ""})


@pytest.mark.parametrize("way", ["header", "subprotocol", "cookie", "first message"])
async def test_a_wrong_token_is_told_why_and_closed_4401(demo: Server, way: str) -> None:
    """A browser sees the reason too: the socket is accepted, told, and closed with the code."""
    async with await enter(demo, way, "not-a-token") as ws:
        assert await told(ws, 4401)


@pytest.mark.parametrize(
    "first", ["", "{}", "[]", "null", '{"token": 5}', '{"token": "x"', "hello"]
)
async def test_a_first_message_without_a_token_is_refused(demo: Server, first: str) -> None:
    """Anything that is no token is told why and closed 4401."""
    async with connect(demo, "/ws/secure/tasks") as ws:
        await ws.send(first)

        assert await told(ws, 4401)


@pytest.mark.parametrize("query", ["ticket=", "ticket=wrong", "ticket=%00", "ticket=" + "x" * 5000])
async def test_a_wrong_ticket_is_told_why_and_closed_4401(demo: Server, query: str) -> None:
    """A ticket that was never given is refused, and not asked for another way."""
    async with connect(demo, f"/ws/secure/tasks?{query}") as ws:
        assert await told(ws, 4401)


async def test_a_ticket_needs_a_token(demo: Server) -> None:
    """``POST /ticket`` without credentials, or with wrong ones, is 401."""
    async with http(demo) as client:
        nothing = await client.post("/ticket")
        wrong = await client.post("/ticket", headers=bearer("wrong"))
        cookie = await client.post("/ticket", headers={"Cookie": "access_token=wrong"})
        scheme = await client.post("/ticket", headers={"Authorization": "Basic YW5uOngK"})

    assert [a.status_code for a in (nothing, wrong, cookie, scheme)] == [401] * 4


async def test_a_ticket_opens_one_socket_only(demo: Server) -> None:
    """The second use is told why and closed 4401, while the first socket stays."""
    async with http(demo) as client:
        bought = await ticket(client, await sign_in(client))
    async with connect(demo, f"/ws/secure/x?ticket={bought}") as first:
        await first.send("one")
        assert await receive(first) == "ann: one"
        async with connect(demo, f"/ws/secure/x?ticket={bought}") as second:
            assert await told(second, 4401)
        await first.send("two")

        assert await receive(first) == "ann: two"


async def test_a_cookie_buys_a_ticket(demo: Server) -> None:
    """What the page does: the sign-in's cookie is enough for ``POST /ticket``."""
    async with http(demo) as client:
        await client.post("/token", data={"username": "ann", "password": "wirebell-demo"})
        answer = await client.post("/ticket")
        me = (await client.get("/me")).json()
        left = await client.post("/logout")
        after = await client.post("/ticket")

    assert answer.status_code == 200
    assert answer.json()["expires_in"] == 30
    assert me["username"] == "ann"
    assert left.status_code == 204
    assert after.status_code == 401


async def test_an_old_ticket_is_refused(short_demo: Server) -> None:
    """Past its time to live (1 s here) a ticket opens nothing."""
    async with http(short_demo) as client:
        answer = await client.post("/ticket", headers=bearer(await sign_in(client)))
        bought = answer.json()["ticket"]
        expires = time.monotonic() + float(answer.json()["expires_in"])

        async def is_old() -> bool:
            return time.monotonic() > expires + 0.1

        await eventually(is_old, "the ticket's time is over")
    async with connect(short_demo, f"/ws/secure/x?ticket={bought}") as ws:
        assert await told(ws, 4401)


async def test_sockets_close_when_their_token_expires(short_demo: Server) -> None:
    """By each way in, the socket lives as long as its token, is told so, and closed 4401."""
    async with http(short_demo) as client:
        token = await sign_in(client)
    expires_at = jwt.decode(token, options={"verify_signature": False})["exp"]
    sockets = [await enter(short_demo, way, token, f"old-{way[:5]}") for way in WAYS]
    for ws in sockets:
        await ws.send("alive")
        assert await receive(ws) == "ann: alive"
    reasons = await asyncio.gather(*(told(ws, 4401) for ws in sockets))

    assert set(reasons) == {"token expired"}
    assert expires_at - 0.1 <= time.time() <= expires_at + 3
    async with await enter(short_demo, "header", token) as late:
        assert "expired" in await told(late, 4401)


async def test_without_a_first_message_the_socket_is_told_why_and_closed(
    short_demo: Server,
) -> None:
    """A socket without a token that stays silent is closed 4401 at the deadline (0.5 s here)."""
    started = time.monotonic()
    async with connect(short_demo, "/ws/secure/tasks") as ws:
        reason = await told(ws, 4401)

    assert reason
    assert 0.3 <= time.monotonic() - started < 5


async def test_before_signing_in_nothing_is_heard(demo: Server) -> None:
    """Between the handshake and the first message the topic's texts stay out."""
    async with http(demo) as client:
        token = await sign_in(client)
        async with (
            connect(demo, "/ws/secure/tasks") as early,
            connect(demo, "/ws/notifications/tasks") as public,
        ):
            await client.post("/tasks", json={"title": "too early", "description": ""})
            assert await receive(public) == "New task created: too early"
            await early.send(token)
            await early.send("marker")

            assert await receive(early) == "ann: marker"


@pytest.mark.parametrize(
    "path", ["/ws", "/ws/1", "/ws/notifications/tasks", "/ws/secure/tasks", "/ws/redis/news"]
)
@pytest.mark.parametrize("origin", [FOREIGN, "null", "http://127.0.0.1:1", "http://127.0.0.1"])
async def test_a_foreign_origin_is_403_with_the_reason(
    demo: Server, path: str, origin: str
) -> None:
    """Another site's page is refused at the handshake; the body names the setting to change."""
    status, body = await refused(demo, path, origin=origin)

    assert status == 403
    assert "allowed_origins" in body.lower()


async def test_lookalikes_of_the_own_origin_are_foreign(demo: Server) -> None:
    """Only the very host and port of the request count as its own."""
    for origin in (f"{demo.url}.evil.example", f"{demo.url}0", f"http://x@127.0.0.1:{demo.port}"):
        assert (await refused(demo, "/ws", origin=origin))[0] == 403


@pytest.mark.parametrize(
    "path", ["/ws", "/ws/1", "/ws/notifications/tasks", "/ws/secure/tasks", "/ws/redis/news"]
)
async def test_the_own_origin_and_no_origin_pass(demo: Server, path: str) -> None:
    """A page of the same host passes, and so does a client that is no browser."""
    async with connect(demo, path, origin=demo.url) as own, connect(demo, path) as absent:
        assert own.response is not None
        assert absent.response is not None
        assert own.response.status_code == absent.response.status_code == 101


async def test_a_cookie_with_a_foreign_origin_is_403(demo: Server) -> None:
    """A foreign page cannot ride on a visitor's cookie."""
    async with http(demo) as client:
        token = await sign_in(client)
    status, body = await refused(
        demo,
        "/ws/secure/tasks",
        origin=FOREIGN,
        additional_headers={"Cookie": f"access_token={token}"},
    )

    assert status == 403
    assert token not in body


async def test_tokens_and_tickets_never_reach_the_log(demo: Server) -> None:
    """Neither on the way in, nor in what goes wrong, is a secret written anywhere."""
    secrets: list[str] = []
    async with http(demo) as client:
        for way in WAYS:
            token = await sign_in(client)
            secrets.append(token)
            async with await enter(demo, way, token, "log") as ws:
                await ws.send("x")
                assert await receive(ws) == "ann: x"
        spent, foreign = await ticket(client, secrets[0]), await ticket(client, secrets[0])
        unused = "never-given-71"
        secrets += [spent, foreign, unused, "wrong-password-8812", "body-secret-5512"]
        for value in (spent, spent, unused):  # used, used again, never given
            async with connect(demo, f"/ws/secure/log?ticket={value}") as ws:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await ws.send("x")
                await receive(ws)
        await refused(demo, f"/ws/secure/log?ticket={foreign}", origin=FOREIGN)
        await refused(demo, f"/ws/unknown/route/log?ticket={foreign}")
        await client.get(f"/ws/secure/log?ticket={foreign}&token={secrets[0]}")
        await client.get(f"/unknown?access_token={secrets[0]}", headers=bearer(secrets[0]))
        await client.post("/ticket", headers=bearer(secrets[1] + "x"))
        await client.post("/token", data={"username": "ann", "password": "wrong-password-8812"})
        await client.post(
            "/token",
            content=b'{"password": "body-secret-5512"',
            headers={"content-type": "application/json"},
        )
        await client.post("/register", json={"username": "!", "password": "body-secret-5512"})

    log = demo.log()
    assert [secret for secret in secrets if secret in log] == []
    assert [secret for secret in secrets if secret.rsplit(".", 1)[-1] in log] == []
