"""A streaming response behind an ASGI server, against a peer that does what a test says."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.unit.clocks import pass_time, turns
from tests.unit.streams import Download, FakeRequest, ReachableRequest
from wirebell.errors import Disconnect
from wirebell.liveness import LEAVE_SECONDS
from wirebell.options import ConnectResponse
from wirebell.process import PROCESS
from wirebell.protocol.framing import SSE
from wirebell.settings import Settings
from wirebell.transports.http_stream import INBOX_MESSAGES_MAX, Streams

pytestmark = pytest.mark.anyio

DONE = Disconnect(3500, "done")
SLOW = Disconnect(3008, "slow")
SHUTDOWN = Disconnect(3001, "shutdown")


async def test_a_whole_life() -> None:
    """The first message is handed over, the status waits for a word, the end is told once."""
    download = Download(framing=SSE, headers=[(b"x-a", b"1")])
    task = await download.start("hello")
    assert [] == download.request.sent
    download.write("1", "2")
    download.write("3")
    await turns()
    download.request.leave()
    await task

    assert 200 == download.request.status
    assert b"1" == download.request.headers[b"x-a"]
    assert b"no" == download.request.headers[b"x-accel-buffering"]
    assert [b"\r\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"] == download.request.pieces
    assert ["open", "hello", "eof"] == download.receiver.calls
    assert (0, 1) == (download.carrier.queued_bytes, download.receiver.writable_count)
    assert (0, {}) == (download.pings.peer_count, download.streams.links)


async def test_written_before_run() -> None:
    """What is written while the peer is admitted arrives."""
    download = Download()
    download.write("early")
    task = await download.start(b"x")
    download.request.leave()
    await task

    assert [b"early\n"] == download.request.pieces
    assert ["open", "bytes 1", "eof"] == download.receiver.calls


async def test_a_peer_that_leaves_before_a_word() -> None:
    """Nothing is sent, not even a status."""
    download = Download()
    task = await download.start()
    download.request.leave()
    await task

    assert ([], ["open", "eof"]) == (download.request.sent, download.receiver.calls)


async def test_the_queue_is_bounded() -> None:
    """A first tick is always taken, and nothing more while too much waits."""
    download = Download(Settings(send_queue_bytes_max=1_000))
    task = await download.start()
    download.request.gate.clear()

    assert download.write("x" * 2_000)
    await turns()
    assert (False, False) == (download.write("y"), download.carrier.is_writable)
    download.request.gate.set()
    await turns()
    assert (1, True) == (download.receiver.writable_count, download.carrier.is_writable)
    assert download.write("z")
    await turns()
    download.request.leave()
    await task
    assert [b"x" * 2_000 + b"\n", b"z\n"] == download.request.pieces


async def test_large_ticks_are_pieces_of_their_own() -> None:
    """What waits is given to the server in pieces of a bounded size; nothing is no piece."""
    download = Download()
    task = await download.start()
    download.request.gate.clear()
    for letter in "abc":
        assert download.write(letter * 40_000)
    assert download.write()
    download.request.gate.set()
    await turns()
    download.request.leave()
    await task

    assert [80_002, 40_001] == [len(piece) for piece in download.request.pieces]


async def test_a_close_sends_what_waits_and_the_notice() -> None:
    """The body ends, and nothing is taken afterwards."""
    download = Download()
    task = await download.start()
    download.write("1")
    download.carrier.close(DONE, notice="why")
    download.carrier.close(DONE, notice="again")
    assert download.write("late")
    await task
    download.carrier.close(DONE)
    download.carrier.shutdown()
    await download.carrier.finish()

    assert [b"1\n", b"why\n"] == download.request.pieces
    assert download.request.is_complete
    assert ["open", "eof"] == download.receiver.calls


async def test_a_close_while_the_first_message_is_handled() -> None:
    """The handler finishes, then the body ends, and nothing more is handed over."""
    download = Download()
    download.receiver.handler.clear()
    task = await download.start("slow")
    later = asyncio.create_task(download.carrier.receive_message("later"))
    await turns()
    download.carrier.close(DONE)
    await turns()
    assert not task.done()
    download.receiver.handler.set()
    await task
    await later

    assert ["open", "slow", "eof"] == download.receiver.calls
    assert (200, [b""]) == (download.request.status, download.request.pieces)


async def test_a_slow_peer_is_not_given_what_waits() -> None:
    """It gets the notice when it takes it in time."""
    download = Download()
    task = await download.start()
    download.request.gate.clear()
    download.write("1")
    await turns()
    download.write("2")
    download.carrier.close(SLOW, notice="slow")
    await turns()
    download.request.gate.set()
    await task

    assert [b"1\n", b"slow\n"] == download.request.pieces


@pytest.mark.parametrize("is_reachable", [True, False])
async def test_a_peer_that_takes_nothing_is_given_up(*, is_reachable: bool) -> None:
    """The stream ends in time, and the link is aborted where the server lets us."""
    request = ReachableRequest() if is_reachable else FakeRequest()
    download = Download(request=request)
    task = await download.start()
    request.gate.clear()
    download.write("1")
    await turns()
    download.carrier.close(SLOW, notice="slow")
    started = asyncio.get_running_loop().time()
    await task

    assert download.settings.close_timeout_seconds == asyncio.get_running_loop().time() - started
    assert ["open", "eof"] == download.receiver.calls
    if isinstance(request, ReachableRequest):
        assert 1 == request.transport.aborts
        assert 1 == len(request.transport.options)


async def test_cut_streams_are_counted() -> None:
    """A peer that is given up counts as one, as with sockets; whoever is sent away, too."""
    before = PROCESS.aborted_count, PROCESS.drained_count
    download = Download(request=ReachableRequest())
    task = await download.start()
    download.request.gate.clear()
    download.write("1")
    download.carrier.shutdown()
    download.carrier.close(DONE)
    await task
    download.carrier.shutdown()

    assert (before[0] + 1, before[1] + 1) == (PROCESS.aborted_count, PROCESS.drained_count)
    assert ["open", "shutdown", "eof"] == download.receiver.calls
    PROCESS.aborted_count, PROCESS.drained_count = before


async def test_a_link_that_is_gone_before_it_is_served() -> None:
    """Its socket takes no options any more, and the end is told all the same."""
    request = ReachableRequest()

    def fail(*_: object) -> None:
        raise OSError(9, "bad file descriptor")

    request.transport.setsockopt = fail  # type: ignore[method-assign]
    download = Download(request=request)
    request.leave()
    task = await download.start()
    await task

    assert ["open", "eof"] == download.receiver.calls
    assert (0, {}) == (download.pings.peer_count, download.streams.links)


async def test_a_peer_that_is_gone_leaves_while_its_first_words_are_handled() -> None:
    """It is in no channel a second later; its end is told when the handler has ended."""
    download = Download()
    download.receiver.handler.clear()
    task = await download.start("slow")
    download.request.leave()
    await pass_time(LEAVE_SECONDS * 0.9)
    before = list(download.receiver.calls)
    await pass_time(LEAVE_SECONDS * 0.2)
    after = list(download.receiver.calls)
    download.receiver.handler.set()
    await task

    assert (["open", "slow"], ["open", "slow", "leave"]) == (before, after)
    assert ["open", "slow", "leave", "eof"] == download.receiver.calls


async def test_a_peer_that_is_gone_ends_while_its_other_words_are_handled() -> None:
    """What came by another request is no reason to wait."""
    download = Download()
    task = await download.start()
    download.receiver.handler.clear()
    post = asyncio.create_task(download.carrier.receive_message("slow"))
    await turns()
    download.request.leave()
    await task
    download.receiver.handler.set()
    await post

    assert ["open", "slow", "eof"] == download.receiver.calls


async def test_a_handler_that_does_not_end_keeps_the_stream_and_not_the_link() -> None:
    """A peer that is given up is aborted, and the end is told when the handler has finished."""
    request = ReachableRequest()
    download = Download(request=request)
    download.receiver.handler.clear()
    task = await download.start("slow")
    download.carrier.close(DONE)
    await pass_time(6)
    assert (1, False) == (request.transport.aborts, task.done())
    download.receiver.handler.set()
    await task

    assert ["open", "slow", "eof"] == download.receiver.calls


@pytest.mark.parametrize("seconds", [1, 60])
async def test_last_words_that_stay_in_the_buffer(seconds: float) -> None:
    """They are waited for, within the bound."""
    request = ReachableRequest()
    download = Download(request=request)
    task = await download.start()
    request.transport.buffer_bytes = 10

    def read() -> None:
        request.transport.buffer_bytes = 0

    asyncio.get_running_loop().call_later(seconds, read)
    download.carrier.close(DONE, notice="why")
    await task

    assert [b"why\n"] == request.pieces
    assert int(seconds == 60) == request.transport.aborts


async def test_a_server_that_raises() -> None:
    """It ends the stream, whether that writes or closes."""
    writing, closing = Download(), Download()
    tasks = [await writing.start(), await closing.start()]
    writing.request.failure = closing.request.failure = OSError("gone")
    writing.write("1")
    closing.carrier.close(DONE)
    await asyncio.gather(*tasks)

    for download in (writing, closing):
        assert ["open", "eof"] == download.receiver.calls
        assert download.write("late")
        assert not download.request.sent


async def test_a_stream_that_is_cancelled() -> None:
    """The end is told all the same, and what is offered to the writers is not written."""
    download = Download()
    task = await download.start()
    task.cancel()
    download.write("1")
    await asyncio.wait([task])
    await turns()

    assert (["open", "eof"], []) == (download.receiver.calls, download.request.sent)


async def test_a_timeout_of_a_handler_is_not_ours() -> None:
    """It goes on to the server."""
    download = Download()
    download.receiver.failure = TimeoutError("theirs")

    with pytest.raises(TimeoutError, match="theirs"):
        await download.carrier.run(download.receiver, "x")

    assert ["open", "x", "eof"] == download.receiver.calls


async def test_refusals() -> None:
    """A whole response takes the stream's place, as long as nothing was said."""
    download = Download(headers=[(b"x-a", b"1")])
    task = await download.start()
    download.carrier.refuse(418, b"no", headers=[(b"x-b", b"2")])
    with pytest.raises(RuntimeError, match="begun"):
        download.carrier.refuse(500, b"")
    await task

    headers = {b"x-a": b"1", b"x-b": b"2", b"content-length": b"2"}
    assert (418, headers) == (download.request.status, download.request.headers)
    assert ([b"no"], True) == (download.request.pieces, download.request.is_complete)


@pytest.mark.parametrize(("code", "status", "body"), [(109, 401, b"old"), (1, 500, None)])
async def test_connect_responses(code: int, status: int, body: bytes | None) -> None:
    """A failed connect has the operator's answer, or 500."""
    answers = {109: ConnectResponse(status=401, body="old")}
    download = Download(connect_responses=answers)
    task = await download.start()

    assert download.carrier.refuse_connect(code)
    await task
    assert status == download.request.status
    assert [body or b"Internal Server Error"] == download.request.pieces


async def test_no_connect_responses() -> None:
    """Without answers, or behind a first word, a failed connect is told by a message."""
    without, begun = Download(), Download(connect_responses={})
    begun.write("1")

    assert not without.carrier.refuse_connect(109)
    assert not begun.carrier.refuse_connect(109)
    await turns()


async def test_a_connect_that_fails_after_its_stream_was_closed() -> None:
    """What was decided first is said."""
    download = Download(connect_responses={})
    task = await download.start()
    download.carrier.close(DONE, notice="why")

    assert not download.carrier.refuse_connect(109)
    await task
    assert (200, [b"why\n"]) == (download.request.status, download.request.pieces)


async def test_closed_before_run() -> None:
    """``finish`` says what was decided while the peer was admitted; else it does nothing."""
    download = Download(framing=SSE)
    await download.carrier.finish()
    download.carrier.close(DONE, notice="why")
    await download.carrier.finish()

    assert [b"\r\ndata: why\n\n"] == download.request.pieces
    assert download.request.is_complete


async def test_messages_of_other_requests_wait_their_turn() -> None:
    """One after the other, and none before the peer is known or after its end."""
    download = Download()
    await download.carrier.receive_message("early")
    task = await download.start("first")
    download.receiver.handler.clear()
    posts = [
        asyncio.create_task(download.carrier.receive_message(text)) for text in ("a", "b", "c")
    ]
    await turns()
    assert ["open", "first", "a"] == download.receiver.calls
    download.receiver.handler.set()
    await asyncio.gather(*posts)
    download.request.leave()
    await task
    await download.carrier.receive_message("late")

    assert ["open", "first", "a", "b", "c", "eof"] == download.receiver.calls
    assert 0 == download.carrier.turn_count


async def test_too_many_messages_of_other_requests() -> None:
    """Whoever has too many waiting is closed."""
    download = Download()
    task = await download.start()
    download.receiver.handler.clear()
    posts = [
        asyncio.create_task(download.carrier.receive_message("x"))
        for _ in range(INBOX_MESSAGES_MAX)
    ]
    await turns()
    await download.carrier.receive_message("one more")

    assert "close 3013: too many requests" == download.receiver.calls[-1]
    download.receiver.handler.set()
    await asyncio.gather(*posts)
    download.request.leave()
    await task


async def test_pings() -> None:
    """The receiver pings; a peer that took nothing between two pings is cut."""
    download = Download()
    download.carrier.send_ping()
    task = await download.start()
    download.carrier.send_ping()
    download.carrier.handle_silence()
    assert download.carrier.unheard_since is None
    assert ["open", "ping"] == download.receiver.calls

    download.request.gate.clear()
    download.write("1")
    download.carrier.send_ping()
    assert 2 == len(download.receiver.calls)
    download.carrier.send_ping()
    assert ["open", "ping", "close 3008: slow"] == download.receiver.calls
    download.request.gate.set()
    download.request.leave()
    await task


async def test_a_stop_ends_streams_one_after_the_other() -> None:
    """All learn of it within the window, and who comes then at once; the server's set is left."""
    settings = Settings(drain_window_seconds=0.01)
    streams = Streams(settings)
    requests = [ReachableRequest() for _ in range(3)]
    for request in requests[1:]:
        request.transport.connections = requests[0].transport.connections
    downloads = [Download(settings, request=each, streams=streams) for each in requests]
    tasks = [await download.start() for download in downloads]
    assert {streams} == requests[0].transport.connections

    streams.shutdown()
    streams.shutdown()
    assert [True, False, False] == ["shutdown" in d.receiver.calls for d in downloads]
    await pass_time(0.01)
    assert all(["open", "shutdown"] == d.receiver.calls for d in downloads)
    late = Download(settings, streams=streams)
    tasks.append(await late.start())
    assert ["shutdown", "open"] == late.receiver.calls
    for download in [*downloads, late]:
        download.request.leave()
    await asyncio.gather(*tasks)

    assert set() == requests[0].transport.connections
    assert {} == streams.links
    streams.shutdown()
    assert not streams.is_stopping


async def test_who_is_sent_away_comes_back_later() -> None:
    """An EventSource is told a time of its own, from one second to the window more."""
    delays = []
    for _ in range(2):
        download = Download(Settings(drain_window_seconds=5), framing=SSE)
        task = await download.start()
        download.carrier.close(SHUTDOWN, notice="bye")
        await task
        retry, _, rest = download.request.pieces[0].removeprefix(b"\r\nretry: ").partition(b"\n\n")
        delays.append(int(retry))
        assert b"data: bye\n\n" == rest

    assert all(1_000 <= delay <= 6_000 for delay in delays)
    assert 2 == len(set(delays))


async def test_what_is_no_end() -> None:
    """A server that says something else about the request is heard out; a Unix socket is fine."""
    request = ReachableRequest()
    request.transport.family = socket.AF_UNIX
    download = Download(request=request)
    task = await download.start()
    request.put({"type": "http.request", "body": b"", "more_body": False})
    await turns()
    assert not task.done()
    request.leave()
    await task

    assert ([], ["open", "eof"]) == (request.transport.options, download.receiver.calls)


async def test_a_stream_is_small() -> None:
    """It has no dictionary of attributes."""
    assert not hasattr(Download().carrier, "__dict__")
