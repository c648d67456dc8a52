"""What is gathered in a turn, and carried in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from wirebell.batching import Batcher
from wirebell.deferred import Deferred
from wirebell.errors import BrokerClosed, BrokerUnavailable

pytestmark = pytest.mark.anyio


class Server:
    """Takes batches; waits for its gate where it is closed."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None

    async def run(self, items: Sequence[bytes]) -> list[bytes | Exception]:
        """Answer each item with itself, or with what is wrong with it."""
        self.batches.append(list(items))
        self.called.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError("bad") if item == b"bad" else item for item in items]


async def test_one_call_for_a_turn() -> None:
    """What is added in one turn goes in one call, in order, and each gets its own result."""
    server = Server()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len)

    results = await asyncio.gather(*(batcher.add(b"%d" % number) for number in range(3)))

    assert [[b"0", b"1", b"2"]] == server.batches
    assert [b"0", b"1", b"2"] == results
    assert [None] == [lane.task for lane in batcher.lanes]


async def test_the_next_gathers_behind_the_call() -> None:
    """One call at a time: what comes meanwhile waits for the next, together."""
    server = Server()
    server.gate.clear()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len)

    futures = [batcher.add(b"0")]
    await server.called.wait()
    for item in (b"1", b"2"):
        futures.append(batcher.add(item))
        await asyncio.sleep(0)
    server.gate.set()
    await asyncio.gather(*futures)

    assert [[b"0"], [b"1", b"2"]] == server.batches


async def test_bounds_of_a_batch() -> None:
    """A batch has at most so many items and bytes; a larger item goes alone."""
    server = Server()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len, count_max=2, bytes_max=5)

    await asyncio.gather(
        *(batcher.add(item) for item in (b"1", b"2", b"3", b"4444", b"too long", b"5", b"66666"))
    )

    assert [[b"1", b"2"], [b"3", b"4444"], [b"too long"], [b"5"], [b"66666"]] == server.batches
    assert 0 == batcher.byte_count


async def test_an_items_own_error() -> None:
    """An exception in place of a result is that item's alone."""
    batcher: Batcher[bytes, bytes] = Batcher(Server().run, size_of=len)

    good, bad = await asyncio.gather(
        batcher.add(b"good"), batcher.add(b"bad"), return_exceptions=True
    )

    assert b"good" == good
    assert isinstance(bad, ValueError)


async def test_a_call_that_fails() -> None:
    """A call's error is raised to its items and to all that wait; the next one is tried anew."""
    server = Server()
    server.gate.clear()
    server.error = BrokerUnavailable("away")
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len)
    futures = [batcher.add(b"0")]
    await server.called.wait()
    futures.append(batcher.add(b"1"))

    server.gate.set()
    results = await asyncio.gather(*futures, return_exceptions=True)
    server.error = None

    assert [server.batches, results] == [[[b"0"]], [results[0], results[0]]]
    assert isinstance(results[0], BrokerUnavailable)
    assert b"2" == await batcher.add(b"2")


async def test_results_that_come_before_the_call_ends() -> None:
    """They are handed out at once, and what the call says or raises is too late for them."""
    server = Server()
    server.gate.clear()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len)
    one, other = batcher.add(b"0"), batcher.add(b"1")
    await server.called.wait()

    batcher.settle(0, [b"early", ValueError("bad")])
    settled = (one.result(), other.exception())
    server.error = BrokerUnavailable("away")
    server.gate.set()
    with pytest.raises(BrokerUnavailable):
        await batcher.add(b"2")

    assert (b"early", other.exception()) == settled == (one.result(), other.exception())
    assert isinstance(other.exception(), ValueError)


async def test_results_are_counted() -> None:
    """A call that answers too little is an error for its items, not for nobody."""

    async def run(items: Sequence[bytes]) -> list[bytes | Exception]:
        return []

    batcher: Batcher[bytes, bytes] = Batcher(run, size_of=len)

    with pytest.raises(AssertionError, match="0 results for 1 items"):
        await batcher.add(b"0")


async def test_whoever_goes_away() -> None:
    """An item whose owner was cancelled is carried with the others."""
    server = Server()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len)
    one, other = batcher.add(b"0"), batcher.add(b"1")

    one.cancel()

    assert b"1" == await other
    assert [[b"0", b"1"]] == server.batches


@pytest.mark.parametrize(("count_max", "bytes_max", "second"), [(1, 100, b""), (100, 4, b"2345")])
async def test_bounds_of_what_waits(count_max: int, bytes_max: int, second: bytes) -> None:
    """What may not wait any more is refused at once; the first always may."""
    batcher: Batcher[bytes, bytes] = Batcher(
        Server().run, size_of=len, pending_max=count_max, pending_bytes_max=bytes_max
    )
    first = batcher.add(b"1")

    with pytest.raises(BrokerUnavailable, match="1 calls with 1 bytes wait"):
        await batcher.add(second)

    assert b"1" == await first


async def test_close_carries_what_waits() -> None:
    """Closing waits for what was added before, and takes nothing more; idempotent."""
    server = Server()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len)
    future = batcher.add(b"0")

    await batcher.aclose()
    await batcher.aclose()

    assert b"0" == await future
    with pytest.raises(BrokerClosed):
        await batcher.add(b"1")


async def test_close_is_bounded() -> None:
    """A call that does not end in time is given up, and all who wait are told."""
    server = Server()
    server.gate.clear()
    batcher: Batcher[bytes, bytes] = Batcher(server.run, size_of=len, close_seconds_max=0.01)
    futures = [batcher.add(b"0")]
    await server.called.wait()
    futures.append(batcher.add(b"1"))

    await batcher.aclose()
    results = await asyncio.gather(*futures, return_exceptions=True)

    assert [BrokerClosed, BrokerClosed] == [type(result) for result in results]


async def test_cancelled_before_its_first_step() -> None:
    """A task that is ended before it began leaves nobody waiting."""
    batcher: Batcher[bytes, bytes] = Batcher(Server().run, size_of=len)
    future = batcher.add(b"0")
    [task] = [lane.task for lane in batcher.lanes]
    assert task is not None

    task.cancel()

    async with asyncio.timeout(1):
        with pytest.raises(BrokerClosed):
            await future


async def run_two(server: Server) -> tuple[Batcher[bytes, bytes], list[Deferred[bytes]]]:
    """Have two calls on their way, which are about ``a`` and ``b``."""
    server.gate.clear()
    batcher: Batcher[bytes, bytes] = Batcher(
        server.run, server.run, size_of=len, key_of=lambda item: item[:1]
    )
    futures = []
    for item in (b"a1", b"b1"):
        futures.append(batcher.add(item))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return batcher, futures


async def test_two_calls_at_once() -> None:
    """What comes while one runs goes with the next, and while two run it waits."""
    server = Server()
    batcher, futures = await run_two(server)
    futures += [batcher.add(b"c1"), batcher.add(b"d1")]
    await asyncio.sleep(0.01)
    before = list(server.batches)
    server.gate.set()

    assert [b"a1", b"b1", b"c1", b"d1"] == await asyncio.gather(*futures)
    assert [[b"a1"], [b"b1"]] == before
    assert [b"c1", b"d1"] == server.batches[2]


@pytest.mark.parametrize(("count", "sizes"), [(31, [31]), (32, [16, 15]), (65, [33, 31])])
async def test_a_large_turn_is_shared(count: int, sizes: list[int]) -> None:
    """Two halves overlap; what is about the same goes with one of them, or waits."""
    server = Server()
    server.gate.clear()
    batcher: Batcher[bytes, bytes] = Batcher(
        server.run, server.run, size_of=len, key_of=lambda item: item
    )
    futures = [batcher.add(b"%d" % number) for number in range(count - 1)]
    last = batcher.add(b"0")
    await server.called.wait()
    await asyncio.sleep(0.01)
    before = [len(batch) for batch in server.batches]
    server.gate.set()

    assert [b"%d" % number for number in range(count - 1)] == await asyncio.gather(*futures)
    assert b"0" == await last
    assert sizes == before
    assert batcher.idle == batcher.lanes or batcher.idle == batcher.lanes[::-1]


async def test_what_is_about_the_same_waits() -> None:
    """It is never on its way twice, keeps its order, and holds nothing else up."""
    server = Server()
    server.gate.clear()
    batcher: Batcher[bytes, bytes] = Batcher(
        server.run, server.run, size_of=len, key_of=lambda item: item[:1]
    )
    futures = [batcher.add(b"a1")]
    await server.called.wait()
    for item in (b"a2", b"b1", b"a3", b"b2"):
        futures.append(batcher.add(item))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    before = list(server.batches)
    server.gate.set()

    assert [b"a1", b"a2", b"b1", b"a3", b"b2"] == await asyncio.gather(*futures)
    assert [[b"a1"], [b"b1"]] == before
    assert [[b"a2", b"a3"], [b"b2"]] == sorted(server.batches[2:])
    assert ([], 0, 2) == (batcher.items, batcher.byte_count, len(batcher.idle))


async def test_one_of_two_calls_fails() -> None:
    """All that wait learn it; what the other carries has its own fate."""
    server = Server()
    batcher, futures = await run_two(server)
    futures.append(batcher.add(b"c1"))
    [task] = [lane.task for lane in batcher.lanes if futures[0] in lane.futures]
    assert task is not None

    task.cancel()
    await asyncio.wait([task])
    server.gate.set()
    results = await asyncio.gather(*futures, return_exceptions=True)

    assert [BrokerClosed, bytes, BrokerClosed] == [type(result) for result in results]


async def test_closing_two() -> None:
    """Closing waits for both."""
    server = Server()
    batcher, futures = await run_two(server)

    closing = asyncio.create_task(batcher.aclose())
    await asyncio.sleep(0)
    server.gate.set()
    await closing

    assert [b"a1", b"b1"] == [future.result() for future in futures]
