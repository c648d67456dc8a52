"""Fossil deltas: those of the recordings byte for byte, and what an encoder can do wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from wirebell.protocol import delta
from wirebell.protocol.delta import apply_delta, create_delta, find_patch

fossil = import_module("centrifuge.fossil")  # of the Python SDK, which has no types

TRANSCRIPTS = Path(__file__).parents[3] / "protocol" / "transcripts"
SCENARIOS = sorted(
    path.relative_to(TRANSCRIPTS).as_posix()
    for path in TRANSCRIPTS.glob("*/*.jsonl")
    if "delta" in path.name
)
LOREM = b'{"text":"Lorem ipsum dolor sit amet, consectetur adipiscing elit.","n":1}'


def read_messages(scenario: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read what clients received and what was published: client, message."""
    for line in (TRANSCRIPTS / scenario).read_text().splitlines():
        event = json.loads(line)
        if event.get("dir") == "receive" and "hex" in event:
            yield from ((event["client"], message) for message in event["decoded"])
        elif event.get("dir") == "receive" and event.get("text"):
            yield from ((event["client"], json.loads(part)) for part in event["text"].split("\n"))
        elif event.get("dir") == "send" and "publish" in event.get("text", ""):
            yield "api", json.loads(event["text"])["publish"]
        elif event.get("client") == "api":
            yield "api", json.loads(event["request_body"])
        elif event.get("client") == "backend":
            for item in json.loads(event["response_body"])["result"]["items"]:
                yield "api", item


def collect_publications(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Collect the publications of a push, or of the answer to a subscription."""
    result = message.get("subscribe", {})
    pushed = message.get("push", {}).get("pub")
    return [
        *result.get("state", ()),
        *result.get("publications", ()),
        *([pushed] if pushed else ()),
    ]


def collect_patches(scenario: str) -> list[tuple[bytes, bytes, bytes]]:
    """Collect base, target and patch of each recorded patch.

    Targets are what was published; a base is the publication before it in history, of its key.
    """
    published: list[tuple[str, bytes]] = []
    patches = []
    for client, message in read_messages(scenario):
        if client == "api":
            if "data" in message and not message.get("skip_history"):
                data = json.dumps(message["data"], separators=(",", ":")).encode()
                published.append((message.get("key", ""), data))
            continue
        for publication in collect_publications(message):
            if not publication.get("delta"):
                continue
            patch = publication["data"].encode()
            payloads = [data for key, data in published if key == publication.get("key", "")]
            base = next(one for one, two in pairwise(payloads) if rebuilds(one, patch, two))
            patches.append((base, fossil_target(base, patch), patch))
    return patches


def fossil_target(base: bytes, patch: bytes) -> bytes:
    """Apply a patch with the code of the Python SDK."""
    target = fossil.apply_delta(base, patch)
    assert isinstance(target, bytes)
    return target


def rebuilds(base: bytes, patch: bytes, target: bytes) -> bool:
    """Tell whether the Python SDK makes the target of these two."""
    try:
        return fossil_target(base, patch) == target
    except ValueError:
        return False


def test_there_are_recordings() -> None:
    """Both encodings, maps and polls have recorded deltas, with patches in them."""
    assert {"websocket-json", "websocket-protobuf", "map", "shared-poll"} <= {
        scenario.split("/")[0] for scenario in SCENARIOS
    }
    assert sum(len(collect_patches(scenario)) for scenario in SCENARIOS) >= 15


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recorded_patches_are_made_and_applied(scenario: str) -> None:
    """Each recorded patch is what we make of the payloads, and leads to the same payload."""
    for base, target, patch in collect_patches(scenario):
        assert patch == create_delta(base, target)
        assert target == apply_delta(base, patch)


def test_the_formats_own_example() -> None:
    """A delta of another encoder is applied: copies, an insertion, other order."""
    base = b"The quick brown fox jumps over the lazy dog."
    target = b"The lazy dog. The quick fox"
    made = b"R\n4@0,9@Z,1: 9@0,4@F,"
    assert target == b"".join((base[0:4], base[35:44], b" ", base[0:9], base[15:19]))

    patch = made + delta.encode_number(delta.calculate_checksum(target)) + b";"

    assert target == apply_delta(base, patch)
    assert target == fossil_target(base, patch)


PAIRS = {
    "both empty": (b"", b""),
    "nothing before": (b"", LOREM),
    "nothing after": (LOREM, b""),
    "equal": (LOREM, LOREM),
    "longer": (LOREM, LOREM * 3),
    "shorter": (LOREM * 3, LOREM),
    "short base": (b"0123456789abcde", b"0123456789abcde, and more"),
    "one block": (b"0123456789abcdef", b"0123456789abcdef, and more"),
    "moved": (b"".join(b"row number %05d;" % n for n in range(99)), b"row number 00050;" * 9),
    "swapped": (LOREM + bytes(range(64)), bytes(range(64)) + LOREM),
    "before and after": (b"<" + LOREM * 40 + b">", b"[" + LOREM * 40 + b"]"),
    "repeated": (b"0123456789abcdef" * 99, b"x" + b"0123456789abcdef" * 98 + b"y"),
    "continues elsewhere": (
        b"0123456789abcdef" + b"-" * 16 + b"0123456789abcdef" + b"+" * 40,
        b"?0123456789abcdef" + b"+" * 40 + b"!",
    ),
    "bytes that continue no character": (bytes([0x80]) * 50, b"x" + bytes([0x80]) * 40 + b"y"),
    "a block of halves": (
        b"\x80\x80\x80ABCDEFGHIJ\x80\x80\x80" * 2,
        b"x\x80\x80\x80ABCDEFGHIJ\x80\x80\x80\x81y",
    ),
    "shift past the base's end": (b"0123456789abcdef" * 2, b"0123456789abcdef?" * 9),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_delta_leads_to_its_target(name: str) -> None:
    """Our own reader and the Python SDK's make the target of what we made."""
    base, target = PAIRS[name]

    patch = create_delta(base, target)

    assert target == apply_delta(base, patch)
    assert target == fossil_target(base, patch)


def test_a_changed_field_costs_some_bytes() -> None:
    """Of 10 KB with one field changed, or two far apart, what differs is sent."""
    rows = [{"id": number, "price": number * 7919 % 1000} for number in range(400)]
    base = json.dumps(rows).encode()
    rows[200]["price"] = -1
    once = json.dumps(rows).encode()
    rows[0]["price"] = rows[399]["price"] = -2
    thrice = json.dumps(rows).encode()

    assert len(create_delta(base, once)) < 40
    assert len(create_delta(base, thrice)) < 80


@pytest.mark.parametrize("before", ["日", "é", "🔔", "ab"])
@pytest.mark.parametrize("after", ["本", "è", "🔕", "ac"])
def test_a_delta_of_text_is_text(before: str, after: str) -> None:
    """A delta never cuts a character in two, so that a JSON string can carry it."""
    text = "".join(f"row {number}, " for number in range(30))
    pairs = [
        (f"{text}{before}{text}", f"{text}{after}{text}"),
        (f"{text}{before}", f"{text}{after}"),
        (f"{before}{text}", f"{after}{text}"),
        (f"{before}{text}{before}{text}{before}", f"{after}{text}{after}{text}{after}"),
    ]

    for base, target in pairs:
        patch = create_delta(base.encode(), target.encode())
        assert patch.decode()
        assert target.encode() == apply_delta(base.encode(), patch)


def test_hopeless_and_repeating_texts_are_given_up() -> None:
    """What would take long is sent as it is: many equal blocks, many short ones, none at all."""
    block = b"0123456789abcdef"
    base = b"".join(block + number.to_bytes(16, "big") for number in range(2000))
    target = b"".join(block + b"%d" % (number % 10) for number in range(4000))
    many = create_delta(base, target)

    assert target == apply_delta(base, many)
    assert many.count(b"@") <= delta.COPIES_MAX + 1  # and what both end with
    other = bytes(range(128, 256)) * 64
    assert len(other) + 20 > len(create_delta(block * 500, other))


def test_a_patch_that_saves_nothing_is_none() -> None:
    """A publication is patched only where that is shorter."""
    assert find_patch(LOREM, b'{"x":1}') is None
    assert find_patch(b"", LOREM) is None
    assert find_patch(LOREM, LOREM) == b"19\n19@0,34bmTQ;"


def test_a_patch_is_made_once() -> None:
    """Every encoding of a publication is given the same object."""
    base, target = LOREM * 2, LOREM * 2 + b"!"

    assert find_patch(base, target) is find_patch(bytes(bytearray(base)), target)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (b"", "no size"),
        (b"19", "no size"),
        (b"?\n;", "no size"),
        (b"0000000\n;", "no size"),
        (b"~~~~~~\n", "limit"),
        (b"4\n", "cannot be read at byte 2"),
        (b"4\n4", "cannot be read at byte 2"),
        (b"4\n4@0", "cannot be read"),
        (b"4\n4@0;", "cannot be read"),
        (b"4\n4!abcd", "cannot be read"),
        (b"4\n4:abcd", "cannot be read at byte 8"),
        (b"4\n4:abc", "not there"),
        (b"4\n4@~~,", "not there"),
        (b"4\n5:abcde0;", "more than its 4 bytes"),
        (b"4\n3:abc0;", "makes 3 bytes instead of 4"),
        (b"4\n4:abcd0;", "checksum"),
    ],
)
def test_a_broken_delta_is_refused(patch: bytes, message: str) -> None:
    """Whatever is wrong with a delta is a `ValueError` that says it."""
    with pytest.raises(ValueError, match=message):
        apply_delta(LOREM, patch)


def test_another_base_is_noticed() -> None:
    """A delta on the wrong base is refused by its checksum."""
    patch = create_delta(LOREM, LOREM + b" ")

    with pytest.raises(ValueError, match="checksum"):
        apply_delta(LOREM.replace(b"Lorem", b"LOREM"), patch)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 7, 1023, 1024, 1025, 5000])
def test_the_checksum_adds_words(length: int) -> None:
    """It is the sum of the big-endian words, the last one filled up with zeros, in 32 bits."""
    data = bytes(255 - n % 7 for n in range(length))
    padded = data + bytes(-length % 4)
    words = [int.from_bytes(padded[n : n + 4], "big") for n in range(0, len(padded), 4)]

    assert sum(words) % 2**32 == delta.calculate_checksum(data)
    assert fossil.checksum(data) == delta.calculate_checksum(data)


@pytest.mark.parametrize(
    ("number", "digits"),
    [(0, b"0"), (63, b"~"), (64, b"10"), (4095, b"~~"), (4096, b"100"), (2**32 - 1, b"3~~~~~")],
)
def test_numbers_have_base_64(number: int, digits: bytes) -> None:
    """Numbers are written without leading zeros, most significant digit first."""
    assert digits == delta.encode_number(number)
    assert number == delta.decode_number(digits)
