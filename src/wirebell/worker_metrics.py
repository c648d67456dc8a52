"""One answer about the metrics of all worker processes, whichever of them is asked.

Every worker listens on a Unix socket of its own in a folder that only this user may enter. Whoever
is scraped asks the others, and adds what they say to what it counts itself.

Counters never fall, or Prometheus would take that for a restart. So a worker that ends leaves its
counters in the folder; and each answer is kept there until the next, for a worker that is stuck or
was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, which has no Unix sockets in asyncio either.
    fcntl = None  # type: ignore[assignment]

__all__ = (
    "Ended",
    "Family",
    "WorkerFolder",
    "WorkerMetrics",
    "merge_families",
    "read_families",
    "render_families",
)

logger = logging.getLogger(__name__)

# A worker answers from memory: one that takes longer is stuck, and a scrape has 10 s by default.
ANSWER_SECONDS_MAX = 1.0
# About 20 KB with every code and channel policy seen; the rest is for applications' own.
ANSWER_BYTES_MAX = 4 * 1024 * 1024
SOCKET_SUFFIX = ".socket"


class Family(msgspec.Struct, frozen=True):
    """One metric with its samples, as it travels between workers.

    Attributes:
        name: Without Prometheus' suffixes.
        text: What it counts.
        kind: ``counter``, ``gauge`` ...
        samples: Sample's name and its labels, sorted → value.
    """

    name: str
    text: str
    kind: str
    samples: list[tuple[str, list[tuple[str, str]], float]]


_decoder = msgspec.json.Decoder(list[Family])

JOINED: Mapping[str, Callable[[float, float], float]] = {
    "wirebell_broker_up": min,
    "wirebell_nodes_count": max,
    "wirebell_revocations_count": max,
    "wirebell_outbox_waiting_count": max,
    "wirebell_outbox_oldest_seconds": max,
    "wirebell_outbox_aside_count": max,
}
"""Metric → how what two workers say of it becomes one; others are added up."""


def read_families(metrics: Iterable[Metric]) -> list[Family]:
    """Copy metrics as a collector gives them."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [
                (sample.name, sorted(sample.labels.items()), float(sample.value))
                for sample in metric.samples
            ],
        )
        for metric in metrics
    ]


def merge_families(answers: Iterable[list[Family]]) -> list[Family]:
    """Add up samples of the same name and labels; everything else stays as it is.

    What is true of all nodes, or of none, is not added up: see `JOINED`.
    """
    families: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for answer in answers for family in answer):
        families.setdefault(family.name, family)
        values = sums.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = (name, tuple((label, text) for label, text in labels))
            join = JOINED.get(family.name, _add)
            values[key] = join(values[key], value) if key in values else value
    return [
        Family(
            name,
            family.text,
            family.kind,
            [(sample, list(labels), value) for (sample, labels), value in sums[name].items()],
        )
        for name, family in families.items()
    ]


def _add(one: float, other: float) -> float:
    """Add what two workers counted."""
    return one + other


class _Collected:
    """A collector of what is known already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        """Give them."""
        for family in self.families:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def render_families(families: Iterable[Family]) -> bytes:
    """Write metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry)


class Ended(msgspec.Struct, frozen=True):
    """What workers left that have ended.

    Attributes:
        names: Theirs. Who has asked one just before it ended counts it only once.
        families: Their counters, added up.
    """

    names: list[str] = []
    families: list[Family] = []


_ended_decoder = msgspec.json.Decoder(Ended)


class WorkerFolder:
    """The folder where workers meet. Its files are small, and nobody holds the lock for long.

    Args:
        path: Of this user only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def socket_path(self, name: str) -> Path:
        """Return where a worker answers."""
        return self.path / f"{name}{SOCKET_SUFFIX}"

    def list_names(self) -> list[str]:
        """List the workers that answer, or did until they were killed."""
        found = (name for name in os.listdir(self.path) if name.endswith(SOCKET_SUFFIX))
        return sorted(name.removesuffix(SOCKET_SUFFIX) for name in found)

    def keep(self, name: str, answer: bytes) -> None:
        """Keep a worker's newest answer."""
        fresh = self.path / f"{name}.fresh.{os.getpid()}"
        fresh.write_bytes(answer)
        fresh.replace(self._kept_path(name))

    def read_counters(self, name: str) -> list[Family]:
        """Return the counters of a worker's newest answer; what it measures now nobody knows."""
        try:
            return _counters(_decoder.decode(self._kept_path(name).read_bytes()))
        except (OSError, msgspec.DecodeError):
            return []

    def read_ended(self) -> Ended:
        """Return what ended workers left."""
        with self._lock():
            return self._read_ended()

    def begin(self, name: str) -> None:
        """Forget an earlier worker of this name: process ids come again."""
        with self._lock():
            ended = self._read_ended()
            if name in ended.names:
                names = [other for other in ended.names if other != name]
                self._write_ended(Ended(names, ended.families))
            self._remove(name)

    def end(self, name: str, families: list[Family] | None = None) -> None:
        """Add the counters of a worker that ended, once.

        Args:
            name: The worker's.
            families: What it counted; ``None`` for what it said last.
        """
        with self._lock():
            ended = self._read_ended()
            if name not in ended.names:
                left = self.read_counters(name) if families is None else _counters(families)
                merged = merge_families([ended.families, left])
                self._write_ended(Ended([*ended.names, name], merged))
            self._remove(name)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep others from ending, and from reading who has ended."""
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read_ended(self) -> Ended:
        try:
            return _ended_decoder.decode((self.path / "ended").read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return Ended()

    def _write_ended(self, ended: Ended) -> None:
        fresh = self.path / f"ended.fresh.{os.getpid()}"
        fresh.write_bytes(msgspec.json.encode(ended))
        fresh.replace(self.path / "ended")

    def _remove(self, name: str) -> None:
        self.socket_path(name).unlink(missing_ok=True)
        self._kept_path(name).unlink(missing_ok=True)

    def _kept_path(self, name: str) -> Path:
        return self.path / f"{name}.kept"


def _counters(families: Iterable[Family]) -> list[Family]:
    """Leave out what a worker has no longer when it has ended."""
    return [family for family in families if family.kind == "counter"]


class WorkerMetrics:
    """The metrics of this worker, and through it of all.

    Args:
        collect: Gives this worker's metrics as they are now.
        folder: Where the workers meet, of this user only; ``None`` for a worker without siblings.
        name: Of this worker, unique in the folder; empty for its process id.
    """

    def __init__(
        self, collect: Callable[[], Iterable[Metric]], folder: Path | None = None, name: str = ""
    ) -> None:
        self.collect = collect
        self.folder = None if folder is None else WorkerFolder(folder)
        self.name = name or str(os.getpid())
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer siblings.

        Raises:
            OSError: The socket cannot be made.
        """
        if self.folder is not None:
            self.folder.begin(self.name)
            path = self.folder.socket_path(self.name)
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def aclose(self) -> None:
        """Leave the counters to the siblings, and stop answering. Idempotent."""
        server, self._server = self._server, None
        if server is None or self.folder is None:
            return
        try:
            # Before anything is closed: whoever finds us gone finds what we left.
            self.folder.end(self.name, read_families(self.collect()))
        except OSError as error:
            logger.warning("the counters of this worker are lost: %s", error)
        server.close()
        await server.wait_closed()

    async def render(self) -> bytes:
        """Write the metrics of all workers in Prometheus' text format.

        Of a sibling that does not answer within a second the counters are those that it told
        last; ``wirebell_workers_count`` says how many have answered.
        """
        answers = {self.name: read_families(self.collect())}
        left: list[list[Family]] = []
        if self.folder is not None:
            siblings = [name for name in self.folder.list_names() if name != self.name]
            told = await asyncio.gather(*(self._ask(self.folder, name) for name in siblings))
            ended = self.folder.read_ended()
            left.append(ended.families)
            for name, answer in zip(siblings, told, strict=True):
                if name in ended.names:
                    continue
                if answer is None:
                    left.append(self.folder.read_counters(name))
                else:
                    answers[name] = answer
        count = Family(
            "wirebell_workers_count",
            "Worker processes that answered.",
            "gauge",
            [("wirebell_workers_count", [], float(len(answers)))],
        )
        return render_families([*merge_families([*answers.values(), *left]), count])

    async def _ask(self, folder: WorkerFolder, name: str) -> list[Family] | None:
        """Ask a sibling; ``None`` when it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                data = await _read_all(folder.socket_path(name))
            answer = _decoder.decode(data)
            folder.keep(name, data)
        except ConnectionRefusedError:
            # Its process was killed: nobody will listen there again.
            folder.end(name)
        except FileNotFoundError:
            pass  # it has just ended
        except (OSError, TimeoutError, msgspec.DecodeError) as error:
            logger.warning("worker %s did not tell its metrics: %r", name, error)
        else:
            return answer
        return None

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell a sibling what this worker counts."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                writer.write(msgspec.json.encode(read_families(self.collect())))
                await writer.drain()
        writer.close()


async def _read_all(path: Path) -> bytes:
    """Read what a sibling says, to its end."""
    reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_BYTES_MAX)
    try:
        data = bytearray()
        while chunk := await reader.read(ANSWER_BYTES_MAX - len(data)):
            data += chunk
        return bytes(data)
    finally:
        writer.close()
