"""Filters of publications by their tags, as the recordings have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wirebell.errors import BadRequest
from wirebell.protocol import filters
from wirebell.protocol.filters import Filter
from wirebell.protocol.messages import FilterNode

RECORDINGS = Path(__file__).parents[3] / "protocol" / "transcripts" / "websocket-json"
LIVE = ("tags_filter_live", "tags_filter_operators")
# Refused because its channel allows no filters: the filter itself is good.
NOT_OF_THE_FILTER = "not_allowed"

A = FilterNode(key="a", cmp="ex")
B = FilterNode(key="b", cmp="ex")


def read(scenario: str) -> list[dict[str, Any]]:
    """Read the events of a recording."""
    text = (RECORDINGS / f"{scenario}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def collect_filters(scenario: str) -> dict[str, FilterNode]:
    """Collect the filters that clients sent: client → filter."""
    found = {}
    for event in read(scenario):
        if event.get("dir") == "send" and '"tf"' in event["text"]:
            node = json.loads(event["text"])["subscribe"]["tf"]
            found[event["client"]] = msgspec.convert(node, FilterNode)
    return found


@pytest.mark.parametrize("scenario", LIVE)
def test_recorded_filters_let_the_same_through(scenario: str) -> None:
    """Each recorded client gets the publications that its filter matches, and no others."""
    wanted = {name: Filter.create(node) for name, node in collect_filters(scenario).items()}
    published: list[dict[str, Any]] = []
    received: dict[str, list[Any]] = {name: [] for name in wanted}
    for event in read(scenario):
        if event.get("client") == "api":
            published.append(json.loads(event["request_body"]))
        elif event.get("dir") == "receive" and '"pub"' in event["text"]:
            publication = json.loads(event["text"])["push"]["pub"]
            received[event["client"]].append(publication["data"])

    assert wanted
    for name, each in wanted.items():
        matching = [item["data"] for item in published if each.matches(item.get("tags"))]
        assert received[name] == matching, name


def test_recorded_filters_let_the_same_be_recovered() -> None:
    """Recovered publications are those that the filter matches."""
    scenario = "tags_filter_recovery"
    (node,) = collect_filters(scenario).values()
    events = read(scenario)
    published = [json.loads(e["request_body"]) for e in events if e.get("client") == "api"][:5]
    answer = next(e for e in events if e.get("dir") == "receive" and '"subscribe"' in e["text"])
    recovered = json.loads(answer["text"])["subscribe"]["publications"]

    missed = [item for item in published[1:] if Filter.create(node).matches(item["tags"])]

    assert [item["data"] for item in recovered] == [item["data"] for item in missed]


def test_recorded_refusals() -> None:
    """What was answered with 107 is refused, and what was accepted is not."""
    scenario = "tags_filter_errors"
    sent = collect_filters(scenario)
    refused = {
        event["client"]
        for event in read(scenario)
        if event.get("dir") == "receive" and '"error"' in event["text"]
    }

    assert len(refused) >= 7
    for name, node in sent.items():
        if name in refused and name != NOT_OF_THE_FILTER:
            with pytest.raises(BadRequest):
                Filter.create(node)
        else:
            Filter.create(node)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (FilterNode(), "unknown comparison ''"),
        (FilterNode(op="xor", nodes=(A,)), "unknown operator 'xor'"),
        (FilterNode(key="k", cmp="like", val="1"), "unknown comparison 'like'"),
        (FilterNode(op="and"), "'and' without nodes"),
        (FilterNode(op="or"), "'or' without nodes"),
        (FilterNode(op="not"), "'not' with 0 nodes"),
        (FilterNode(op="not", nodes=(A, B)), "'not' with 2 nodes"),
        (FilterNode(nodes=(A,)), "without an operator"),
        (FilterNode(cmp="eq", val="1"), "'eq' without a key"),
        (FilterNode(cmp="ex"), "'ex' without a key"),
        (FilterNode(key="k", cmp="eq"), "wrong 'val' or 'vals'"),
        (FilterNode(key="k", cmp="gt", val="1", vals=("1",)), "wrong 'val' or 'vals'"),
        (FilterNode(key="k", cmp="in"), "wrong 'val' or 'vals'"),
        (FilterNode(key="k", cmp="nin", val="1", vals=("1",)), "wrong 'val' or 'vals'"),
        (FilterNode(key="k", cmp="ex", val="1"), "wrong 'val' or 'vals'"),
        (FilterNode(key="k", cmp="nex", vals=("1",)), "wrong 'val' or 'vals'"),
        (FilterNode(op="and", nodes=(A, FilterNode(op="not"))), "'not' with 0 nodes"),
    ],
)
def test_a_filter_that_says_nothing_is_refused(node: FilterNode, message: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(BadRequest, match=message):
        Filter.create(node)


@pytest.mark.parametrize(
    ("cmp", "val", "tag", "matches"),
    [
        ("eq", "a", "a", True),
        ("eq", "a", "A", False),
        ("eq", "7", "7.0", False),
        ("eq", "a", None, False),
        ("neq", "a", "b", True),
        ("neq", "a", None, True),
        ("sw", "ab", "abc", True),
        ("sw", "ab", "cab", False),
        ("sw", "ab", None, False),
        ("ew", "bc", "abc", True),
        ("ew", "bc", "bca", False),
        ("ct", "b", "abc", True),
        ("ct", "x", "abc", False),
        ("ct", "x", None, False),
        ("lt", "10", "9", True),
        ("lt", "10", "10", False),
        ("lte", "10", "10.000", True),
        ("gt", "-1", "0", True),
        ("gt", "-1", "-1.5", False),
        ("gte", "0.3", "0.30", True),
        ("gte", "+5", "5", True),
        ("gt", "9007199254740992", "9007199254740993", True),
        ("gt", "1", "", False),
        ("gt", "1", None, False),
        ("gt", "1", "two", False),
        ("gt", "one", "2", False),
        ("gt", "1", "1e3", False),
        ("gt", "1", "NaN", False),
        ("gt", "1", "Infinity", False),
        ("gt", "1", "²", False),
        ("gt", "1", " 2", False),
        ("gt", "1", "2.", False),
        ("gt", "1", "9" * 100, True),
        ("gt", "1", "9" * 101, False),
    ],
)
def test_comparisons(cmp: str, val: str, tag: str | None, matches: bool) -> None:
    """Texts are compared as they are, amounts as decimal numbers; `None` is a missing tag."""
    tags = {} if tag is None else {"k": tag}

    assert matches == Filter.create(FilterNode(key="k", cmp=cmp, val=val)).matches(tags)


@pytest.mark.parametrize(
    ("cmp", "matches"), [("in", [True, False, False]), ("nin", [False, True, True])]
)
def test_lists(cmp: str, matches: list[bool]) -> None:
    """A tag is among the values, it is another one, or it is missing: then it is not among them."""
    each = Filter.create(FilterNode(key="k", cmp=cmp, vals=("a", "b")))

    assert matches == [each.matches({"k": "a"}), each.matches({"k": "c"}), each.matches({})]


@pytest.mark.parametrize(
    ("node", "matches"),
    [
        (FilterNode(op="and", nodes=(A, B)), [False, False, False, True]),
        (FilterNode(op="or", nodes=(A, B)), [False, True, True, True]),
        (FilterNode(op="not", nodes=(A,)), [True, False, True, False]),
        (
            FilterNode(op="and", nodes=(FilterNode(op="not", nodes=(A,)), B)),
            [False, False, True, False],
        ),
        (FilterNode(key="a", cmp="nex"), [True, False, True, False]),
    ],
)
def test_groups(node: FilterNode, matches: list[bool]) -> None:
    """`and` needs all, `or` one, `not` none; groups nest, and no tags at all are tags too."""
    each = Filter.create(node)

    assert matches == [
        each.matches(None),
        each.matches({"a": ""}),
        each.matches({"b": ""}),
        each.matches({"a": "", "b": ""}),
    ]


def nest(depth: int) -> FilterNode:
    """Nest as many nodes."""
    node = A
    for _ in range(depth - 1):
        node = FilterNode(op="not", nodes=(node,))
    return node


BOUNDS = {
    "nodes deep": (nest(filters.DEPTH_MAX), nest(filters.DEPTH_MAX + 1)),
    "nodes": (
        FilterNode(op="or", nodes=(A,) * (filters.NODES_MAX - 1)),
        FilterNode(op="or", nodes=(A,) * filters.NODES_MAX),
    ),
    "values in lists": (
        FilterNode(key="k", cmp="in", vals=("v",) * filters.VALUES_MAX),
        FilterNode(key="k", cmp="in", vals=("v",) * (filters.VALUES_MAX + 1)),
    ),
    "characters": (
        FilterNode(key="k", cmp="eq", val="v" * (filters.TEXT_CHARACTERS_MAX - 1)),
        FilterNode(key="k", cmp="eq", val="v" * filters.TEXT_CHARACTERS_MAX),
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds(bound: str) -> None:
    """A filter at a bound is accepted, and one past it is refused by name."""
    allowed, too_much = BOUNDS[bound]

    Filter.create(allowed)

    with pytest.raises(BadRequest, match=bound):
        Filter.create(too_much)


def test_a_very_deep_filter_is_refused_before_anything_recurses() -> None:
    """A tree deeper than Python's own stack is an error of the client like any other."""
    with pytest.raises(BadRequest, match="nodes deep"):
        Filter.create(nest(50_000))


def test_equal_filters_are_one() -> None:
    """Clients with equal filters share an object: a publication is encoded once for them."""
    first = Filter.create(FilterNode(op="and", nodes=(A, B)))
    second = Filter.create(FilterNode(op="and", nodes=(A, B)))
    other = Filter.create(FilterNode(op="or", nodes=(A, B)))

    assert first is second
    assert hash(first) == hash(second)
    assert first != other


def test_a_forgotten_filter_is_equal_to_a_new_one() -> None:
    """Equality does not depend on what is remembered."""
    first = Filter.create(A)
    filters.create_filter.cache_clear()
    second = Filter.create(A)

    assert first is not second
    assert first == second
    assert len({first, second}) == 1
