"""How Wirebell's own commands serve: a listener, any number of workers, descriptors and signals.

Everything here is about the process. What is served stands in a `uvicorn.Config`; `serve` runs it.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from wirebell.process import (
    ACCEPT_BURST,
    PROCESS,
    Descriptors,
    read_descriptors_max,
)

if TYPE_CHECKING:
    from types import FrameType

    from wirebell.settings import Settings

__all__ = (
    "ANSWER_SECONDS_MAX",
    "Server",
    "Worker",
    "Workers",
    "announce",
    "compute_drain_seconds",
    "create_listener",
    "raise_file_limit",
    "serve",
    "settle_memory",
)

logger = logging.getLogger(__name__)

# A first start migrates a database and imports everything: seconds on a small machine.
ANSWER_SECONDS_MAX = 60.0
# Time for tasks to notice that their connections were cut, before they are cancelled.
CUT_SECONDS = 1.0
# After a second signal: until the process ends itself, and until its parent ends it.
FORCED_SECONDS = 0.7
KILL_SECONDS = 0.9
# How often the parent of workers looks around, and the least time between two replacements.
LOOK_SECONDS = 0.1
REPLACE_SECONDS = 0.5
# The kernel's own default bound (`fs.nr_open`). Some containers have a thousand times as many, and
# programs that close all of them one by one take minutes.
FILES_MAX = 1_048_576
# Full collections only after 700 × 10 × 150 = a million more containers were made than freed. One
# pass takes 0.6 µs for each object that lives, whatever it finds: 19,000 connections of uvicorn's
# stock class are 1.2 million objects, and with Python's 10 there were eleven passes of up to 1.0 s
# while they came. Younger generations stay as they are: their passes took 6 ms at most, and 20 ms
# to 100 ms where they were made larger.
FULL_COLLECTION_THRESHOLD = 150


class SharedListener(socket.socket):
    """One more descriptor of a listening socket, which a loop may close without ending it."""

    connections_waiting_max = 0

    def listen(self, backlog: int = 0, /) -> None:
        """Keep the queue as it is.

        asyncio passes how many sockets it takes at once here, and that is not the same number.
        """
        super().listen(self.connections_waiting_max)


class Server(uvicorn.Server):
    """Uvicorn's server, which never runs out of descriptors and obeys a second signal.

    When the process has used up the descriptors that connections may have, the listener is left
    alone: who comes then waits in the kernel's queue, and nobody is refused.

    Args:
        config: What is served.
        descriptors_spare: Descriptors that connections may not have.
        parent_id: Process whose worker this is; 0 for none. A worker ends when its parent has.
    """

    def __init__(
        self, config: uvicorn.Config, *, descriptors_spare: int = 64, parent_id: int = 0
    ) -> None:
        super().__init__(config)
        self.descriptors = Descriptors(read_descriptors_max(), descriptors_spare)
        self.parent_id = parent_id
        self.listeners: list[socket.socket] = []
        self.is_paused = False
        # Told that descriptors are short, and not yet that they are free again.
        self.is_shortage_told = False
        # Connections until descriptors are counted anew.
        self._unchecked_count = 1
        self._shared: list[SharedListener] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen.

        Raises:
            SystemExit: The application could not start (status 3).
        """
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=[])
        self.listeners = sockets or []
        settle_memory()
        await self._listen()

    async def _listen(self) -> None:
        """Have the loop take connections from descriptors of its own."""
        loop = asyncio.get_running_loop()
        # asyncio's loops take as many sockets at once as they are told; uvloop takes one.
        burst = ACCEPT_BURST if _is_asyncio(loop) else self.config.backlog
        self._shared, self.servers = [], []
        for listener in self.listeners:
            shared = SharedListener(fileno=os.dup(listener.fileno()))
            shared.connections_waiting_max = self.config.backlog
            self._shared.append(shared)
            server = await loop.create_server(
                self.create_protocol, sock=shared, ssl=self.config.ssl, backlog=burst
            )
            self.servers.append(server)
        PROCESS.is_accepting = True

    def create_protocol(self) -> asyncio.Protocol:
        """Make the protocol of a connection that the loop has just taken."""
        self._unchecked_count -= 1
        if self._unchecked_count <= 0:
            self._check_descriptors()
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=self._loop,
        )

    def _check_descriptors(self) -> None:
        """Count what is free. Half of it may be taken before it is counted again.

        The other half is for what else the process opens meanwhile.
        """
        free_count = self.descriptors.count_free()
        self._unchecked_count = (free_count + 1) // 2
        if free_count <= 0 and not self.is_paused:
            self._pause()

    def _pause(self) -> None:
        """Leave the listener alone."""
        assert self._loop is not None
        self.is_paused = True
        PROCESS.is_accepting = False
        PROCESS.accept_pause_count += 1
        for shared, server in zip(self._shared, self.servers, strict=True):
            # We are inside of an accept. What asyncio has taken with this socket still needs the
            # server; what uvloop has taken is this socket alone, and it needs the handle.
            if _is_asyncio(self._loop):
                self._loop.remove_reader(shared)
            self._loop.call_soon(server.close)
        if not self.is_shortage_told:
            self.is_shortage_told = True
            logger.warning(
                "%d of the %d file descriptors that the system lets this process have are kept in "
                "reserve and the rest is in use, with %d connections: takes no new ones until some "
                "are free, and who comes meanwhile waits; raise 'ulimit -n', or set "
                "WIREBELL_CONNECTIONS_MAX to refuse them",
                self.descriptors.limit - self.descriptors.threshold,
                self.descriptors.limit,
                len(self.server_state.connections),
            )

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether to go on, and with what."""
        if self.parent_id and os.getppid() != self.parent_id and not self.should_exit:
            logger.error("the parent process %d has gone: its worker ends", self.parent_id)
            self.should_exit = True
        if not self.should_exit and (
            self.is_paused or (self.is_shortage_told and counter % 10 == 0)
        ):
            await self._resume()
        return await super().on_tick(counter)

    async def _resume(self) -> None:
        """Serve the listener again if there is room, and say so once there is enough of it.

        One free descriptor is enough to take one more connection, but not to call the shortage
        over: where connections come and go at the limit that would be said all the time.
        """
        free_count = self.descriptors.count_free()
        if free_count <= 0:
            return
        if self.is_paused:
            self.is_paused = False
            self._unchecked_count = (free_count + 1) // 2
            await self._listen()
        if free_count >= max(ACCEPT_BURST, self.descriptors.threshold // 100):
            self.is_shortage_told = False
            logger.warning("file descriptors are free again: takes new connections")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, and leave at the second. Called between two instructions.

        A terminal sends its Ctrl+C to workers too; they go by what their parent tells them.
        """
        if sig == signal.SIGINT and self.parent_id:
            return
        is_second = self.should_exit
        super().handle_exit(sig, frame)
        if is_second:
            self.force_exit = True
            _end_soon(sig)
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self.abort_connections)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, close connections, wait for them within the deadline, end the app."""
        loop = asyncio.get_running_loop()
        PROCESS.is_accepting = False
        deadline = self.config.timeout_graceful_shutdown
        cut = None
        if self.force_exit:
            self.abort_connections()
        elif deadline is not None:
            cut = loop.call_later(max(deadline - CUT_SECONDS, 0), self.abort_connections)
        await super().shutdown(sockets)
        if cut is not None:
            cut.cancel()

    def abort_connections(self) -> None:
        """Cut every connection that is still there."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                PROCESS.aborted_count += 1
                transport.abort()


def _is_asyncio(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell one of asyncio's own loops, which are written in Python."""
    return isinstance(loop, asyncio.BaseEventLoop)


def _end_soon(number: int) -> None:
    """Have the kernel remind us to end by this signal, in case that nothing else works.

    What may hang then is the application: a thread, or a task that does not let itself be
    cancelled. Windows has no such timer.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, FORCED_SECONDS)


class Worker(Process):
    """A worker process as its parent sees it, and what runs in it."""

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], *, descriptors_spare: int
    ) -> None:
        super().__init__(config, sockets)
        self.descriptors_spare = descriptors_spare
        self.parent_id = os.getpid()
        self.asked_at: float | None = None

    @property
    def server(self) -> Server:
        """The server that runs in the worker."""
        if not isinstance(self._server, Server):
            self._server = Server(
                self.config, descriptors_spare=self.descriptors_spare, parent_id=self.parent_id
            )
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Run in the worker."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes on what it means
        super().target(sockets)

    def is_answering(self, now: float, seconds_max: float) -> bool:
        """Tell whether the last question was answered, and ask the next; waits for nothing."""
        try:
            while self.parent_conn.poll():
                self.parent_conn.recv()
                self.asked_at = None
            if self.asked_at is None:
                self.parent_conn.send(b"ping")
                self.asked_at = now
        except (OSError, EOFError):
            return False
        return now - self.asked_at < seconds_max


class Workers(Multiprocess):
    """Uvicorn's supervisor, which waits for nothing that a second signal could not end.

    Uvicorn's own asks each worker and waits for the answer, and joins those it ended; signals wait
    as long.
    """

    processes: list[Worker]  # type: ignore[assignment]

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], *, descriptors_spare: int
    ) -> None:
        super().__init__(config, sockets)
        self.descriptors_spare = descriptors_spare
        # Told to end while the others go on: replaced, or one too many.
        self.leaving: list[Worker] = []
        self.ends_asked_count = 0
        self._replaced_at = -math.inf
        for number in uvicorn.server.HANDLED_SIGNALS:
            signal.signal(number, self.receive_end)

    def receive_end(self, number: int, _frame: FrameType | None) -> None:
        """Take note of a signal to end. Called between two instructions, so it takes no lock."""
        self.ends_asked_count += 1
        self.signal_queue.append(number)

    def run(self) -> None:
        """Start the workers, replace those that die, and end them when told."""
        logger.info("Started parent process [%d]", os.getpid())
        self.init_processes()
        while not self.should_exit.is_set():
            time.sleep(LOOK_SECONDS)
            self.handle_signals()
            self.keep_subprocess_alive()
        # Clients that come now are to be refused, and not to wait for nobody.
        for sock in self.sockets:
            sock.close()
        self.terminate_all()
        self.join_all()
        logger.info("Stopping parent process [%d]", os.getpid())

    def create_worker(self) -> Worker:
        """Start one more."""
        worker = Worker(self.config, self.sockets, descriptors_spare=self.descriptors_spare)
        worker.start()
        return worker

    def init_processes(self) -> None:
        """Start all."""
        self.processes = [self.create_worker() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Replace workers that died, or answer nothing; give up if one cannot start."""
        now = time.monotonic()
        self.leaving = [worker for worker in self.leaving if worker.process.is_alive()]
        if self.should_exit.is_set() or now - self._replaced_at < REPLACE_SECONDS:
            return
        for index, worker in enumerate(self.processes):
            is_alive = worker.process.is_alive()
            if is_alive and worker.is_answering(now, self.config.timeout_worker_healthcheck):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                # It would fail again in the same way.
                logger.error("worker process [%s] could not start: ends", worker.pid)
                self.should_exit.set()
                return
            logger.error(
                "worker process [%s] %s: starts another",
                worker.pid,
                "did not answer" if is_alive else f"ended with status {worker.exitcode}",
            )
            self._replaced_at = now
            self.processes[index] = self.create_worker()

    def restart_all(self) -> None:
        """Replace all workers, one after the other, each when the new one serves."""
        for index, old in enumerate(list(self.processes)):
            new = self.create_worker()
            if not self._wait_ready(new):
                new.kill()
                if not self.ends_asked_count:
                    logger.error("new worker [%s] does not serve: keeps the old ones", new.pid)
                return
            old.terminate()
            self.leaving.append(old)
            self.processes[index] = new

    def _wait_ready(self, worker: Worker) -> bool:
        """Wait until a worker serves; false when it died, took too long, or all is to end."""
        deadline = time.monotonic() + self.config.timeout_worker_healthcheck
        while time.monotonic() < deadline and worker.process.is_alive():
            if self.ends_asked_count:
                return False
            if worker.is_ready(timeout=LOOK_SECONDS):
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def handle_ttin(self) -> None:
        """Start one more, at a signal."""
        logger.info("Received SIGTTIN, starting one more worker.")
        self.processes_num += 1
        self.processes.append(self.create_worker())

    def handle_ttou(self) -> None:
        """End one, at a signal; the last one stays."""
        if self.processes_num <= 1:
            logger.info("Received SIGTTOU, and keeping the only worker.")
            return
        logger.info("Received SIGTTOU, ending one worker.")
        self.processes_num -= 1
        worker = self.processes.pop()
        worker.terminate()
        self.leaving.append(worker)

    def join_all(self) -> None:
        """Wait for all workers. At a second signal they are told again, and then ended."""
        forced_at: float | None = None
        while alive := [w for w in (*self.processes, *self.leaving) if w.process.is_alive()]:
            now = time.monotonic()
            if self.ends_asked_count > 1 and forced_at is None:
                forced_at = now
                for worker in alive:
                    worker.process.terminate()
            elif forced_at is not None and now - forced_at > KILL_SECONDS:
                for worker in alive:
                    worker.process.kill()
            time.sleep(LOOK_SECONDS / 4)


def serve(config: uvicorn.Config, listener: socket.socket, *, descriptors_spare: int = 64) -> None:
    """Serve until a signal ends it.

    Args:
        config: What is served, and by how many workers.
        listener: From `create_listener`.
        descriptors_spare: Descriptors of each process that connections may not have.

    Raises:
        SystemExit: The only process could not start (status 3, as uvicorn's).
    """
    if config.workers > 1:
        Workers(config, [listener], descriptors_spare=descriptors_spare).run()
        return
    server = Server(config, descriptors_spare=descriptors_spare)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return  # the drain is over; uvicorn ends with status 0 then
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def create_listener(
    host: str, port: int, *, backlog: int, tcp_user_timeout_seconds: float
) -> socket.socket:
    """Listen on an address, with a socket that workers can inherit.

    Args:
        host: IPv4 or IPv6 address, or a name.
        port: 0 takes a free one.
        backlog: Connections that may wait to be taken; the kernel has a bound of its own.
        tcp_user_timeout_seconds: Time that a peer may acknowledge nothing before the kernel drops
            it. Accepted sockets inherit it. Only Linux has this option (RFC 5482); elsewhere such
            a peer holds its socket until TCP gives up.

    Raises:
        OSError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=backlog)
    listener.set_inheritable(True)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(tcp_user_timeout_seconds * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def compute_drain_seconds(settings: Settings) -> int:
    """Compute how long a process may take to end, for ``timeout_graceful_shutdown``.

    Connections are closed over a window, the last of them has its time to answer, and then tasks
    have a moment to end.
    """
    last = settings.drain_window_seconds + settings.close_timeout_seconds
    return math.ceil(last + 2 * CUT_SECONDS)


def raise_file_limit(connections_max: int, descriptors_spare: int) -> None:
    """Take as many file descriptors as the system lets us: each connection is one.

    Args:
        connections_max: 0 is no limit. What the system cannot give is said in the log.
        descriptors_spare: As in `Settings`.
    """
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows has no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:  # pragma: no cover - macOS has one more bound.
            logger.warning("the limit of open files stays at %d: %s", soft, error)
    descriptors = Descriptors(read_descriptors_max(), descriptors_spare)
    if descriptors.limit and descriptors.threshold < connections_max:
        logger.warning(
            "the system lets each process have %d open files, and that is fewer than the %d "
            "connections it may have: from about %d on it takes no new ones until others end; "
            "raise 'ulimit -n', or lower WIREBELL_CONNECTIONS_MAX",
            descriptors.limit,
            connections_max,
            descriptors.threshold,
        )


def settle_memory() -> None:
    """Keep the garbage collector from walking over everything again and again.

    What lives after the start lives until the end: it is taken out of all passes.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_THRESHOLD)


def announce(listener: socket.socket, name: str, path: str) -> threading.Thread:
    """Print the address once the server answers there, from a thread of its own.

    Args:
        listener: Where it listens.
        name: What answers, as the line says it.
        path: Answers 200 when all is well.
    """
    host, port = listener.getsockname()[:2]
    thread = threading.Thread(target=_announce, args=(host, port, name, path), daemon=True)
    thread.start()
    return thread


def _announce(host: str, port: int, name: str, path: str) -> None:
    """Ask until there is an answer, and print the line."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while time.monotonic() < deadline:
        if is_answering(shown, port, path):
            address = f"[{shown}]" if ":" in shown else shown
            sys.stdout.write(f"{name} answers on http://{address}:{port}\n")
            sys.stdout.flush()
            return
        time.sleep(0.1)
    logger.error("%s does not answer on port %d after %d s", name, port, ANSWER_SECONDS_MAX)


def is_answering(host: str, port: int, path: str) -> bool:
    """Ask the server for its health."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
