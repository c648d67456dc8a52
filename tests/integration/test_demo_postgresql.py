"""The reference app on a real PostgreSQL: only the URL changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.integration.clients import bearer, connect, http, receive, sign_in

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def find_program(name: str) -> str | None:
    """Return a PostgreSQL program; Debian keeps the server's out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a server of our own in a temporary folder until the block ends; gives its URL."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if initdb is None or postgres is None:
        message = "PostgreSQL is missing: apt install postgresql"
        if os.environ.get("WIREBELL_TEST_ALLOW_MISSING"):
            pytest.skip(message)
        pytest.fail(message)
    folder = Path(tempfile.mkdtemp(prefix="wirebell-postgresql-"))
    # PostgreSQL refuses to run as root; Debian's package made a user for it.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    data, port = folder / "data", servers.free_port()
    try:
        subprocess.run(
            [*as_user, initdb, "-D", data, "-U", "taskboard", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            cwd=folder,
            timeout=60,
        )
        options = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(folder)]
        process = subprocess.Popen(
            [*as_user, postgres, "-D", data, *options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_ready(port)
            yield f"postgresql://taskboard@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run(
                [*as_user, find_program("pg_ctl") or "pg_ctl", "-D", data, "-m", "fast", "stop"],
                check=False,
                capture_output=True,
                cwd=folder,
                timeout=60,
            )
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(port: int) -> None:
    """Wait until the server takes connections, at most a minute."""
    is_ready = find_program("pg_isready") or "pg_isready"
    command = [is_ready, "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
    for _ in range(60):
        if subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0:
            return
    pytest.fail(f"PostgreSQL did not answer on port {port}")


async def test_the_taskboard_runs_on_postgresql(tmp_path: Path) -> None:
    """Tasks, tickets and accounts work, and a restart finds what was answered 201."""
    with postgresql() as url:
        env = {"WIREBELL_DEMO_DATABASE_URL": url}
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
