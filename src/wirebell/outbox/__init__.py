"""Publish inside the application's own database transaction.

`publish(..., outbox=session)` writes a row into the table ``wirebell_outbox`` by the session's own
connection. If the transaction commits, a relay publishes the row, in the order of the commits; if
it does not, there is no row. Needs the extra ``wirebell[sql]``.

- `wirebell.outbox.tables`: the tables, what a row holds, and every statement on them.
- `wirebell.outbox.database`: runs those statements on an engine, asynchronous or not.
- `wirebell.outbox.relay`: publishes what waits, one relay at a time in each database.
- `wirebell.outbox.outbox`: `Outbox`, which joins them, and takes what is published.
"""

from __future__ import annotations

try:
    from wirebell.outbox.outbox import Outbox, OutboxSession
except ModuleNotFoundError as error:  # pragma: no cover - tests have the extra
    if (error.name or "").startswith("wirebell"):
        raise
    raise ModuleNotFoundError(
        f"the outbox needs {error.name!r}: pip install 'wirebell[sql]'", name=error.name
    ) from error
from wirebell.outbox.tables import METADATA

__all__ = ("METADATA", "Outbox", "OutboxSession")
