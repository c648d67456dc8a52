"""What subscribers of the client protocol read: filters, joins, patches, frames."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.protocol.vectors import spell, split_frames
from wirebell.interfaces import Encoding
from wirebell.model import ChannelItem, ClientInfo, Frames, Membership, PayloadFormat, Publication
from wirebell.protocol import client_pb2 as pb
from wirebell.protocol.codec import Codec
from wirebell.protocol.delta import apply_delta
from wirebell.protocol.encoding import ChannelEncoding, Delta, find_patches
from wirebell.protocol.filters import Filter
from wirebell.protocol.json import JSON
from wirebell.protocol.messages import FilterNode
from wirebell.protocol.protobuf import PROTOBUF
from wirebell.protocol.text import TEXT

CODECS: tuple[Codec, ...] = (JSON, PROTOBUF)
LOREM = "Lorem ipsum dolor sit amet, consectetur adipiscing elit."
JOIN = Membership(ClientInfo("1", "ann"), joined=True)


def publish(offset: int, text: str = LOREM, *, has_delta: bool = True) -> Publication:
    """Make a publication that others are similar to."""
    data = json.dumps({"text": text, "n": offset}, separators=(",", ":")).encode()
    return Publication(data, PayloadFormat.JSON, offset, "e", has_delta=has_delta)


def read_pushes(frames: Frames, codec: Codec) -> list[dict[str, Any]]:
    """Read the pushes of frames."""
    pushes: list[dict[str, Any]] = []
    for message in frames.messages:
        if isinstance(message, str):
            pushes += [json.loads(line)["push"] for line in message.split("\n")]
        else:
            pushes += [spell(pb.Reply.FromString(part))["push"] for part in split_frames(message)]
    assert codec.is_binary != any(isinstance(message, str) for message in frames.messages)
    return pushes


def list_patched(frames: Frames, codec: Codec) -> list[bool]:
    """List which publications went as patches."""
    return [push["pub"].get("delta", False) for push in read_pushes(frames, codec)]


def test_is_an_encoding() -> None:
    """It is what the hub takes; equal ones are one, so that their subscribers share frames."""
    encoding = ChannelEncoding(JSON)
    encodings: tuple[Encoding, ...] = (encoding, TEXT)

    assert encoding == encodings[0]
    assert ChannelEncoding(JSON) == encoding
    assert hash(encoding) == hash(ChannelEncoding(JSON))
    assert encoding != ChannelEncoding(PROTOBUF)
    assert encoding != ChannelEncoding(JSON, delta=Delta.FULL)


def test_one_publication() -> None:
    """A publication is one message; the count is of bytes, not of characters."""
    frames = ChannelEncoding(JSON).join("c", [Publication(b'"\xc3\xa4"', PayloadFormat.JSON)])

    text = '{"push":{"channel":"c","pub":{"data":"ä"}}}'
    assert Frames((text,), len(text.encode())) == frames


def test_nothing() -> None:
    """Nothing happened: no message."""
    for codec in CODECS:
        assert Frames((), 0) == ChannelEncoding(codec).join("c", [])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_joined(codec: Codec) -> None:
    """At most 16 pushes share a message, in their order."""
    frames = ChannelEncoding(codec).join("c", [publish(number) for number in range(2, 20)])

    assert 2 == len(frames.messages)
    assert list(range(2, 20)) == [push["pub"]["offset"] for push in read_pushes(frames, codec)]
    assert sum(map(len, frames.messages)) == frames.byte_count


def test_unidirectional() -> None:
    """A unidirectional connection gets bare pushes, as many to a message as it takes."""
    items: list[ChannelItem] = [Publication(b"1", PayloadFormat.JSON), JOIN]
    texts = (
        '{"channel":"c","pub":{"data":1}}',
        '{"channel":"c","join":{"info":{"user":"ann","client":"1"}}}',
    )

    one = ChannelEncoding(JSON, is_unidirectional=True, messages_max=1)
    many = ChannelEncoding(JSON, is_unidirectional=True)

    assert texts == one.join("c", items).messages
    assert ("\n".join(texts),) == many.join("c", items).messages
    assert one != many


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_memberships(codec: Codec) -> None:
    """Joins and leaves are told to those who are told of them."""
    leave = Membership(ClientInfo("1", "ann"), joined=False)

    told = ChannelEncoding(codec).join("c", [JOIN, leave])
    untold = ChannelEncoding(codec, joins=False).join("c", [JOIN, leave])

    info = {"info": {"user": "ann", "client": "1"}}
    assert [{"channel": "c", "join": info}, {"channel": "c", "leave": info}] == read_pushes(
        told, codec
    )
    assert Frames((), 0) == untold


def test_filter() -> None:
    """Who filters gets what matches, and every join."""
    wanted = Filter.create(FilterNode(key="lang", cmp="eq", val="de"))
    tags: list[dict[str, str] | None] = [{"lang": "de"}, {"lang": "en"}, None]
    items = [Publication(b"1", PayloadFormat.JSON, tags=entry) for entry in tags]

    pushes = read_pushes(ChannelEncoding(JSON, filter=wanted).join("c", [*items, JOIN]), JSON)

    assert ["pub", "join"] == [(push.keys() - {"channel"}).pop() for push in pushes]


@pytest.mark.parametrize("delta", [Delta.FRESH, Delta.PATCH])
def test_filter_excludes_patches(delta: Delta) -> None:
    """Who filters and asked for patches gets full publications in the form for patches."""
    wanted = Filter.create(FilterNode(key="lang", cmp="ex"))
    encoding = ChannelEncoding(JSON, filter=wanted, delta=delta)
    first = Publication(publish(2).data, PayloadFormat.JSON, tags={"lang": "de"}, has_delta=True)

    pushes = read_pushes(encoding.join("c", [first, first], first), JSON)

    assert not encoding.uses_base
    assert encoding is encoding.settled is encoding.restarted
    assert [first.data.decode()] * 2 == [push["pub"]["data"] for push in pushes]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("delta", Delta)
def test_patches(codec: Codec, delta: Delta) -> None:
    """Patches lead from each publication to the next; what goes in full stands for itself."""
    base, items = publish(2), [publish(3), publish(4), publish(5, "x"), publish(6)]
    encoding = ChannelEncoding(codec, delta=delta)

    pushes = read_pushes(encoding.join("c", items, base), codec)

    have = base.data
    for item, push in zip(items, pushes, strict=True):
        told = push["pub"]["data"]
        if push["pub"].get("delta"):
            have = apply_delta(have, told.encode())
        else:
            have = told.encode() if isinstance(told, str) else item.data
        assert item.data == have
    patched = [push["pub"].get("delta", False) for push in pushes]
    assert {
        Delta.NONE: [False] * 4,
        Delta.FULL: [False] * 4,
        Delta.FRESH: [False, True, False, False],
        Delta.PATCH: [True, True, False, False],
    }[delta] == patched


def test_recorded_patches() -> None:
    """The same publications give what a real server said (websocket-json/delta_live)."""
    items = [publish(1), publish(2), Publication(b'{"x":1}', PayloadFormat.JSON, 4, "e")]

    frames = ChannelEncoding(JSON, delta=Delta.FRESH).join("news:1", items)

    assert [
        {"data": items[0].data.decode(), "offset": 1},
        {"data": "19\n17@0,2:2}34bmTR;", "offset": 2, "delta": True},
        {"data": '{"x":1}', "offset": 4},
    ] == [push["pub"] for push in read_pushes(frames, JSON)]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_epoch(codec: Codec) -> None:
    """The epoch comes with offset 1; in JSON not for those who take patches (section 1.16)."""
    plain = ChannelEncoding(codec).join("c", [publish(1), publish(2)])
    delta = ChannelEncoding(codec, delta=Delta.FRESH).join("c", [publish(1), publish(2)])

    assert ["e", None] == [push["pub"].get("epoch") for push in read_pushes(plain, codec)]
    assert ["e" if codec.is_binary else None, None] == [
        push["pub"].get("epoch") for push in read_pushes(delta, codec)
    ]


def test_no_base() -> None:
    """Without a publication before it, the first goes in full."""
    frames = ChannelEncoding(JSON, delta=Delta.PATCH).join("c", [publish(2), publish(3)])

    assert [False, True] == list_patched(frames, JSON)


def test_publications_without_patches() -> None:
    """A publication that may not travel as a patch goes in full, and is a base all the same."""
    items = [publish(3, has_delta=False), publish(4)]

    frames = ChannelEncoding(JSON, delta=Delta.PATCH).join("c", items, publish(2))

    assert [False, True] == list_patched(frames, JSON)


def test_joins_between() -> None:
    """A join between two publications changes no base."""
    frames = ChannelEncoding(JSON, delta=Delta.PATCH).join("c", [publish(2), JOIN, publish(3)])

    assert [False, None, True] == [
        push["pub"].get("delta", False) if "pub" in push else None
        for push in read_pushes(frames, JSON)
    ]


@pytest.mark.parametrize("payload_format", [PayloadFormat.TEXT, PayloadFormat.BINARY])
def test_other_payloads(payload_format: PayloadFormat) -> None:
    """In JSON a patch of any payload is one of the JSON value that stands for it."""
    items = [
        Publication(f"{LOREM}\n{number}".encode(), payload_format, number, has_delta=True)
        for number in (2, 3)
    ]

    pushes = read_pushes(ChannelEncoding(JSON, delta=Delta.FRESH).join("c", items), JSON)
    plain = read_pushes(ChannelEncoding(JSON).join("c", items), JSON)

    first, second = (push["pub"]["data"] for push in pushes)
    patched = apply_delta(first.encode(), second.encode())
    assert pushes[1]["pub"]["delta"]
    assert [json.loads(first), json.loads(patched)] == [push["pub"]["data"] for push in plain]


def test_patch_within_a_character() -> None:
    """A patch of text is text also where two characters differ in their last byte only."""
    items = [
        Publication(f'"{LOREM}{letter}{LOREM}"'.encode(), PayloadFormat.JSON, 2, has_delta=True)
        for letter in "äö"
    ]

    first, second = (
        push["pub"]["data"]
        for push in read_pushes(ChannelEncoding(JSON, delta=Delta.FRESH).join("c", items), JSON)
    )

    assert items[1].data == apply_delta(first.encode(), second.encode())


def test_uses_base() -> None:
    """Who may get patches needs the publication before."""
    assert [Delta.FRESH, Delta.PATCH] == [
        delta for delta in Delta if ChannelEncoding(JSON, delta=delta).uses_base
    ]


def test_settled() -> None:
    """With a publication a subscriber can take patches; without the newest it starts again."""
    fresh = ChannelEncoding(JSON, joins=False, delta=Delta.FRESH)
    patch = ChannelEncoding(JSON, joins=False, delta=Delta.PATCH)

    assert (patch, fresh) == (fresh.settled, patch.restarted)
    assert fresh.settled is ChannelEncoding(JSON, joins=False, delta=Delta.FRESH).settled
    assert (fresh, patch) == (fresh.restarted, patch.settled)
    assert (False, True) == (hash(fresh) == hash(patch), hash(patch) == hash(fresh.settled))


@pytest.mark.parametrize("delta", [Delta.NONE, Delta.FULL])
def test_nothing_to_settle(delta: Delta) -> None:
    """Where no patches are made, an encoding stays the same object."""
    encoding = ChannelEncoding(JSON, delta=delta)

    assert encoding is encoding.settled is encoding.restarted


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_find_patches(codec: Codec) -> None:
    """Of a recovery the first publication is full, and each next may be a patch."""
    items = [publish(2), publish(3), publish(4, "x"), publish(5, has_delta=False)]

    patches = find_patches(codec, items)

    assert [False, True, False, False] == [patch is not None for patch in patches]
    assert items[1].data == apply_delta(items[0].data, patches[1] or b"")
    assert [] == find_patches(codec, [])
