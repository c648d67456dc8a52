"""The browser client: its own tests in Node, its types, and what it does in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.e2e.page_server import PageServer
from tests.e2e.sdk.control import Control
from tests.e2e.sdk.missing import fail_missing
from tests.e2e.sdk.targets import create_configuration, run_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.e2e.sdk.targets import Target

HERE = Path(__file__).parent / "browser"
CLIENTS = Path(__file__).parents[2] / "clients"
TRANSPORTS = ("websocket", "http_stream", "sse")
SCENARIOS = re.findall(r"^  async (\w+)\(context\)", (HERE / "scenarios.js").read_text(), re.M)
FILE_LINES_MAX = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def find_program(name: str) -> str:
    """Return the path of a program."""
    path = shutil.which(name)
    if path is None:
        fail_missing(name)
    return path


@pytest.fixture(scope="module")
def typescript() -> Path:
    """Install the type checker that `package-lock.json` pins, once for this checkout."""
    program = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    if not program.is_file():
        command = [find_program("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not program.is_file():
            fail_missing(f"TypeScript of tests/e2e/browser/package.json: {done.stderr[-500:]}")
    return program


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    """Start what makes tokens, cuts networks, and calls the server API."""
    with Control() as started:
        yield started


@pytest.fixture(scope="module")
def pages(control: Control) -> Iterator[PageServer]:
    """Serve the client and its scenarios."""
    with PageServer(control) as started:
        yield started


@pytest.fixture(scope="module")
def target(
    control: Control, pages: PageServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Run `wirebell serve` with everything on."""
    folder = tmp_path_factory.mktemp("serve")
    with run_target("serve", folder, create_configuration(pages.url)) as started:
        control.target = started.url
        yield started
        control.close_networks()


@pytest.fixture(scope="module")
def page(browser: Browser, pages: PageServer) -> Iterator[Page]:
    """Open an empty page of another origin than the server's."""
    opened = browser.new_page()
    opened.goto(pages.page)
    yield opened
    opened.close()


def test_units_pass_in_node() -> None:
    """Node's own test runner finds nothing wrong."""
    files = sorted(str(path) for path in HERE.glob("*.test.js"))
    command = [find_program("node"), "--test", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert 0 == done.returncode, done.stdout[-8_000:]


def read_documented_page() -> tuple[int, str]:
    """Return how many blocks `docs/browser-client.md` has, and all of them as one module."""
    text = (CLIENTS.parent / "docs" / "browser-client.md").read_text()
    blocks = re.findall(r"^```js\n(.*?)^```$", text, re.M | re.S)
    source = "\n".join(blocks).replace("/realtime/browser/", f"{CLIENTS}/browser/")
    given = (
        "/** @type {(...shown: unknown[]) => void} */\nconst show = console.log;\n"
        "const loadEverything = () => undefined;\n"
    )
    return len(blocks), given + source + "\nshow(answer, elsewhere, mine, alone);\n"


@pytest.fixture(scope="module")
def complaints(typescript: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Check the client, the demo's page and the page of the docs: lines that name a file first."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "documented.js").write_text(read_documented_page()[1])
    demo = CLIENTS.parent / "src" / "wirebell" / "demo" / "web"
    sources = [f"{CLIENTS}/browser/**/*.js", f"{demo}/*.js", "documented.js"]
    settings = {"extends": f"{CLIENTS}/tsconfig.json", "include": sources}
    (folder / "tsconfig.json").write_text(json.dumps(settings))
    command = [find_program("node"), str(typescript), "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    return (done.stdout + done.stderr).splitlines()


def test_types_are_strict(complaints: list[str]) -> None:
    """`tsc --checkJs --strict` accepts the client, and the demo's page that uses it."""
    assert [] == [line for line in complaints if "documented.js" not in line]


def test_files_are_small() -> None:
    """No file of the client is longer than a reader wants, and each can be checked by itself."""
    sources = sorted((CLIENTS / "browser").rglob("*.js"))

    assert len(sources) > 10
    for path in sources:
        text = path.read_text()
        assert FILE_LINES_MAX >= len(text.splitlines()), path
        assert text.startswith("// @ts-check\n/**"), path


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(
    transport: str, scenario: str, page: Page, pages: PageServer, target: Target
) -> None:
    """A page on another origin sees what the protocol promises, over each transport."""
    context = {
        "control": pages.url,
        "target": target.url,
        "transport": transport,
        "suffix": uuid4().hex[:8],
    }
    problem = page.evaluate(
        """async ([name, context]) => {
            const { scenarios } = await import("/tests/e2e/browser/scenarios.js");
            return scenarios[name](context).then(() => "", (error) => String(error));
        }""",
        [scenario, context],
    )

    assert "" == problem, target.server.log()[-2_000:]


def test_the_page_of_the_docs_is_right(complaints: list[str]) -> None:
    """Every name and option that `docs/browser-client.md` shows exists, with these types."""
    assert 5 == read_documented_page()[0]
    assert [] == [line for line in complaints if "documented.js" in line]
