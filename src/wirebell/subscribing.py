"""What a subscription gets: decided from the channel's options, the client's wish and the grant.

Pure. The client asks, the channel allows or forces, and what the application granted (by a token,
a function or the server API) overrides the channel. Source: protocol document, sections 1.4, 1.8,
1.9 and 2.3, and the transcripts ``subscribe_options_not_allowed``, ``recovery_not_enabled``,
``join_leave_requested`` and ``delta_conditions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from wirebell.errors import (
    BadRequest,
    ClientDisconnected,
    DisconnectCode,
    ErrorCode,
    ProtocolError,
    create_disconnect,
)
from wirebell.history import Recovery
from wirebell.model import (
    ChannelOptions,
    Overflow,
    RecoveryMode,
    ServerSubscribe,
    StreamPosition,
)
from wirebell.protocol.codec import MESSAGES_MAX, Codec
from wirebell.protocol.encoding import ChannelEncoding, Delta, find_patches
from wirebell.protocol.filters import Filter
from wirebell.protocol.messages import SubscribeRequest, SubscribeResult

__all__ = ("REJECT_UNRECOVERED", "Terms", "agree", "create_encoding", "describe")

REJECT_UNRECOVERED = 2
"""Bit of ``subscribe.flag``: an unrecoverable position is an error, not ``recovered: false``."""

TTL_SECONDS_MAX = 2**32 - 1
"""Longest life that a result can tell (section 1.4: uint32); a token may outlive it."""

# Types of subscription that are known, and not served: maps, and shared poll (section 1.4).
MAP_TYPES = frozenset((1, 2, 3))
SHARED_POLL_TYPE = 4


@dataclass(frozen=True, slots=True)
class Terms:
    """What client and channel agreed on.

    Attributes:
        is_positioned: The client is told of a gap.
        is_recoverable: It may come back with a position.
        has_presence: It is kept in the channel's presence.
        has_join_leave: Others are told of its joining and leaving.
        wants_join_leave: It is told of theirs.
        since: Where it was; ``None`` when it does not come back, or may not.
        is_recovering: It asked to come back, whether it may or not.
        mode: What it gets then.
        filter: Which publications it gets; ``None`` for all.
        delta: How patches are made for it.
    """

    is_positioned: bool
    is_recoverable: bool
    has_presence: bool
    has_join_leave: bool
    wants_join_leave: bool
    since: StreamPosition | None
    is_recovering: bool
    mode: RecoveryMode
    filter: Filter | None
    delta: Delta

    def encoding(
        self, codec: Codec, *, is_unidirectional: bool, joins_messages: bool
    ) -> ChannelEncoding:
        """Return how publications are written for such a subscription."""
        return create_encoding(
            codec,
            is_unidirectional=is_unidirectional,
            joins_messages=joins_messages,
            joins=self.wants_join_leave,
            tags_filter=self.filter,
            delta=self.delta,
        )


def agree(
    request: SubscribeRequest,
    options: ChannelOptions,
    grant: ServerSubscribe,
    *,
    may_see_presence: bool,
    may_read_history: bool,
) -> Terms:
    """Decide what a subscription gets. What is not allowed is left out without a word.

    Args:
        request: The client's wish.
        options: The channel's.
        grant: What the application says; ``None`` in it leaves it to the channel.
        may_see_presence: The client may ask who is there, and so may hear of joins and leaves.
        may_read_history: It may read the history, and so may come back.

    Raises:
        ProtocolError: ``BAD_REQUEST`` for a filter that is malformed or not allowed, and
            ``PERMISSION_DENIED`` or ``NOT_AVAILABLE`` for another type of subscription.
        ClientDisconnected: 3501 for an unknown kind of patch, 3004 for an unknown type.
    """
    _check_type(request.type)
    has_history = options.history is not None
    force_recovery = _override(grant.force_recovery, options.force_recovery)
    force_positioning = _override(grant.force_positioning, options.force_positioning)
    is_recoverable = has_history and (
        force_recovery or (request.recoverable and (options.allow_recovery or may_read_history))
    )
    is_positioned = is_recoverable or (
        has_history
        and (
            force_positioning
            or (request.positioned and (options.allow_positioning or may_read_history))
        )
    )
    join_leave = _override(grant.join_leave, options.join_leave)
    pushes_join_leave = _override(grant.force_push_join_leave, options.force_push_join_leave)
    is_cached = options.recovery_mode is RecoveryMode.CACHE
    is_recovering = request.recover or (is_recoverable and is_cached and options.auto_cache_recover)
    since = None
    if is_recovering and is_recoverable:
        since = StreamPosition(request.offset, request.epoch)
    return Terms(
        is_positioned=is_positioned,
        is_recoverable=is_recoverable,
        has_presence=_override(grant.presence, options.presence),
        has_join_leave=join_leave,
        wants_join_leave=pushes_join_leave
        or (request.join_leave and join_leave and may_see_presence),
        since=since,
        is_recovering=is_recovering,
        mode=options.recovery_mode,
        filter=_find_filter(request, options),
        delta=_find_delta(request, options, is_positioned=is_positioned),
    )


def describe(
    terms: Terms,
    position: StreamPosition | None,
    recovery: Recovery | None,
    grant: ServerSubscribe,
    codec: Codec,
    *,
    ttl_seconds: int,
) -> SubscribeResult:
    """Say what a client learns of a channel that it is subscribed to.

    Args:
        terms: What was agreed on.
        position: Where live publications begin; ``None`` without history.
        recovery: What it missed; ``None`` when it did not ask.
        grant: As for `agree`.
        codec: The client's, for patches.
        ttl_seconds: Until the subscription ends, 0 or more; counts where the grant has an end.
    """
    publications = recovery.publications if recovery is not None else ()
    if terms.filter is not None:
        publications = tuple(kept for kept in publications if terms.filter.matches(kept.tags))
    recovered = recovery is not None and recovery.recovered
    offset = 0
    if position is not None:
        # Section 1.8: the client advances through the publications.
        offset = terms.since.offset if recovered and terms.since is not None else position.offset
    has_delta = terms.delta is not Delta.NONE
    return SubscribeResult(
        expires=grant.expires_at is not None,
        ttl=min(ttl_seconds, TTL_SECONDS_MAX) if grant.expires_at is not None else 0,
        recoverable=terms.is_recoverable,
        epoch=position.epoch if position is not None else "",
        publications=publications,
        patches=find_patches(codec, publications) if terms.delta is Delta.FRESH else (),
        recovered=recovered,
        offset=offset,
        positioned=terms.is_positioned,
        data=grant.data,
        was_recovering=terms.is_recovering,
        delta=has_delta,
    )


@lru_cache(maxsize=1024)
def create_encoding(
    codec: Codec,
    *,
    is_unidirectional: bool = False,
    joins_messages: bool = False,
    joins: bool = True,
    tags_filter: Filter | None = None,
    delta: Delta = Delta.NONE,
) -> ChannelEncoding:
    """Create an encoding, the same object for the same words: the hub looks at that first."""
    messages_max = MESSAGES_MAX if joins_messages or not is_unidirectional else 1
    return ChannelEncoding(codec, is_unidirectional, messages_max, joins, tags_filter, delta)


def _override(granted: bool | None, given: bool) -> bool:  # noqa: FBT001 - two of a kind.
    """Let a grant decide where it says something."""
    return given if granted is None else granted


def _check_type(kind: int) -> None:
    """Refuse subscriptions to something else than a stream (section 1.4)."""
    if kind == 0:
        return
    if kind in MAP_TYPES:
        raise ProtocolError(ErrorCode.PERMISSION_DENIED)
    if kind == SHARED_POLL_TYPE:
        raise ProtocolError(ErrorCode.NOT_AVAILABLE)
    raise ClientDisconnected(create_disconnect(DisconnectCode.INTERNAL_SERVER_ERROR))


def _find_filter(request: SubscribeRequest, options: ChannelOptions) -> Filter | None:
    """Read the filter by tags."""
    if request.tf is None:
        return None
    if not options.allow_tags_filter:
        raise ProtocolError(ErrorCode.BAD_REQUEST)
    try:
        return Filter.create(request.tf)
    except BadRequest as error:
        raise ProtocolError(ErrorCode.BAD_REQUEST) from error


def _find_delta(
    request: SubscribeRequest, options: ChannelOptions, *, is_positioned: bool
) -> Delta:
    """Decide about patches; with a filter, or where items may be dropped, there are none."""
    if not request.delta:
        return Delta.NONE
    if request.delta != "fossil":
        raise ClientDisconnected(create_disconnect(DisconnectCode.BAD_REQUEST))
    if request.delta not in options.allowed_delta_types:
        return Delta.NONE
    if not is_positioned or request.tf is not None or options.overflow is not Overflow.DISCONNECT:
        return Delta.FULL
    return Delta.FRESH
