"""The rules of CONTRIBUTING.md that a program can check, one test each."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "wirebell"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = sorted(
    path
    for folder in ("src", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    # Migrations are named by the tool that makes them and hold no logic of ours.
    if "versions" not in path.parts
)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS = [
    name.strip(" ()") for row in CONTRACTS["contracts"][0]["layers"] for name in row.split(":")
]

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
BANNED_NAMES = {"base", "common", "helpers", "utils"}
# Whatever waits, measures time, draws lots, writes logs or talks to the world.
IMPURE_IMPORTS = {
    "aiosqlite", "alembic", "asyncio", "asyncpg", "concurrent", "fastapi", "httptools", "httpx2",
    "logging", "multiprocessing", "nats", "random", "redis", "secrets", "select", "selectors",
    "signal", "socket", "sqlalchemy", "sqlite3", "ssl", "starlette", "structlog", "subprocess",
    "threading", "time", "typer", "uvicorn", "uvloop", "websockets",
}  # fmt: skip
# Reading a clock or drawing lots through modules that also hold innocent things.
IMPURE_CALLS = {
    "date.today", "datetime.now", "datetime.today", "datetime.utcnow", "os.urandom",
    "uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4",
}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parse(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(), filename=str(path))


def name_of(path: Path) -> str:
    """Give a file's name for messages, as seen from the project's folder."""
    return str(path.relative_to(ROOT))


def list_modules(*, first: str, last: str | None = None) -> list[Path]:
    """List the files of the layers from ``first`` down to ``last``."""
    end = LAYERS.index(last) + 1 if last else len(LAYERS)
    rows = LAYERS[LAYERS.index(first) : end]
    return [path for path in SOURCES if path.relative_to(PACKAGE).parts[0].split(".")[0] in rows]


def list_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and top-level name of everything a module imports, inside functions too.

    ``websockets.speedups`` is left out: one function in C, without input or output.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and node.module not in {None, "websockets.speedups"}
        ):
            yield node.lineno, str(node.module).split(".")[0]


def read_all(tree: ast.Module) -> object:
    """Read ``__all__`` as written; None when there is none or it is not a literal."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        if "__all__" in names and node.value is not None:
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def list_public(tree: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Yield public classes, functions and methods that need a docstring."""
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        # Overloads and setters are spoken for by the function they belong to.
        marks = {ast.unparse(mark).split(".")[-1] for mark in node.decorator_list}
        if marks.isdisjoint({"overload", "setter", "override"}):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from list_public(node)


def test_sources_exist() -> None:
    """The rules below look at files, and do not pass because a folder is empty."""
    assert len(SOURCES) > 10
    assert len(list_modules(first="hub")) >= 5


def test_layers() -> None:
    """Imports point down: every contract of import-linter is kept."""
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )

    assert 0 == result.returncode, result.stdout + result.stderr


def test_pure_modules_stay_pure() -> None:
    """The pure core and the ground import nothing that waits, logs, or knows the time."""
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in list_modules(first="hub")
        for line, name in list_imports(parse(path))
        if name in IMPURE_IMPORTS
    ]

    assert [] == found


def test_pure_modules_are_given_the_time() -> None:
    """The pure core and the ground read no clock and draw no lots: ``now`` is an argument."""
    found = [
        f"{name_of(path)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in list_modules(first="hub")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        if ".".join(ast.unparse(node.func).split(".")[-2:]) in IMPURE_CALLS
    ]

    assert [] == found


def test_only_the_face_imports_fastapi() -> None:
    """Everything below the FastAPI face works without FastAPI and Starlette."""
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in list_modules(first="uvicorn")
        for line, name in list_imports(parse(path))
        if name in {"fastapi", "starlette"}
    ]

    assert [] == found


def test_file_length() -> None:
    """No file has more than 600 lines: split by the state it owns."""
    counts = {name_of(path): len(path.read_text().splitlines()) for path in PYTHON_FILES}

    assert {} == {name: count for name, count in counts.items() if count > FILE_LINES_MAX}


def test_function_length() -> None:
    """No function has more than 70 lines, its docstring not counted."""
    found = []
    for path in PYTHON_FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, Function):
                first = node.body[0]
                has_docstring = ast.get_docstring(node, clean=False) is not None
                docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
                count = (node.end_lineno or 0) - node.lineno + 1 - docstring
                if count > FUNCTION_LINES_MAX:
                    found.append(f"{name_of(path)}:{node.lineno} {node.name} has {count} lines")

    assert [] == found


def test_module_names() -> None:
    """No module is a drawer for odds and ends."""
    found = [name_of(path) for path in PYTHON_FILES if BANNED_NAMES & {path.stem, path.parent.name}]

    assert [] == found


def test_comments_are_finished() -> None:
    """Marks of unfinished work fail the build, unless they give the number of an issue."""
    # Put together so that this file does not find itself.
    marks = re.compile("FIX" + r"ME|TO" + r"DO(?!\(#\d+\): )")
    found = [
        f"{name_of(path)}:{number}"
        for path in [*PYTHON_FILES, *(ROOT / "scripts").iterdir(), *PACKAGE.rglob("*.js")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]

    assert [] == found


# The others are run and never imported from, or written by a program.
IMPORTED = [
    path
    for path in SOURCES
    if path.name not in {"__main__.py", "client_pb2.py"} and "migrations" not in path.parts
]


@pytest.mark.parametrize("path", IMPORTED, ids=name_of)
def test_module_says_what_it_exports(path: Path) -> None:
    """Every module has ``__all__``, a tuple without doubles (Ruff keeps it sorted)."""
    exported = read_all(parse(path))

    assert isinstance(exported, tuple), f"{name_of(path)}: __all__ is {exported!r}"
    assert len(exported) == len(set(exported))


def test_docstrings() -> None:
    """Every module and everything public in it has a docstring."""
    found = []
    for path in SOURCES:
        tree = parse(path)
        if not ast.get_docstring(tree):
            found.append(f"{name_of(path)} module")
        found += [
            f"{name_of(path)}:{node.lineno} {node.name}"
            for node in list_public(tree)
            if not ast.get_docstring(node)
        ]

    assert [] == found


def test_error_tree() -> None:
    """The tree in the docstring of ``wirebell.errors`` is the tree of the classes."""
    errors = importlib.import_module("wirebell.errors")
    written: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:│   |    )*)(├── |└── )?([A-Z]\w+)\b", line)
        if match:
            written.append((len(match[1]) // 4 + bool(match[2]), match[3]))

    def walk(error: type[BaseException], depth: int) -> Iterator[tuple[int, str]]:
        yield depth, error.__name__
        for child in error.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from walk(child, depth + 1)

    assert list(walk(errors.WirebellError, 0)) == written


def test_errors_stand_in_one_module() -> None:
    """Every public exception class is defined in ``wirebell.errors``."""
    found = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in SOURCES
        if path != PACKAGE / "errors.py" and "demo" not in path.parts
        for node in list_public(parse(path))
        if isinstance(node, ast.ClassDef)
        if any(re.search(r"(Error|Exception)$", ast.unparse(parent)) for parent in node.bases)
    ]

    assert [] == found


def test_public_names() -> None:
    """Every name in ``wirebell.__all__`` is there and documented, and there are at most 40."""
    package = importlib.import_module("wirebell")

    assert len(package.__all__) <= 40
    assert [] == [name for name in package.__all__ if not hasattr(package, name)]
    documented = (getattr(package, name) for name in package.__all__)
    assert [] == [
        thing
        for thing in documented
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and not inspect.getdoc(thing)
    ]


def test_import_is_lean() -> None:
    """Importing ``wirebell`` costs no driver of an extra."""
    program = (
        "import sys, wirebell; "
        "print(*{'redis', 'nats', 'asyncpg', 'sqlalchemy', 'pywebpush'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert "" == result.stdout.strip()


def test_no_private_places() -> None:
    """No tracked file names a place that exists on one machine only."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Put together so that this file does not find itself.
    places = re.compile(
        r"(?<![\w.])/(wo" + r"rk|ro" + r"ot|ho" + r"me/\w+|Us" + r"ers/\w+)/|\.\./sha" + "red"
    )
    found = []
    for name in listing.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():  # deleted and not yet noted, or a link to a folder
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:  # a picture
            continue
        found += [f"{name}:{n}" for n, line in enumerate(lines, 1) if places.search(line)]

    assert [] == found
