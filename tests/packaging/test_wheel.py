"""What people install: the built wheel runs the demo, with its page and migrations inside."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import httpx2
import pytest
from websockets.sync.client import connect

from tests.packaging.test_lock import read_pins
from tests.servers import Server, free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 10.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program to its end and return what it printed; fail with all of it."""
    result = subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def clean_environment() -> dict[str, str]:
    """Copy the environment without what would lead Python back to the checkout."""
    ours = ("WIREBELL_", "COV", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def install(python: Path, *arguments: str, cwd: Path) -> None:
    """Install into the environment of ``python`` with whatever installer this machine has."""
    # The interpreter our own environment was made from; that one has pip, ours does not.
    host = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    if uv := which("uv"):
        run(uv, "pip", "install", "--no-config", "-q", "--python", python, *arguments, cwd=cwd)
    elif subprocess.run([host, "-m", "pip", "-V"], capture_output=True, check=False).returncode:
        run(python, "-m", "ensurepip", cwd=cwd)
        run(python, "-m", "pip", "install", "-q", "--no-compile", *arguments, cwd=cwd)
    else:
        options = ("-q", "--no-compile", "--disable-pip-version-check")
        run(host, "-m", "pip", "--python", python, "install", *options, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel by way of the source distribution, and install it in a new environment."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    # The wheel's own metadata says what is needed; the lock only says which version of it.
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{k}=={v}\n" for k, v in read_pins("demo").items()))
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install(python, "-c", str(constraints), f"wirebell[demo] @ {wheel.as_uri()}", cwd=folder)
    return python


@pytest.fixture
def server(python: Path, tmp_path: Path) -> Iterator[Server]:
    """Run the installed command in an empty folder."""
    port = free_port()
    log_path = tmp_path / "log.txt"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [python.with_name("wirebell"), "demo", "--port", str(port)],
            cwd=tmp_path,
            env=clean_environment() | {"WIREBELL_DEMO_DATA_DIR": str(tmp_path / "data")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(port, process, log_path)
    deadline = time.monotonic() + START_SECONDS
    while f"Taskboard answers on {server.url}" not in server.log():
        if process.poll() is not None or time.monotonic() > deadline:
            server.kill()
            pytest.fail(f"wirebell demo did not start\n{server.log()}")
        time.sleep(0.05)
    yield server
    server.kill()


def test_wheel_is_what_runs(python: Path, tmp_path: Path) -> None:
    """The new environment holds the wheel's modules, not the checkout's."""
    where = run(python, "-c", "import wirebell; print(wirebell.__file__)", cwd=tmp_path)

    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_wheel_says_its_version(python: Path, tmp_path: Path) -> None:
    """The command, the metadata and the module agree on the version."""
    script = (
        "import importlib.metadata as m, wirebell.version as v; "
        "print(m.version('wirebell') == v.__version__, v.__version__)"
    )
    agreed, version = run(python, "-c", script, cwd=tmp_path).split()

    assert agreed == "True"
    assert version in run(python.with_name("wirebell"), "version", cwd=tmp_path)


def test_wheel_runs_the_demo(server: Server) -> None:
    """The page is served, a task is stored, a socket talks, and SIGTERM ends it in 10 s."""
    page = httpx2.get(f"{server.url}/")
    created = httpx2.post(f"{server.url}/tasks", json={"title": "Pack", "description": ""})
    with connect(f"{server.ws_url}/ws", open_timeout=5) as socket:
        socket.send("hello")
        answer = socket.recv(timeout=5)
        # A socket that is still open does not hold the process up.
        seconds = server.stop(STOP_SECONDS)

    assert page.status_code == 200
    assert "<html" in page.text
    assert created.status_code == 201, created.text
    assert answer == "Message received: hello"
    assert seconds <= STOP_SECONDS
