"""Workers ask each other for their metrics over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from wirebell.worker_metrics import (
    ANSWER_SECONDS_MAX,
    Family,
    WorkerFolder,
    WorkerMetrics,
)

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def run_worker(folder: Path, name: str, count: int) -> AsyncIterator[WorkerMetrics]:
    """Run a worker that has counted so much."""
    metrics = WorkerMetrics(
        lambda: [
            GaugeMetricFamily("open", "Open.", value=count),
            CounterMetricFamily("done", "Done.", value=count),
        ],
        folder,
        name,
    )
    await metrics.start()
    try:
        yield metrics
    finally:
        await metrics.aclose()


async def ask(metrics: WorkerMetrics) -> dict[str, float]:
    """Scrape a worker."""
    text = (await metrics.render()).decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_each_worker_answers_for_all(tmp_path: Path) -> None:
    """Whoever is scraped tells the sum of all."""
    async with (
        run_worker(tmp_path, "1", 1) as one,
        run_worker(tmp_path, "2", 10) as two,
        run_worker(tmp_path, "3", 100) as three,
    ):
        answers = [await ask(worker) for worker in (one, two, three)]

    expected = {"open": 111.0, "done_total": 111.0, "wirebell_workers_count": 3.0}
    assert [expected] * 3 == answers


async def test_scrapes_at_the_same_time(tmp_path: Path) -> None:
    """Workers that ask each other at once wait for nobody."""
    async with run_worker(tmp_path, "1", 1) as one, run_worker(tmp_path, "2", 10) as two:
        answers = await asyncio.gather(*(ask(worker) for worker in (one, two) * 10))

    assert {11.0} == {answer["open"] for answer in answers}


async def test_what_an_ended_worker_counted_stays(tmp_path: Path) -> None:
    """Counters of a worker that ended are kept, gauges are not; ending twice changes nothing."""
    async with run_worker(tmp_path, "1", 1) as one:
        async with run_worker(tmp_path, "2", 10) as two:
            pass
        await two.aclose()
        answer = await ask(one)

    assert {"open": 1.0, "done_total": 11.0, "wirebell_workers_count": 1.0} == answer


async def test_what_a_killed_worker_told_last_stays(tmp_path: Path) -> None:
    """The socket of a process that was killed goes when somebody finds it; its counters stay."""
    async with run_worker(tmp_path, "1", 1) as one, run_worker(tmp_path, "3", 100) as three:
        async with run_worker(tmp_path, "2", 10):
            await ask(one)
            kept = (tmp_path / "2.kept").read_bytes()
        # As if it had been killed: it left nothing, and its socket is still there.
        (tmp_path / "ended").unlink()
        (tmp_path / "2.kept").write_bytes(kept)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "2.socket"))
        answers = [await ask(worker) for worker in (three, one, three)]

    expected = {"open": 101.0, "done_total": 111.0, "wirebell_workers_count": 2.0}
    assert [expected] * 3 == answers
    assert not (tmp_path / "2.socket").exists()


async def test_an_answer_before_the_end_counts_once(tmp_path: Path) -> None:
    """A worker that answers, and ends before it is added up, is counted once."""
    folder = WorkerFolder(tmp_path)
    asked: list[list[Family] | None] = []

    class Ending(WorkerMetrics):
        """Has a sibling end while it is being asked."""

        async def _ask(self, folder: WorkerFolder, name: str) -> list[Family] | None:
            answer = await super()._ask(folder, name)
            await two.aclose()
            asked.append(answer)
            return answer

    async with run_worker(tmp_path, "2", 10) as two:
        one = Ending(lambda: [CounterMetricFamily("done", "Done.", value=1)], tmp_path, "1")
        await one.start()
        answer = await ask(one)
        await one.aclose()

    assert (1, ["2", "1"]) == (len(asked), folder.read_ended().names)
    assert asked[0] is not None
    assert {"done_total": 11.0, "wirebell_workers_count": 1.0} == answer


async def test_a_worker_that_has_just_ended(tmp_path: Path) -> None:
    """A socket that goes between looking and asking is nobody's."""
    (tmp_path / "9.socket").symlink_to(tmp_path / "missing")

    async with run_worker(tmp_path, "1", 1) as one:
        answer = await ask(one)

    assert answer["wirebell_workers_count"] == 1.0


async def test_a_long_answer(tmp_path: Path) -> None:
    """An answer that takes several reads is read to its end."""
    family = CounterMetricFamily("many", "Many.", labels=["number"])
    for number in range(20_000):
        family.add_metric([str(number)], 1)
    large = WorkerMetrics(lambda: [family], tmp_path, "2")
    await large.start()

    async with run_worker(tmp_path, "1", 1) as one:
        answer = await ask(one)
    await large.aclose()

    assert 20_000 == sum(name.startswith("many_total{") for name in answer)


async def test_a_killed_worker_s_name_can_be_taken(tmp_path: Path) -> None:
    """A process that has the number of a killed one takes its place."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "2.socket"))

    async with run_worker(tmp_path, "1", 1) as one, run_worker(tmp_path, "2", 10):
        answer = await ask(one)

    assert answer["open"] == 11.0


async def test_a_stuck_worker_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sibling that does not answer costs a second; its counters are those it told last."""
    told = [Family("done", "Done.", "counter", [("done_total", [], 7.0)])]
    WorkerFolder(tmp_path).keep("9", msgspec.json.encode(told))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "9.socket"))
        listener.listen()
        async with run_worker(tmp_path, "1", 1) as one:
            started = time.monotonic()
            with caplog.at_level(logging.WARNING):
                answer = await ask(one)

    assert {"open": 1.0, "done_total": 8.0, "wirebell_workers_count": 1.0} == answer
    assert time.monotonic() - started < ANSWER_SECONDS_MAX + 2
    assert "worker 9 did not tell its metrics" in caplog.text


async def test_an_answer_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sibling that talks nonsense is left out."""

    async def answer_nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense")
        writer.close()

    server = await asyncio.start_unix_server(answer_nonsense, tmp_path / "9.socket")
    async with server, run_worker(tmp_path, "1", 1) as one:
        answer = await ask(one)

    assert answer["wirebell_workers_count"] == 1.0
    assert "worker 9 did not tell its metrics" in caplog.text


async def test_counters_that_cannot_be_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is gone when a worker ends is told, and nothing else happens."""
    folder = tmp_path / "workers"
    folder.mkdir()
    async with run_worker(folder, "1", 1):
        shutil.rmtree(folder)

    assert "the counters of this worker are lost" in caplog.text
