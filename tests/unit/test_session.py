"""The session: what may come when, and what each mistake costs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.clients import CODECS, encode_frame, encode_length
from wirebell.errors import ClientDisconnected
from wirebell.protocol.codec import Codec
from wirebell.protocol.json import JSON
from wirebell.session import ALLOWED, RULES, Session, State

CONNECT: dict[str, Any] = {"id": 1, "connect": {}}
PONG: dict[str, Any] = {}
# Every request with what it must have.
GOOD: dict[str, dict[str, Any]] = {
    "subscribe": {"channel": "a"},
    "unsubscribe": {"channel": "a"},
    "publish": {"channel": "a", "data": {}},
    "presence": {"channel": "a"},
    "presence_stats": {"channel": "a"},
    "history": {"channel": "a"},
    "send": {"data": {}},
    "rpc": {"data": {}},
    "refresh": {"token": "t"},
    "sub_refresh": {"channel": "a"},
}

both = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def receive(session: Session, *commands: Any) -> None:
    """Hand over one frame."""
    session.receive_data(encode_frame(session.codec, *commands))


def connected(codec: Codec = JSON) -> Session:
    """Make a session that has connected."""
    session = Session(codec)
    receive(session, CONNECT)
    assert session.next_command() is not None
    session.connecting()
    session.connected()
    assert session.next_command() is None
    return session


def take(session: Session) -> list[tuple[str, int]]:
    """Take all commands; name and id of each."""
    found: list[tuple[str, int]] = []
    while (item := session.next_command()) is not None:
        found.append((item[0], item[1].id))
    return found


def assert_refused(session: Session) -> None:
    """Check that the next command ends the session with 3501, and that nothing follows."""
    with pytest.raises(ClientDisconnected, match="3501 bad request"):
        take(session)
    assert session.state is State.CLOSED
    receive(session, CONNECT)
    assert session.next_command() is None
    assert session.waiting is None


@both
def test_connect_comes_first(codec: Codec) -> None:
    """Connect is let through, and nothing behind it before it is answered."""
    session = Session(codec)

    receive(session, CONNECT, {"id": 2, "subscribe": {"channel": "a"}})
    found = session.next_command()

    assert found is not None
    assert ("connect", 1) == (found[0], found[1].id)
    session.connecting()
    session.connected()
    assert [("subscribe", 2)] == take(session)
    assert session.waiting is None


@both
@pytest.mark.parametrize("name", GOOD)
def test_every_request_in_its_time(codec: Codec, name: str) -> None:
    """Each request comes through once connected, and ends a session that has not."""
    command = {"id": 2, name: GOOD[name]}
    early = Session(codec)
    receive(early, command)
    session = connected(codec)
    receive(session, command)

    assert [(name, 2)] == take(session)
    assert_refused(early)


def test_the_tables_agree() -> None:
    """What may come is what has rules, and all requests are here."""
    assert set(RULES) == {"connect", *GOOD}
    assert ALLOWED[State.OPEN] | ALLOWED[State.CONNECTED] == set(RULES)


@both
def test_a_second_connect_is_refused(codec: Codec) -> None:
    """There is one connect."""
    session = connected(codec)

    receive(session, CONNECT)

    assert_refused(session)


@both
def test_a_second_connect_behind_the_first_is_refused(codec: Codec) -> None:
    """A connect that comes while the first is answered is no better."""
    session = Session(codec)
    receive(session, CONNECT, CONNECT)
    session.next_command()
    session.connecting()

    assert_refused(session)


@both
@pytest.mark.parametrize("name", [name for name, fields in RULES.items() if fields])
def test_what_must_not_be_left_out(codec: Codec, name: str) -> None:
    """A request without its channel or its token ends the session."""
    session = connected(codec)

    receive(session, {"id": 2, name: {}})

    assert_refused(session)


@both
def test_ping_is_nobodys(codec: Codec) -> None:
    """The schema's ping command ends the session (section 1.4)."""
    session = connected(codec)

    receive(session, {"id": 2, "ping": {}})

    assert_refused(session)


@both
def test_of_two_requests_the_first_counts(codec: Codec) -> None:
    """The schema's order decides, also against publish."""
    session = connected(codec)

    receive(session, {"id": 2, "publish": GOOD["publish"], "subscribe": GOOD["subscribe"]})
    receive(session, {"id": 3, "publish": GOOD["publish"], "history": GOOD["history"]})

    assert [("subscribe", 2), ("publish", 3)] == take(session)


@both
def test_one_pong_answers_one_ping(codec: Codec) -> None:
    """A pong that is due is taken in silence; the next one ends the session."""
    session = connected(codec)
    session.expect_pong()

    receive(session, PONG)

    assert session.next_command() is None
    assert not session.is_pong_due
    receive(session, PONG)
    assert_refused(session)


@both
def test_a_pong_among_commands(codec: Codec) -> None:
    """A pong may share a frame with commands, before and behind them."""
    session = connected(codec)
    session.expect_pong()

    receive(session, {"id": 2, "rpc": {}}, PONG, {"id": 3, "rpc": {}})

    assert [("rpc", 2), ("rpc", 3)] == take(session)


@both
def test_a_pong_before_connect_is_refused(codec: Codec) -> None:
    """Nobody was pinged yet, even if one was due."""
    session = Session(codec)
    session.expect_pong()

    receive(session, PONG)

    assert_refused(session)


@both
def test_a_message_without_an_id_is_no_pong(codec: Codec) -> None:
    """A send has no id, and needs no ping."""
    session = connected(codec)

    receive(session, {"send": {"data": 1}})

    assert [("send", 0)] == take(session)


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (JSON, ""),
        (JSON, "{"),
        (JSON, "[]"),
        (JSON, '{"id":-1,"rpc":{}}'),
        (JSON, '{"id":1}'),
        (JSON, '{"id":1,"unknown":{}}'),
        (JSON, b"\xff"),
        (CODECS[1], b""),
        (CODECS[1], b"\x05\x01"),
        (CODECS[1], "{}"),
    ],
)
def test_a_frame_that_cannot_be_read(codec: Codec, frame: str | bytes) -> None:
    """A malformed frame ends the session; nothing escapes."""
    session = connected(codec)

    session.receive_data(frame)

    assert_refused(session)


@both
def test_commands_before_a_mistake_come_first(codec: Codec) -> None:
    """What stands before the place that cannot be read is still answered."""
    session = connected(codec)
    frame = encode_frame(codec, {"id": 2, "rpc": {}})
    if isinstance(frame, str):
        session.receive_data(frame + "\n{")
    else:
        session.receive_data(frame + encode_length(9) + b"x")

    found = session.next_command()

    assert found is not None
    assert found[0] == "rpc"
    assert_refused(session)


def test_after_a_mistake_nothing_is_read() -> None:
    """Frames behind a malformed one are not even looked at."""
    session = connected()
    session.receive_data("{")

    receive(session, {"id": 2, "rpc": {}})

    assert_refused(session)


@both
def test_after_a_failed_connect_all_is_ignored(codec: Codec) -> None:
    """Commands behind a refused connect are not answered, and mistakes cost nothing more."""
    session = Session(codec)
    receive(session, CONNECT, {"id": 2, "rpc": {}})
    session.next_command()
    session.connecting()

    session.fail()
    receive(session, {"id": 3, "rpc": {}})
    session.receive_data("{")

    assert session.next_command() is None
    assert (State.FAILED, None) == (session.state, session.waiting)


def test_a_mistake_behind_a_failed_connect() -> None:
    """A frame whose second half is malformed is ignored once its connect has failed."""
    session = Session(JSON)
    session.receive_data('{"id":1,"connect":{}}\n{')
    session.next_command()
    session.connecting()
    session.fail()

    assert session.next_command() is None


def test_a_close_while_commands_wait() -> None:
    """Who was closed is asked nothing more, whatever waits."""
    session = connected()
    receive(session, {"id": 2, "rpc": {}}, {"id": 3, "rpc": {}})
    session.next_command()

    session.close()

    assert session.next_command() is None


def test_a_state_that_changes_while_commands_wait() -> None:
    """Commands that wait when the state ends by itself stay where they are."""
    session = connected()
    receive(session, {"id": 2, "rpc": {}})
    session.state = State.CLOSED

    assert session.next_command() is None


def test_a_connect_that_was_closed_does_not_come_back() -> None:
    """The answer of a connect that comes after the end changes nothing."""
    session = Session(JSON)
    session.connecting()
    session.close()

    session.connected()

    assert session.state is State.CLOSED


def test_frames_add_up() -> None:
    """A frame that comes while commands wait goes behind them."""
    session = connected()
    receive(session, {"id": 2, "rpc": {}})

    receive(session, {"id": 3, "rpc": {}})

    assert [("rpc", 2), ("rpc", 3)] == take(session)


@both
def test_a_single_publication_comes_at_once(codec: Codec) -> None:
    """A frame that is but one publication is handed out without waiting."""
    session = connected(codec)

    command = session.receive_publish(encode_frame(codec, {"id": 2, "publish": GOOD["publish"]}))

    assert command is not None
    assert (2, None) == (command.id, session.waiting)


@both
@pytest.mark.parametrize(
    "commands",
    [
        [{"id": 2, "publish": GOOD["publish"]}, {"id": 3, "publish": GOOD["publish"]}],
        [{"id": 2, "rpc": {}}],
        [{"id": 2, "publish": GOOD["publish"], "unsubscribe": GOOD["unsubscribe"]}],
    ],
)
def test_other_frames_wait(codec: Codec, commands: list[dict[str, Any]]) -> None:
    """Everything else comes out one by one, as ever."""
    session = connected(codec)

    assert session.receive_publish(encode_frame(codec, *commands)) is None
    assert [command["id"] for command in commands] == [number for _, number in take(session)]


def test_a_publication_that_must_not_come() -> None:
    """Without a channel, behind what waits, or before connect it takes the long way."""
    good = encode_frame(JSON, {"id": 3, "publish": GOOD["publish"]})
    nameless, early, busy = connected(), Session(JSON), connected()
    busy.receive_data(encode_frame(JSON, {"id": 2, "rpc": {}}))

    assert nameless.receive_publish('{"id":2,"publish":{"data":1}}') is None
    assert early.receive_publish(good) is None
    assert busy.receive_publish(good) is None
    assert_refused(nameless)
    assert_refused(early)
    assert [("rpc", 2), ("publish", 3)] == take(busy)


def test_a_publication_that_cannot_be_read() -> None:
    """A malformed frame ends the session on this way too, and so does what follows it."""
    session = connected()

    assert session.receive_publish("{") is None
    assert session.receive_publish('{"id":2,"publish":{"channel":"a"}}') is None
    assert_refused(session)
