"""What `docs/deploy/sizing.md` says in numbers: planning values, sizes, the first limits.

Strategy: planning values are chosen, here and nowhere else; what was measured is read from the
results, and `find_optimists` names each value that promises more. Everything else follows by the
arithmetic on the page. `report` puts the texts between the page's markers; this module measures
nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wirebell.settings import Settings

__all__ = ("BENCHMARKS", "RENDERERS", "find_optimists")

Results = Mapping[str, Any]
Reader = Callable[[Results], tuple[float, str]]

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PER_WORKER = 50_000
BACK_SECONDS = 60
SPARE = 1.25
RATE = 0.1
WORKERS_MIN = 2
ROOM = 100
CORES = 8
PAYLOAD_BYTES = 116
HEAD_BYTES = 100
"""Of a publication on its way through a broker: name, offset, epoch, and the protocol's own."""
SLOWER_ANNOUNCE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Planned:
    """A value to plan with.

    Attributes:
        value: What to plan with.
        what: What it is, after the number.
        benchmark: Whose results have it; empty where none has.
        read: Reads what was measured: a number as ``value`` is one, and words.
        is_cost: The less the better.
        words: What stands under "measured" where there is no benchmark, or no result yet.
        where: Instead of the benchmark's name.
    """

    value: int
    what: str
    benchmark: str = ""
    read: Reader | None = None
    is_cost: bool = False
    words: str = "**planned**, not measured"
    where: str = ""

    def find_measured(self, results: Mapping[str, Results]) -> tuple[float, str] | None:
        """Read what was measured; ``None`` where nothing was, or it failed."""
        if self.read is None or self.benchmark not in results:
            return None
        try:
            return self.read(results[self.benchmark])
        except (KeyError, ValueError):
            return None


def find_cell(found: Results, **wanted: object) -> Results:
    """Find the only cell that has these values.

    Raises:
        ValueError: There is none, or several.
    """
    [cell] = [cell for cell in found["cells"] if wanted.items() <= cell.items()]
    return dict(cell)


def read_memory(found: Results) -> tuple[float, str]:
    """Read the memory of an idle connection, in KiB."""
    cell = find_cell(found, peer="wirebell", connections=19_000)
    size = cell["bytes_per_connection"]
    return size / 1024, f"{size / 1000:.1f} KB, plain socket, 19,000 open"


def read_idle(found: Results) -> tuple[float, str]:
    """Read how many idle connections would use a core."""
    percent = find_cell(found, peer="wirebell", connections=19_000)["idle_cpu_percent"]
    return 19_000 / (percent / 100), f"19,000 take {percent:.1f} % of a core"


def read_connects(found: Results) -> tuple[float, str]:
    """Read new connections a second."""
    cell = find_cell(found, peer="wirebell", question="dependencies")
    rate = cell["opened_per_second"]
    return rate, f"{rate:,} with two dependencies"


def read_deliveries(found: Results) -> tuple[float, str]:
    """Read deliveries a second."""
    slow = find_cell(found, peer="wirebell", subscribers=1000, in_flight=1)
    fast = find_cell(found, peer="wirebell", subscribers=1000, in_flight=64)
    rate, joined = slow["deliveries_per_second"], fast["deliveries_per_second"]
    return (
        rate,
        f"{rate:,.0f}, one publication in flight; joined in a turn {joined / 1e6:.1f} million",
    )


def read_bytes(found: Results) -> tuple[float, str]:
    """Read the length of a delivery's frame."""
    cell = find_cell(found, peer="wirebell", subscribers=1000, in_flight=1)
    size = cell["bytes_per_delivery"]
    return (
        size,
        f"{size:.0f} plain; a push of the protocol in JSON is about 240, TCP, IP and Ethernet 90",
    )


def read_shard(found: Results) -> tuple[float, str]:
    """Read what one core of Redis would take, by the CPU time that a publication took of it."""
    window = max(found["method"]["windows"])
    cell = find_cell(found, peer="redis", question="own_history", in_flight=window)
    each = cell["broker_ms_per_1000"]
    rate = 1e6 / each
    words = (
        f"{rate:,.0f}, **projected** from {each:.1f} ms of Redis' core for 1,000 publications "
        f"with history, each received by one node, at {cell['per_second']:,.0f}/s"
    )
    return rate, words


def read_shard_out(found: Results) -> tuple[float, str]:
    """Read messages of pub/sub a second."""
    rate = find_cell(found, reader="bare")["per_second"]
    return rate, f"{rate:,.0f}, one node received, Redis and who publishes shared a core"


def read_renewals(found: Results) -> tuple[float, str]:
    """Read what one core of Redis would take, by the CPU time that a renewal took of it."""
    each = find_cell(found, broker="redis")["broker_ms_per_1000"]
    rate = 1e6 / each
    return rate, f"{rate:,.0f}, **projected** from {each:.1f} ms of Redis' core for 1,000"


KERNEL = "3.7 KB: 2,368 (TCP) + 832 + 192 + 192 + 128 bytes, `/proc/slabinfo` of Linux 6.18"
PLAN: Mapping[str, Planned] = {
    "process_kib": Planned(
        8,
        "KiB of the process for each connection",
        "idle_connections",
        read_memory,
        is_cost=True,
    ),
    "kernel_kib": Planned(
        4,
        "KiB of the kernel for each connection",
        words=KERNEL,
        where="not in the results; more while data waits",
        is_cost=True,
    ),
    "connects": Planned(1_000, "new connections a second and core", "connect", read_connects),
    "deliveries": Planned(40_000, "deliveries a second and core", "fanout", read_deliveries),
    "idle": Planned(200_000, "idle connections a core", "idle_connections", read_idle),
    "delivery_bytes": Planned(
        330,
        "bytes on the wire for a message of 116 bytes",
        "fanout",
        read_bytes,
        is_cost=True,
        where="`fanout`, frame only",
    ),
    "ping_bytes": Planned(
        13,
        "bytes a second and connection",
        words="four packets of about 80 bytes each 25 s",
        where="computed",
    ),
    "shard": Planned(30_000, "publications a second and Redis", "brokers", read_shard),
    "shard_out": Planned(
        60_000,
        "messages out a second and Redis, one for each node that receives",
        "redis_reader",
        read_shard_out,
    ),
    "renewals": Planned(
        40_000, "renewals of presence a second and Redis", "presence", read_renewals
    ),
}


BENCHMARKS = tuple(sorted({each.benchmark for each in PLAN.values() if each.benchmark}))
"""Whose results are read."""


def find_optimists(results: Mapping[str, Results]) -> list[str]:
    """Name each planning value that promises more than was measured."""
    found = []
    for name, planned in PLAN.items():
        measured = planned.find_measured(results)
        if measured is None:
            continue
        value = measured[0]
        if value > planned.value if planned.is_cost else value < planned.value:
            found.append(
                f"sizing: {name} plans with {planned.value:,}, and {value:,.0f} was measured; "
                f"change PLAN in benchmarks/sizing.py"
            )
    return found


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]], marks: str) -> str:
    """Render a Markdown table; ``marks`` has ``<`` or ``>`` for each column's side."""
    sides = ["---" if mark == "<" else "---:" for mark in marks]
    lines = [head, sides, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render_planning(results: Mapping[str, Results]) -> str:
    """Render the planning values, and what was measured."""
    rows = []
    for name, planned in PLAN.items():
        measured = planned.find_measured(results)
        words, where = planned.words, planned.where or "–"
        if measured is not None:
            words, where = measured[1], planned.where or f"`{planned.benchmark}`"
        elif planned.benchmark:
            where = f"`scripts/bench {planned.benchmark}` measures it"
        rows.append([f"`{name}`", f"{planned.value:,} {planned.what}", words, where])
    return render_table(["Name", "Plan with", "Measured", "Where"], rows, "<<<<")


COSTS = ("", "measured", "CPU of the node for 1,000", "of the broker", "a core of it: projected")


def list_costs(cell: Results, node_ms: float) -> list[str]:
    """Write the columns of `COSTS` but the first; a broker without a process has no core."""
    each = cell["broker_ms_per_1000"]
    by_broker = [f"{each:.1f} ms", f"{1e6 / each:,.0f}/s"] if each else ["–", "–"]
    return [f"{cell['per_second']:,.0f}/s", f"{node_ms:.1f} ms", *by_broker]


def render_brokers(results: Mapping[str, Results]) -> str:
    """Render what each broker took for publications with history, and what a core of it would."""
    found = results.get("brokers")
    if found is None:
        return "Not measured yet: `scripts/bench brokers` does it.\n"
    window = max(found["method"]["windows"])
    rows = []
    for cell in found["cells"]:
        if cell["question"] != "own_history" or cell.get("in_flight") != window:
            continue
        rows.append([cell["title"], *list_costs(cell, cell["nodes_ms_per_1000"])])
    return (
        f"{window} clients that each publish to a channel with history and wait for what they "
        "published, one node on one core. `memory` and `sqlite` work in the node itself.\n\n"
        + render_table(COSTS, rows, "<>>>>")
    )


def render_presence(results: Mapping[str, Results]) -> str:
    """Render what renewals of presence cost node and broker."""
    found = results.get("presence")
    if found is None:
        return "Not measured yet: `scripts/bench presence` does it.\n"
    rows = [
        [cell["broker"], *list_costs(cell, cell["node_ms_per_1000"])] for cell in found["cells"]
    ]
    return (
        "Renewals of presence, by one node on one core; each connection needs one in "
        f"{Settings.model_fields['presence_refresh_seconds'].default:g} s for each channel.\n\n"
        + render_table(COSTS, rows, "<>>>>")
    )


@dataclass(frozen=True, slots=True)
class Size:
    """What so many connections take.

    Attributes:
        connections: How many, each of which gets `RATE` messages a second.
    """

    connections: int

    @property
    def published(self) -> float:
        """Deliveries a second."""
        return self.connections * RATE

    @property
    def workers(self) -> int:
        """Processes, and cores."""
        most = max(
            self.connections / PER_WORKER,
            self.published / PLAN["deliveries"].value,
            self.connections / PLAN["idle"].value,
            self.connections / (BACK_SECONDS * PLAN["connects"].value),
        )
        return max(WORKERS_MIN, math.ceil(SPARE * most))

    @property
    def memory_gib(self) -> float:
        """Of processes and kernels."""
        return self.connections * (PLAN["process_kib"].value + PLAN["kernel_kib"].value) / 2**20

    @property
    def gigabits(self) -> float:
        """Out to clients, a second."""
        each = RATE * PLAN["delivery_bytes"].value + PLAN["ping_bytes"].value
        return self.connections * each * 8 / 1e9

    @property
    def announcements(self) -> float:
        """What nodes tell each other, a second."""
        return self.workers**2 / announce_seconds()

    def count_receivers(self, audience: int) -> float:
        """Count the nodes that have somebody of an audience, on average."""
        return self.workers * (1 - (1 - 1 / self.workers) ** audience)

    def count_shards(self, audience: int) -> int:
        """Count the Redis servers."""
        publications = self.published / audience
        out = publications * self.count_receivers(audience)
        return max(
            1, math.ceil(max(publications / PLAN["shard"].value, out / PLAN["shard_out"].value))
        )


def announce_seconds() -> float:
    """Read how often a node says that it lives."""
    seconds: float = Settings.model_fields["node_announce_seconds"].default
    return seconds


def render_sizes(_results: Mapping[str, Results]) -> str:
    """Render the table of sizes, and what it means for the largest."""
    rows = [
        [
            f"{size.connections:,}",
            f"{size.workers}",
            f"{size.memory_gib:.1f} GiB",
            f"{size.gigabits:.3f} Gbit/s",
            f"{size.count_shards(ROOM)}",
            f"{size.count_shards(1)}",
            f"{size.announcements:,.0f}/s",
        ]
        for size in map(Size, SIZES)
    ]
    head = [
        *("Connections", "Workers (cores)", "Memory", "Bandwidth out"),
        *(f"Redis shards, rooms of {ROOM}", "Redis shards, one user each", "Announcements"),
    ]
    return "\n".join(
        [render_table(head, rows, ">" * len(head)), describe_largest(), describe_broker()]
    )


def describe_largest() -> str:
    """Say what the largest size is made of, and how it comes back."""
    size = Size(SIZES[-1])
    machines = math.ceil(size.workers / CORES)
    each, left = size.connections / machines, size.workers - CORES
    connects = PLAN["connects"].value
    return (
        f"**Ten million**, then, are {size.workers} workers on {machines} machines of {CORES} "
        f"cores: each about {each:,.0f} connections, {size.memory_gib / machines:.1f} GiB and "
        f"{size.gigabits / machines:.2f} Gbit/s. Small machines, and many: what a machine's end "
        f"sends to the others is what hurts. When one of them dies, its {each:,.0f} clients come "
        f"back to {left} × {connects:,} connects/s in about {each / (left * connects):.1f} s plus "
        f"their own delays; when all are down, in "
        f"{size.connections / (size.workers * connects):.0f} s.\n"
    )


def describe_broker() -> str:
    """Say what goes through the broker at the largest size."""
    size = Size(SIZES[-1])
    publications, receivers = size.published / ROOM, round(size.count_receivers(ROOM))
    length = PAYLOAD_BYTES + HEAD_BYTES
    out = publications * receivers
    return (
        f"Through the broker go publications × nodes that receive × (length + about {HEAD_BYTES} "
        f"bytes): {publications:,.0f} publications/s in rooms of {ROOM}, each on {receivers} "
        f"workers, are {publications:,.0f} × {receivers} × {length} B = {out * length / 1e6:,.0f} "
        f"MB/s, {out * length * 8 / 1e9:.1f} Gbit/s, and {out:,.0f} messages/s out of Redis. "
        f"**At this size rooms, not connections, decide how many shards there are.**\n"
    )


LESS_PRESENCE = (
    "presence only where it is shown; a Redis of its own (`presence_manager`); a longer "
    "`WIREBELL_PRESENCE_REFRESH_SECONDS` with a longer `WIREBELL_PRESENCE_TTL_SECONDS`"
)
LESS_ANNOUNCEMENTS = (
    f"`WIREBELL_NODE_ANNOUNCE_SECONDS={SLOWER_ANNOUNCE_SECONDS}` and "
    "`WIREBELL_NODE_FORGET_SECONDS=35`"
)


def render_limits(_results: Mapping[str, Results]) -> str:
    """Render which limit a growing deployment meets first."""
    size = Size(SIZES[-1])
    connects, deliveries, shard = (PLAN[n].value for n in ("connects", "deliveries", "shard"))
    refresh: float = Settings.model_fields["presence_refresh_seconds"].default
    renewals = PLAN["renewals"].value
    slower = size.workers**2 / SLOWER_ANNOUNCE_SECONDS
    rows = [
        [
            "1,000 connections",
            "soft limit of descriptors, 1,024",
            "`wirebell serve` raises it to the hard one and says how far; the proxy may not",
            "`LimitNOFILE`, `worker_rlimit_nofile`",
        ],
        [
            "28,000 clients behind one proxy",
            "ports from the proxy to one address and port of a node",
            "the proxy answers 502",
            "`ip_local_port_range`, more upstream ports, Unix sockets",
        ],
        [
            f"{PER_WORKER:,} connections a core",
            f"coming back: {PER_WORKER / connects:.0f} s for one core to let them in",
            "clients wait, with backoff",
            "more workers, a longer [drain](README.md#rolling-restart)",
        ],
        [
            f"{deliveries:,} deliveries a second and core",
            "the kernel's `send`",
            "p99 grows, turns get longer and join more",
            "more workers; patches, filters or fewer messages",
        ],
        [
            "65,536 or 262,144 connections of a machine",
            "the connection tracking of its firewall (`nf_conntrack_max`)",
            "new connections vanish",
            "leave these ports out of tracking, or raise it",
        ],
        [
            f"{shard:,} publications a second",
            "one Redis, which uses one core",
            "publishing waits, then `BrokerUnavailable`",
            "several addresses, or a cluster: channels are shared out",
        ],
        [
            f"{renewals * refresh / 1e6:g} million in presence",
            f"{renewals:,} renewals a second of one Redis, at one in {refresh:g} s",
            "renewals come late, then leases end",
            LESS_PRESENCE,
        ],
        [
            f"{size.workers} workers",
            f"announcements grow with the square: {size.announcements:,.0f}/s, by the first Redis",
            "it has less for publications",
            f"{LESS_ANNOUNCEMENTS}: {slower:,.0f}/s",
        ],
        ["never before these", "memory of the nodes", "", ""],
    ]
    return render_table(["At about", "Limit", "What happens", "Do"], rows, "<<<<")


RENDERERS: Mapping[str, Callable[[Mapping[str, Results]], str]] = {
    "planning": render_planning,
    "sizes": render_sizes,
    "limits": render_limits,
    "brokers": render_brokers,
    "presence": render_presence,
}
"""Markers of the page → what stands between them."""
