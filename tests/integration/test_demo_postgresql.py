"""The reference app on a real PostgreSQL: only the URL changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import bearer, connect, http, receive, sign_in
from tests.services import postgresql

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_the_taskboard_runs_on_postgresql(tmp_path: Path) -> None:
    """Tasks, tickets and accounts work, and a restart finds what was answered 201."""
    with postgresql.server() as database:
        env = {"WIREBELL_DEMO_DATABASE_URL": database.url}
        with servers.demo(tmp_path, "--workers", "2", env=env) as server:
            async with http(server) as client:
                token = await sign_in(client)
                task = {"title": "Dust the shelf", "description": "both sides"}
                created = await client.post("/tasks", json=task, headers=bearer(token))
                done = await client.patch(
                    f"/tasks/{created.json()['task']['id']}", json={"completed": True}
                )
                refused = await client.post("/tasks", json={"title": "nul \x00"})
                ticket = (await client.post("/ticket", headers=bearer(token))).json()["ticket"]
            async with connect(server, f"/ws/secure/tasks?ticket={ticket}") as websocket:
                await websocket.send("hello")
                said = await receive(websocket)
            server.kill()
        with servers.demo(tmp_path, env=env) as server:
            async with http(server) as client:
                listed = (await client.get("/tasks")).json()

    assert (201, 200, 422) == (created.status_code, done.status_code, refused.status_code)
    assert "ann: hello" == said
    assert ["Dust the shelf"] == [task["title"] for task in listed]
    assert listed[0]["created_by"] == "ann"
    assert listed[0]["completed_at"] is not None
    assert listed[0]["created_at"].endswith(("Z", "+00:00"))
