"""The fuzz targets hold for their seeds, and for seeds that were changed at random."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.seeds import list_seeds
from tests.fuzz.targets import TARGETS

MUTATIONS = 400


def mutate(data: bytes, source: random.Random, others: list[bytes]) -> bytes:
    """Change a few bytes, as a fuzzer does."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed) + 1)
        match source.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([source.randrange(256)])
            case 1:
                changed[at:at] = source.randbytes(source.randint(1, 8))
            case 2:
                del changed[at : at + source.randint(1, 8)]
            case 3:
                changed[at : at + 1] = bytes([source.choice([0x00, 0x7F, 0x80, 0x81, 0xC1, 0xFF])])
            case _:
                other = source.choice(others)
                changed[at:] = other[source.randrange(len(other) + 1) :]
    return bytes(changed[:4_096])


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """Every target holds for its seeds, for their starts, and for nothing."""
    seeds = list_seeds(name)

    for seed in seeds:
        TARGETS[name](seed)
        TARGETS[name](seed[: len(seed) // 2])
    TARGETS[name](b"")
    assert seeds


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    """Every target holds for some hundred inputs that are nearly right, the same in every run."""
    seeds = list_seeds(name)
    source = random.Random(name)  # noqa: S311

    for _ in range(MUTATIONS):
        data = mutate(source.choice(seeds), source, seeds)
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name} fails with {data!r}") from error


@pytest.mark.parametrize("name", TARGETS)
def test_noise(name: str) -> None:
    """Every target holds for bytes without any sense."""
    source = random.Random(f"noise {name}")  # noqa: S311

    for _ in range(MUTATIONS):
        TARGETS[name](source.randbytes(source.randint(0, 64)))
