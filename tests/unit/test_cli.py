"""The command line."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wirebell.cli import app, main
from wirebell.tokens import TokenKeys, TokenVerifier
from wirebell.version import __version__


def test_version() -> None:
    """``wirebell version`` prints the version and nothing else."""
    result = CliRunner().invoke(app, ["version"])

    assert (0, f"{__version__}\n") == (result.exit_code, result.output)


def test_help() -> None:
    """Without a command the help is shown; it names every command."""
    result = CliRunner().invoke(app, [])

    for command in (
        "serve",
        "check-config",
        "token",
        "check-token",
        "publish",
        "subscribe",
        "demo",
        "version",
    ):
        assert command in result.output


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


def test_settings_that_do_not_fit_are_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What two settings do together is told without all the others."""
    monkeypatch.setenv("WIREBELL_BROKER_URL", "memory://user:hunter2@host")
    monkeypatch.setenv("WIREBELL_PRESENCE_TTL_SECONDS", "1")
    monkeypatch.setenv("WIREBELL_DEMO_DATA_DIR", str(tmp_path))

    result = CliRunner().invoke(app, ["demo", "--port", "0"])

    assert 1 == result.exit_code
    assert "presence_refresh_seconds must be below presence_ttl_seconds" in result.output
    assert "hunter2" not in result.output


def test_a_busy_port_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A port that somebody else has ends the command in a line that names it."""
    monkeypatch.setenv("WIREBELL_DEMO_DATA_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        result = CliRunner().invoke(app, ["demo", "--port", str(port)])

    assert 1 == result.exit_code
    assert str(port) in result.output


SECRET = "s" * 32
OTHER_SECRET = "t" * 32


@pytest.fixture
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("WIREBELL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path, _no_environment: None) -> str:
    """Write a configuration with secrets, and return its path."""
    path = tmp_path / "wirebell.json"
    token = {"hmac_secret_key": SECRET}
    own = {"enabled": True, "hmac_secret_key": OTHER_SECRET}
    namespaces = [{"name": "news"}]
    path.write_text(
        json.dumps(
            {
                "client": {"token": token, "subscription_token": own},
                "channel": {"namespaces": namespaces},
                "http_server": {"port": 1},
            }
        )
    )
    return str(path)


def run(*arguments: str, text: str = "") -> tuple[int, str, str]:
    """Run a command; returns its status and what it wrote to both outputs."""
    result = CliRunner().invoke(app, arguments, input=text)
    return result.exit_code, result.stdout, result.stderr


def test_tokens(config: str) -> None:
    """A connection token has the user, and the time that was asked for."""
    status, output, _ = run("token", "-c", config, "--user", "42", "--info", '{"name": "Ann"}')

    claims = TokenVerifier(TokenKeys(hmac_secret_key=SECRET)).verify_connection(output.strip(), 0)
    assert (0, "42", b'{"name":"Ann"}') == (status, claims.user_id, claims.info.replace(b" ", b""))
    assert claims.expires_at is not None
    assert claims.issued_at is not None
    assert 3600 == claims.expires_at - claims.issued_at


def test_subscription_tokens(config: str) -> None:
    """A subscription token is for its channel, and signed with its own secret."""
    _, output, _ = run("token", "-c", config, "--channel", "news:a", "--ttl", "0")

    verifier = TokenVerifier(TokenKeys(hmac_secret_key=OTHER_SECRET))
    claims = verifier.verify_subscription(output.strip(), 0)
    assert ("news:a", None) == (claims.channel, claims.expires_at)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ttl", "soon"], "--ttl must be a duration such as 25s, 1m30s or 720h, got 'soon'"),
        (["--info", "{"], "--info is no JSON: Expecting property name enclosed"),
        (["--client.token.hmac_secret_key", ""], "signing a token needs hmac_secret_key"),
        (["--client.nothing=1"], "--client.nothing: no such key"),
        (["word"], "unexpected argument 'word'"),
        (["--client.insecure", "--client.insecure"], "--client.insecure is given twice"),
    ],
)
def test_no_token(arguments: list[str], told: str, config: str) -> None:
    """What a token cannot be made of is told in a line."""
    status, output, errors = run("token", "-c", config, *arguments)

    assert (1, "") == (status, output)
    assert f"wirebell token: {told}" in errors


def test_checking_tokens(config: str) -> None:
    """What a good token says is printed, whichever kind it is."""
    _, connection, _ = run("token", "-c", config, "--user", "42", "--info", "{}")
    _, subscription, _ = run("token", "-c", config, "--channel", "news:a")

    first = run("check-token", connection.strip(), "-c", config)
    second = run("check-token", "-", "--subscription", "-c", config, text=subscription)

    assert (0, 0) == (first[0], second[0])
    assert ("42", {}) == (json.loads(first[1])["user_id"], json.loads(first[1])["info"])
    assert "news:a" == json.loads(second[1])["channel"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.b.c"], "token is malformed"),
        (["a.b.c", "--client.token.jwks_public_endpoint=https://x/"], "token is malformed"),
    ],
)
def test_a_bad_token(arguments: list[str], told: str, config: str) -> None:
    """What is wrong with a token is told in a line."""
    status, output, errors = run("check-token", *arguments, "-c", config)

    assert (1, "") == (status, output)
    assert f"wirebell check-token: {told}" in errors


def test_checking_a_configuration(config: str) -> None:
    """A good configuration is told with what would be ignored, and what is insecure."""
    arguments = ("check-config", "-c", config, "--admin.enabled", "--client.insecure")

    status, output, errors = run(*arguments)

    assert (0, "the configuration is good: 1 namespaces\n") == (status, output)
    assert "warning: --admin.enabled: not there yet, ignored" in errors
    assert "warning: client.insecure is on" in errors
    status, output, errors = run(*arguments, "--strict")
    assert (1, "") == (status, output)
    assert "error: --admin.enabled: not there yet, ignored" in errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--http_server.port", "x"], "--http_server.port must be a whole number, got 'x'"),
        (["--broker_url", "pigeon://x"], "'pigeon'"),
        (["-c", "/nowhere.toml"], "/nowhere.toml: No such file"),
    ],
)
@pytest.mark.usefixtures("_no_environment")
def test_a_bad_configuration(arguments: list[str], told: str) -> None:
    """What is wrong with a configuration is told in a line, before anything starts."""
    for command in ("check-config", "serve"):
        status, _, errors = run(command, *arguments)

        assert 1 == status
        assert told in errors
        assert errors.startswith(f"wirebell {command}: ")


@pytest.mark.usefixtures("_no_environment")
def test_another_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with another prefix is read when it is named."""
    monkeypatch.setenv("CENTRIFUGO_CHANNEL_NAMESPACES", "a b")

    status, output, _ = run("check-config", "--env-prefix", "CENTRIFUGO", "--strict")

    assert (0, "the configuration is good: 2 namespaces\n") == (status, output)


def test_publish_to_nobody(config: str) -> None:
    """Publishing goes where the configuration listens, and says when nobody is there."""
    status, _, errors = run("publish", "news:a", "{}", "-c", config)

    assert 1 == status
    assert "http://127.0.0.1:1/api/publish cannot be reached" in errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{"], "data is no JSON"),
        (["-"], "data is no JSON"),
        (["{}", "--http_server.unix_socket=/x"], "the server listens on a Unix socket: give --url"),
        (["x", "--text", "--http_server.address=::"], "http://[::1]:1/api/publish cannot"),
    ],
)
def test_what_cannot_be_published(arguments: list[str], told: str, config: str) -> None:
    """What is no JSON, and a server that has no address, are told in a line."""
    status, _, errors = run("publish", "news:a", *arguments, "-c", config)

    assert 1 == status
    assert told in errors


def test_subscribe_to_no_address(config: str) -> None:
    """A tail of what is no server ends with a line."""
    status, _, errors = run("subscribe", "news:a", "-c", config, "--url", "x")

    assert 1 == status
    assert "wirebell subscribe: an address is http://host:port, got 'x'" in errors


def test_subscribe_with_a_given_token(config: str) -> None:
    """A token that was typed is taken in place of a signed one."""
    status, _, errors = run("subscribe", "a", "-c", config, "--url", "x", "--token", "t")

    assert 1 == status
    assert "an address is" in errors


def test_serve_with_a_log_that_cannot_be_written(config: str, tmp_path: Path) -> None:
    """A log file in a folder that is not there is told in a line."""
    path = tmp_path / "missing" / "log"

    status, _, errors = run("serve", "-c", config, f"--log.file={path}")

    assert 1 == status
    assert f"wirebell serve: [Errno 2] No such file or directory: '{path}'" in errors


def test_serve_without_an_extra(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    """Without the extra the command says how to install it."""
    monkeypatch.delitem(sys.modules, "wirebell.serve", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    status, _, errors = run("serve", "-c", config)

    assert 2 == status
    assert "pip install 'wirebell[server]'" in errors
