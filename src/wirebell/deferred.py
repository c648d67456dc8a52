"""A future that tells at once.

`asyncio.Future` calls back in the loop's next turn, each callback through a handle of its own.
Where tens of thousands wait for a broker in a second, that takes a fifth of the node's time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

__all__ = ("Deferred",)

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class Deferred(Generic[ResultT]):
    """What becomes of something that was asked for.

    Methods are called as `asyncio.Future`'s and mean the same, but for this: callbacks run while it
    is settled, in the order in which they were added, in the context of who settles it. So they
    must be short, and may find whoever settles it in the middle of its work. An error that nobody
    asks for is not reported.

    It may be awaited by several. Whoever is cancelled meanwhile leaves it as it is. To be used on
    one event loop.
    """

    __slots__ = ("_callbacks", "_error", "_is_settled", "_result")

    # Set with `_is_settled`, where there is no error.
    _result: ResultT

    def __init__(self) -> None:
        self._is_settled = False
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Deferred[ResultT]], object]] | None = None

    def __await__(self) -> Generator[Any, None, ResultT]:
        """Wait until it is settled; returns or raises what it is settled with."""
        if not self._is_settled:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(_settled: Deferred[ResultT]) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self.add_done_callback(wake)
            yield from waiter
        return self.result()

    def done(self) -> bool:
        """Tell whether it is settled."""
        return self._is_settled

    def cancelled(self) -> bool:
        """Tell whether `cancel` settled it."""
        return isinstance(self._error, asyncio.CancelledError)

    def result(self) -> ResultT:
        """Return what it was settled with.

        Raises:
            BaseException: It was settled with that.
            asyncio.InvalidStateError: It is not settled.
        """
        if self._error is not None:
            raise self._error
        if not self._is_settled:
            raise asyncio.InvalidStateError("it is not settled yet")
        return self._result

    def exception(self) -> BaseException | None:
        """Return the error that it was settled with; ``None`` for a result, or before."""
        return self._error

    def add_done_callback(self, callback: Callable[[Deferred[ResultT]], object]) -> None:
        """Have ``callback`` called when it is settled; at once where it is."""
        if self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)
        if self._is_settled:
            self._settle()

    def set_result(self, result: ResultT) -> None:
        """Settle it; it must not be."""
        assert not self._is_settled
        self._result = result
        self._settle()

    def set_exception(self, error: BaseException) -> None:
        """Settle it with an error; it must not be."""
        assert not self._is_settled
        self._error = error
        self._settle()

    def cancel(self, msg: object = None) -> bool:
        """Settle it with `asyncio.CancelledError`; false where it is settled already.

        What was asked for goes its way.
        """
        if self._is_settled:
            return False
        self.set_exception(asyncio.CancelledError(*(() if msg is None else (msg,))))
        return True

    def _settle(self) -> None:
        """Tell everybody who waits."""
        self._is_settled = True
        callbacks, self._callbacks = self._callbacks, None
        if callbacks is not None:
            for callback in callbacks:
                try:
                    callback(self)
                except Exception:
                    # It is not the next one's.
                    logger.exception("a callback failed")
