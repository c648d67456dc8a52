"""What the SDKs can do with Wirebell, and which test says so; the table of ``docs/sdks.md``.

``python -m tests.e2e.sdk.features docs/sdks.md`` writes it; a test tells when that was forgotten.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ("FEATURES", "METHODS", "Feature", "render", "replace_table")

HERE = Path(__file__).parent
BEGIN, END = "<!-- sdks:begin -->", "<!-- sdks:end -->"


@dataclass(frozen=True, slots=True)
class Feature:
    """One row.

    Attributes:
        words: For a reader.
        javascript: Scenarios that show it; none where the SDK cannot.
        python: Tests that show it; none where the SDK cannot.
    """

    words: str
    javascript: tuple[str, ...] = ()
    python: tuple[str, ...] = ()


FEATURES = (
    Feature(
        "connect with a token; without one it is refused",
        ("connect", "anonymous_is_refused", "token_invalid"),
        ("connect", "invalid_token"),
    ),
    Feature(
        "a token that expires is refreshed in time, or replaced at connect",
        ("token_refresh", "token_expired_at_connect", "token_expires_without_refresh"),
        ("token_refresh", "expired_token_is_replaced"),
    ),
    Feature(
        "publish from client and server, with who published and tags",
        ("publish_both_ways",),
        ("publish_both_ways",),
    ),
    Feature("several commands in one frame", ("batched_commands", "subscribed_before_connected")),
    Feature(
        "subscription tokens, refreshed in time",
        ("subscription_token", "subscription_token_for_somebody_else"),
        ("token_refresh",),
    ),
    Feature(
        "errors with their codes",
        ("subscribe_errors", "command_errors"),
        ("subscribe_errors", "command_errors"),
    ),
    Feature(
        "presence, exact within 2 s after somebody leaves or is cut off",
        ("presence",),
        ("presence",),
    ),
    Feature("join and leave, one's own join too", ("join_leave", "unsubscribe"), ("join_leave",)),
    Feature("history: limit, since, reverse", ("history",), ("history",)),
    Feature(
        "recovery after a cut: nothing lost, nothing twice",
        ("recovery_after_cut", "recovery_while_publishing"),
        ("recovery_after_cut",),
    ),
    Feature(
        "an unrecoverable position is told, and `getState` asked again",
        (
            "unrecoverable_position",
            "position_of_another_epoch",
            "state_after_unrecoverable_position",
        ),
        ("unrecoverable_position", "state_after_unrecoverable_position"),
    ),
    Feature("cache recovery", ("cache_recovery",), ("cache_recovery",)),
    Feature("delta compression", ("delta", "delta_beside_plain"), ("delta",)),
    Feature("tags filter", ("tags_filter",), ("tags_filter",)),
    Feature("rpc", ("rpc", "rpc_of_the_application"), ("rpc",)),
    Feature("messages without an answer (`send`)", ("message_without_handler",)),
    Feature(
        "server-side subscriptions, recovered after a cut",
        ("server_side_subscription", "server_side_pushes"),
        ("server_side_subscription", "server_side_pushes"),
    ),
    Feature("unsubscribed by the server", ("server_unsubscribe",), ("server_unsubscribe",)),
    Feature(
        "disconnect codes: whether the client comes back",
        ("disconnect_codes", "refresh_by_api"),
        ("disconnect_codes",),
    ),
    Feature("pings of the server", ("server_pings",), ("token_refresh",)),
    Feature("falling back to another transport", ("fallback",)),
)
"""What is the same over every transport that an SDK has."""

METHODS = (
    ("publish", "publish_and_history", "publish_idempotency_key"),
    ("broadcast", "broadcast"),
    ("subscribe", "subscribe_and_unsubscribe"),
    ("unsubscribe", "subscribe_and_unsubscribe"),
    ("disconnect", "disconnect"),
    ("refresh", "refresh"),
    ("presence", "presence"),
    ("presence_stats", "presence"),
    ("history", "publish_and_history"),
    ("history_remove", "publish_and_history"),
    ("channels", "channels"),
    ("info", "info"),
    ("connections", "connections"),
    ("get_user_status", "user_status"),
    ("batch", "batch"),
)
"""Methods of ``cent`` that Wirebell has, each with the tests that show it."""


def render() -> str:
    """Return the tables."""
    package = json.loads((HERE / "package.json").read_text(encoding="utf-8"))
    javascript = package["dependencies"]["centrifuge"]
    lines = [
        f"| | `centrifuge` {javascript} | `centrifuge-python` {version('centrifuge-python')} |",
        "|---|:---:|:---:|",
    ]
    lines += [
        f"| {row.words} | {_mark(row.javascript)} | {_mark(row.python)} |" for row in FEATURES
    ]
    methods = ", ".join(f"`{name}`" for name, *_ in METHODS)
    lines += ["", f"`cent` {version('cent')} calls {methods}."]
    return "\n".join(lines)


def _mark(names: tuple[str, ...]) -> str:
    return "yes" if names else "–"


def replace_table(page: str) -> str:
    """Return a page with the tables between their marks."""
    pattern = re.compile(f"{BEGIN}.*{END}", re.S)
    return pattern.sub(lambda _: f"{BEGIN}\n{render()}\n{END}", page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(replace_table(path.read_text(encoding="utf-8")), encoding="utf-8")
