"""Filters of publications by their tags (protocol document, section 1.4, ``FilterNode``).

A client gives a tree of conditions when it subscribes; a publication whose tags do not meet it is
not sent to it. A filter saves bytes and is no permission: history has everything.

Strategy: the tree is checked once, and turned into nested functions; what is checked cannot fail
when a publication comes. Clients that give equal trees share one object, so that their
publications are encoded once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

from wirebell.errors import BadRequest
from wirebell.protocol.messages import FilterNode

__all__ = ("Filter",)

Tags = Mapping[str, str]
Predicate = Callable[[Tags], bool]

DEPTH_MAX = 16
"""Nodes above each other: nobody writes a deeper condition by hand, and functions nest as deep."""

NODES_MAX = 128
"""Nodes of a filter. Each is looked at once per publication, in 0.1 µs, or 1 µs where it compares
numbers: 0.14 ms at most for each filter that is another one."""

VALUES_MAX = 1024
"""Values of all lists of a filter together. Looking one up takes the same time however many."""

TEXT_CHARACTERS_MAX = 16_384
"""Characters of all keys and values. Each subscriber may have its own filter: 10,000 of them take
at most 160 MB of ASCII."""

NUMBER_CHARACTERS_MAX = 100
"""Longest number that is compared; larger than any amount, and cheap to read."""

FILTERS_MAX = 1024
"""Filters that are remembered, so that equal ones are one object."""

# No exponent: "1e9" is a text, as in the protocol's servers, and cannot grow when it is compared.
NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?", re.ASCII)

NO_TAGS: Tags = {}

TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "sw": str.startswith,
    "ew": str.endswith,
    "ct": operator.contains,
}
"""Comparison → test of a tag against a value. What has no tag passes none of them."""

ORDERS: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
"""Comparison → order of numbers. What is no number, on either side, is in none of them."""

VALUE_COMPARISONS = frozenset(("eq", "neq", *TESTS, *ORDERS))
LIST_COMPARISONS = frozenset(("in", "nin"))
KEY_COMPARISONS = frozenset(("ex", "nex"))


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on the tags of publications; equal where the trees are.

    Attributes:
        node: The tree it was made of.
    """

    node: FilterNode
    _predicate: Predicate = field(repr=False, compare=False)
    _hash: int = field(repr=False, compare=False)

    @classmethod
    def create(cls, node: FilterNode) -> Filter:
        """Check a tree as a client sent it.

        Args:
            node: The tree.

        Returns:
            The filter; the same object for equal trees, while it is remembered.

        Raises:
            BadRequest: An operator or a comparison is unknown; a group has no nodes, or ``not``
                more than one; a condition has no key, not the value or the list that its
                comparison needs, or what it does not need; or the tree passes a bound.

        Source:
            Protocol document, sections 1.4 and 1.6.
        """
        # Before anything walks the tree in recursion, `hash` included.
        check_bounds(node)
        check_tree(node)
        return create_filter(node)

    def matches(self, tags: Mapping[str, str] | None) -> bool:
        """Tell whether a publication with these tags is wanted; ``None`` is no tags."""
        return self._predicate(NO_TAGS if tags is None else tags)

    def __hash__(self) -> int:
        # A tick looks each subscriber's encoding up: walking the tree each time would cost more.
        return self._hash


@lru_cache(maxsize=FILTERS_MAX)
def create_filter(node: FilterNode) -> Filter:
    """Make the filter of a tree that was checked."""
    return Filter(node, create_predicate(node), hash(node))


def check_bounds(node: FilterNode) -> None:
    """Refuse a tree that is too deep or too large.

    Raises:
        BadRequest: It is.
    """
    depth = nodes = values = characters = 0
    level = [node]
    while level:
        depth += 1
        nodes += len(level)
        if depth > DEPTH_MAX:
            raise BadRequest(f"filter is more than {DEPTH_MAX} nodes deep")
        if nodes > NODES_MAX:
            raise BadRequest(f"filter has more than {NODES_MAX} nodes")
        for each in level:
            values += len(each.vals)
            characters += len(each.key) + len(each.val) + sum(map(len, each.vals))
        level = [below for each in level for below in each.nodes]
    if values > VALUES_MAX:
        raise BadRequest(f"filter has {values} values in lists, limit {VALUES_MAX}")
    if characters > TEXT_CHARACTERS_MAX:
        raise BadRequest(f"filter has {characters} characters, limit {TEXT_CHARACTERS_MAX}")


def check_tree(node: FilterNode) -> None:
    """Refuse a tree that says nothing, or what nobody knows.

    Raises:
        BadRequest: It does.
    """
    if node.op == "":
        check_leaf(node)
    elif node.op in ("and", "or"):
        if not node.nodes:
            raise BadRequest(f"filter has {node.op!r} without nodes")
    elif node.op == "not":
        if len(node.nodes) != 1:
            raise BadRequest(f"filter has 'not' with {len(node.nodes)} nodes instead of one")
    else:
        raise BadRequest(f"filter has the unknown operator {node.op[:32]!r}")
    for below in node.nodes:
        check_tree(below)


def check_leaf(node: FilterNode) -> None:
    """Refuse a condition that lacks something, or has too much.

    Raises:
        BadRequest: It does.
    """
    if node.nodes:
        raise BadRequest("filter has a condition with nodes, or a group without an operator")
    if node.cmp in VALUE_COMPARISONS:
        is_complete = bool(node.val) and not node.vals
    elif node.cmp in LIST_COMPARISONS:
        is_complete = bool(node.vals) and not node.val
    elif node.cmp in KEY_COMPARISONS:
        is_complete = not node.val and not node.vals
    else:
        raise BadRequest(f"filter has the unknown comparison {node.cmp[:32]!r}")
    if not node.key:
        raise BadRequest(f"filter compares {node.cmp!r} without a key")
    if not is_complete:
        raise BadRequest(f"filter compares {node.cmp!r} with a wrong 'val' or 'vals'")


def create_predicate(node: FilterNode) -> Predicate:
    """Turn a checked tree into a function."""
    if node.op == "":
        return create_condition(node)
    predicates = tuple(map(create_predicate, node.nodes))
    if node.op == "not":
        inner = predicates[0]
        return lambda tags: not inner(tags)
    if node.op == "and":
        return lambda tags: all(predicate(tags) for predicate in predicates)
    return lambda tags: any(predicate(tags) for predicate in predicates)


def create_condition(node: FilterNode) -> Predicate:
    """Turn a checked condition into a function."""
    key, value = node.key, node.val
    match node.cmp:
        case "ex":
            return lambda tags: key in tags
        case "nex":
            return lambda tags: key not in tags
        case "eq":
            return lambda tags: tags.get(key) == value
        case "neq":
            return lambda tags: tags.get(key) != value
        case "in":
            values = frozenset(node.vals)
            return lambda tags: tags.get(key) in values
        case "nin":
            values = frozenset(node.vals)
            return lambda tags: tags.get(key) not in values
        case _:
            pass
    if node.cmp in TESTS:
        test = TESTS[node.cmp]
        return lambda tags: (tag := tags.get(key)) is not None and test(tag, value)
    return create_comparison(key, ORDERS[node.cmp], read_number(value))


def create_comparison(
    key: str, is_ordered: Callable[[Decimal, Decimal], bool], bound: Decimal | None
) -> Predicate:
    """Make the function that compares a tag as a number; no bound is never met."""
    if bound is None:
        return lambda _: False

    def compare(tags: Tags) -> bool:
        number = read_number(tags.get(key, ""))
        return number is not None and is_ordered(number, bound)

    return compare


def read_number(text: str) -> Decimal | None:
    """Read a decimal number; ``None`` for all else."""
    if len(text) > NUMBER_CHARACTERS_MAX or NUMBER.fullmatch(text) is None:
        return None
    return Decimal(text)
