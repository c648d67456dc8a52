"""How our commands log: structured, and without secrets."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys

import pytest

from wirebell.logs import Redact, create_formatter, log_config, redact_servers


def record(message: object, *args: object) -> logging.LogRecord:
    """Make a record as a logger does."""
    return logging.LogRecord("name", logging.INFO, "file", 1, message, args, None)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET /ws?ticket=abc", "GET /ws?ticket=[hidden]"),
        ("/ws?a=1&token=abc&b=2", "/ws?a=1&token=[hidden]&b=2"),
        ('"/ws?ACCESS_TOKEN=a.b-c_d" 101', '"/ws?ACCESS_TOKEN=[hidden]" 101'),
        ("?api_key=x&key=y", "?api_key=[hidden]&key=[hidden]"),
        ("/sse?cf_connect=%7B%22token%22%3A%22abc%22%7D&b=2", "/sse?cf_connect=[hidden]&b=2"),
        ('/sse?cf_connect={"connect":{"token":"abc"}} 200', "/sse?cf_connect=[hidden] 200"),
        ('"GET /sse?cf_connect=%7B%7D" 200', '"GET /sse?cf_connect=[hidden]" 200'),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_hidden(text: str, hidden: str) -> None:
    """What opens something is hidden in the message and in its arguments."""
    in_message, in_argument = record(text.replace("%", "%%")), record("%s %d", text, 7)

    kept = [Redact().filter(in_message), Redact().filter(in_argument)]

    assert [True, True] == kept
    assert (hidden, f"{hidden} 7") == (in_message.getMessage(), in_argument.getMessage())


def test_secrets_in_named_arguments() -> None:
    """Arguments by name hide their secrets too."""
    named = record("%(url)s", {"url": "/ws?ticket=abc"})

    Redact().filter(named)

    assert named.getMessage() == "/ws?ticket=[hidden]"


def test_message_that_is_no_text() -> None:
    """Whatever people log stays what it is."""
    odd = record(7)

    assert Redact().filter(odd)
    assert odd.getMessage() == "7"


def test_servers_are_redacted_once() -> None:
    """Uvicorn's loggers get one filter each, however often it is asked for."""
    redact_servers()
    redact_servers()

    for name in ("uvicorn.access", "uvicorn.error"):
        filters = [f for f in logging.getLogger(name).filters if isinstance(f, Redact)]
        assert len(filters) == 1
        logging.getLogger(name).removeFilter(filters[0])


def test_json_lines() -> None:
    """Elsewhere than on a terminal a record is one JSON object with its fields."""
    entry = record("hello %s", "ann")
    entry.client_id = "1"

    line = json.loads(create_formatter().format(entry))

    assert ("hello ann", "info", "name", "1") == (
        line["event"],
        line["level"],
        line["logger"],
        line["client_id"],
    )
    assert line["timestamp"].endswith("Z")


def test_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a record is a line to read."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())

    line = create_formatter().format(record("hello"))

    assert "hello" in line
    assert not line.startswith("{")


def test_config_can_be_used() -> None:
    """The configuration is one that the standard library takes, at the level asked for."""
    config = log_config("WARNING")
    root = logging.getLogger()
    before = root.handlers[:], root.level

    try:
        logging.config.dictConfig(config)
        handler = root.handlers[0]
        level = root.level
    finally:
        root.handlers[:], root.level = before

    assert level == logging.WARNING
    assert any(isinstance(item, Redact) for item in handler.filters)
    assert log_config()["root"]["level"] == "INFO"


def test_a_name_in_disguise_hides_nothing() -> None:
    """A parameter whose name is percent-encoded is hidden too: the server decodes it."""
    odd = record("GET %s", "/ws?a=1&tick%65t=secret&b=2")

    Redact().filter(odd)

    assert odd.getMessage() == "GET /ws?a=1&tick%65t=[hidden]&b=2"


def test_tracebacks_show_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a traceback has lines of code and no local variables: one may be a password."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    formatter = create_formatter()
    password = "correct horse"  # noqa: F841 - what must not be shown

    try:
        raise ValueError("broken")
    except ValueError:
        failed = logging.LogRecord("n", logging.ERROR, "f", 1, "failed", (), sys.exc_info())

    text = formatter.format(failed)
    assert "broken" in text
    assert "horse" not in text.replace('password = "correct horse"', "")
