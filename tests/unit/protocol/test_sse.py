"""Server-sent events, and how far an EventSource is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from wirebell.model import StreamPosition
from wirebell.protocol.json import JSON
from wirebell.protocol.sse import (
    EVENT_ID_BYTES_MAX,
    EventIds,
    encode_event_id,
    encode_events,
    read_event_id,
    resume,
)

POSITIONS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.builds(StreamPosition, st.integers(0, 2**64 - 1), st.text(max_size=8)),
    max_size=3,
)


def test_events() -> None:
    """Each line is an event; what would end a line of an event stream is white space."""
    assert b"data: {}\n\n" == encode_events(["{}"])
    expected = b'data: {"a":\xc3\xbc}\n\ndata: 2\n\ndata: [3, 4]\n\n'
    assert expected == encode_events(['{"a":ü}\n2', b"[3,\r4]"])


@given(POSITIONS)
def test_event_ids_come_back(positions: dict[str, StreamPosition]) -> None:
    """Whatever channels and epochs are called, the id is ASCII of one line and reads the same."""
    event_id = encode_event_id(positions)

    assert event_id.isascii()
    assert event_id.isprintable()
    assert positions == read_event_id(event_id)


@pytest.mark.parametrize(
    "event_id",
    ["", "42", "1.x", "1.x.", "-1.x.a", "a.x.a", "²..a", "1.x.a,", f"{2**64}.x.a",
     "1" * 30 + ".x.a", "1.x." + "a" * EVENT_ID_BYTES_MAX],
)  # fmt: skip
def test_other_ids_are_no_positions(event_id: str) -> None:
    """An id of another server, or made up, is as good as none."""
    assert {} == read_event_id(event_id)


def test_resume() -> None:
    """Positions win over the request's own, and what it says besides stays."""
    subs = '{"a":{"recover":true,"offset":1,"data":[2]},"b":null}'
    request = f'{{"token":"t","data":{{"x":[1]}},"subs":{subs}}}'
    positions = {"a": StreamPosition(5, "x"), "c": StreamPosition(0, "y")}

    assert {
        "token": "t",
        "data": {"x": [1]},
        "subs": {
            "a": {"recover": True, "offset": 5, "epoch": "x", "data": [2]},
            "b": {},
            "c": {"recover": True, "offset": 0, "epoch": "y"},
        },
    } == json.loads(resume(request, positions))
    assert {"subs": {}} == json.loads(resume('{"subs":null}', {}))
    assert {"subs": {}} == json.loads(resume("{}", {}))


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        (r'"data":"\ud83d"', r'"data":"\ufffd"'),
        (f'"x":{"9" * 40}', f'"x":{"9" * 40}'),
        ('"data":1e999', '"data":1e999'),
    ],
)
def test_resume_keeps_what_it_need_not_read(wish: str, kept: str) -> None:
    """Whatever a codec reads as a ConnectRequest can be resumed."""
    request = f'{{"subs":{{"a":{{{wish}}}}}}}'
    JSON.decode_connect(request)

    resumed = resume(request, {"a": StreamPosition(5, "x")})

    assert f'{{"subs":{{"a":{{{kept},"recover":true,"offset":5,"epoch":"x"}}}}}}' == resumed


def tell(ids: EventIds, push: object) -> str | None:
    """Encode a push, and return the id that came with it; None for no id."""
    text = json.dumps(push)
    lines = ids.encode_events([text]).decode().split("\n")
    assert [f"data: {text}", "", ""] == [line for line in lines if not line.startswith("id: ")]
    return next((line[4:] for line in lines if line.startswith("id: ")), None)


def connect(**subs: object) -> dict[str, object]:
    """Return a connect push."""
    return {"connect": {"client": "1", "subs": subs}}


def test_ids_follow_the_positions() -> None:
    """From the connect push on, through publications, subscriptions and their ends."""
    ids = EventIds()
    recovered = {"recoverable": True, "epoch": "x", "offset": 1, "publications": [{"offset": 2}]}

    assert "2.x.a" == tell(ids, connect(a=recovered, b={}))
    assert "3.x.a" == tell(ids, {"channel": "a", "pub": {"data": 1, "offset": 3}})
    assert None is tell(ids, {"channel": "b", "pub": {"data": 1}})
    assert None is tell(ids, {"channel": "a", "pub": {"data": 1}})
    assert None is tell(ids, {"channel": "a", "join": {"info": {"user": "1", "client": "2"}}})
    assert None is tell(ids, {})
    subscribe = {"recoverable": True, "epoch": "y", "offset": 0}
    assert "3.x.a,0.y.c" == tell(ids, {"channel": "c", "subscribe": subscribe})
    assert None is tell(ids, {"channel": "d", "subscribe": {}})
    first = {"data": 1, "offset": 1, "epoch": "z"}
    assert "3.x.a,1.z.c" == tell(ids, {"channel": "c", "pub": first})
    assert "1.z.c" == tell(ids, {"channel": "a", "unsubscribe": {"code": 2000, "reason": "x"}})
    assert None is tell(ids, {"channel": "b", "unsubscribe": {}})
    assert "" == tell(ids, {"channel": "c", "unsubscribe": {}})
    assert None is tell(ids, {"channel": "c", "unsubscribe": {}})


def test_a_payload_that_is_no_json() -> None:
    """It moves no position, and goes to the peer as it is."""
    ids = EventIds()
    tell(ids, connect(a={"recoverable": True}))

    assert b'data: {"channel":"a","pub":{"data":?}}\n\n' == ids.encode_events(
        ['{"channel":"a","pub":{"data":?}}']
    )


def test_several_pushes_in_a_message() -> None:
    """Each is an event of its own, and has its own id."""
    ids = EventIds()
    tell(ids, connect(a={"recoverable": True, "epoch": "x"}))
    pushes = [json.dumps({"channel": "a", "pub": {"offset": offset}}) for offset in (1, 2)]

    expected = f"data: {pushes[0]}\nid: 1.x.a\n\ndata: {pushes[1]}\nid: 2.x.a\n\n"
    assert expected.encode() == ids.encode_events(["\n".join(pushes).encode()])


def test_without_recoverable_channels() -> None:
    """No ids are told, but one of a connection before is taken back."""
    assert None is tell(EventIds(), connect(a={}))
    assert "" == tell(EventIds(has_given=True), connect(a={}))


def test_more_channels_than_an_id_can_hold() -> None:
    """The peer's id is taken back, once, until they fit again."""
    ids = EventIds()
    long = "c" * EVENT_ID_BYTES_MAX
    assert "0.x.a" == tell(ids, connect(a={"recoverable": True, "epoch": "x"}))

    subscribe = {"channel": long, "subscribe": {"recoverable": True, "epoch": "y"}}
    assert "" == tell(ids, subscribe)
    assert None is tell(ids, {"channel": "a", "pub": {"offset": 1}})
    assert "1.x.a" == tell(ids, {"channel": long, "unsubscribe": {}})
