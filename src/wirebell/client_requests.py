"""Commands that change nothing of their client: they ask the node, or the application."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any

import msgspec

from wirebell.deferred import Deferred
from wirebell.errors import (
    BrokerError,
    ClientDisconnected,
    CommandError,
    ErrorCode,
    ProtocolError,
)
from wirebell.model import Publication, Published
from wirebell.protocol import messages
from wirebell.protocol.messages import Reply

if TYPE_CHECKING:
    from wirebell.client import Client

__all__ = (
    "LateReply",
    "fail",
    "handle_history",
    "handle_presence",
    "handle_presence_stats",
    "handle_publish",
    "handle_rpc",
    "handle_send",
    "refuse",
)

logger = logging.getLogger(__name__)


async def handle_history(
    client: Client, request: messages.HistoryRequest
) -> messages.HistoryResult:
    """Read what a channel keeps."""
    client.access.check_history(client, request.channel)
    longest = client.node.settings.history_publications_max
    limit = longest if request.limit < 0 else min(request.limit, longest)
    part = await client.node.history(
        request.channel, since=request.since, limit=limit, reverse=request.reverse
    )
    since = request.since
    if since is not None and since.epoch not in {"", part.top.epoch}:
        raise ProtocolError(ErrorCode.UNRECOVERABLE_POSITION)
    return messages.HistoryResult(part.publications, part.top.epoch, part.top.offset)


async def handle_presence(
    client: Client, request: messages.PresenceRequest
) -> messages.PresenceResult:
    """Read who is in a channel."""
    client.access.check_presence(client, request.channel)
    return messages.PresenceResult(await client.node.presence(request.channel))


async def handle_presence_stats(
    client: Client, request: messages.PresenceStatsRequest
) -> messages.PresenceStatsResult:
    """Count who is in a channel."""
    client.access.check_presence(client, request.channel)
    members = await client.node.presence(request.channel)
    users = {info.user_id for info in members.values()}
    return messages.PresenceStatsResult(len(members), len(users))


async def handle_rpc(client: Client, request: messages.RPCRequest) -> messages.RPCResult:
    """Call a remote procedure."""
    return messages.RPCResult(await client.access.rpc(client, request.method, bytes(request.data)))


async def handle_send(client: Client, request: messages.SendRequest) -> None:
    """Take a message that has no answer, whatever becomes of it.

    Raises:
        ClientDisconnected: The connection is to be ended.
    """
    try:
        await client.access.send(client, bytes(request.data))
    except CommandError as error:
        logger.info("a message was refused: %d %s", error.code, error.message)
    except ClientDisconnected:
        raise
    except Exception:
        logger.exception("send failed", extra={"client_id": client.client_id})


def handle_publish(
    client: Client, command_id: int, request: messages.PublishRequest
) -> Reply | Awaitable[Reply | None] | None:
    """Publish what a client sent; its own copy comes before the reply.

    Returns:
        As `wirebell.client_commands.handle_command`.
    """
    try:
        checked = client.access.publish(client, request)
        if isinstance(checked, Publication):
            published = client.node.begin_publish(request.channel, checked)
            if isinstance(published, Published):
                return Reply(command_id, publish=_PUBLISHED)
            if isinstance(published, Deferred):
                return LateReply(client, command_id, published)
            return _publish_slowly(client, command_id, request, checked, published)
    except CommandError as error:
        return refuse(command_id, error)
    except ClientDisconnected:
        raise
    except Exception:  # noqa: BLE001 - it is logged there.
        return fail(client, "publish", command_id)
    if checked is None:
        return Reply(command_id, publish=_PUBLISHED)
    return _publish_slowly(client, command_id, request, checked, None)


class LateReply(msgspec.Struct, frozen=True, eq=False):
    """The reply to a publication that the broker still has: to be awaited, or read afterwards.

    Nearly all that waits for a broker is this, and a task for each would cost more than the rest.

    Attributes:
        client: Who published.
        command_id: Of the command.
        published: What becomes of it.
    """

    client: Client
    command_id: int
    published: Deferred[Published]

    def __await__(self) -> Generator[Any, None, Reply | None]:
        """Wait for the broker, and read the reply."""
        return self._wait().__await__()

    async def _wait(self) -> Reply | None:
        """Wait for the broker, and read the reply."""
        with contextlib.suppress(Exception):
            await self.published
        return self.read()

    def read(self) -> Reply | None:
        """Read the reply; the broker has answered."""
        try:
            self.published.result()
        except CommandError as error:
            return refuse(self.command_id, error)
        except Exception:  # noqa: BLE001 - it is logged there.
            return fail(self.client, "publish", self.command_id)
        return Reply(self.command_id, publish=_PUBLISHED)


async def _publish_slowly(
    client: Client,
    command_id: int,
    request: messages.PublishRequest,
    checked: Publication | Awaitable[Publication | None],
    published: Awaitable[Published] | None,
) -> Reply | None:
    """Wait for whoever checks, then for the broker."""
    try:
        if isinstance(checked, Awaitable):
            publication = await checked
            if publication is not None:
                await client.node.publish(request.channel, publication)
        elif published is not None:
            await published
    except CommandError as error:
        return refuse(command_id, error)
    except ClientDisconnected:
        raise
    except Exception:  # noqa: BLE001 - it is logged there.
        return fail(client, "publish", command_id)
    return Reply(command_id, publish=_PUBLISHED)


def refuse(command_id: int, error: CommandError) -> Reply | None:
    """Answer a command with an error; one without an id has no answer."""
    if command_id == 0:
        return None
    return Reply(
        command_id, error=messages.Error(int(error.code), error.message, temporary=error.temporary)
    )


def fail(client: Client, name: str, command_id: int) -> Reply | None:
    """Answer a command that broke on our side, in ``except``: the client may try again."""
    error = sys.exception()
    if isinstance(error, BrokerError):
        # Everybody meets a broker that is away; one in a while is told.
        client.node.note_failure(error)
    else:
        logger.exception("%s failed", name, extra={"client_id": client.client_id})
    return refuse(command_id, ProtocolError(ErrorCode.INTERNAL))


_PUBLISHED = messages.PublishResult()
