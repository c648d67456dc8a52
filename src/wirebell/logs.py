"""How the commands log: structured, on standard error, and without a secret.

A library leaves logging to the application; these are the settings of our own commands. Lines
are for people on a terminal, and JSON elsewhere.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

__all__ = ("Redact", "create_formatter", "log_config", "redact_servers")

# Values of query parameters that open something, and of those whose name is written in a way that
# hides it (``tick%65t=``). Servers log the path with its query. In ``cf_connect=`` a client's first
# command has its token in the middle of JSON, which may come with its quotes as they are.
SECRET = re.compile(
    r"(cf_connect=)[^&\s]*[^&\s\"']"
    r"|((?:ticket|token|access_token|api_key|key)=|[?&][^=&\s\"']*%[^=&\s\"']*=)[^&\s\"']+",
    re.IGNORECASE,
)


class Redact(logging.Filter):
    """Hides what stands behind ``ticket=``, ``token=`` and their like in every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place; always true."""
        if isinstance(record.args, tuple):
            record.args = tuple(_redact(value) for value in record.args)
        elif isinstance(record.args, dict):
            record.args = {name: _redact(value) for name, value in record.args.items()}
        record.msg = _redact(record.msg)
        return True


def _redact(value: Any) -> Any:
    """Hide secrets in a text; leave what is none."""
    return SECRET.sub(r"\1\2[hidden]", value) if isinstance(value, str) else value


def redact_servers() -> None:
    """Hide secrets in what uvicorn logs, also where the log is not configured by us."""
    for name in ("uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, Redact) for known in logger.filters):
            logger.addFilter(Redact())


def _drop_color_message(logger: Any, name: str, fields: Any) -> Any:
    """Leave out uvicorn's second copy of a message, which is for terminals of its own."""
    fields.pop("color_message", None)
    return fields


def create_formatter() -> logging.Formatter:
    """Create the formatter of all records: lines on a terminal, JSON elsewhere."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    is_terminal = sys.stderr.isatty()
    last: list[Any] = (
        # Rich tracebacks would print local variables, and with them what people typed.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _drop_color_message,
            *last,
        ],
    )


def log_config(level: str = "INFO") -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`, which uvicorn gives its workers.

    Args:
        level: The least level that is logged.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"redact": {"()": "wirebell.logs.Redact"}},
        "formatters": {"structured": {"()": "wirebell.logs.create_formatter"}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "structured",
                "filters": ["redact"],
            }
        },
        "root": {"handlers": ["stderr"], "level": level},
        # It tells of every plug-in that it loads.
        "loggers": {"alembic": {"level": "WARNING"}},
    }
