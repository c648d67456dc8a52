"""Write the measured tables into Markdown files, between two markers.

Usage: `scripts/bench report [FILE]` (default: `SIZING` and all of `PAGES`); with `--check` it
changes nothing and exits with 1 when a file and the JSON differ. The tables hold what
`results/*.json` holds, and nothing else; of fan-out, the cells that `FANOUT_CELLS` names. It also
exits with 1 when the sizing page promises more than was measured.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sizing

__all__ = (
    "insert",
    "main",
    "render_all",
    "render_broker_faults",
    "render_brokers",
    "render_commands",
    "render_connect",
    "render_connect_steps",
    "render_fanout",
    "render_fanout_compression",
    "render_fanout_protocol",
    "render_faults",
    "render_idle_connections",
    "render_idle_protocol",
    "render_latency",
    "render_recovery_storm",
    "render_redis_reader",
    "render_rolling_restart",
)

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parent.parent
README = ROOT / "README.md"
# Room and publications in flight, in the order of the columns; the JSON has all.
FANOUT_CELLS = ((100, 1), (1000, 1), (1000, 8), (1000, 64), (10_000, 1), (10_000, 64))
NOTHING = "–"
COMMANDS = {
    "publish": "publish to a channel of one's own, until it is back",
    "publish_history": "the same with history",
    "open": "connect, subscribe, leave",
}
LATENCY_MS_MAX = 20_000


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render_origins(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Say when and on what each table was measured: once, where that is the same for all."""
    origins: dict[str, list[str]] = {}
    versions: dict[str, str] = {}
    for name, each in found.items():
        machine = each["machine"]
        pinned = each.get("pinned", "server on one, load on the other")
        origin = (
            f"on {each['date'][:10]} on {machine['cpu']}, {machine['cores']} cores ({pinned}), "
            f"Linux {machine['kernel']}, Python {machine['python']}"
        )
        origins.setdefault(origin, []).append(name.replace("_", " "))
        versions |= each["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    if len(origins) == 1:
        return f"Measured {next(iter(origins))}; {packages}.\n"
    lines = [f"{', '.join(names)}: measured {origin}." for origin, names in origins.items()]
    return "\n".join([*lines, f"{packages}."]) + "\n"


def titles(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Map each peer to its title, in the order of the file."""
    return {cell["peer"]: cell["title"] for cell in cells}


def share(ratio: float | None) -> str:
    """Write a ratio with about three digits; empty where there is none."""
    if ratio is None:
        return ""
    return f" · {ratio:.2f}" if ratio < 10 else f" · {ratio:.1f}"


def describe(cell: Mapping[str, Any] | None) -> str:
    """Write a cell of fan-out: p99 and the ratio, or why there is none."""
    if cell is None:
        return NOTHING
    if "failure" not in cell:
        # The load's counters of latencies end there.
        late = cell["p99_ms"] >= LATENCY_MS_MAX
        p99 = f"over {LATENCY_MS_MAX / 1000:.0f} s" if late else f"{cell['p99_ms']:,.1f} ms"
        return p99 + share(cell["ratio_to_c"])
    code = re.search(r"closed with code (\d+)", cell["failure"])
    return f"closed with {code[1]}" if code else str(cell["failure"])


def render_fanout(found: Mapping[str, Any]) -> str:
    """Render fan-out: a row for each server, a column for each room and number in flight."""
    cells = {(c["subscribers"], c["in_flight"], c["peer"]): c for c in found["cells"]}
    measured = {key[:2] for key in cells}
    columns = [column for column in FANOUT_CELLS if column in measured] or sorted(measured)
    rows = []
    for peer, title in titles(found["cells"]).items():
        rows.append([title, *(describe(cells.get((*column, peer))) for column in columns)])
    head = ["", *(f"{subscribers:,}, W={window}" for subscribers, window in columns)]
    return (
        "Fan-out to a room of 100, 1,000 or 10,000 with W publications in flight: p99 latency · "
        "deliveries/s as a multiple of the C `send()` loop's.\n\n" + render_table(head, rows)
    )


def render_fanout_compression(found: Mapping[str, Any]) -> str:
    """Render compressed fan-out: a row for each server, W=1 and 8 in the largest room."""
    cells = {(c["subscribers"], c["in_flight"], c["peer"]): c for c in found["cells"]}
    subscribers = max(key[0] for key in cells)
    windows = sorted({key[1] for key in cells})
    rows = []
    for peer, title in titles(found["cells"]).items():
        row = [title, *(describe(cells.get((subscribers, each, peer))) for each in windows)]
        size = cells[subscribers, windows[0], peer].get("bytes_per_delivery")
        rows.append([*row, NOTHING if size is None else f"{size:,.0f}"])
    head = ["", *(f"W={window}" for window in windows), "bytes each"]
    return (
        f"The same with permessage-deflate, {found['method']['payload_bytes']:,} bytes of JSON to "
        f"{subscribers:,} subscribers; C sends them plain.\n\n" + render_table(head, rows)
    )


def render_connect(found: Mapping[str, Any]) -> str:
    """Render the connection rate: a row for each server, a column for each kind of route."""
    cells = {(c["question"], c["peer"]): c for c in found["cells"]}
    rows = []
    for peer, title in titles(found["cells"]).items():
        row = [title]
        for question in ("open", "dependencies"):
            cell = cells.get((question, peer))
            text = NOTHING
            if cell:
                text = f"{cell['p99_ms']:,.1f} ms · {cell['opened_per_second']:,.0f}/s"
                text += share(cell["ratio_to_raw"])
            row.append(text)
        rows.append(row)
    return (
        f"Opening connections, {found['method']['concurrency']} at a time: p99 · upgraded "
        "connections/s · as a share of the raw protocol's.\n\n"
        + render_table(["", "bare route", "with two FastAPI dependencies"], rows)
    )


def render_connect_steps(found: Mapping[str, Any]) -> str:
    """Render what a connection costs step by step: a row for each."""
    rows = [
        [cell["title"], f"{cell['cpu_us']:,.0f} µs", f"{cell['opened_per_second']:,.0f}/s"]
        for cell in found["cells"]
    ]
    return (
        "What one new connection costs the server's core, with one more layer in each row that "
        "begins with a plus.\n\n" + render_table(["", "CPU each", "rate"], rows)
    )


def render_latency(found: Mapping[str, Any]) -> str:
    """Render echo latency: a row for each server."""
    rows = [
        [
            cell["title"],
            f"{cell['p99_ms']:,.2f} ms{share(cell['ratio_to_raw'])}",
            f"{cell['p50_ms']:,.2f} ms",
            f"{cell['peak_echoes_per_second'] / 1000:,.0f} k/s",
        ]
        for cell in found["cells"]
    ]
    return (
        "Echo at half of the server's own peak: p99 · as a multiple of the raw protocol's.\n\n"
        + render_table(["", "p99", "p50", "peak"], rows)
    )


def render_idle_connections(found: Mapping[str, Any]) -> str:
    """Render idle connections: a row for each server."""
    cells = {(c["peer"], c["connections"]): c for c in found["cells"]}
    steps = sorted({connections for _peer, connections in cells})
    rows = []
    for peer, title in titles(found["cells"]).items():
        sizes = [f"{cells[peer, step]['bytes_per_connection'] / 1000:,.1f} KB" for step in steps]
        rows.append([title, *sizes, f"{cells[peer, steps[-1]]['idle_cpu_percent']:.1f} %"])
    head = ["", *(f"memory each, {step:,} open" for step in steps), f"CPU, {steps[-1]:,} open"]
    return "Idle connections: server memory for each, CPU of one core for all.\n\n" + render_table(
        head, rows
    )


def render_fanout_protocol(found: Mapping[str, Any]) -> str:
    """Render fan-out through the client protocol, as `render_fanout`."""
    _, _, table = render_fanout(found).partition("\n\n")
    return (
        "The same through the client protocol of `wirebell serve`, everybody with a token and "
        "presence, every publication permitted; the article's manager sends bare text.\n\n" + table
    )


def render_idle_protocol(found: Mapping[str, Any]) -> str:
    """Render idle connections of the client protocol, as `render_idle_connections`."""
    _, _, table = render_idle_connections(found).partition("\n\n")
    return (
        "The same for clients of the protocol, each connected with a token and subscribed to a "
        "channel with presence.\n\n" + table
    )


def render_commands(found: Mapping[str, Any]) -> str:
    """Render commands of the client protocol: a row for each question and number of clients."""
    rows = [
        [
            COMMANDS[cell["question"]],
            f"{cell['in_flight']:,}",
            f"{cell['p99_ms']:,.2f} ms",
            f"{cell['per_second']:,.0f}/s",
            f"{cell['ratio_to_c']:.3f}",
        ]
        for cell in found["cells"]
    ]
    head = ["", "clients at once", "p99", "rate", "of C's deliveries/s"]
    return (
        "The client protocol on one core, memory broker, token and permissions checked; beside it "
        "the C `send()` loop to 1,000, one publication in flight.\n\n" + render_table(head, rows)
    )


def render_recovery_storm(found: Mapping[str, Any]) -> str:
    """Render the recovery storm: a row for each size."""
    rows = [
        [
            f"{cell['clients']:,} clients, {cell['missed']} publications each",
            f"{cell['lost']:,}",
            f"{cell['p99_ms']:,.1f} ms",
            f"{cell['per_second']:,.0f}/s",
            f"{cell['ratio_to_c']:.3f}",
        ]
        for cell in found["cells"]
    ]
    head = ["", "lost", "p99", "clients recovered", "of C's deliveries/s"]
    return (
        "Recovery storm: all connect with a token, and get what they missed with the answer to "
        "their subscribe command.\n\n" + render_table(head, rows)
    )


def describe_rate(cell: Mapping[str, Any] | None, digits: int = 1) -> str:
    """Write a cell of brokers: p99, thousands a second, and the ratio; or why there is none."""
    if cell is None:
        return NOTHING
    if "failure" in cell:
        return str(cell["failure"])
    p99 = f"{cell['p99_ms']:,.{digits}f} ms · " if cell["p99_ms"] else ""
    return f"{p99}{cell['per_second'] / 1000:,.1f} k/s · {cell['ratio_to_c']:.3f}"


def describe_latency(cell: Mapping[str, Any] | None, least_ms: float | None) -> str:
    """Write p50 and p99, and what a broker adds to the former."""
    if cell is None or "failure" in cell:
        return describe_rate(cell)
    added = "" if least_ms is None else f" · +{max(0.0, cell['p50_ms'] - least_ms):.2f} ms"
    return f"{cell['p50_ms']:.2f} · {cell['p99_ms']:.2f} ms{added}"


def describe_cpu(cell: Mapping[str, Any] | None) -> str:
    """Write the CPU time of nodes and broker."""
    if cell is None or "failure" in cell:
        return NOTHING
    return f"{cell['nodes_ms_per_1000']:,.0f} + {cell['broker_ms_per_1000']:,.0f} ms"


def render_brokers(found: Mapping[str, Any]) -> str:
    """Render brokers: one table for a node alone, one for two; a row for each subject."""
    window = found["method"]["windows"][-1]
    # A cell that failed before it began counts for any number in flight.
    cells = {(c["peer"], c["question"], c.get("in_flight", window)): c for c in found["cells"]}
    alone = cells.get(("memory", "own_history", 1))
    least_ms = alone["p50_ms"] if alone and "failure" not in alone else None
    one, two = [], []
    for peer, title in titles(found["cells"]).items():
        kept, own = cells.get((peer, "own_history", window)), cells.get((peer, "own", window))
        across = cells.get((peer, "across", window))
        one.append(
            [
                title,
                describe_rate(kept),
                describe_rate(own),
                describe_cpu(kept or own),
                describe_rate(cells.get((peer, "publish", window))),
            ]
        )
        if across:
            room = cells.get((peer, "room", found["method"]["room_window"]))
            two.append(
                [
                    title,
                    describe_latency(cells.get((peer, "across", 1)), least_ms),
                    describe_rate(across),
                    describe_cpu(across),
                    describe_rate(room or cells.get((peer, "room", window))),
                ]
            )
    one_head = ["", "with history", "without", "CPU for 1,000", "publish only"]
    room_title = f"room of {found['method']['room']:,} there, W={found['method']['room_window']}"
    two_head = ["", "one at a time: p50 · p99 · added", f"{window} at once", "CPU for 1,000"]
    return (
        f"Brokers: {window} clients each publish to a channel of their own, until it is back: p99 "
        "· round trips/s · as a share of C's deliveries/s. The node on one core, broker and load "
        "on the other; CPU of node + broker. The libraries beneath keep no history, check no token "
        "and no permission, and send no reply.\n\n"
        + render_table(one_head, one)
        + "\nThe same over two nodes on one core: published on the first, heard on the second, "
        "with history; what that adds to the median of one node with the memory broker; and "
        "deliveries/s to a room.\n\n" + render_table([*two_head, room_title], two)
    )


def render_redis_reader(found: Mapping[str, Any]) -> str:
    """Render what reading pub/sub costs: a row for each reader."""
    names = {"bare": "Wirebell's subscriber", "pubsub": "redis-py's `PubSub`"}
    rows = [
        [names[c["reader"]], f"{c['cpu_us']:.1f} µs", f"{c['per_second'] / 1000:,.0f} k/s"]
        for c in found["cells"]
    ]
    head = ["", "CPU for a message", "messages"]
    return "Reading Redis' pub/sub, both with hiredis' parser.\n\n" + render_table(head, rows)


def render_faults(found: Mapping[str, Any]) -> str:
    """Render faults: a row for each."""
    rows = [
        [
            cell["fault"],
            f"{cell['p99_without_ms']:,.1f} ms",
            f"{cell['p99_with_ms']:,.1f} ms",
            f"{cell['lost']:,} · {cell['doubled']:,}",
            f"{cell['seconds']:,.1f} s",
            cell["faulty"],
        ]
        for cell in found["cells"]
    ]
    head = ["", "p99 without", "p99 with it", "lost · doubled", "time", "the faulty ones"]
    return (
        "Faults: p99 of healthy subscribers without and with each, deliveries they lost or got "
        "twice, and what became of who was broken.\n\n" + render_table(head, rows)
    )


def render_broker_faults(found: Mapping[str, Any]) -> str:
    """Render faults of brokers: a row for each."""
    rows = []
    for cell in found["cells"]:
        back = cell["recovery_seconds"]
        rows.append(
            [
                f"{cell['broker']}: {cell['title']}",
                f"{cell['acknowledged']:,}",
                *(f"{cell[key]:,}" for key in ("lost", "doubled", "hidden", "false_recoveries")),
                f"{cell['told']:,}",
                "never" if back is None else f"{back:,.1f} s",
            ]
        )
    plan = found["method"]
    head = ["", "acknowledged", "lost", "doubled", "hidden", "false", "told", "back after"]
    return (
        f"{plan['nodes']} nodes, {plan['clients']} clients, {plan['per_second']:.0f} publications "
        f"a second.\n\n" + render_table(head, rows)
    )


def render_rolling_restart(found: Mapping[str, Any]) -> str:
    """Render rolling restarts: a row for each broker and way."""
    plan = found["method"]
    rows = []
    for cell in found["cells"]:
        harm = (cell[key] for key in ("lost", "duplicates", "hidden_gaps", "unrecovered"))
        rows.append(
            [
                f"{cell['broker']}, {cell['way']}",
                f"{cell['returns']:,}",
                f"{cell['back_within_5_s']:.2%}",
                f"{cell['away_p50_seconds']:.2f} · {cell['away_max_seconds']:.2f} s",
                f"{cell['returns_per_second_peak']:,}/s",
                " · ".join(f"{count:,}" for count in harm),
                f"{cell['least_present']} of {cell['present']}",
                f"{cell['seconds']:.1f} s",
            ]
        )
    head = ["", "returns", "back within 5 s", "away: p50 · longest", "at the peak"]
    head += ["lost · doubled · hidden · unrecovered", "least present", "all of it"]
    return (
        f"Rolling restart of {found['cells'][0]['nodes']} nodes under load: {plan['clients']:,} "
        f"clients in {plan['channels']} channels, {plan['per_second']} publications/s, a drain of "
        f"{plan['window_seconds']:.0f} s; clients wait 0.5 to 1 s before they come back.\n\n"
        + render_table(head, rows)
    )


RENDERERS = {
    "fanout": render_fanout,
    "fanout_protocol": render_fanout_protocol,
    "fanout_compression": render_fanout_compression,
    "commands": render_commands,
    "recovery_storm": render_recovery_storm,
    "brokers": render_brokers,
    "redis_reader": render_redis_reader,
    "latency": render_latency,
    "connect": render_connect,
    "connect_steps": render_connect_steps,
    "idle_connections": render_idle_connections,
    "idle_protocol": render_idle_protocol,
    "faults": render_faults,
    "broker_faults": render_broker_faults,
    "rolling_restart": render_rolling_restart,
}
# What stands elsewhere than in the README.
PAGES = {
    README: tuple(name for name in RENDERERS if name != "broker_faults"),
    ROOT / "docs" / "brokers.md": ("broker_faults",),
    ROOT / "docs" / "deploy" / "README.md": ("rolling_restart",),
}
# Its texts follow from planning values, which are compared with the results.
SIZING = ROOT / "docs" / "deploy" / "sizing.md"


def read_results(results: Path, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Read the results that there are of some names, in their order."""
    paths = {name: results / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def render_all(results: Path, names: Sequence[str] = tuple(RENDERERS)) -> str:
    """Render every result there is of some names, in their order."""
    found = read_results(results, names)
    if not found:
        return f"Not measured yet: `scripts/bench {names[0]}` does it.\n"
    parts = [RENDERERS[name](each) for name, each in found.items()]
    return "\n".join([*parts, render_origins(found)])


def insert(text: str, tables: str, name: str = "benchmarks") -> str:
    """Put the tables between the markers of a text.

    Raises:
        ValueError: The text has not exactly one pair of markers of that name.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text needs {begin} and {end} once each, in this order")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{tables}\n{end}{rest.partition(end)[2]}"


def renew(file: Path, text: str) -> str:
    """Put everything into the text of a file."""
    if file == SIZING:
        found = read_results(RESULTS, sizing.BENCHMARKS)
        for name, render in sizing.RENDERERS.items():
            text = insert(text, render(found), name)
        return text
    return insert(text, render_all(RESULTS, PAGES.get(file, PAGES[README])))


def main() -> None:
    """Rewrite the files, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "files", type=Path, nargs="*", default=[*PAGES, SIZING], help="Markdown, with markers"
    )
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    for file in arguments.files:
        text = file.read_text()
        new = renew(file.resolve(), text)
        if not arguments.check:
            file.write_text(new)
        elif new != text:
            sys.exit(f"{file} is not what {RESULTS} says; run scripts/bench report")
    if optimists := sizing.find_optimists(read_results(RESULTS, sizing.BENCHMARKS)):
        sys.exit("\n".join(optimists))


if __name__ == "__main__":
    main()
