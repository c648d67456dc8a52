"""Whatever is published, a subscriber has it in the end: plain, filtered, or patch by patch."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings, strategies as st

from tests.unit.protocol.vectors import spell, split_frames
from wirebell.model import ClientInfo, Frames, Membership, PayloadFormat, Publication
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.delta import apply_delta
from wirebell.protocol.encoding import ChannelEncoding, Delta
from wirebell.protocol.json import JSON
from wirebell.protocol.protobuf import PROTOBUF
from wirebell.protocol.text import TEXT

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
PIECES = st.lists(
    st.sampled_from(("Lorem ipsum dolor sit amet, ", "consectetur ädipiscing 😀 elit. ", "ä", "ö")),
    max_size=12,
).map("".join)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS | PIECES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
JSON_DATA = st.builds(
    lambda value, indent: json.dumps(value, indent=indent, ensure_ascii=False).encode(),
    VALUES,
    st.sampled_from((None, 1)),
)
OFFSETS = st.integers(0, 2**64 - 1)
ANY_FORMAT = st.one_of(
    st.tuples(JSON_DATA, st.just(PayloadFormat.JSON)),
    st.tuples((TEXTS | PIECES).map(str.encode), st.just(PayloadFormat.TEXT)),
    st.tuples(st.binary(max_size=40), st.just(PayloadFormat.BINARY)),
)
PUBLICATIONS = st.builds(
    lambda payload, offset, has_delta: Publication(
        payload[0], payload[1], offset, "e" if offset else "", has_delta=has_delta
    ),
    ANY_FORMAT,
    OFFSETS,
    st.booleans(),
)
MEMBERSHIPS = st.builds(
    lambda user, client, joined: Membership(ClientInfo(client, user), joined=joined),
    TEXTS,
    TEXTS,
    st.booleans(),
)
RUNS = st.lists(st.one_of(PUBLICATIONS, MEMBERSHIPS), max_size=6)
DELTAS = st.sampled_from(Delta)


def read_json(frames: Frames) -> list[dict[str, Any]]:
    """Read the pushes of text frames."""
    return [
        json.loads(line)["push"] for message in frames.messages for line in str(message).split("\n")
    ]


def decode(publication: Publication) -> Any:
    """Give what a plain JSON subscriber has of a publication."""
    return json.loads(JSON.get_document(publication))


@settings(max_examples=200)
@given(channel=TEXTS, base=PUBLICATIONS, items=RUNS, delta=DELTAS)
def test_json(
    channel: str, base: Publication, items: list[Publication | Membership], delta: Delta
) -> None:
    """Each item is one push on one line; a client that applies patches has what was published."""
    frames = ChannelEncoding(JSON, delta=delta).join(channel, items, base)

    pushes = read_json(frames)
    assert len(items) == len(pushes)
    assert sum(len(str(message).encode()) for message in frames.messages) == frames.byte_count
    have = JSON.get_document(base)
    for item, push in zip(items, pushes, strict=True):
        assert channel == push["channel"]
        if isinstance(item, Membership):
            info = {"user": item.info.user_id, "client": item.info.client_id}
            assert {"info": info} == push["join" if item.joined else "leave"]
            continue
        data = push["pub"]["data"]
        assert item.offset == push["pub"].get("offset", 0)
        if delta is not Delta.NONE:
            is_patch = push["pub"].get("delta", False)
            have = apply_delta(have, data.encode()) if is_patch else data.encode()
            data = json.loads(have)
        assert decode(item) == data


@settings(max_examples=200)
@given(channel=TEXTS, base=PUBLICATIONS, items=RUNS, delta=DELTAS)
def test_protobuf(
    channel: str, base: Publication, items: list[Publication | Membership], delta: Delta
) -> None:
    """Each item is one push behind its length; with patches too it is the very payload."""
    frames = ChannelEncoding(PROTOBUF, delta=delta).join(channel, items, base)

    data = b"".join(bytes(message) for message in frames.messages if not isinstance(message, str))
    pushes = [pb.Reply.FromString(part).push for part in split_frames(data)]
    assert len(items) == len(pushes)
    assert len(data) == frames.byte_count
    have = base.data
    for item, push in zip(items, pushes, strict=True):
        assert channel == push.channel
        if isinstance(item, Membership):
            told = spell(push)["join" if item.joined else "leave"]["info"]
            assert item.info == ClientInfo(told.get("client", ""), told.get("user", ""))
            continue
        have = apply_delta(have, push.pub.data) if push.pub.delta else push.pub.data
        assert (item.data, item.offset) == (have, push.pub.offset)


@settings(max_examples=100)
@given(items=RUNS)
def test_plain_text(items: list[Publication | Membership]) -> None:
    """On a plain socket each publication is its payload, and nothing else is said."""
    frames = TEXT.join("room", items)

    payloads = [item.data for item in items if isinstance(item, Publication)]
    assert [payload.decode(errors="replace") for payload in payloads] == list(frames.messages)
    assert sum(map(len, payloads)) == frames.byte_count
