"""The page about all keys is made from the table.

``python -m wirebell.configuration.reference PAGE`` writes it; with ``--check`` in front it only
tells whether it is current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wirebell.configuration.broker_keys import BROKER_KEYS, REDIS_SECTIONS
from wirebell.configuration.key import Key
from wirebell.configuration.keys import (
    ACCEPTED,
    CHANNEL_KEYS,
    CLIENT_KEYS,
    KEYS,
    NAME_KEYS,
    OPERATOR_KEYS,
    SERVER_KEYS,
    TRANSPORT_KEYS,
    flatten,
    read_channel_tree,
    read_known,
)
from wirebell.configuration.values import Kind

__all__ = ("insert", "main", "render")

BEGIN = "<!-- keys:begin (made by wirebell.configuration.reference) -->"
END = "<!-- keys:end -->"
HEAD = ("| Key | Default | Holds | In Python | Note |", "|---|---|---|---|---|")
OWNERS = {
    "settings": "Settings",
    "server": "ServerOptions",
    "server.tls": "TLSOptions",
    "client": "ClientOptions",
    "client.personal": "PersonalChannel",
    "names": "ChannelNames",
    "api": "APIOptions",
    "endpoints": "EndpointOptions",
    "engine.redis": "RedisOptions",
    "engine.sqlite": "SQLiteOptions",
    "broker.sqlite": "SQLiteOptions",
    "broker.nats": "NATSOptions",
    "broker.postgres": "PostgreSQLOptions",
}
CHANNEL_OWNERS = {
    "": "ChannelOptions",
    "history": "History",
    "permissions": "ChannelPermissions",
}
GROUPS = (
    ("The process", SERVER_KEYS),
    ("Clients", CLIENT_KEYS),
    ("Names of channels", NAME_KEYS),
    ("Transports", TRANSPORT_KEYS),
    ("Server API and operators", OPERATOR_KEYS),
    ("Brokers", BROKER_KEYS),
)
# Sections with the keys of another one; they have no rows of their own.
ALIKE = tuple(f"{owner}.redis." for owner in REDIS_SECTIONS[1:])


def render() -> str:
    """Write all tables."""
    return "\n".join(_render_lines()) + "\n"


def _render_lines() -> Iterator[str]:
    """Write the tables line by line."""
    grouped: set[str] = set()
    for title, keys in GROUPS:
        yield from (f"### {title}", "", *HEAD)
        for key in keys:
            grouped.add(key.path)
            if not key.path.startswith(ALIKE):
                yield _render_row(key, read_known()[key.path])
        yield ""
    yield "`broker.redis` and `presence_manager.redis` have the keys of `engine.redis`; "
    yield "only `broker.redis` has no `presence_ttl`."
    yield ""
    yield from ("### Options of channels", "")
    yield "In each item of `channel.namespaces`, beside `name`, and in `channel.without_namespace`."
    yield from ("", *HEAD)
    defaults = dict(flatten(read_channel_tree()))
    for key in CHANNEL_KEYS:
        yield _render_row(key, defaults[key.path], CHANNEL_OWNERS)
    yield from ("", "### Keys of Wirebell's own", "")
    yield "Settings that Centrifugo has no key for; the page on [limits](limits.md) explains each."
    yield from ("", *HEAD)
    for path, key in KEYS.items():
        if path not in grouped:
            yield _render_row(key, key.default)
    yield from ("", "### Taken without effect", "", "| Key | Why |", "|---|---|")
    for path, reason in ACCEPTED.items():
        yield f"| `{path}` | {reason} |"


def _render_row(key: Key, default: Any, owners: Mapping[str, str] = OWNERS) -> str:
    """Write one row."""
    notes = [key.note] if key.note else []
    if key.choices:
        notes.append("one of " + ", ".join(f"`{choice}`" for choice in key.choices if choice))
    if key.zero_is_default:
        notes.append("0 is the default")
    bounds = [
        f"{word} {value:.15g}"
        for word, value in (("at least", key.minimum), ("at most", key.maximum))
        if value not in (None, 0, 2**31 - 1, 2**53)
    ]
    group, _, field = key.target.rpartition(".")
    owner = owners.get(group, group.replace("transports", "TransportOptions"))
    target = f"`{owner}.{field}`" if key.target else ""
    shown = "" if default in (None, "", [], (), {}) else f"`{_show(key.kind, default)}`"
    note = "; ".join((*notes, *bounds)).replace("|", "\\|")
    return f"| `{key.path}` | {shown} | {key.kind.value} | {target} | {note} |"


def _show(kind: Kind, default: Any) -> str:
    """Write a default as a file has it."""
    if kind is Kind.NUMBER:
        return f"{default:.15g}"
    return default if isinstance(default, str) else json.dumps(default)


def insert(page: str) -> str:
    """Put the tables between the two marks of a page.

    Raises:
        ValueError: The page has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n\n{render()}\n{end}{after}"


def main(arguments: list[str]) -> int:
    """Write or check the page; returns the status of the process."""
    is_check = arguments[:1] == ["--check"]
    path = Path(arguments[-1])
    page = path.read_text()
    current = insert(page)
    if not is_check:
        path.write_text(current)
    elif current != page:
        sys.stderr.write(f"{path} is out of date: run python -m {__spec__.name} {path}\n")
        return 1
    return 0


if __name__ == "__main__":  # pragma: no cover - the one line that a test does not run
    sys.exit(main(sys.argv[1:]))
