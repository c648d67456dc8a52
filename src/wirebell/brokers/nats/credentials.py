"""Credentials of NATS: a key that signs what the server asks, and the token that belongs to it.

A file holds either both, as NATS' tools write it (``.creds``: a user's JWT and seed), or a seed
alone. It is read at each connect, so that one that was renewed counts without a restart.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wirebell.errors import ConfigError

__all__ = ("Credentials", "read_credentials")

_JWT = re.compile(r"-{3,}BEGIN NATS USER JWT-{3,}\s+(\S+)\s+-{3,}END")
_SEED = re.compile(r"-{3,}BEGIN USER NKEY SEED-{3,}\s+(\S+)\s+-{3,}END")
# A seed is two letters of what it is and of whom, 32 bytes and a checksum.
_SEED_BYTES = 36
_IS_SEED, _OF_USER = 18 << 3, 20 << 3
_FILE_BYTES_MAX = 65_536


class _Claims(msgspec.Struct):
    """Of a JWT."""

    exp: int = 0


class Credentials(NamedTuple):
    """What a file says.

    Attributes:
        key: Signs.
        token: A user's JWT; empty where the server knows the key itself.
    """

    key: Ed25519PrivateKey
    token: str = ""

    @property
    def public_key(self) -> str:
        """As the server has it in its configuration: ``U`` and 55 more letters."""
        raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        named = bytes((_OF_USER,)) + raw
        return base64.b32encode(named + _checksum(named)).decode().rstrip("=")

    @property
    def ended_at(self) -> dt.datetime | None:
        """When the token ended, by this machine's clock; ``None`` for one that has not."""
        try:
            body = self.token.split(".")[1]
            claims = msgspec.json.decode(
                base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims
            )
        except (IndexError, ValueError):
            return None
        end = dt.datetime.fromtimestamp(claims.exp, dt.UTC) if claims.exp else None
        return end if end is not None and end <= dt.datetime.now(dt.UTC) else None

    def answer(self, nonce: str) -> dict[str, str]:
        """Return the words of CONNECT that say who we are."""
        signature = base64.urlsafe_b64encode(self.key.sign(nonce.encode())).decode().rstrip("=")
        who = {"jwt": self.token} if self.token else {"nkey": self.public_key}
        return who | {"sig": signature}


def read_credentials(path: str) -> Credentials:
    """Read a file.

    Raises:
        ConfigError: It cannot be read, or holds no user's seed; nothing of it is shown.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_FILE_BYTES_MAX).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"credentials of NATS, {path!r}, cannot be read: {error}") from error
    token, seed = _JWT.search(text), _SEED.search(text)
    if "-----BEGIN" not in text:
        # A seed alone, as `nk -gen user` writes it.
        return Credentials(_read_seed(text.strip(), path))
    if token is None or seed is None:
        raise ConfigError(
            f"credentials of NATS, {path!r}, are not whole: a .creds file has a NATS USER JWT and "
            "a USER NKEY SEED"
        )
    return Credentials(_read_seed(seed[1], path), token[1])


def _read_seed(text: str, path: str) -> Ed25519PrivateKey:
    """Read a seed."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raw = b""
    if len(raw) != _SEED_BYTES or _checksum(raw[:-2]) != raw[-2:]:
        raise ConfigError(
            f"credentials of NATS, {path!r}, hold no seed: it begins with SU and has 58 letters "
            "and digits"
        )
    if raw[0] & 0xF8 != _IS_SEED or (raw[0] & 7) << 5 | raw[1] >> 3 != _OF_USER:
        raise ConfigError(
            f"credentials of NATS, {path!r}, hold a key that is not a user's: its seed begins "
            "with SU"
        )
    return Ed25519PrivateKey.from_private_bytes(raw[2:-2])


def _checksum(data: bytes) -> bytes:
    """Return the two bytes at the end of each key."""
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")
