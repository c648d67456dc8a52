"""What a server can do for `Realtime.attach`, and why some cannot: one table, proven and rendered.

`test_abilities` asks each server for each of `ABILITIES` and compares the answers with `CANNOT`:
an excuse that is no longer true fails as well as an ability that is lost. As a program it writes
the table into a page, between two markers: ``python -m tests.integration.abilities
docs/servers.md``; with ``--check`` it changes nothing and exits with 1 when the page differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests import servers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("ABILITIES", "CANNOT", "JUDGED", "cannot", "insert", "main", "render")

BEGIN = "<!-- abilities:begin -->"
END = "<!-- abilities:end -->"

OURS = "wirebell-uvloop-httptools"
"""Speaks for our class on every loop and HTTP implementation."""

JUDGED: tuple[str, ...] = (OURS, *servers.FOREIGN_KINDS)
"""The columns of the table."""

ABILITIES: dict[str, str] = {
    "takeover": "the endpoint returns and its `yield` dependencies end while the socket lives",
    "no task": "an idle connection has no asyncio task",
    "pings": "pings at `WIREBELL_PING_INTERVAL_SECONDS`, and a silent peer is dropped in time",
    "early bound": "a message over `WIREBELL_MESSAGE_BYTES_MAX` is refused before it is held",
    "user timeout": "`WIREBELL_TCP_USER_TIMEOUT_SECONDS` on every connection",
    "abort": "a slow peer that does not even read its close frame is dropped",
    "compress once": "a publication is compressed once for all (`WIREBELL_COMPRESSION`)",
    "empty subprotocol": "a handshake with an empty `Sec-WebSocket-Protocol` header is accepted",
    "code 1007": "text that is not UTF-8 is answered by code 1007",
    "code at stop": "a stop tells peers 1012: come back",
    "spread stop": "a stop spreads its closes over `WIREBELL_DRAIN_WINDOW_SECONDS`",
}
"""Name → what a user of the library has of it."""

SANSIO, _, WSPROTO, HYPERCORN, GRANIAN = servers.FOREIGN_KINDS

_PORTABLE = dict.fromkeys(
    servers.FOREIGN_KINDS, "ASGI keeps a socket only as long as its endpoint runs"
)
_PINGS = {
    **dict.fromkeys(servers.STOCK_KINDS, "it pings as `--ws-ping-interval` says, 20 s by default"),
    HYPERCORN: "it pings as its own `--websocket-ping-interval` says, never by default",
    GRANIAN: "it sends no pings, and ASGI has no message for one",
}
_OWN_LIMIT = "is the server's own limit; an app sees a message when it is whole"
CANNOT: dict[str, dict[str, str]] = {
    "takeover": _PORTABLE,
    "no task": _PORTABLE,
    "pings": _PINGS,
    "early bound": {
        **dict.fromkeys(servers.STOCK_KINDS, f"`--ws-max-size` (16 MiB by default) {_OWN_LIMIT}"),
        HYPERCORN: f"`--websocket-max-message-size` (16 MiB by default) {_OWN_LIMIT}",
        GRANIAN: f"64 MiB {_OWN_LIMIT}",
    },
    "user timeout": dict.fromkeys(
        servers.FOREIGN_KINDS, "ASGI shows no socket; set it on a listener that you pass to it"
    ),
    "abort": {HYPERCORN: "nothing that ASGI gives leads to its transport"},
    "compress once": {
        **dict.fromkeys(servers.STOCK_KINDS, "it compresses for each connection by itself"),
        HYPERCORN: "it compresses for each connection by itself",
        GRANIAN: "it does not compress",
    },
    "empty subprotocol": {SANSIO: "it refuses with 400, before an app hears of it"},
    "code 1007": {
        WSPROTO: "it drops the link when wsproto reports the error, before an app hears of it",
        HYPERCORN: "it drops the link when wsproto reports the error, before an app hears of it",
        GRANIAN: "it answers by a close frame without a code, before an app hears of it",
    },
    "code at stop": {
        HYPERCORN: "it tells no app that it stops, cancels it after 3 s, and sends 1011",
        GRANIAN: "it tells no app that it stops, and drops the links",
    },
    "spread stop": dict.fromkeys(
        servers.FOREIGN_KINDS, "the server closes all sockets itself, at once"
    ),
}
"""Ability → server → why it is impossible there; everybody else can."""


def cannot(kind: str, ability: str) -> bool:
    """Tell whether `kind` is excused from `ability`; whoever asks must prove it still is."""
    return kind in CANNOT[ability]


def render() -> str:
    """Render the table, and under it the reasons."""
    titles = ["Wirebell's class", *(kind.replace("-", " ", 1) for kind in servers.FOREIGN_KINDS)]
    lines = [
        "| | " + " | ".join(titles) + " |",
        "|---|" + ":---:|" * len(titles),
    ]
    for ability, meaning in ABILITIES.items():
        marks = ["no" if cannot(kind, ability) else "yes" for kind in JUDGED]
        lines.append(f"| {meaning} | " + " | ".join(marks) + " |")
    lines += ["", "Why not:", ""]
    for ability, meaning in ABILITIES.items():
        reasons: dict[str, list[str]] = {}
        for kind, reason in CANNOT[ability].items():
            reasons.setdefault(reason, []).append(kind.replace("-", " ", 1))
        lines.append(f"- {meaning}:")
        for reason, kinds in reasons.items():
            who = "all others" if len(kinds) == len(servers.FOREIGN_KINDS) else ", ".join(kinds)
            lines.append(f"  - {who}: {reason}.")
    return "\n".join(lines) + "\n"


def insert(page: str) -> str:
    """Return the page with the table between its markers.

    Raises:
        ValueError: The page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{render()}{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table into a page, or check that it is there; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the table of abilities into a page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing, tell by the status")
    chosen = parser.parse_args(arguments)
    old = chosen.page.read_text(encoding="utf-8")
    new = insert(old)
    if chosen.check:
        if old != new:
            sys.stderr.write(f"{chosen.page} is stale: run this without --check\n")
        return int(old != new)
    chosen.page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
