"""``wirebell serve`` as a process: started, waited for, and stopped with its log kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ("SECRET", "Standalone", "run_command", "standalone")

SECRET = "secret-for-tests-0123456789abcdef0123"
START_SECONDS = 60.0
"""A cold start of four workers with two busy cores."""
STOP_SECONDS = 20.0
"""Longer than every drain that these tests configure."""


@dataclass
class Standalone:
    """A running server.

    Attributes:
        address: As it printed it: ``http://127.0.0.1:8000``, or the path of a Unix socket.
        process: Leader of its own process group.
        log_path: Where both its outputs go.
    """

    address: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        """Return all it has printed."""
        return self.log_path.read_text()

    def children(self) -> list[int]:
        """Return the ids of its workers; multiprocessing's helper has its own name."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            child
            for child in map(int, path.read_text().split())
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def get(self, path: str) -> tuple[int, str]:
        """Ask; returns status and body."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as response:  # noqa: S310
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Scrape."""
        lines = self.get("/metrics")[1].splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask to end, and return the status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return a child's environment: ours without our settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WIREBELL_", "CENTRIFUGO_"))
    }
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    return kept | {"PYTHONUNBUFFERED": "1"} | dict(extra)


def run_command(
    *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of ``wirebell`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "wirebell", *arguments],
        env=environment(env or {}),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


@contextlib.contextmanager
def standalone(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[Standalone]:
    """Run ``wirebell serve`` on a free port until the block ends."""
    log_path = folder / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "wirebell", "serve", "--host", "127.0.0.1", "--port", "0"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(env or {}),
            start_new_session=True,
        )
    try:
        yield Standalone(_wait_address(process, log_path), process, log_path)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_address(process: subprocess.Popen[bytes], log_path: Path) -> str:
    """Wait until the server has printed where it answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"^Wirebell answers on (\S+)$", log_path.read_text(), re.M)
        if found:
            return found[1]
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}\n{log_path.read_text()}")
        time.sleep(0.03)  # between two looks
    raise AssertionError(f"no answer within {START_SECONDS} s\n{log_path.read_text()}")
