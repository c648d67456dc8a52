"""What `docs/server-api.md` says is true: its requests have its answers, its functions run."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.docs.test_pages import ROOT, blocks, load
from wirebell.http_api.calls import METHODS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

PAGE = ROOT / "docs" / "server-api.md"
EXAMPLE = re.compile(r"^```sh\n(curl .*?)^```\n(?:\n```json\n(.*?)^```\n)?", re.M | re.S)


def without_epochs(text: str) -> Any:
    """Read an answer; each epoch is another one on every run."""
    return json.loads(re.sub(r'("epoch": ?)"[^"]*"', r'\1"…"', text))


async def test_requests_have_their_answers(tmp_path: Path) -> None:
    """Every request of the page is answered as it shows, one after the other."""
    module = load(blocks(PAGE, "python")[0], tmp_path, "page_server_api")
    examples = EXAMPLE.findall(PAGE.read_text())
    transport = httpx2.ASGITransport(module.app)
    methods = set()
    async with module.rt.lifespan(module.app), httpx2.AsyncClient(transport=transport) as client:
        for command, expected in examples:
            words = shlex.split(command.replace("\\\n", ""))
            url = next(word for word in words if word.startswith("http:"))
            name, _, key = words[words.index("-H") + 1].partition(": ")
            methods.add(url.rpartition("/")[2])
            answer = await client.post(url, content=words[-1], headers={name: key})
            assert 200 == answer.status_code
            if expected:
                assert without_epochs(expected) == without_epochs(answer.text), command

    not_there = {name for name in METHODS if name.startswith(("map_", "shared_poll_"))} | {"rpc"}
    assert {*METHODS, "batch"} - not_there == methods


async def test_functions_run(tmp_path: Path) -> None:
    """Every function of the page does what it does on a running application."""
    first, *others = blocks(PAGE, "python")
    module = load(first, tmp_path, "page_server_api_functions")
    done = []
    async with module.rt.lifespan(module.app):
        for number, source in enumerate(others):
            page = load(source, tmp_path, f"page_server_api_{number}")
            for name, function in inspect.getmembers(page, inspect.iscoroutinefunction):
                await function(module.rt)
                done.append(name)

    assert len(others) == len(done)
