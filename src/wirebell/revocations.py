"""Which tokens are not good any more, though their signature is. Pure: ``now`` is an argument.

Every node keeps all of them in memory. Joining two nodes' sets gives the same whatever comes
first and however often, so nodes only have to tell each other what they know. Each entry has one of
256 places by what it is about, and each place a mark that is the same for the same entries in any
order: so two nodes find what differs without telling each other what does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import reduce
from hashlib import blake2b
from operator import xor

import msgspec

from wirebell.errors import TokenInvalid
from wirebell.tokens.claims import ConnectionClaims, SubscriptionClaims

__all__ = ("PLACES", "Marks", "Revocation", "Revocations", "Told")

# What has ended goes at each full minute of the clock, so that it goes everywhere at once; a look
# costs a tenth of a millisecond for 1,000 entries.
SWEEP_SECONDS = 60.0
PLACES = 256
# Told at once, and what the last place has above it: about 1 MB.
TOLD_MAX = 10_000


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """Tokens that are refused: one, or those of a user.

    Attributes:
        user_id: Whose; empty where ``token_id`` is given.
        token_id: Its ``jti``; empty where ``user_id`` is given.
        issued_before: Of a user, tokens of this instant or before are meant (``iat``), and those
            that do not say when they were issued. Seconds since 1970.
        until: When it is forgotten, because no such token is good any more; likewise.
    """

    user_id: str
    token_id: str
    issued_before: float
    until: float

    @property
    def key(self) -> tuple[str, str]:
        """What it is about."""
        return self.user_id, self.token_id

    def covers(self, user_id: str, token_id: str, issued_at: float | None) -> bool:
        """Tell whether a token is meant.

        Args:
            user_id: Whose it is; empty for somebody anonymous.
            token_id: Its ``jti``; empty for none.
            issued_at: Its ``iat``, seconds since 1970; ``None`` when it does not say.
        """
        if self.token_id:
            return self.token_id == token_id
        return self.user_id == user_id and (issued_at is None or issued_at <= self.issued_before)


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """What a node knows, place by place, when it asks another for the rest.

    Attributes:
        marks: Of each place.
        start: The first place that is asked about.
    """

    marks: tuple[int, ...]
    start: int = 0


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What another node knows in the places that differ.

    Attributes:
        revocations: All of each place, in no order.
        end: The first place that was not looked at; 256 when there is none.
    """

    revocations: tuple[Revocation, ...]
    end: int


class Revocations:
    """All that is known to be revoked.

    Mutable state: what it is about → entry, in the order in which they came; the marks of their
    places.

    Args:
        entries_max: Entries kept, 1 or more; past it the oldest is forgotten, and counted.
    """

    def __init__(self, entries_max: int) -> None:
        self.entries_max = entries_max
        self.entries: dict[tuple[str, str], Revocation] = {}
        self.marks = [0] * PLACES
        self.dropped_count = 0
        self.swept_at = 0.0

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self.entries.values())

    @property
    def fingerprint(self) -> int:
        """One number for everything; 0 for nothing."""
        return reduce(xor, self.marks)

    @property
    def is_full(self) -> bool:
        """Whether the next new entry pushes out another."""
        return len(self.entries) >= self.entries_max

    def add(self, revocations: Iterable[Revocation], now: float) -> list[Revocation]:
        """Take entries, joined with those about the same.

        Args:
            revocations: New ones, and any that are known.
            now: Seconds since 1970; what has ended is left out.

        Returns:
            Those that say more than was known, as they are kept now.
        """
        wider = []
        for each in revocations:
            if each.until <= now:
                continue
            known = self.entries.get(each.key)
            joined = each
            if known is not None:
                joined = Revocation(
                    each.user_id,
                    each.token_id,
                    max(each.issued_before, known.issued_before),
                    max(each.until, known.until),
                )
                if joined == known:
                    continue
                self._drop(known)
            elif self.is_full:
                self._drop(next(iter(self.entries.values())))
                self.dropped_count += 1
            self.entries[joined.key] = joined
            self._mark(joined)
            wider.append(joined)
        return wider

    def tell(self, asked: Marks) -> Told:
        """Return what is known here in places that have another mark there.

        Whole places, about 10,000 entries of them: whoever asks goes on at ``end``.
        """
        theirs, start = asked.marks, max(0, asked.start)
        differing = [
            place
            for place in range(start, PLACES)
            if theirs[place : place + 1] != (self.marks[place],)
        ]
        if not differing:
            return Told((), PLACES)
        found: dict[int, list[Revocation]] = {place: [] for place in differing}
        for entry in self.entries.values():
            entries = found.get(_find_place(entry))
            if entries is not None:
                entries.append(entry)
        told: list[Revocation] = []
        for place in differing:
            if len(told) >= TOLD_MAX:
                return Told(tuple(told), place)
            told += found[place]
        return Told(tuple(told), PLACES)

    def refuses(self, user_id: str, token_id: str, issued_at: float | None, now: float) -> bool:
        """Tell whether a token is revoked; arguments as for `Revocation.covers`."""
        if not self.entries:
            return False
        about = [("", token_id)] if token_id else []
        if user_id:
            about.append((user_id, ""))
        return any(
            entry is not None and entry.until > now and entry.covers(user_id, token_id, issued_at)
            for entry in map(self.entries.get, about)
        )

    def check(self, claims: ConnectionClaims | SubscriptionClaims, now: float) -> None:
        """Refuse a token that is revoked.

        Raises:
            TokenInvalid: It is.
        """
        if self.refuses(claims.user_id, claims.token_id, claims.issued_at, now):
            raise TokenInvalid(
                f"token {claims.token_id!r:.80} of {claims.user_id!r:.80} is revoked"
            )

    def expire(self, now: float) -> None:
        """Forget what has ended, once in each minute of the clock."""
        if now // SWEEP_SECONDS == self.swept_at // SWEEP_SECONDS:
            return
        self.swept_at = now
        for entry in [each for each in self.entries.values() if each.until <= now]:
            self._drop(entry)

    def _drop(self, entry: Revocation) -> None:
        """Forget an entry."""
        del self.entries[entry.key]
        self._mark(entry)

    def _mark(self, entry: Revocation) -> None:
        """Change the mark of an entry's place: it came, or it went."""
        self.marks[_find_place(entry)] ^= _hash(entry)


def _find_place(entry: Revocation) -> int:
    """Return an entry's place, which is the same on all nodes."""
    return zlib.crc32(f"{entry.user_id}\0{entry.token_id}".encode()) % PLACES


def _hash(entry: Revocation) -> int:
    """Return a number of 63 bits that is the same on all nodes."""
    digest = blake2b(msgspec.msgpack.encode(entry), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
