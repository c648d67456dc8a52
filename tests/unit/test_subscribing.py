"""What client and channel agree on, case by case."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.clients import CODECS
from wirebell.errors import ClientDisconnected, ProtocolError
from wirebell.history import Recovery
from wirebell.model import (
    ChannelOptions,
    History,
    Overflow,
    PayloadFormat,
    Publication,
    RecoveryMode,
    ServerSubscribe,
    StreamPosition,
)
from wirebell.protocol.codec import MESSAGES_MAX, Codec
from wirebell.protocol.encoding import Delta
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import FilterNode, Reply, SubscribeRequest, SubscribeResult
from wirebell.subscribing import Terms, agree, create_encoding, describe

KEPT = ChannelOptions(history=History())
LEAF = FilterNode(key="k", cmp="eq", val="v")


def settle(
    request: dict[str, Any] | None = None,
    options: ChannelOptions = KEPT,
    *,
    may_see_presence: bool = True,
    may_read_history: bool = True,
    **grant: Any,
) -> Terms:
    """Agree on terms."""
    return agree(
        SubscribeRequest(channel="a", **(request or {})),
        options,
        ServerSubscribe(**grant),
        may_see_presence=may_see_presence,
        may_read_history=may_read_history,
    )


def change(options: ChannelOptions, **changes: Any) -> ChannelOptions:
    """Change some options."""
    return msgspec.structs.replace(options, **changes)


def test_nothing_asked_for_nothing_given() -> None:
    """A plain subscription is a plain subscription."""
    terms = settle()

    assert (False, False, False, False, False) == (
        terms.is_positioned,
        terms.is_recoverable,
        terms.has_presence,
        terms.has_join_leave,
        terms.wants_join_leave,
    )
    assert (None, False, None, Delta.NONE) == (
        terms.since,
        terms.is_recovering,
        terms.filter,
        terms.delta,
    )


@pytest.mark.parametrize(
    ("request_", "options", "may", "expected"),
    [
        # (asked for, channel's options, may read history) → (positioned, recoverable)
        ({"positioned": True}, {}, True, (True, False)),
        ({"positioned": True}, {}, False, (False, False)),
        ({"positioned": True}, {"allow_positioning": True}, False, (True, False)),
        ({"recoverable": True}, {}, True, (True, True)),
        ({"recoverable": True}, {}, False, (False, False)),
        ({"recoverable": True}, {"allow_recovery": True}, False, (True, True)),
        ({"recoverable": True}, {"allow_positioning": True}, False, (False, False)),
        ({}, {"force_positioning": True}, False, (True, False)),
        ({}, {"force_recovery": True}, False, (True, True)),
        ({}, {"allow_positioning": True, "allow_recovery": True}, True, (False, False)),
    ],
)
def test_positioning_and_recovery(
    request_: dict[str, Any], options: dict[str, Any], may: bool, expected: tuple[bool, bool]
) -> None:
    """The client asks and the channel allows or forces; whoever recovers is positioned."""
    terms = settle(request_, change(KEPT, **options), may_read_history=may)

    assert expected == (terms.is_positioned, terms.is_recoverable)


def test_nothing_is_kept() -> None:
    """Without history nobody is positioned, however much it is forced."""
    options = ChannelOptions(force_positioning=True, force_recovery=True)

    terms = settle({"recoverable": True, "recover": True, "offset": 3}, options)

    assert (False, False, None, True) == (
        terms.is_positioned,
        terms.is_recoverable,
        terms.since,
        terms.is_recovering,
    )


@pytest.mark.parametrize("granted", [True, False])
def test_a_grant_overrides_the_channel(granted: bool) -> None:
    """What a token or the server says counts, both ways."""
    options = change(
        KEPT,
        presence=not granted,
        join_leave=not granted,
        force_push_join_leave=not granted,
        force_positioning=not granted,
        force_recovery=not granted,
    )

    terms = settle(
        None,
        options,
        presence=granted,
        join_leave=granted,
        force_push_join_leave=granted,
        force_positioning=granted,
        force_recovery=granted,
    )

    assert {granted} == {
        terms.has_presence,
        terms.has_join_leave,
        terms.wants_join_leave,
        terms.is_positioned,
        terms.is_recoverable,
    }


@pytest.mark.parametrize(
    ("asked", "kept", "may", "forced", "expected"),
    [
        (True, True, True, False, True),
        (True, True, False, False, False),
        (True, False, True, False, False),
        (False, True, True, False, False),
        (False, False, False, True, True),
    ],
)
def test_joins_and_leaves(asked: bool, kept: bool, may: bool, forced: bool, expected: bool) -> None:
    """They are told to who asks, may see presence, and where there are any; or by force."""
    options = ChannelOptions(join_leave=kept, force_push_join_leave=forced)

    terms = settle({"join_leave": asked}, options, may_see_presence=may)

    assert (expected, kept) == (terms.wants_join_leave, terms.has_join_leave)


def test_coming_back() -> None:
    """Who may recover gets what it missed since its position."""
    terms = settle({"recover": True, "recoverable": True, "offset": 3, "epoch": "e"})
    other = settle({"recover": True, "offset": 3, "epoch": "e"})

    assert (StreamPosition(3, "e"), True) == (terms.since, terms.is_recovering)
    assert (None, True) == (other.since, other.is_recovering)


@pytest.mark.parametrize(
    ("mode", "auto", "expected"),
    [
        (RecoveryMode.CACHE, True, StreamPosition()),
        (RecoveryMode.CACHE, False, None),
        (RecoveryMode.STREAM, True, None),
    ],
)
def test_auto_cache_recovery(
    mode: RecoveryMode, auto: bool, expected: StreamPosition | None
) -> None:
    """In cache mode a channel may hand the newest publication to who does not ask."""
    options = change(KEPT, recovery_mode=mode, auto_cache_recover=auto, force_recovery=True)

    terms = settle(None, options)

    assert (expected, expected is not None, mode) == (terms.since, terms.is_recovering, terms.mode)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_maps_are_refused(kind: int) -> None:
    """A map cannot be had of a stream: 103 (``subscribe_type_mismatch``)."""
    with pytest.raises(ProtocolError) as caught:
        settle({"type": kind})
    assert caught.value.code == 103


def test_shared_poll_is_not_available() -> None:
    """Shared poll is not served: 108."""
    with pytest.raises(ProtocolError) as caught:
        settle({"type": 4})
    assert caught.value.code == 108


@pytest.mark.parametrize("kind", [5, -1])
def test_an_unknown_type(kind: int) -> None:
    """A type that nobody knows ends the connection with 3004 (section 1.16, 14)."""
    with pytest.raises(ClientDisconnected, match="3004"):
        settle({"type": kind})


@pytest.mark.parametrize(
    ("allowed", "node"), [(False, LEAF), (True, FilterNode(op="xor")), (True, FilterNode())]
)
def test_a_filter_that_is_refused(allowed: bool, node: FilterNode) -> None:
    """Not allowed or malformed: 107."""
    with pytest.raises(ProtocolError) as caught:
        settle({"tf": node}, change(KEPT, allow_tags_filter=allowed))
    assert (107, "bad request") == (caught.value.code, caught.value.message)


def test_a_filter() -> None:
    """A filter that is allowed is read."""
    terms = settle({"tf": LEAF}, change(KEPT, allow_tags_filter=True))

    assert terms.filter is not None
    assert terms.filter.matches({"k": "v"})


DELTA = change(KEPT, allowed_delta_types=("fossil",), force_positioning=True)


@pytest.mark.parametrize(
    ("options", "request_", "expected"),
    [
        (KEPT, {}, Delta.NONE),
        (DELTA, {}, Delta.FRESH),
        (change(DELTA, force_positioning=False), {}, Delta.FULL),
        (change(DELTA, history=None), {}, Delta.FULL),
        (change(DELTA, allow_tags_filter=True), {"tf": LEAF}, Delta.FULL),
        (change(DELTA, overflow=Overflow.DROP_OLDEST), {}, Delta.FULL),
    ],
)
def test_delta(options: ChannelOptions, request_: dict[str, Any], expected: Delta) -> None:
    """Patches need a channel that allows them, and a client that gets every publication."""
    assert expected == settle({"delta": "fossil", **request_}, options).delta


def test_an_unknown_kind_of_patch() -> None:
    """It ends the connection with 3501, allowed or not."""
    with pytest.raises(ClientDisconnected, match="3501"):
        settle({"delta": "bsdiff"}, DELTA)


def test_encodings_are_shared() -> None:
    """Equal words give the same object, different ones another."""
    one = create_encoding(JSON, is_unidirectional=True)

    assert one is create_encoding(JSON, is_unidirectional=True)
    assert (1, MESSAGES_MAX, MESSAGES_MAX) == (
        one.messages_max,
        create_encoding(JSON, is_unidirectional=True, joins_messages=True).messages_max,
        create_encoding(JSON).messages_max,
    )


def test_the_encoding_of_terms() -> None:
    """Terms say how publications are written."""
    terms = settle({"delta": "fossil"}, change(DELTA, force_push_join_leave=True))

    encoding = terms.encoding(JSON, is_unidirectional=True, joins_messages=False)

    assert (JSON, True, 1, True, None, Delta.FRESH) == (
        encoding.codec,
        encoding.is_unidirectional,
        encoding.messages_max,
        encoding.joins,
        encoding.filter,
        encoding.delta,
    )


def missed(*offsets: int) -> tuple[Publication, ...]:
    """Make publications that a client missed; every other one has the tag."""
    return tuple(
        Publication(
            b'{"text":"' + b"x" * 50 + b'"}',
            PayloadFormat.JSON,
            offset,
            "e",
            tags={"k": "v"} if offset % 2 else None,
            has_delta=True,
        )
        for offset in offsets
    )


RECOVERABLE = change(KEPT, force_recovery=True)
BACK = {"recover": True, "offset": 1, "epoch": "e"}


def test_describe_without_history() -> None:
    """A plain subscription has nothing to tell."""
    result = describe(settle(), None, None, ServerSubscribe(), JSON, ttl_seconds=0)

    assert SubscribeResult() == result


def test_describe_a_recovery() -> None:
    """Who recovered is told its own offset, and advances through the publications."""
    terms = settle(BACK, RECOVERABLE)
    recovery = Recovery(missed(2, 3), recovered=True)

    result = describe(
        terms, StreamPosition(3, "e"), recovery, ServerSubscribe(data=b"1"), JSON, ttl_seconds=0
    )

    assert (
        SubscribeResult(
            recoverable=True,
            positioned=True,
            epoch="e",
            offset=1,
            publications=missed(2, 3),
            recovered=True,
            was_recovering=True,
            data=b"1",
        )
        == result
    )


def test_describe_a_failed_recovery() -> None:
    """Who could not recover is told the top, and nothing of what it missed."""
    terms = settle(BACK, RECOVERABLE)
    recovery = Recovery((), recovered=False)

    result = describe(
        terms, StreamPosition(9, "f"), recovery, ServerSubscribe(), JSON, ttl_seconds=0
    )

    assert (9, "f", False, True, ()) == (
        result.offset,
        result.epoch,
        result.recovered,
        result.was_recovering,
        result.publications,
    )


def test_describe_a_filter() -> None:
    """What was missed is filtered like what is live."""
    terms = settle({**BACK, "tf": LEAF}, change(RECOVERABLE, allow_tags_filter=True))
    recovery = Recovery(missed(2, 3, 4, 5), recovered=True)

    result = describe(
        terms, StreamPosition(5, "e"), recovery, ServerSubscribe(), JSON, ttl_seconds=0
    )

    assert [3, 5] == [publication.offset for publication in result.publications]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_describe_patches(codec: Codec) -> None:
    """Of what was missed the first goes in full and the next as a patch."""
    terms = settle({**BACK, "delta": "fossil"}, change(DELTA, force_recovery=True))
    recovery = Recovery(missed(2, 3), recovered=True)

    result = describe(
        terms, StreamPosition(3, "e"), recovery, ServerSubscribe(), codec, ttl_seconds=0
    )

    assert (True, 2) == (result.delta, len(result.patches))
    assert result.patches[0] is None
    assert result.patches[1] is not None


def test_describe_without_patches() -> None:
    """Who takes patches and filters gets in full what it missed, as everything after it."""
    options = change(DELTA, force_recovery=True, allow_tags_filter=True)
    terms = settle({**BACK, "delta": "fossil", "tf": LEAF}, options)
    recovery = Recovery(missed(3, 5), recovered=True)

    result = describe(
        terms, StreamPosition(5, "e"), recovery, ServerSubscribe(), JSON, ttl_seconds=0
    )

    assert (Delta.FULL, True, ()) == (terms.delta, result.delta, result.patches)
    assert missed(3, 5) == result.publications


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_describe_a_far_end(codec: Codec) -> None:
    """A token that outlives what the wire can tell is told as the longest life there is."""
    grant = ServerSubscribe(expires_at=253_402_300_799.0)

    result = describe(settle(), None, None, grant, codec, ttl_seconds=251_602_300_799)

    assert 2**32 - 1 == result.ttl
    assert codec.encode_reply(Reply(1, subscribe=result))


def test_describe_an_end() -> None:
    """A subscription with an end tells its time to live; without one it does not."""
    grant = ServerSubscribe(expires_at=5.0)

    result = describe(settle(), None, None, grant, JSON, ttl_seconds=7)
    other = describe(settle(), None, None, ServerSubscribe(), JSON, ttl_seconds=7)

    assert (True, 7) == (result.expires, result.ttl)
    assert (False, 0) == (other.expires, other.ttl)
