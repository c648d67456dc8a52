"""Write the measured tables into a Markdown file, between two markers.

Usage: `scripts/bench report [FILE]` (default: the project's README); with `--check` it changes
nothing and exits with 1 when the file and the JSON differ. The tables hold what `results/*.json`
holds, and nothing else; of fan-out, the cells that `FANOUT_CELLS` names.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = (
    "insert",
    "main",
    "render_all",
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
)

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parent.parent / "README.md"
BEGIN = "<!-- benchmarks:begin -->"
END = "<!-- benchmarks:end -->"
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
        origin = (
            f"on {each['date'][:10]} on {machine['cpu']}, {machine['cores']} cores (server on one, "
            f"load on the other), Linux {machine['kernel']}, Python {machine['python']}"
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


RENDERERS = {
    "fanout": render_fanout,
    "fanout_protocol": render_fanout_protocol,
    "fanout_compression": render_fanout_compression,
    "commands": render_commands,
    "recovery_storm": render_recovery_storm,
    "latency": render_latency,
    "connect": render_connect,
    "connect_steps": render_connect_steps,
    "idle_connections": render_idle_connections,
    "idle_protocol": render_idle_protocol,
    "faults": render_faults,
}


def render_all(results: Path) -> str:
    """Render every result there is, in the order of `RENDERERS`.

    Raises:
        SystemExit: There is none.
    """
    found = {}
    for name in RENDERERS:
        path = results / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    if not found:
        raise SystemExit(f"{results} has no results; run the benchmarks first")
    parts = [RENDERERS[name](each) for name, each in found.items()]
    return "\n".join([*parts, render_origins(found)])


def insert(text: str, tables: str) -> str:
    """Put the tables between the markers of a text.

    Raises:
        ValueError: The text has not exactly one pair of markers.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text needs {BEGIN} and {END} once each, in this order")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Rewrite the file, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "file", type=Path, nargs="?", default=README, help="Markdown file with the two markers"
    )
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    text = arguments.file.read_text()
    new = insert(text, render_all(RESULTS))
    if not arguments.check:
        arguments.file.write_text(new)
    elif new != text:
        sys.exit(f"{arguments.file} is not what {RESULTS} says; run scripts/bench report")


if __name__ == "__main__":
    main()
