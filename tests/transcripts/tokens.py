"""Makes new ones of the tokens that have expired since they were recorded."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

import jwt

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("TOKEN", "TokenMaker")

TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
"""A JWT with a header of JSON."""

SPARE_SECONDS = 2
"""A token for one second must not be over before a busy machine has sent it."""


class TokenMaker:
    """Replaces recorded tokens in what is sent, the same one always by the same."""

    def __init__(self, secret: str) -> None:
        """Take the key of the server.

        Args:
            secret: Signs new tokens, unless the recording says ``signed_with``.
        """
        self._secret = secret
        self._made: dict[str, str] = {}

    def learn(self, text: str, notes: Sequence[dict[str, Any]]) -> None:
        """Make new tokens for those in `text` that expire soon after the recording.

        Args:
            text: What is about to be sent.
            notes: ``tokens`` of the event: what is in them.
        """
        soon = [note for note in notes if "exp_in_s" in note]
        for token in TOKEN.findall(text) if soon else ():
            claims = jwt.decode(token, options={"verify_signature": False})
            for note in soon:
                if note["claims"] == claims and token not in self._made:
                    self._made[token] = self._make(token, note)

    def replace(self, text: str) -> str:
        """Return `text` with new tokens."""
        return TOKEN.sub(lambda match: self._made.get(match[0], match[0]), text)

    def _make(self, token: str, note: dict[str, Any]) -> str:
        expiry = math.ceil(time.time()) + note["exp_in_s"] + SPARE_SECONDS
        key = note.get("signed_with", self._secret)
        algorithm = jwt.get_unverified_header(token)["alg"]
        return jwt.encode({**note["claims"], "exp": expiry}, key, algorithm)
