"""Metrics of several workers are added up, and those of ended ones kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wirebell.worker_metrics import (
    Ended,
    Family,
    WorkerFolder,
    WorkerMetrics,
    merge_families,
    read_families,
    render_families,
)

pytestmark = pytest.mark.anyio


def collect(connections: int, closes: dict[str, int]) -> list[Metric]:
    """Count as a node would."""
    counter = CounterMetricFamily("closes", "Closed.", labels=["code"])
    for code, count in closes.items():
        counter.add_metric([code], count)
    return [GaugeMetricFamily("connections", "Open.", value=connections), counter]


def lines_of(text: bytes) -> set[str]:
    """Return the samples without comments."""
    return {line for line in text.decode().splitlines() if not line.startswith("#")}


def test_samples_of_the_same_labels_are_added() -> None:
    """Gauges and counters are added by name and labels; what one has alone stays."""
    answers = [
        read_families(collect(2, {"3000": 1, "3008": 4})),
        read_families(collect(3, {"3000": 5})),
    ]

    assert {
        "connections 5.0",
        'closes_total{code="3000"} 6.0',
        'closes_total{code="3008"} 4.0',
    } == lines_of(render_families(merge_families(answers)))


def test_nothing_is_nothing() -> None:
    """Without answers there is nothing to tell."""
    assert b"" == render_families(merge_families([]))


def test_counters_of_ended_workers(tmp_path: Path) -> None:
    """Counters of workers that ended are added up, each once; gauges ended with them."""
    folder = WorkerFolder(tmp_path)
    folder.end("1", read_families(collect(2, {"3000": 1})))
    folder.end("2", read_families(collect(9, {"3000": 2})))
    folder.end("2", read_families(collect(9, {"3000": 4})))

    labels = [("code", "3000")]
    families = [Family("closes", "Closed.", "counter", [("closes_total", labels, 3.0)])]
    assert Ended(["1", "2"], families) == folder.read_ended()


def test_counters_of_killed_workers(tmp_path: Path) -> None:
    """Of a worker that left nothing, the counters are those that it told last."""
    folder = WorkerFolder(tmp_path)
    folder.keep("1", msgspec.json.encode(read_families(collect(2, {"3000": 1}))))
    folder.keep("1", msgspec.json.encode(read_families(collect(2, {"3000": 5}))))
    folder.end("1")
    folder.end("2")

    assert ["1", "2"] == folder.read_ended().names
    assert {'closes_total{code="3000"} 5.0'} == lines_of(
        render_families(folder.read_ended().families)
    )


def test_process_ids_come_again(tmp_path: Path) -> None:
    """A new worker of an old name is no ended one; what the old one counted stays."""
    folder = WorkerFolder(tmp_path)
    folder.end("1", read_families(collect(2, {"3000": 1})))
    before = folder.read_ended()

    folder.begin("1")
    folder.begin("2")

    assert Ended([], before.families) == folder.read_ended()


def test_broken_files_count_nothing(tmp_path: Path) -> None:
    """What cannot be read is as good as nothing."""
    folder = WorkerFolder(tmp_path)
    assert (Ended(), []) == (folder.read_ended(), folder.read_counters("1"))
    (tmp_path / "ended").write_text("{")
    folder.keep("1", b"{")

    assert (Ended(), []) == (folder.read_ended(), folder.read_counters("1"))


async def test_a_worker_alone() -> None:
    """A process without siblings tells its own, and that it is one."""
    metrics = WorkerMetrics(lambda: collect(2, {"3000": 1}))

    await metrics.start()
    text = await metrics.render()
    await metrics.aclose()

    assert {
        "connections 2.0",
        'closes_total{code="3000"} 1.0',
        "wirebell_workers_count 1.0",
    } == lines_of(text)
