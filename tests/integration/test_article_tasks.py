"""The article's tasks and notifications: rows `/tasks` and `WS /ws/notifications/{topic}`."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests import servers
from tests.integration.clients import (
    OPCODES,
    connect,
    eventually,
    gauges,
    http,
    open_connections,
    raw,
    receive,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.anyio


async def create(client: httpx2.AsyncClient, title: str, **more: Any) -> dict[str, Any]:
    """Create a task and return the task of the answer."""
    answer = await client.post("/tasks", json={"title": title, "description": ""} | more)
    assert answer.status_code == 201, answer.text
    task = answer.json()["task"]
    assert isinstance(task, dict)
    return task


async def pages(client: httpx2.AsyncClient, limit: int) -> list[list[dict[str, Any]]]:
    """Follow the ``Link`` headers to the end."""
    found: list[list[dict[str, Any]]] = []
    address: str | None = f"/tasks?limit={limit}"
    while address is not None:
        answer = await client.get(address)
        assert answer.status_code == 200
        found.append(answer.json())
        address = answer.links.get("next", {}).get("url")
        assert len(found) < 500
    return found


def moment(text: str) -> datetime:
    """Read an aware time."""
    parsed = datetime.fromisoformat(text)
    assert parsed.utcoffset() == timedelta(0), f"{text} is not aware UTC"
    return parsed


async def test_creating_a_task_answers_201_with_the_message_and_the_task(demo: Server) -> None:
    """The answer has the article's message and the whole task, made now, by nobody."""
    before = datetime.now(UTC)
    async with http(demo) as client:
        answer = await client.post("/tasks", json={"title": "Buy milk", "description": "two"})
        listed = (await client.get("/tasks?limit=1")).json()

    assert answer.status_code == 201
    body = answer.json()
    assert body["message"] == "Task created successfully"
    task = body["task"]
    assert task["title"] == "Buy milk"
    assert task["description"] == "two"
    assert (task["created_by"], task["completed_at"], task["completed_by"]) == (None, None, None)
    assert before <= moment(task["created_at"]) <= datetime.now(UTC)
    assert listed == [task]


@pytest.mark.parametrize("sent_id", [-1, 999_999_999, "seven", None, {"a": 1}])
@pytest.mark.parametrize("sent_at", ["1999-01-01T00:00:00", "yesterday", 0])
async def test_a_clients_id_and_time_are_accepted_and_ignored(
    demo: Server, sent_id: object, sent_at: object
) -> None:
    """The article's body works with any ``id`` and ``created_at``; the server sets both."""
    before = datetime.now(UTC)
    async with http(demo) as client:
        first = await create(client, "one", id=sent_id, created_at=sent_at)
        second = await create(client, "two", id=sent_id, created_at=sent_at)

    assert isinstance(first["id"], int)
    assert first["id"] != sent_id
    assert second["id"] > first["id"]
    assert before <= moment(first["created_at"]) <= moment(second["created_at"])


@pytest.mark.parametrize("title", ["", "   ", "\n\t", "x" * 201, None, 5, ["a"]])
async def test_a_title_is_not_empty_bounded_and_a_text(demo: Server, title: object) -> None:
    """Anything else is 422 with a list of details, and nobody is notified."""
    async with http(demo) as client, connect(demo, "/ws/notifications/tasks") as ws:
        answer = await client.post("/tasks", json={"title": title, "description": ""})
        await create(client, "marker")

        assert answer.status_code == 422
        detail = answer.json()["detail"]
        assert {"loc", "msg", "type"} <= detail[0].keys()
        assert await receive(ws) == "New task created: marker"


async def test_a_title_may_have_200_characters_and_is_trimmed(demo: Server) -> None:
    """200 characters of any script pass; white space around them does not count."""
    title = "☃" * 200
    async with http(demo) as client:
        task = await create(client, f"  {title}\n")

    assert task["title"] == title


async def test_a_description_may_be_empty_and_is_bounded(demo: Server) -> None:
    """0 and 10,000 characters pass, 10,001 do not."""
    async with http(demo) as client:
        empty = await create(client, "empty", description="")
        longest = await create(client, "longest", description="x" * 10_000)
        answer = await client.post("/tasks", json={"title": "t", "description": "x" * 10_001})

    assert empty["description"] == ""
    assert len(longest["description"]) == 10_000
    assert answer.status_code == 422


async def test_tasks_are_listed_newest_first_page_by_page_until_the_end(demo: Server) -> None:
    """Pages of 3 give each task once, newest first, and the last page has no next one."""
    async with http(demo) as client:
        created = [(await create(client, f"page {number}"))["id"] for number in range(8)]
        small = await pages(client, 3)
        large = await pages(client, 200)

    ids = [task["id"] for page in small for task in page]
    assert ids[:8] == created[::-1]
    assert ids == sorted(set(ids), reverse=True)
    assert ids == [task["id"] for page in large for task in page]
    assert {len(page) for page in small[:-1]} == {3}
    assert 1 <= len(small[-1]) <= 3


async def test_a_task_created_while_paging_moves_no_page(demo: Server) -> None:
    """Paging goes by id, so a new task neither repeats nor hides an old one."""
    async with http(demo) as client:
        created = [(await create(client, f"moving {number}"))["id"] for number in range(4)]
        first = await client.get("/tasks?limit=2")
        await create(client, "in between")
        second = await client.get(first.links["next"]["url"])

    ids = [task["id"] for task in first.json() + second.json()]
    assert ids == created[::-1]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=-1", "limit=many", "before=x", "before=1e3", "limit="],
)
async def test_a_page_outside_its_bounds_is_422(demo: Server, query: str) -> None:
    """The limit is 1 to 200 and the position a number."""
    async with http(demo) as client:
        answer = await client.get(f"/tasks?{query}")

    assert answer.status_code == 422
    assert answer.json()["detail"]


async def test_a_task_is_completed_and_reopened(demo: Server) -> None:
    """PATCH sets and clears the time of completion; an unknown id is 404."""
    async with http(demo) as client:
        task = await create(client, "to do")
        done = await client.patch(f"/tasks/{task['id']}", json={"completed": True})
        again = await client.patch(f"/tasks/{task['id']}", json={"completed": False})
        unknown = await client.patch("/tasks/999999999", json={"completed": True})

    assert done.status_code == 200
    assert moment(done.json()["completed_at"]) >= moment(task["created_at"])
    assert again.json()["completed_at"] is None
    assert unknown.status_code == 404


async def test_subscribers_of_tasks_hear_of_each_new_task_in_order(demo: Server) -> None:
    """Everybody on topic ``tasks`` gets ``New task created: {title}``; other topics get nothing."""
    titles = ["one", "zwei ☃", 'with "quotes" & <b>', "x" * 200]
    async with (
        http(demo) as client,
        connect(demo, "/ws/notifications/tasks") as one,
        connect(demo, "/ws/notifications/tasks") as two,
        raw(demo, "/ws/notifications/other") as other,
    ):
        for title in titles:
            await create(client, title)
        heard = [[await receive(ws) for _ in titles] for ws in (one, two)]
        other.send(other.frame(OPCODES["ping"], b"marker"))

        assert heard == [[f"New task created: {title}" for title in titles]] * 2
        assert await other.read_frame() == (OPCODES["pong"], b"marker")


async def test_a_notified_task_is_already_listed(demo: Server) -> None:
    """The notification follows the commit: whoever hears of a task finds it in the list."""
    async with (
        http(demo) as client,
        http(demo) as reader,
        connect(demo, "/ws/notifications/tasks") as ws,
    ):
        for number in range(20):
            posting = asyncio.create_task(create(client, f"commit {number}"))
            text = await receive(ws)
            listed = (await reader.get("/tasks?limit=1")).json()
            await posting

            assert text == f"New task created: {listed[0]['title']}"


async def test_what_a_subscriber_says_disturbs_nothing(demo: Server) -> None:
    """As in the article, a subscriber may send (say, to keep a proxy awake): it goes nowhere."""
    async with (
        http(demo) as client,
        connect(demo, "/ws/notifications/tasks") as talks,
        connect(demo, "/ws/notifications/tasks") as listens,
    ):
        await talks.send("ping")
        await create(client, "after talk")

        assert await receive(listens) == "New task created: after talk"
        assert await receive(talks) == "New task created: after talk"


async def test_subscribers_leave_nothing_behind(demo: Server) -> None:
    """After 40 sockets have closed or died, every gauge stands where it stood."""
    async with http(demo) as client:
        before = await gauges(client)
        crowd = [await connect(demo, f"/ws/notifications/topic-{n % 10}") for n in range(40)]
        during = await gauges(client)
        for ws in crowd[:20]:
            ws.transport.abort()
        for ws in crowd[20:]:
            await ws.close()

        async def as_before() -> bool:
            return await gauges(client) == before

        await eventually(as_before, f"gauges fall back to {before}")
        assert during != before
        assert await open_connections(client) == 0


async def test_a_dying_subscriber_disturbs_neither_the_poster_nor_the_others(demo: Server) -> None:
    """Tasks posted while subscribers vanish are all answered 201 and all heard by who is left."""
    async with http(demo) as client, connect(demo, "/ws/notifications/tasks") as stays:
        for number in range(10):
            async with raw(demo, "/ws/notifications/tasks") as dying:
                dying.abort()
                await create(client, f"storm {number}")
        heard = [await receive(stays) for _ in range(10)]

        assert heard == [f"New task created: storm {number}" for number in range(10)]


async def test_a_killed_server_has_lost_nothing_it_answered_201(tmp_path: Path) -> None:
    """Tasks answered 201 before ``kill -9`` are all there after a restart; tokens hold too."""
    kept: list[int] = []
    enough = asyncio.Event()
    with servers.demo(tmp_path) as server:
        async with http(server) as client:
            answer = await client.post(
                "/token", data={"username": "ann", "password": "wirebell-demo"}
            )
            token = answer.json()["access_token"]

        async def post_until_killed(name: int) -> None:
            async with http(server) as client:
                with contextlib.suppress(httpx2.TransportError):
                    for number in range(10_000):
                        task = await create(client, f"{name}/{number}")
                        kept.append(task["id"])
                        if len(kept) == 40:
                            enough.set()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for name in range(3):
                group.create_task(post_until_killed(name))
            await enough.wait()
            server.kill()

    with servers.demo(tmp_path) as server:
        async with http(server) as client:
            listed = {task["id"] for page in await pages(client, 200) for task in page}
            ticket = await client.post("/ticket", headers={"Authorization": f"Bearer {token}"})

    assert set(kept) <= listed
    assert ticket.status_code == 200
