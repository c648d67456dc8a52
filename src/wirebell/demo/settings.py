"""Settings of the reference app: where its data live, and the limits it changes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from wirebell import Settings

__all__ = ("DemoSettings", "TaskboardLimits", "load_secret")


ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


def default_data_dir() -> Path:
    """Return a folder of the user's own data directory (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "wirebell-demo"


class TaskboardLimits(Settings):
    """The library's settings, with the article's connection limit raised and shared out.

    One address may hold half of all connections, so that others always find room.
    """

    connections_max: int = Field(default=4_000, ge=0)
    """Connections of this process; 0 is no limit."""
    connections_per_address_max: int = Field(default=2_000, ge=0)
    """Connections of one client address; 0 is no limit."""
    compression: bool = True
    """Offer permessage-deflate, as the article does."""


class DemoSettings(BaseSettings):
    """What the reference app is told by ``WIREBELL_DEMO_*``."""

    model_config = SettingsConfigDict(env_prefix="WIREBELL_DEMO_", extra="ignore", frozen=True)

    data_dir: Path = Field(default_factory=default_data_dir)
    """Holds the database and the signing secret; made when missing."""

    database_url: str = ""
    """``sqlite:///path`` or ``postgresql://user:password@host/name``; empty is SQLite in
    ``data_dir``."""

    token_ttl_seconds: float = Field(default=3600.0, gt=0)
    """How long a sign-in lasts."""

    ticket_ttl_seconds: float = Field(default=30.0, gt=0)
    """How long a one-time ticket can be used."""

    users: bool = True
    """Create the demo accounts in a fresh database."""

    request_bytes_max: int = Field(default=65_536, ge=1)
    """Longest body of an HTTP request."""

    sign_ins_waiting_max: int = Field(default=32, ge=1)
    """Passwords that may wait to be hashed; one more is answered by 503. At 10 a second that is
    three seconds, which a person at a form still waits."""

    @property
    def file(self) -> Path | None:
        """The database's file, where it is our own."""
        return None if self.database_url else self.data_dir / "taskboard.db"

    @property
    def url(self) -> str:
        """The database's URL for SQLAlchemy, with an asynchronous driver."""
        url = self.database_url or f"sqlite:///{self.file}"
        for plain, driver in ASYNC_DRIVERS.items():
            if url.startswith(f"{plain}://"):
                return url.replace(plain, driver, 1)
        return url


def load_secret(data_dir: Path) -> str:
    """Read the key that signs tokens; the first process that asks makes it, once for all.

    Returns:
        64 hexadecimal characters.

    Raises:
        ValueError: The file holds something else.
    """
    path = data_dir / "secret.key"
    if not path.exists():
        fresh = data_dir / f".secret-{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            # A hard link appears whole or not at all, and never replaces another's.
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    secret = path.read_text()
    if len(secret) != 64:
        raise ValueError(f"{path} has {len(secret)} characters, not 64: remove it to get a new one")
    return secret
