"""Settings of the reference app, and the secret that all its workers share."""

from __future__ import annotations

import stat
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import pytest

from wirebell.demo.settings import DemoSettings, TaskboardLimits, load_secret


def test_secret_is_made_once(tmp_path: Path) -> None:
    """The first who asks makes the secret, later ones read it, nobody else may."""
    first = load_secret(tmp_path)

    again = load_secret(tmp_path)

    assert first == again
    assert (64, True) == (len(first), set(first) <= set("0123456789abcdef"))
    (path,) = tmp_path.iterdir()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_racing_threads(tmp_path: Path) -> None:
    """Threads that ask at the same moment all get the same secret."""
    barrier = Barrier(8)

    def race(_: int) -> str:
        barrier.wait(10)
        return load_secret(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(race, range(8)))

    assert 1 == len(secrets)
    assert ["secret.key"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.slow
def test_racing_processes(tmp_path: Path) -> None:
    """Processes that ask at the same moment all get the same secret."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        secrets = set(pool.map(load_secret, [tmp_path] * 6))

    assert 1 == len(secrets)
    assert ["secret.key"] == [path.name for path in tmp_path.iterdir()]


def test_limits_of_the_taskboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The article's limit is raised, and one address has half of it."""
    monkeypatch.delenv("WIREBELL_CONNECTIONS_MAX", raising=False)
    monkeypatch.delenv("WIREBELL_CONNECTIONS_PER_ADDRESS_MAX", raising=False)

    limits = TaskboardLimits()

    assert (4_000, 2_000) == (limits.connections_max, limits.connections_per_address_max)


def test_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Data live in the user's data directory, or where the environment says."""
    monkeypatch.delenv("WIREBELL_DEMO_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    by_default = DemoSettings().data_dir
    monkeypatch.setenv("XDG_DATA_HOME", "")
    at_home = DemoSettings().data_dir
    monkeypatch.setenv("WIREBELL_DEMO_DATA_DIR", str(tmp_path / "x"))

    assert (tmp_path / "wirebell-demo", tmp_path / "x") == (by_default, DemoSettings().data_dir)
    assert Path.home() / ".local" / "share" / "wirebell-demo" == at_home


def test_database(tmp_path: Path) -> None:
    """The database is a file of the data directory unless a URL names another."""
    here = DemoSettings(data_dir=tmp_path, database_url="")
    there = DemoSettings(database_url="postgresql+asyncpg://h/d")

    assert f"sqlite+aiosqlite:///{tmp_path}/taskboard.db" == here.url
    assert "postgresql+asyncpg://h/d" == there.url
