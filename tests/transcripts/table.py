"""The page of accepted differences, made from their table.

``python -m tests.transcripts.table`` writes it; a test tells when that was forgotten.
"""

from __future__ import annotations

from tests.transcripts.recordings import TRANSCRIPTS, list_accepted

__all__ = ("PAGE", "render")

PAGE = TRANSCRIPTS / "DIFFERENCES.md"

HEAD = """# Differences to the recorded server that we accept

Made from `differences.json` by `python -m tests.transcripts.table`. Everything that is not in this
table is on the wire as it was recorded, and `tests/transcripts` checks it; what is in it is checked
just as exactly, with our own lines in place of the recorded ones.

## On the wire

| Scenario | The recorded server | Wirebell | Why |
|---|---|---|---|
"""

LATER = """
## Not played yet

| Scenario | Shows | Why not |
|---|---|---|
"""

NOT_COMPARED = """
The folders `map` and `shared-poll` are not played: Wirebell has neither yet.

## Not compared anywhere

- **Words of HTTP error pages**: bodies of answers with a status of 400 and above, unless they are
  JSON. They are for people.
- **Headers that belong to the HTTP server**: `Connection`, `Transfer-Encoding`, `Content-Length`,
  `Date`, `Server`, `Vary`, `Sec-WebSocket-Version`, `X-Content-Type-Options`. And `Pragma` and
  `Expire` (without an s): nobody reads them beside `Cache-Control`.
- **CORS headers where the request has no `Origin`**: the recorded server sends an empty
  `Access-Control-Allow-Origin` there.
- **Which replies share a frame**, and how many native ping frames come.
"""


def render() -> str:
    """Return the page."""
    rows = list_accepted()
    page = HEAD
    for row in rows:
        if row.is_played:
            cells = (f"`{row.scenario}`", row.recorded, row.ours, row.reason)
            page += f"| {' | '.join(cells)} |\n"
    page += LATER
    for row in rows:
        if not row.is_played:
            page += f"| `{row.scenario}` | {row.recorded} | {row.reason} |\n"
    return page + NOT_COMPARED


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
