"""Whether this process is one of several workers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import uvicorn

from wirebell.broker_options import MemoryOptions
from wirebell.brokers.memory import MemoryBroker, create
from wirebell.errors import ConfigError
from wirebell.settings import Settings
from wirebell.workers import check_workers, count_workers, read_arguments, try_broker

UVICORN = ["/venv/bin/uvicorn", "app:app"]
GUNICORN = ["/venv/bin/gunicorn", "app:app"]


@pytest.mark.parametrize(
    ("argv", "environ", "is_child", "expected"),
    [
        ([*UVICORN, "--workers", "4"], {}, True, 4),
        ([*UVICORN, "--workers=4"], {}, True, 4),
        ([*UVICORN, "--workers", "4", "--workers", "1"], {"WEB_CONCURRENCY": "3"}, True, 1),
        ([*UVICORN, "--workers"], {}, True, 1),
        ([*UVICORN, "--workers", "many"], {}, True, 1),
        (UVICORN, {"WEB_CONCURRENCY": "3"}, True, 3),
        (UVICORN, {"WEB_CONCURRENCY": "x"}, True, 1),
        (UVICORN, {}, True, 1),
        # The parent serves nobody, and a process that nobody started as a worker is alone.
        ([*UVICORN, "--workers", "4"], {}, False, 1),
        (["main.py"], {"WEB_CONCURRENCY": "3"}, False, 1),
        (["/venv/bin/fastapi", "run", "--workers", "2"], {}, True, 2),
        ([*GUNICORN, "-w", "4"], {}, False, 4),
        ([*GUNICORN, "-w4"], {}, False, 4),
        ([*GUNICORN, "--workers=4", "-worker-class"], {}, False, 4),
        (GUNICORN, {"GUNICORN_CMD_ARGS": "--workers 5"}, False, 5),
        (GUNICORN, {"WEB_CONCURRENCY": "6"}, False, 6),
        (GUNICORN, {}, False, 1),
        (["/lib/gunicorn/__main__.py", "-w", "4"], {}, False, 4),
        (["/venv/bin/granian"], {"GRANIAN_WORKERS": "2"}, True, 2),
        ([], {"WEB_CONCURRENCY": "3"}, True, 3),
    ],
)
def test_count(argv: list[str], environ: dict[str, str], is_child: bool, expected: int) -> None:
    """The command line decides, then the environment, and only for somebody's worker."""
    assert expected == count_workers(argv, environ, is_child=is_child)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, None),
        ({"config": "a file"}, None),
        ({"config": uvicorn.Config("app:app", workers=3)}, 3),
        ({"config": uvicorn.Config("app:app", workers=3, reload=True)}, 1),
    ],
)
def test_what_a_server_gave(arguments: dict[str, object], expected: int | None) -> None:
    """Servers that give their configuration to their workers are asked, and not guessed about."""
    assert expected == read_arguments(arguments)


@pytest.mark.slow  # needs a server that is installed where all tests run
def test_what_hypercorn_gave() -> None:
    """Likewise."""
    import hypercorn

    assert 2 == read_arguments({"config": hypercorn.Config.from_mapping(workers=2)})


def test_memory_refuses() -> None:
    """The broker of one process refuses several workers, and names the alternatives."""
    with pytest.raises(ConfigError) as raised:
        check_workers(MemoryBroker(Settings()), 2)

    text = str(raised.value)
    for word in ("2 workers", "sqlite:///", "redis://", "nats://", "postgresql://"):
        assert word in text
    assert "WIREBELL_MEMORY_ALLOWS_WORKERS=1" in text


def test_memory_is_told_that_it_may() -> None:
    """Whoever says so may have several, each for itself; one needs no word."""
    check_workers(MemoryBroker(Settings()), 1)
    check_workers(MemoryBroker(Settings()))
    for settings, options in (
        (Settings(memory_allows_workers=True), MemoryOptions()),
        (Settings(), MemoryOptions(allows_workers=True)),
    ):
        check_workers(create(settings, options)[0], 4)


def test_a_told_number_of_workers_counts() -> None:
    """Who starts workers says how many, whatever the command line looks like."""
    with pytest.raises(ConfigError, match="there are 3 workers"):
        try_broker(Settings(broker_url="memory://"), workers=3)
    try_broker(Settings(broker_url="memory://"), workers=1)
    try_broker(Settings(broker_url="memory://", memory_allows_workers=True), workers=3)


def test_a_broker_is_tried_before_there_are_workers(tmp_path: Path) -> None:
    """What a worker would find out is found out, and nothing is left running."""
    url = f"sqlite:///{tmp_path}/broker.db"
    try_broker(Settings(broker_url=url), workers=3)
    left = sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"folder .* is missing"):
        try_broker(Settings(broker_url=f"sqlite:///{tmp_path}/nowhere/broker.db"), workers=3)

    assert ["broker.db", "broker.db-workers"] == left
    assert not [each for each in threading.enumerate() if "sqlite" in each.name]
