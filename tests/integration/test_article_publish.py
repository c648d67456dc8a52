"""The article's broker: row `WS /ws/redis/{channel}` and `POST /publish/{channel}?message=`."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.integration.clients import OPCODES, connect, http, raw, receive

if TYPE_CHECKING:
    from tests.servers import Server

pytestmark = pytest.mark.anyio


def fresh() -> str:
    """Return a channel that nobody has used."""
    return f"c-{uuid.uuid4().hex[:8]}"


async def test_publish_answers_with_the_message_and_the_position(demo: Server) -> None:
    """``{"message": "Published"}`` plus offset and epoch, and the subscriber gets the text."""
    channel = fresh()
    async with http(demo) as client, connect(demo, f"/ws/redis/{channel}") as ws:
        answer = await client.post(f"/publish/{channel}", params={"message": "hello ☃"})

        assert answer.status_code == 200
        body = answer.json()
        assert body.keys() == {"message", "offset", "epoch"}
        assert (body["message"], body["offset"]) == ("Published", 1)
        assert isinstance(body["epoch"], str)
        assert body["epoch"]
        assert await receive(ws) == "hello ☃"


async def test_offsets_rise_by_one_in_one_epoch(demo: Server) -> None:
    """Positions of one channel are 1, 2, 3 in one epoch, whether somebody listens or not."""
    channel = fresh()
    async with http(demo) as client:
        answers = [
            (await client.post(f"/publish/{channel}", params={"message": str(n)})).json()
            for n in range(20)
        ]

    assert [answer["offset"] for answer in answers] == list(range(1, 21))
    assert len({answer["epoch"] for answer in answers}) == 1


async def test_channels_count_for_themselves(demo: Server) -> None:
    """A publication into one channel neither moves nor reaches another."""
    one, two = fresh(), fresh()
    async with http(demo) as client, connect(demo, f"/ws/redis/{two}") as ws:
        await client.post(f"/publish/{one}", params={"message": "not for two"})
        answer = (await client.post(f"/publish/{two}", params={"message": "for two"})).json()

        assert answer["offset"] == 1
        assert await receive(ws) == "for two"


async def test_concurrent_publishers_get_different_positions_and_one_order(demo: Server) -> None:
    """A hundred publications at once: offsets 1 to 100, and each subscriber sees that order."""
    channel = fresh()
    async with (
        http(demo) as client,
        connect(demo, f"/ws/redis/{channel}") as one,
        connect(demo, f"/ws/redis/{channel}") as two,
    ):

        async def publish(number: int) -> tuple[int, str]:
            answer = await client.post(f"/publish/{channel}", params={"message": str(number)})
            return answer.json()["offset"], str(number)

        positions = sorted(await asyncio.gather(*(publish(number) for number in range(100))))
        heard = [[await receive(ws) for _ in range(100)] for ws in (one, two)]

        assert [offset for offset, _ in positions] == list(range(1, 101))
        assert heard == [[text for _, text in positions]] * 2


async def test_subscribers_of_the_broker_route_get_nothing_old(demo: Server) -> None:
    """As with Redis pub/sub, what was published before subscribing is not replayed."""
    channel = fresh()
    async with http(demo) as client:
        await client.post(f"/publish/{channel}", params={"message": "old"})
        async with connect(demo, f"/ws/redis/{channel}") as ws:
            await client.post(f"/publish/{channel}", params={"message": "new"})

            assert await receive(ws) == "new"


async def test_what_a_subscriber_says_here_goes_nowhere(demo: Server) -> None:
    """As in the article, the route only listens; talking disturbs nothing."""
    channel = fresh()
    async with (
        http(demo) as client,
        connect(demo, f"/ws/redis/{channel}") as talks,
        connect(demo, f"/ws/redis/{channel}") as listens,
    ):
        await talks.send("ping")
        await client.post(f"/publish/{channel}", params={"message": "published"})

        assert await receive(listens) == "published"
        assert await receive(talks) == "published"


@pytest.mark.parametrize("message", ["", " ", "a&b=c#d?e%f+g", "x" * 10_000, "\u0000", "🐛"])
async def test_any_text_can_be_published(demo: Server, message: str) -> None:
    """The query's value arrives as it was, the empty text too."""
    channel = fresh()
    async with http(demo) as client, connect(demo, f"/ws/redis/{channel}") as ws:
        answer = await client.post(f"/publish/{channel}", params={"message": message})

        assert answer.status_code == 200
        assert await receive(ws) == message


async def test_publishing_without_a_message_is_422(demo: Server) -> None:
    """The message is asked for by name."""
    async with http(demo) as client:
        answer = await client.post(f"/publish/{fresh()}")

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "message"]


async def test_publishing_reaches_no_other_route(demo: Server) -> None:
    """No channel name makes ``POST /publish`` speak in a room, a topic or on the page's channel."""
    names = ["tasks", "5", "room", "board", "topic:tasks", "notifications:tasks", "room:5", "chat"]
    async with (
        http(demo) as client,
        connect(demo, "/ws/notifications/tasks") as topic,
        connect(demo, "/ws/5") as room,
        raw(demo, "/ws") as echo,
        connect(demo, "/realtime/connection/uni_websocket") as page,
    ):
        await page.send('{"subs":{"board":{}}}')
        assert '"connect"' in await receive(page)
        for name in names:
            answer = await client.post(f"/publish/{name}", params={"message": "injected"})
            assert answer.status_code == 200
        await client.post("/tasks", json={"title": "marker", "description": ""})
        await room.send("marker")
        echo.send(echo.frame(OPCODES["ping"], b"marker"))

        assert await receive(topic) == "New task created: marker"
        assert await receive(room) == "Client 5: marker"
        assert await echo.read_frame() == (OPCODES["pong"], b"marker")
        assert "injected" not in await receive(page)
