"""The sqlite broker when something goes wrong: processes, files, disks, locks."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from wirebell.broker_options import SQLiteOptions
from wirebell.brokers.sqlite import SQLiteBroker, SQLitePresenceStore, create
from wirebell.brokers.sqlite.keeper import remove_batches
from wirebell.errors import BrokerClosed, BrokerUnavailable, ConfigError
from wirebell.model import (
    ChannelOptions,
    ClientInfo,
    History,
    Publication,
    Published,
    PublishOptions,
    StreamPosition,
)
from wirebell.settings import Settings
from wirebell.testing import RecordingListener

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KEPT = ChannelOptions(history=History(size=100_000, ttl_seconds=600))
UNKEPT = ChannelOptions()
WAIT_SECONDS = 20.0


class Node:
    """A node's broker and store, with what came."""

    def __init__(self, path: Path) -> None:
        self.broker: SQLiteBroker
        self.store: SQLitePresenceStore
        self.broker, self.store = create(Settings(), SQLiteOptions(path=str(path)))
        self.listener = RecordingListener()

    async def publish(
        self, channel: str, data: bytes, options: ChannelOptions = KEPT
    ) -> StreamPosition:
        """Publish, and return the position."""
        published = self.broker.publish(channel, Publication(data), options)
        return (await published).position

    async def read(self, channel: str) -> list[bytes]:
        """Return the payloads that are kept."""
        part = await self.broker.history(channel, KEPT, since=None, limit=1_000_000)
        assert [kept.offset for kept in part.publications] == list(
            range(part.top.offset - len(part.publications) + 1, part.top.offset + 1)
        )
        return [kept.data for kept in part.publications]


@asynccontextmanager
async def node(path: Path) -> AsyncIterator[Node]:
    """Run a node until the block ends."""
    created = Node(path)
    try:
        await created.broker.start(created.listener, "")
        await created.store.start()
        yield created
    finally:
        await created.broker.aclose()
        await created.store.aclose()


@contextmanager
def publisher(path: Path, channel: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that publishes until the block ends; it is killed then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.sqlite_publisher", str(path), channel],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for writing, as another program might, until the block ends."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the database of a test is."""
    return tmp_path / "broker.db"


@pytest.fixture
def disk() -> Iterator[Path]:
    """Mount a disk of three megabytes."""
    folder = Path(tempfile.mkdtemp(prefix="wirebell-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a disk can be mounted by root only: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


async def test_history_survives_a_restart_of_all(path: Path) -> None:
    """After all nodes ended, offsets go on in the same epoch; keys and leases still count."""
    key = PublishOptions(idempotency_key="k")
    async with node(path) as one:
        first = await one.publish("a", b"1")
        keyed = await one.broker.publish("a", Publication(b"2"), KEPT, key)
        await one.store.add("a", ClientInfo("c", "ann"), ttl_seconds=60)
    left = sorted(each.name for each in path.parent.iterdir())
    async with node(path) as two:
        again = await two.broker.publish("a", Publication(b"3"), KEPT, key)
        last = await two.publish("a", b"4")
        kept = await two.read("a")
        members = await two.store.members("a")

    assert ["broker.db", "broker.db-workers"] == left
    assert Published(keyed.position, is_suppressed=True) == again
    assert StreamPosition(3, first.epoch) == last
    assert [b"1", b"2", b"4"] == kept
    assert ["c"] == list(members)


async def test_killed_while_it_writes(path: Path) -> None:
    """Whatever a killed process had acknowledged is kept and was delivered; the others go on."""
    acknowledged: dict[int, int] = {}
    epochs: set[str] = set()
    lines: list[str] = []
    async with node(path) as one:
        await one.broker.subscribe("a")
        with publisher(path, "a") as first, publisher(path, "a") as second:
            for process in (first, second):
                assert process.stdout is not None
                # A process takes its time to start.
                lines.append(await asyncio.to_thread(process.stdout.readline))
            for process in (first, second):
                assert process.stdout is not None
                await one.listener.wait_count("a", len(one.listener.of("a")) + 47)
                process.send_signal(signal.SIGKILL)
                lines += process.stdout.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith("\n") and len(line.split()) == 3:
                number, offset, epoch = line.split()
                acknowledged[int(offset)] = int(number)
                epochs.add(epoch)
        top = await one.publish("a", b"last")
        items = await one.listener.wait_count("a", top.offset)
        kept = await one.read("a")

    assert len(acknowledged) > 40
    assert {top.epoch} == epochs
    assert [*range(1, top.offset + 1)] == [item.offset for item in items]  # type: ignore[union-attr]
    assert all(b"%d" % number == kept[offset - 1] for offset, number in acknowledged.items())


async def test_stood_still_for_too_long(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A node that did not read for longer than batches are kept learns that it missed some."""
    async with node(path) as one, node(path) as two:
        await two.broker.subscribe("a")
        # Held up where a process that was stopped would stand.
        with two.broker.store.inbox.lock:
            for number in range(5):
                await one.publish("a", b"%d" % number)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                remove_batches(connection, 2**62)
        await two.listener.wait_reconnect()
        (newest,) = await two.listener.wait_count("a", 1)
        kept = await two.read("a")
        await two.broker.check()

    assert (1, 0) == (two.broker.reconnect_count, one.broker.reconnect_count)
    assert Publication(b"4") == plain(newest)
    assert [b"%d" % number for number in range(5)] == kept
    assert "4 batches were removed before they were read" in caplog.text


async def test_a_lock_that_is_held(path: Path) -> None:
    """Who publishes while another program holds the lock waits; reading goes on meanwhile."""
    async with node(path) as one, node(path) as two:
        await two.broker.subscribe("a")
        await one.publish("a", b"1")
        with locked(path):
            waiting = asyncio.ensure_future(one.publish("a", b"2"))
            assert [b"1"] == await two.read("a")
            assert {} == await two.store.members("a")
            assert not waiting.done()
        position = await waiting
        items = await two.listener.wait_count("a", 2)

    assert 2 == position.offset
    assert [Publication(b"1"), Publication(b"2")] == [plain(item) for item in items]


def plain(item: object) -> Publication:
    """Return a publication without its position."""
    assert isinstance(item, Publication)
    return Publication(item.data)


async def test_a_lock_that_is_held_for_too_long(path: Path) -> None:
    """After its bound a publish raises, and was not done; then everything works again."""
    async with node(path) as one:
        await one.publish("a", b"1")
        with locked(path):
            started = time.monotonic()
            answers = await asyncio.gather(
                one.publish("a", b"2"),
                one.broker.check(),
                one.store.add("a", ClientInfo("c"), ttl_seconds=60),
                return_exceptions=True,
            )
            seconds = time.monotonic() - started
        await one.broker.check()
        position = await one.publish("a", b"3")
        kept = await one.read("a")

    assert [BrokerUnavailable] * 3 == [type(answer) for answer in answers]
    assert "another process holds its lock" in str(answers[0])
    assert 3.5 < seconds < 6
    assert 2 == position.offset
    assert [b"1", b"3"] == kept


async def test_a_disk_that_does_not_answer(path: Path) -> None:
    """Who waits for a thread that is stuck is told so in time; what comes then does not gather."""
    async with node(path) as one:
        await one.publish("a", b"1")
        # Held up where a call of the operating system that does not return would hold them up.
        with one.broker.store.inbox.lock:
            answers = await asyncio.gather(
                one.publish("a", b"2"), read_for_ever(one), return_exceptions=True
            )
            waiting = asyncio.ensure_future(one.publish("a", b"3"))
            await until(lambda: one.broker.store.writer.jobs.qsize() == 1)  # type: ignore[union-attr]
        positions = await asyncio.gather(waiting, one.publish("a", b"4"))
        kept = await one.read("a")

    for answer in answers:
        assert isinstance(answer, BrokerUnavailable)
        assert "does not answer" in str(answer)
    assert [3, 4] == [position.offset for position in positions]
    assert [b"1", b"2", b"3", b"4"] == kept


async def read_for_ever(one: Node) -> None:
    """Read until that fails."""
    while True:
        await one.read("a")


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(descriptor, b"x" * 4_096)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


async def publish_many(one: Node) -> None:
    """Publish more than a full disk has room for in what is allocated already."""
    for _ in range(1_000):
        await one.publish("a", b"x" * 4_000)


def remount(disk: Path, mode: str) -> None:
    """Change whether a disk can be written."""
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


async def test_a_full_disk(disk: Path) -> None:
    """A publish that finds no room raises and says so; nothing breaks, and room is all it needs."""
    path = disk / "broker.db"
    async with node(path) as one, node(path) as two:
        await two.broker.subscribe("a")
        first = await one.publish("a", b"1")
        filler = disk / "filler"
        fill(filler)
        with pytest.raises(BrokerUnavailable, match="the disk is full: free some space"):
            await publish_many(one)
        with pytest.raises(BrokerUnavailable, match="full"):
            await one.broker.check()
        stored = len(await two.read("a"))
        filler.unlink()
        await one.broker.check()
        last = await one.publish("a", b"last")
        items = await two.listener.wait_count("a", last.offset)
        kept = await two.read("a")

    assert StreamPosition(stored + 1, first.epoch) == last
    assert last.offset == len(items) == len(kept)


async def test_a_disk_that_can_only_be_read(disk: Path) -> None:
    """A start is refused with what to do; a node that runs says so, and goes on when it can."""
    path = disk / "broker.db"
    async with node(path) as one:
        await one.publish("a", b"1")
    remount(disk, "ro")
    with pytest.raises(ConfigError, match=r"can only be read, .* let this user write it"):
        async with node(path):
            pass
    remount(disk, "rw")
    async with node(path) as one:
        assert 2 == (await one.publish("a", b"2")).offset


async def test_a_file_that_is_removed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nodes that run make a new one: streams begin anew, and everybody is told."""
    async with node(path) as one, node(path) as two:
        await two.broker.subscribe("a")
        first = await one.publish("a", b"1")
        await two.listener.wait_count("a", 1)
        for each in path.parent.glob("broker.db*"):
            if each.is_file():
                each.unlink()
        await asyncio.gather(*(each.listener.wait_reconnect() for each in (one, two)))
        second = await one.publish("a", b"2")
        await two.listener.wait_count("a", 2)
        kept = await two.read("a")

    assert 1 == second.offset
    assert first.epoch != second.epoch
    assert [b"2"] == kept
    assert "its file is another one than before" in caplog.text


async def test_only_the_file_is_removed(path: Path) -> None:
    """What is left beside it holds nobody up, though another process has it open."""
    async with node(path) as one:
        await one.broker.subscribe("a")
        first = await one.publish("a", b"1")
        with publisher(path, "a") as process:
            assert process.stdout is not None
            # A process takes its time to start.
            await asyncio.to_thread(process.stdout.readline)
            path.unlink()
            # This node writes nothing, so its writer has the old file open for as long as it likes.
            await one.listener.wait_reconnect()
            await until(lambda: one.listener.items[-1][1].epoch != first.epoch)  # type: ignore[union-attr]
        second = await one.publish("a", b"2")
        kept = await one.read("a")

    assert first.epoch != second.epoch
    assert second.offset == len(kept) > 1


async def test_a_folder_that_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without its folder a broker is not connected, and says so once; it waits for its return."""
    folder = tmp_path / "data"
    folder.mkdir()
    caplog.set_level(logging.INFO)
    async with node(folder / "broker.db") as one:
        await one.broker.subscribe("a")
        await one.publish("a", b"1")
        shutil.rmtree(folder)
        await until(lambda: not one.broker.is_connected)
        for call in (one.broker.check(), one.publish("a", b"2"), one.read("a")):
            with pytest.raises(BrokerUnavailable, match=r"folder .* missing"):
                await call
        folder.mkdir()
        await one.listener.wait_reconnect()
        await one.broker.check()
        position = await one.publish("a", b"3")

    assert 1 == position.offset
    assert 1 == caplog.text.count("what other workers publish does not arrive")
    assert 1 == caplog.text.count("can read")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_what_a_newer_release_keeps(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """History begins behind what cannot be read, presence leaves it out, and a line says so."""
    async with node(path) as one:
        for number in range(1, 5):
            await one.publish("a", b"%d" % number)
        for client_id in ("1", "2"):
            await one.store.add("a", ClientInfo(client_id), ttl_seconds=60)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
            connection.execute("UPDATE publications SET record = x'63' WHERE offset = 2")
            connection.execute("UPDATE members SET info = x'63' WHERE client_id = '2'")
        parts = [
            await one.broker.history("a", KEPT, since=None, limit=9, reverse=reverse)
            for reverse in (False, True)
        ]
        members = await one.store.members("a")

    offsets = [[kept.offset for kept in part.publications] for part in parts]
    assert [[3, 4], [4, 3]] == offsets
    assert {"1": ClientInfo("1")} == members
    assert 1 == caplog.text.count("upgrade this node too")


async def test_without_wakeups(path: Path) -> None:
    """Where workers cannot wake each other, a poll finds what is new within its interval."""
    path.with_name("broker.db-workers").touch()
    async with node(path) as one, node(path) as two:
        await two.broker.subscribe("a")
        started = time.monotonic()
        for number in range(1, 4):
            await one.publish("a", b"%d" % number, UNKEPT)
            await two.listener.wait_count("a", number)
        seconds = time.monotonic() - started

    assert seconds < 3.0


async def test_starting_at_once(path: Path) -> None:
    """Many who start on a fresh file at once all do, on one database."""
    nodes = [Node(path) for _ in range(8)]
    await asyncio.gather(*(each.broker.start(each.listener) for each in nodes))
    positions = await asyncio.gather(*(each.publish("a", b"1") for each in nodes))
    await asyncio.gather(*(each.broker.aclose() for each in nodes))

    assert {*range(1, 9)} == {position.offset for position in positions}
    assert 1 == len({position.epoch for position in positions})


async def test_starting_and_ending_in_any_order(path: Path) -> None:
    """Broker and store share threads, which end with the last of both; both can start again."""
    one = Node(path)
    with pytest.raises(BrokerClosed):
        await one.store.members("a")
    await one.store.start()
    await one.store.add("a", ClientInfo("c"), ttl_seconds=60)
    await one.broker.start(one.listener)
    await one.store.aclose()
    await one.store.aclose()
    await one.broker.subscribe("a")
    await one.publish("a", b"1")
    await one.broker.aclose()
    await one.broker.start(one.listener)
    await one.store.start()
    members = await one.store.members("a")
    position = await one.publish("a", b"2")
    threads = await asyncio.to_thread(count_threads)
    await one.broker.aclose()
    await one.store.aclose()

    assert ["c"] == list(members)
    assert 2 == position.offset
    assert 3 == threads
    assert 0 == await asyncio.to_thread(count_threads)


async def test_closing_that_is_cancelled(path: Path) -> None:
    """Whoever does not wait for the end leaves no thread behind all the same."""
    one = Node(path)
    await one.broker.start(one.listener)
    closing_ = asyncio.ensure_future(one.broker.aclose())
    await asyncio.sleep(0)
    closing_.cancel()
    await asyncio.gather(closing_, return_exceptions=True)

    await until(lambda: count_threads() == 0)


def count_threads() -> int:
    """Count the broker's threads of this process."""
    return sum(each.name.startswith("wirebell-sqlite") for each in threading.enumerate())


async def test_many_at_once(path: Path) -> None:
    """Thousands of publications of one turn are few transactions, and all are delivered."""
    async with node(path) as one, node(path) as two:
        for each in (one, two):
            await each.broker.subscribe("a")
        positions = await asyncio.gather(*(one.publish("a", b"x") for _ in range(3_000)))
        with closing(sqlite3.connect(path)) as connection:
            (batches,) = connection.execute("SELECT max(id) FROM batches").fetchone()
        for each in (one, two):
            items = await each.listener.wait_count("a", 3_000)
            assert [*range(1, 3_001)] == [item.offset for item in items]  # type: ignore[union-attr]

    assert [*range(1, 3_001)] == [position.offset for position in positions]
    assert batches < 20
