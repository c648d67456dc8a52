"""The command ``wirebell``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from wirebell.errors import WirebellError
from wirebell.version import __version__

__all__ = ("main",)

app = typer.Typer(
    help="Wirebell: real-time channels and notifications for FastAPI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.command()
def demo(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=64)] = 1,
    demo_users: Annotated[
        bool, typer.Option(help="Create the accounts ann and bob in a fresh database.")
    ] = True,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where database and signing secret live.", envvar="WIREBELL_DEMO_DATA_DIR"
        ),
    ] = None,
) -> None:
    """Run Taskboard, the reference app: the article's systems, for real."""
    # Workers are processes of their own: they read the environment, not our arguments.
    if data_dir is not None:
        os.environ["WIREBELL_DEMO_DATA_DIR"] = str(data_dir.absolute())
    if not demo_users:
        os.environ["WIREBELL_DEMO_USERS"] = "false"
    try:
        from wirebell.demo.server import run
    except ModuleNotFoundError as error:
        typer.echo(f"{error}: install it with pip install 'wirebell[demo]'", err=True)
        raise typer.Exit(2) from error
    try:
        run(host, port, workers)
    except (OSError, ValueError, WirebellError) as error:
        # What the environment got wrong is told in its own words, not by a traceback.
        typer.echo(f"wirebell demo: {_describe(error)}", err=True)
        raise typer.Exit(1) from error


def _describe(error: Exception) -> str:
    """Say what is wrong in the words of whoever typed it: the variable, the bound, the value."""
    if not isinstance(error, ValidationError):
        return str(error)
    prefix = "WIREBELL_DEMO_" if error.title == "DemoSettings" else "WIREBELL_"
    return "; ".join(
        f"{prefix}{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}, got {item['input']!r}"
        for item in error.errors(include_url=False)
    )


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line."""
    app()
