"""Keys and JWTs of NATS, made as its own tools make them."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ("ACCOUNT", "OPERATOR", "USER", "Key", "Operator")

ACCOUNT, OPERATOR, USER = 0, 14 << 3, 20 << 3
SEED = 18 << 3
NO_LIMITS = dict.fromkeys(
    (
        *("subs", "data", "payload", "imports", "exports", "conn", "leaf"),
        *("mem_storage", "disk_storage", "streams", "consumer"),
    ),
    -1,
)


def encode(data: bytes) -> str:
    """Write a key: base32 with a checksum."""
    checked = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


@dataclass
class Key:
    """A pair of keys of an operator, an account or a user."""

    kind: int
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        """As configurations have it."""
        return encode(bytes((self.kind,)) + self.private.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """As files have it."""
        start = bytes((SEED | self.kind >> 5, (self.kind & 31) << 3))
        return encode(start + self.private.private_bytes_raw())

    def sign(self, subject: Key, nats: dict[str, Any], expires_at: float = 0.0) -> str:
        """Make a JWT for somebody."""
        claims = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": "test",
            "nats": nats | {"version": 2},
        }
        if expires_at:
            claims["exp"] = int(expires_at)
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        parts = [_encode_part(json.dumps(each).encode()) for each in (head, claims)]
        signed = ".".join(parts)
        return f"{signed}.{_encode_part(self.private.sign(signed.encode()))}"


@dataclass
class Operator:
    """Who signs accounts; the one of this app signs users."""

    operator: Key = field(default_factory=lambda: Key(OPERATOR))
    system: Key = field(default_factory=lambda: Key(ACCOUNT))
    account: Key = field(default_factory=lambda: Key(ACCOUNT))

    @property
    def config(self) -> str:
        """Of a server that knows nobody but through the operator."""
        own = self.operator.sign(self.operator, {"type": "operator"})
        accounts = "\n".join(
            f"{key.public}: {self.operator.sign(key, {'type': 'account', 'limits': limits})}"
            for key, limits in (
                (self.system, NO_LIMITS | {"mem_storage": 0, "disk_storage": 0}),
                (self.account, NO_LIMITS | {"wildcards": True}),
            )
        )
        return (
            f"operator: {own}\nsystem_account: {self.system.public}\nresolver: MEMORY\n"
            f"resolver_preload: {{\n{accounts}\n}}\n"
        )

    def create_credentials(self, expires_at: float = 0.0) -> str:
        """Make what a ``.creds`` file holds for a new user."""
        user = Key(USER)
        nats = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        token = self.account.sign(user, nats, expires_at)
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n\n"
        )


def _encode_part(data: bytes) -> str:
    """Write a part of a JWT."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
