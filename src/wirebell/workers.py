"""Whether this process is one of several workers that a server started.

No server tells its workers how many they are. Uvicorn's, FastAPI's and Hypercorn's come by
``multiprocessing``, which gives them the server's configuration. Granian's have the parent's
command line, and Gunicorn's are forks of a process with that command line; where it says nothing,
variables of the environment do. What stands in a configuration file of Gunicorn is not seen.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from wirebell.broker_options import BrokerOptions
from wirebell.brokers import create_broker
from wirebell.brokers.memory import MemoryBroker
from wirebell.errors import ConfigError
from wirebell.interfaces import Broker, PresenceStore
from wirebell.model import ChannelItem
from wirebell.settings import Settings

__all__ = ("check_workers", "count_workers", "read_arguments", "try_broker")

ENVIRONMENT = ("GRANIAN_WORKERS", "WEB_CONCURRENCY")


def check_workers(broker: Broker, count: int | None = None) -> None:
    """Refuse a broker of one process in several workers, unless it was told that it may.

    Args:
        broker: Not started.
        count: How many workers there are to be; ``None`` finds out how many there are.

    Raises:
        ConfigError: The message names the alternatives.
    """
    if not isinstance(broker, MemoryBroker) or broker.allows_workers:
        return
    if count is None:
        count = read_arguments(getattr(multiprocessing.current_process(), "_kwargs", {}))
    if count is None:
        is_child = multiprocessing.parent_process() is not None
        count = count_workers(sys.argv, os.environ, is_child=is_child)
    if count > 1:
        raise ConfigError(
            f"broker_url is 'memory://', which stays inside one process, and there are {count} "
            f"workers: a publication would reach only the clients of the worker that took "
            f"it. Set WIREBELL_BROKER_URL=sqlite:///wirebell.db (all workers on this machine, no "
            f"server), or to redis://, nats:// or postgresql://; or run one worker; or set "
            f"WIREBELL_MEMORY_ALLOWS_WORKERS=1 if nobody has to hear of another worker's "
            f"publications"
        )


def try_broker(
    settings: Settings,
    options: BrokerOptions | None = None,
    presence: BrokerOptions | None = None,
    *,
    workers: int,
) -> None:
    """Start a broker and stop it again, to find out before there are workers what one would.

    Args:
        settings: Bounds, and ``broker_url``.
        options: Instead of what ``broker_url`` names.
        presence: Where presence is kept, if not with the broker.
        workers: How many there are to be.

    Raises:
        ConfigError: The broker cannot be used, or not by so many.
        BrokerUnavailable: It cannot be reached.
    """
    broker, store = create_broker(settings, options, presence)
    check_workers(broker, workers)
    asyncio.run(_try(broker, store))


async def _try(broker: Broker, store: PresenceStore) -> None:
    """Start and stop a broker and a store."""
    try:
        await broker.start(_Nobody())
        await store.start()
    finally:
        await store.aclose()
        await broker.aclose()


class _Nobody:
    """A listener that is told nothing: nothing was subscribed to."""

    def handle_item(self, channel: str, item: ChannelItem) -> None:
        """Take nothing."""

    def handle_control(self, data: bytes) -> None:
        """Take what is meant for those who serve."""

    def handle_reconnect(self) -> None:
        """Take nothing."""


def read_arguments(arguments: Mapping[str, object]) -> int | None:
    """Say how many workers a server started, if it gave its configuration to this one.

    Args:
        arguments: With which ``multiprocessing`` started this process. There is no public way to
            them, and none but this one when ``uvicorn.run(workers=4)`` stands in a program.
    """
    config = arguments.get("config")
    count = getattr(config, "workers", None)
    if not isinstance(count, int):
        return None
    # Uvicorn then starts one worker, whatever it was told.
    return 1 if getattr(config, "should_reload", False) else count


def count_workers(argv: Sequence[str], environ: Mapping[str, str], *, is_child: bool) -> int:
    """Say how many workers a server was told to start, as far as that can be seen; else 1.

    Args:
        argv: The command line that this process has from whoever started it.
        environ: Environment variables.
        is_child: This process was started by ``multiprocessing``.
    """
    path = PurePath(argv[0] if argv else "")
    program = path.parent.name if path.name == "__main__.py" else path.name
    is_gunicorn = program.startswith("gunicorn")
    if not is_child and not is_gunicorn:
        # Whoever was started with several workers is not here, but one of these.
        return 1
    words = [*argv, *environ.get("GUNICORN_CMD_ARGS", "").split()] if is_gunicorn else argv
    told = _find_option(words, "-w" if is_gunicorn else "")
    if told is None:
        told = next((environ[name] for name in ENVIRONMENT if name in environ), "")
    return _to_count(told)


def _find_option(words: Sequence[str], short: str) -> str | None:
    """Return the value of ``--workers``, or of its short form; the last one counts."""
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == "--workers" or (short and word == short):
            found = following
        elif word.startswith("--workers="):
            found = word.partition("=")[2]
        elif short and word.startswith(short) and word[len(short) :].isdigit():
            found = word[len(short) :]
    return found


def _to_count(text: str) -> int:
    """Read a number of workers; what is none is 1."""
    return int(text) if text.isascii() and text.isdigit() else 1
