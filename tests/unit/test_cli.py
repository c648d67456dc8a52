"""The command line."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wirebell.cli import app, main
from wirebell.version import __version__


def test_version() -> None:
    """``wirebell version`` prints the version and nothing else."""
    result = CliRunner().invoke(app, ["version"])

    assert (0, f"{__version__}\n") == (result.exit_code, result.output)


def test_help() -> None:
    """Without a command the help is shown; it names every command."""
    result = CliRunner().invoke(app, [])

    assert "demo" in result.output
    assert "version" in result.output


@pytest.mark.parametrize("arguments", [["--port", "-1"], ["--workers", "0"], ["--nothing"]])
def test_bad_arguments(arguments: list[str]) -> None:
    """Arguments out of their bounds are refused before anything starts."""
    assert 2 == CliRunner().invoke(app, ["demo", *arguments]).exit_code


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says how to install it."""
    monkeypatch.setenv("WIREBELL_DEMO_DATA_DIR", "/nowhere")
    monkeypatch.setenv("WIREBELL_DEMO_USERS", "true")
    for name in [name for name in sys.modules if name.startswith("wirebell.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)

    result = CliRunner().invoke(app, ["demo", "--no-demo-users", "--data-dir", "/nowhere/else"])

    assert 2 == result.exit_code
    assert "pip install 'wirebell[demo]'" in result.output


def test_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The program's entry runs the command line."""
    monkeypatch.setattr(sys, "argv", ["wirebell", "version"])

    with pytest.raises(SystemExit) as caught:
        main()

    assert (0, f"{__version__}\n") == (caught.value.code, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WIREBELL_MESSAGE_BYTES_MAX", "0", "greater than or equal to 1, got '0'"),
        ("WIREBELL_ALLOWED_ORIGINS", "example.com", "scheme://host[:port]"),
        ("WIREBELL_DEMO_TOKEN_TTL_SECONDS", "-1", "greater than 0, got '-1'"),
        ("WIREBELL_BROKER_URL", "carrier-pigeon://x", "'carrier-pigeon', known are: memory://"),
    ],
)
def test_a_bad_setting_is_named(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A value out of bounds ends the command in a line with variable, bound and value."""
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("WIREBELL_DEMO_DATA_DIR", str(tmp_path))

    result = CliRunner().invoke(app, ["demo", "--port", "0"])

    assert 1 == result.exit_code
    assert told in result.output
    assert name in result.output or "broker_url" in result.output
    assert "Traceback" not in result.output


def test_a_busy_port_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A port that somebody else has ends the command in a line that names it."""
    monkeypatch.setenv("WIREBELL_DEMO_DATA_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        result = CliRunner().invoke(app, ["demo", "--port", str(port)])

    assert 1 == result.exit_code
    assert str(port) in result.output
