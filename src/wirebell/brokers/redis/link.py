"""Calls of scripts, through the driver: each ends within its bound, and each error is explained.

The driver repeats nothing by itself. A call is repeated here, while its time lasts and where the
server does not do a thing twice: because it remembers the call, or because twice is once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hiredis
from redis import exceptions
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wirebell.backoff import Backoff
from wirebell.brokers.redis.addresses import Access, Address, Place
from wirebell.brokers.redis.faults import explain, explain_start
from wirebell.brokers.redis.scripts import Script
from wirebell.brokers.redis.servers import Servers, check_server
from wirebell.brokers.redis.wire import open_wire
from wirebell.errors import BrokerClosed, BrokerUnavailable, ConfigError

__all__ = ("Link",)

# Another master, or a restarted server, is there in less than a second or in many.
FIRST_RETRY_SECONDS = 0.02
LONGEST_RETRY_SECONDS = 0.5

ERRORS = (exceptions.RedisError, hiredis.HiredisError, OSError, EOFError, BrokerUnavailable)
"""What a call may fail with; time-outs are among them."""


class _TLSConnection(SSLConnection):
    """A connection of the driver with a context of ours: it knows no name but the host's."""

    def __init__(self, *, tls: Access, **options: Any) -> None:
        self.access = tls
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        """Say how to connect."""
        return {
            "host": self.host,
            "port": self.port,
            "ssl": self.access.tls,
            "server_hostname": self.access.server_name or self.host,
        }


class Link:
    """How one shard is asked. Mutable state: connections to its servers that nobody uses.

    Callers ask one thing at a time, so there are as many connections as callers.

    Args:
        place: Which shard.
        servers: Who they are.
    """

    def __init__(self, place: Place, servers: Servers) -> None:
        self.place = place
        self.servers = servers
        self.idle: dict[Address, list[Connection]] = {}
        self.is_running = False
        # Of its data, as far as one was given: `wirebell.brokers.redis.publisher` tells of it once.
        self.generation = b""

    async def start(self) -> None:
        """See whether the servers are the right ones.

        Raises:
            BrokerUnavailable: One of them cannot be reached.
            ConfigError: It refuses, or is not what the URL says.
        """
        self.is_running = True
        addresses: dict[Address, None] = {}
        for partition in range(self.servers.partition_count):
            addresses[await self.servers.find(partition)] = None
        access = self.place.access
        for address in addresses:
            try:
                wire, info = await open_wire(address, access)
                wire.abort()
            except (OSError, EOFError, hiredis.ReplyError) as error:
                if isinstance(error, TimeoutError) and access.tls is not None:
                    await _check_plain(address, access)
                raise explain_start(error).at_start(address) from error
            check_server(address, info, self.place.kind)

    async def aclose(self) -> None:
        """Let go of everything; idempotent."""
        self.is_running = False
        for address in list(self.idle):
            await self._drop(address)

    async def call(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        values: Sequence[str | bytes | int],
        *,
        partition: int = 0,
        deadline: float | None = None,
    ) -> Any:
        """Run a script, again and again where its answer was lost or the server is on its way.

        Args:
            script: What the same keys and values do once only.
            keys: All of one partition.
            values: Its other arguments.
            partition: Whose.
            deadline: Of the loop's clock; ``None`` is a whole bound from now.

        Raises:
            BrokerUnavailable: There was no answer in time, or it will be the same at any time.
            BrokerClosed: The link was closed.
        """
        loop = asyncio.get_running_loop()
        if deadline is None:
            deadline = loop.time() + self.place.access.io_seconds
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        problem: Exception | None = None
        while self.is_running:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._call_once(script, keys, values, partition)
            except ConfigError as error:
                # It was let in before: somebody changed something.
                raise BrokerUnavailable(str(error)) from error
            except ERRORS as error:
                fault = explain(error)
                if problem is None or fault.code != "TIMEOUT":
                    # That its time was over says less than why.
                    problem = error
                if not fault.is_temporary and not isinstance(error, BrokerUnavailable):
                    raise fault.at(self.place) from error
            delay = backoff.next_delay()
            if loop.time() + delay >= deadline:
                if isinstance(problem, BrokerUnavailable):
                    raise problem
                raise explain(problem).at(self.place) from problem
            await asyncio.sleep(delay)
        raise BrokerClosed("the broker was closed before it answered")

    async def _call_once(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        values: Sequence[str | bytes | int],
        partition: int,
    ) -> Any:
        """Run a script on the server that has its keys; if it has not, it is looked for anew."""
        address = await self.servers.find(partition)
        words = (len(keys), *keys, *values)
        try:
            try:
                return await self._ask(address, ("EVALSHA", script.sha, *words))
            except exceptions.NoScriptError:
                # It was restarted, or is another one; what it is told whole it remembers.
                return await self._ask(address, ("EVAL", script.body, *words))
        except exceptions.MovedError:
            self.servers.forget()
            raise
        except exceptions.AskError as error:
            target = Address(error.host, error.port)
            return await self._ask(target, ("EVAL", script.body, *words), is_asking=True)
        except (OSError, exceptions.ConnectionError, exceptions.ReadOnlyError):
            # It was restarted, or was the master: no connection to it is of use.
            self.servers.forget()
            await self._drop(address)
            raise
        except exceptions.ClusterDownError:
            self.servers.forget()
            raise

    async def _ask(
        self, address: Address, command: tuple[str | bytes | int, ...], *, is_asking: bool = False
    ) -> Any:
        """Send one command on a connection of its own, and return what it is answered."""
        idle = self.idle.get(address)
        connection = idle.pop() if idle else _create_connection(address, self.place.access)
        is_whole = False
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            # The driver packs in Python, which takes longer than all else for a full batch.
            packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # any number of words
            if is_asking:
                packed = hiredis.pack_command(("ASKING",)) + packed
            await connection.send_packed_command([packed])
            try:
                if is_asking:
                    await connection.read_response()
                answer = await connection.read_response()
            except exceptions.ResponseError:
                # An answer like any other: the connection goes on.
                is_whole = not is_asking
                raise
            is_whole = True
            return answer
        finally:
            if is_whole and self.is_running:
                self.idle.setdefault(address, []).append(connection)
            else:
                await connection.disconnect(nowait=True)

    async def _drop(self, address: Address) -> None:
        """Let go of the connections to one server."""
        for connection in self.idle.pop(address, ()):
            await connection.disconnect(nowait=True)


async def _check_plain(address: Address, access: Access) -> None:
    """Refuse a server that speaks without TLS: it waits for the end of a line that never comes.

    Raises:
        ConfigError: It is one.
    """
    try:
        wire, _ = await open_wire(address, replace(access, tls=None, password="", db=0))
        wire.abort()
    except hiredis.ReplyError:
        # It wants a password, which nobody gives it in the clear.
        pass
    except (OSError, EOFError):
        return
    raise ConfigError(
        f"Redis at {address} speaks without TLS: write redis://, or give its TLS port"
    )


def _create_connection(address: Address, access: Access) -> Connection:
    """Create a connection that repeats nothing by itself; it is not connected yet."""
    options: dict[str, Any] = {
        "db": access.db,
        "username": access.user or None,
        "password": access.password or None,
        "client_name": access.client_name or None,
        "socket_connect_timeout": access.connect_seconds,
        # The bound of the whole call ends it; what ends earlier would only be less clear.
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
    }
    kind: type[Any] = Connection
    if address.is_unix:
        kind, options["path"] = UnixDomainSocketConnection, address.host
    else:
        options |= {"host": address.host, "port": address.port}
        if access.tls is not None:
            kind, options["tls"] = _TLSConnection, access
    connection: Connection = kind(**options)
    return connection
