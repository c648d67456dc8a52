"""Deltas: what does a patch cost, and what does it save?

Question: microseconds of this processor to make a patch (`create_delta`) and to apply it, and the
bytes of patch and payload, for publications that change a little, much, or altogether, and for the
worst that a peer can publish.

Method: this process alone, pinned to the last core, garbage collector off. A cell is the median of
the rounds; a round is the mean of as many calls as fit into 20 ms of the processor's time, so that
what else runs does not count. What is made is applied and
compared once before. Deflate at level 1 stands beside it: what permessage-deflate would pay per
publication.

Sketch: one change costs two comparisons of 10 KB and its checksum, 50 µs. From two changes on the
base's blocks are remembered (0.2 µs each, 600 of them) and each match costs 5 to 20 µs, so 100
changes are 1 ms. Unlike texts are given up: the time is that of remembering the base.
"""

import argparse
import gc
import json
import os
import random
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import rig
from wirebell.protocol.delta import apply_delta, create_delta

__all__ = ("main",)

ROUND_SECONDS = 0.02
ROWS = 100
"""About 10 KB of JSON."""
PUBLICATION_BYTES_MAX = 131_072
"""Wirebell's default bound, for the worst cases."""
Row = dict[str, Any]


def create_document(rows: int) -> list[Row]:
    """Create a table as an application would publish it; the same each time."""
    source = random.Random(1)
    return [
        {
            "id": number,
            "name": f"item {source.random()}",
            "price": source.randrange(1_000_000),
            "tags": ["a", "b"],
            "text": "größer " * (number % 3),
        }
        for number in range(rows)
    ]


def encode(document: object) -> bytes:
    """Encode as the channel would."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def change(document: Sequence[Row], rows: Sequence[int]) -> list[Row]:
    """Change the price in some rows."""
    return [
        row | {"price": row["price"] + 1} if number in rows else row
        for number, row in enumerate(document)
    ]


def create_cases() -> dict[str, tuple[bytes, bytes]]:
    """Create the pairs of payloads: what subscribers have, what is published."""
    source = random.Random(2)
    document = create_document(ROWS)
    shuffled = source.sample(document, len(document))
    base = encode(document)
    block = b"0123456789abcdef"
    unlike = source.randbytes(2 * PUBLICATION_BYTES_MAX)
    count = PUBLICATION_BYTES_MAX // 32
    traps = b"".join(block + source.randbytes(16) for _ in range(count))
    return {
        "the same": (base, base),
        "one field": (base, encode(change(document, [50]))),
        "first and last row": (base, encode(change(document, [0, ROWS - 1]))),
        "a window moves on": (base, encode([*document[1:], document[0]])),
        "every row": (base, encode(change(document, range(ROWS)))),
        "rows shuffled": (base, encode(shuffled)),
        "nothing in common": (base, source.randbytes(len(base))),
        "128 KiB, nothing": (unlike[:PUBLICATION_BYTES_MAX], unlike[PUBLICATION_BYTES_MAX:]),
        "128 KiB, one block": (block * (2 * count), b"<" + block * (2 * count - 1) + b">"),
        "128 KiB, traps": (traps, b"".join(block + source.randbytes(1) for _ in range(count))),
    }


def measure(call: Callable[[], object], rounds: int) -> float:
    """Return the microseconds of a call, median of the rounds."""
    means = []
    for _ in range(rounds):
        calls, start = 0, time.process_time()
        while (passed := time.process_time() - start) < ROUND_SECONDS:
            call()
            calls += 1
        means.append(passed / calls * 1e6)
    return statistics.median(means)


def measure_case(name: str, base: bytes, target: bytes, rounds: int) -> Row:
    """Measure one pair of payloads."""
    patch = create_delta(base, target)
    assert target == apply_delta(base, patch)
    return {
        "case": name,
        "payload_bytes": len(target),
        "patch_bytes": len(patch),
        "create_us": round(measure(lambda: create_delta(base, target), rounds), 1),
        "apply_us": round(measure(lambda: apply_delta(base, patch), rounds), 1),
        "deflate_us": round(measure(lambda: zlib.compress(target, 1), rounds), 1),
        "deflate_bytes": len(zlib.compress(target, 1)),
    }


def print_table(cells: Sequence[Row]) -> None:
    """Print the cells."""
    print(
        f"\n{'case':<20} {'payload':>8} {'patch':>8} {'create µs':>10} {'apply µs':>9} "
        f"{'deflate':>8} {'deflate µs':>11}"
    )
    for cell in cells:
        print(
            f"{cell['case']:<20} {cell['payload_bytes']:>8,} {cell['patch_bytes']:>8,} "
            f"{cell['create_us']:>10,.0f} {cell['apply_us']:>9,.0f} {cell['deflate_bytes']:>8,} "
            f"{cell['deflate_us']:>11,.0f}"
        )


def main() -> None:
    """Measure each case, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    rig.add_arguments(parser)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.quick else 15)
    os.sched_setaffinity(0, {rig.cores()[1]})
    gc.disable()
    cells = [measure_case(name, *pair, rounds) for name, pair in create_cases().items()]
    print_table(cells)
    if arguments.out or not arguments.quick:
        method = {"rounds": rounds, "round_seconds": ROUND_SECONDS}
        rig.write_results("delta", {}, {"method": method, "cells": cells}, arguments.out)


if __name__ == "__main__":
    main()
