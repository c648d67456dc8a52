"""Write the measured tables into a Markdown file, between two markers.

Usage: `scripts/bench report [FILE]` (default: the project's README); with `--check` it changes
nothing and exits with 1 when the file and the JSON differ. The tables hold what `results/*.json`
holds, and nothing else.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ("insert", "main", "render_fanout", "render_idle_connections")

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parent.parent / "README.md"
BEGIN = "<!-- benchmarks:begin -->"
END = "<!-- benchmarks:end -->"


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render_origin(found: Mapping[str, Any]) -> str:
    """Say when and on what the numbers were measured."""
    machine = found["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"Measured {found['date'][:10]} on {machine['cpu']}, {machine['cores']} cores "
        f"(server on one, load on the other), Linux {machine['kernel']}, "
        f"Python {machine['python']}; {packages}.\n"
    )


def titles(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Map each peer to its title, in the order of the file."""
    return {cell["peer"]: cell["title"] for cell in cells}


def render_fanout(found: Mapping[str, Any]) -> str:
    """Render fan-out: a row for each room and number in flight, a column for each server."""
    cells = {(c["subscribers"], c["in_flight"], c["peer"]): c for c in found["cells"]}
    peers = titles(found["cells"])
    rows = []
    for subscribers, window in sorted({key[:2] for key in cells}):
        row = [f"{subscribers:,} subscribers, W={window}"]
        for peer in peers:
            cell = cells[subscribers, window, peer]
            text = f"{cell['p99_ms']:,.1f} ms · {cell['deliveries_per_second'] / 1000:,.0f} k/s"
            if cell["ratio_to_c"] is not None:
                text += f" · {cell['ratio_to_c']:.2f}"
            row.append(text)
        rows.append(row)
    return (
        "Fan-out: p99 latency · deliveries/s · share of the C `send()` loop's rate "
        "(W: publications in flight).\n\n" + render_table(["", *peers.values()], rows)
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


RENDERERS = {"fanout": render_fanout, "idle_connections": render_idle_connections}


def render_all(results: Path) -> str:
    """Render every result there is, in the order of `RENDERERS`.

    Raises:
        SystemExit: There is none.
    """
    parts = []
    for name, render in RENDERERS.items():
        path = results / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            parts += [render(found), render_origin(found)]
    if not parts:
        raise SystemExit(f"{results} has no results; run the benchmarks first")
    return "\n".join(parts)


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
        sys.exit(f"{arguments.file} is not what {RESULTS} says; run benchmarks/report.py")


if __name__ == "__main__":
    main()
