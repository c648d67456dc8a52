"""One command of a client: counted, made to wait where the peer does not read, done and answered.

A receiver hands over one at a time, and sends what comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

from wirebell.client import HANDLERS, Client
from wirebell.client_requests import fail, handle_publish, refuse
from wirebell.errors import (
    ClientDisconnected,
    CommandError,
    ConnectionClosed,
    DisconnectCode,
    ErrorCode,
    ProtocolError,
    create_disconnect,
)
from wirebell.protocol.messages import Command, Reply

__all__ = ("handle_command",)

logger = logging.getLogger(__name__)

# Between two looks at whether a peer reads.
LOOK_SECONDS = 0.05


def handle_command(
    client: Client, name: str, command: Command
) -> Reply | Awaitable[Reply | None] | None:
    """Do what a command asks for; what fails is a reply too.

    Args:
        client: Whose it is.
        name: Of the request, one of `wirebell.session.RULES`.
        command: It.

    Returns:
        The reply, or ``None`` where none belongs; at once where nothing has to wait.

    Raises:
        ClientDisconnected: The connection is to be ended; also when awaited.
    """
    buckets = client.buckets
    if buckets is not None and not buckets.take(name, time.monotonic()):
        return _limit(command.id)
    if name == "publish" and command.publish is not None:
        return handle_publish(client, command.id, command.publish)
    node = client.node
    if node.hub.reply_bytes(client.connection) > node.settings.send_queue_bytes_max:
        return _answer_later(client, name, command)
    return _answer(client, name, command)


async def _answer_later(client: Client, name: str, command: Command) -> Reply | None:
    """Do a command when the peer has taken the answers before: they must not pile up here.

    After a whole interval of pings it is done all the same: the ring cuts who takes nothing.
    """
    connection, loop = client.connection, asyncio.get_running_loop()
    last = loop.time() + client.node.settings.ping_interval_seconds
    # The tick goes. Then it is asked: a carrier does not tell of a peer that is gone.
    await asyncio.sleep(0)
    while not (connection.is_writable or connection.is_closing or connection.is_closed):
        if loop.time() >= last:
            break
        await asyncio.sleep(LOOK_SECONDS)
    return await _answer(client, name, command)


def _limit(command_id: int) -> Reply | None:
    """Refuse a command that comes too soon; what has no answer ends the connection."""
    if not command_id:
        raise ClientDisconnected(create_disconnect(DisconnectCode.TOO_MANY_REQUESTS))
    return refuse(command_id, ProtocolError(ErrorCode.TOO_MANY_REQUESTS))


async def _answer(client: Client, name: str, command: Command) -> Reply | None:
    """Run the handler of a command that may have to wait."""
    try:
        result = await HANDLERS[name](client, getattr(command, name))
    except CommandError as error:
        if name == "connect":
            logger.info("a connection was refused: %d %s", error.code, error.message)
        return refuse(command.id, error)
    except ConnectionClosed:
        return None
    except ClientDisconnected:
        raise
    except Exception:  # noqa: BLE001 - it is logged there.
        return fail(client, name, command.id)
    if result is None or command.id == 0:
        return None
    answer: dict[str, Any] = {name: result}
    return Reply(command.id, **answer)
