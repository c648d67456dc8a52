"""What every benchmark here needs: C programs compiled on the spot, arguments, results with origin.

Strategy: the server under test has the first core, the load the last. This module measures nothing
and knows no server; `servers` and `loads` run the processes, the benchmarks read them.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

__all__ = (
    "HERE",
    "LIFETIME_SECONDS_MAX",
    "add_arguments",
    "compile_program",
    "cores",
    "fed",
    "fits_descriptors",
    "machine",
    "median",
    "numbers",
    "warn_starved",
    "write_results",
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LIFETIME_SECONDS_MAX = 600
DESCRIPTORS_SPARE = 200  # of a process, beside its connections: loop, libraries, listener
# All processes together: even where they only wait for each other, one of them is running.
BUSY_MIN = 0.9
# Read once: a load that has pinned itself sees its own core only.
USABLE_CORES = tuple(sorted(os.sched_getaffinity(0)))


def cores() -> tuple[int, int]:
    """Name the core of the server and the core of the load; the same one when there is only one."""
    return USABLE_CORES[0], USABLE_CORES[-1]


def compile_program(name: str) -> Path:
    """Compile `<name>.c` unless the same text was compiled before.

    Returns:
        The program, in the user's cache folder.

    Raises:
        SystemExit: There is no C compiler, or it refused the text.
    """
    source = HERE / f"{name}.c"
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise SystemExit("benchmarks need a C compiler (cc, gcc or clang)")
    zlib = find_zlib(compiler)
    texts = [source.read_bytes(), *(header.read_bytes() for header in sorted(HERE.glob("*.h")))]
    texts.append(" ".join(zlib).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wirebell-benchmarks"
    program = cache / f"{name}-{hashlib.sha256(b''.join(texts)).hexdigest()[:12]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder, name)
            command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(built), str(source), *zlib]
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(f"{compiler} refused {source.name}")
            built.replace(program)
    return program


def find_zlib(compiler: str) -> list[str]:
    """Name the library that inflates, where its header is; without it there is no compression."""
    probe = [compiler, "-E", "-include", "zlib.h", "-x", "c", os.devnull]
    found = subprocess.run(probe, check=False, capture_output=True)
    return [] if found.returncode else ["-lz"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every benchmark understands."""
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, short, not kept")
    parser.add_argument(
        "--peers", "--only", default="", help="names separated by commas (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=0, help="rounds per cell; the median counts")
    parser.add_argument("--out", type=Path, help="JSON file (default: results/<name>.json)")


def numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers that are separated by commas; empty: none."""
    return tuple(int(part) for part in text.split(",") if part)


def fits_descriptors(connections: int) -> bool:
    """Say whether one process may hold so many connections; raises the soft limit when it can."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return connections + DESCRIPTORS_SPARE <= hard


def machine() -> dict[str, object]:
    """Describe the machine as far as it explains the numbers."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(USABLE_CORES),
        "cores_shared": len(set(cores())) == 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "tcp_congestion_control": congestion.read_text().strip(),
        "python": platform.python_version(),
    }


def fed(rounds: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Leave out rounds in which something else had the CPU, unless that is all of them."""
    whole = [each for each in rounds if busy_share(each) >= BUSY_MIN]
    return whole or list(rounds)


def busy_share(found: Mapping[str, float]) -> float:
    """Add up how busy the processes of a round or a cell were, each 1 for a whole core."""
    return sum(value for key, value in found.items() if key.endswith("_cpu"))


def warn_starved(cells: Sequence[Mapping[str, float]]) -> None:
    """Say aloud when server and load together had too little CPU for numbers worth keeping."""
    shares = [busy_share(cell) for cell in cells if "failure" not in cell]
    starved = sum(share < BUSY_MIN for share in shares)
    if starved:
        print(
            f"\n{starved} of {len(shares)} cells lacked CPU: something else used the machine, and "
            "these numbers should not be kept."
        )


def write_results(
    name: str, versions: Mapping[str, str], body: Mapping[str, object], out: Path | None
) -> None:
    """Write a benchmark's JSON, with date, machine and versions.

    Args:
        name: The benchmark; also the file's name.
        versions: Distribution → version, of all that took part.
        body: The numbers and the method, plain JSON values.
        out: Where to write; `None`: the results folder.
    """
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": dict(versions),
        **body,
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nwritten: {path}")


def median(rounds: Sequence[Mapping[str, float]], key: str) -> float:
    """Take the median of one key over several rounds."""
    return statistics.median(found[key] for found in rounds)
