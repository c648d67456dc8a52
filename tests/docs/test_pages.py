"""What README and docs say is true: their programs run, their tables are complete."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import async_playwright

from tests import servers
from tests.e2e.sdk.missing import fail_missing
from wirebell import DisconnectCode, Realtime, Settings
from wirebell.metrics import collect_outbox, render_metrics
from wirebell.statistics import OutboxStatistics

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

pytestmark = pytest.mark.anyio


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def load(source: str, folder: Path, name: str) -> ModuleType:
    """Import a program as a module of its own."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # FastAPI looks annotations up there
    spec.loader.exec_module(module)
    return module


PROGRAMS = [
    pytest.param(source, id=f"{page.name}-{number}")
    for page in PAGES
    for number, source in enumerate(blocks(page, "python"), 1)
]


@pytest.mark.parametrize("source", PROGRAMS)
async def test_every_program_runs(
    source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A program of the pages imports, and its application starts and stops."""
    module = load(source, tmp_path, "page_" + re.sub(r"\W", "_", request.node.callspec.id))

    if hasattr(module, "app"):
        async with module.app.router.lifespan_context(module.app):
            assert module.rt.node().connections == {}


def test_links_lead_somewhere() -> None:
    """Every relative link of the pages names a file, and a heading where it has one."""
    for page in (*PAGES, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md"))):
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
                slugs = [
                    re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles
                ]
                assert heading in slugs, f"{page.name}: {link}"


def test_every_setting_is_on_the_page() -> None:
    """`docs/limits.md` has every setting with its default."""
    text = (ROOT / "docs" / "limits.md").read_text()

    for name, field in Settings.model_fields.items():
        default = field.default
        shown = f"{default:.15g}" if isinstance(default, float) else str(default)
        if not default and not isinstance(default, int):
            shown = ""
        row = f"| `WIREBELL_{name.upper()}` | {shown.replace('()', '')}".rstrip()
        assert row in text, row


async def test_every_metric_is_on_the_page(tmp_path: Path) -> None:
    """`docs/guide.md` has every metric that a node shows, and no other."""
    rt = Realtime(Settings())
    module = load(blocks(ROOT / "README.md", "python")[0], tmp_path, "readme_metrics")
    async with rt.lifespan(module.app):
        shown = set(re.findall(r"^# TYPE (\w+) ", render_metrics(rt.node()).decode(), re.M))
    text = (ROOT / "docs" / "guide.md").read_text()

    assert shown == set(re.findall(r"^\| `(wirebell_\w+)", text, re.M))


def test_every_metric_of_the_outbox_is_on_its_page() -> None:
    """`docs/outbox.md` has every metric that a node with an outbox shows besides, and no other."""
    shown = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in collect_outbox(OutboxStatistics())
    }
    text = (ROOT / "docs" / "outbox.md").read_text()

    assert shown == set(re.findall(r"^\| `(wirebell_\w+)", text, re.M))


def test_the_readme_has_its_shape() -> None:
    """The two commands and a whole program of at most 20 lines stand in the first 40 lines."""
    text = (ROOT / "README.md").read_text()
    program = blocks(ROOT / "README.md", "python")[0]
    head = "\n".join(text.splitlines()[:40])

    assert len(program.splitlines()) <= 20
    assert program in head + "\n"
    assert "scripts/demo" in head
    assert "scripts/test" in head


async def test_the_readmes_example_works_in_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program and the script of the README talk to each other as they stand."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "readme_app.py").write_text(blocks(ROOT / "README.md", "python")[0])
    script = blocks(ROOT / "README.md", "javascript")[0]
    kind = "uvicorn-websockets-sansio"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        fail_missing("chromium")
    with servers.serve("readme_app:app", kind, path="/openapi.json") as server:
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = await browser.new_page()
            await page.goto(f"http://localhost:{server.port}/openapi.json")
            async with page.expect_console_message(
                lambda message: message.type == "log", timeout=20_000
            ) as heard:
                await page.evaluate(script.replace("localhost:8000", f"localhost:{server.port}"))
            message = await heard.value
            await browser.close()

    assert message.text == "hello"


def layers(page: str) -> list[str]:
    """Return the modules that a page's table of layers names, in its order."""
    text = (ROOT / page).read_text()
    table = text.split("| Modules |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)/?`", re.sub(r"\([^)]*\)", "", table))
    return [name for name in named if is_module(name)]


def is_module(name: str) -> bool:
    """Tell whether there is such a module or package."""
    source = ROOT / "src" / "wirebell"
    return (source / f"{name}.py").exists() or (source / name / "__init__.py").exists()


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_the_layers_are_those_that_are_checked(page: str) -> None:
    """The table of layers has the modules of import-linter's contract, in its order."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = configuration["tool"]["importlinter"]["contracts"]
    rows = next(each["layers"] for each in contracts if each["id"] == "layers")
    names = [name.strip(" ()") for row in rows for name in re.split("[:|]", row)]

    assert [name for name in names if is_module(name)] == layers(page)


def test_every_close_code_is_on_a_page() -> None:
    """Each code that ends a connection stands in a table of the limits or of the protocol."""
    text = "".join((ROOT / "docs" / page).read_text() for page in ("limits.md", "protocol.md"))
    rows = set(re.findall(r"^\| (\d{4}) \|", text, re.M))
    # Only Python sees it: an operation on a connection that has gone.
    codes = {str(int(code)) for code in DisconnectCode if code != DisconnectCode.GOING_AWAY}

    assert set() == codes - rows
