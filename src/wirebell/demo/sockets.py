"""The article's sockets, each on the route and with the wire format that it has there."""

import re
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, WebSocket

from wirebell import BadRequest, Identity
from wirebell.demo.credentials import GateDep, Signer, find_user, read_first_message
from wirebell.demo.live import CHAT, board, rt

__all__ = ("router",)

router = APIRouter(tags=["article"])

CLIENT_ID = re.compile(r"-?[0-9]{1,100}")


@router.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    """Echo what comes, and beat."""
    await rt.attach(
        websocket, on_text=lambda text: f"Message received: {text}", heartbeat="heartbeat"
    )


@router.websocket("/ws/notifications/{topic}")
async def notifications(websocket: WebSocket, topic: str) -> None:
    """Tell of a topic; what the peer sends is read and dropped, as in the article."""
    await rt.attach(websocket, channels=[f"topic:{topic}"], on_text=ignore)


@router.websocket("/ws/redis/{channel}")
async def subscribe(websocket: WebSocket, channel: str) -> None:
    """Tell of a channel that any process can publish to."""
    await rt.attach(websocket, channels=[f"redis:{channel}"], on_text=ignore)


@router.post("/publish/{channel}")
async def publish(
    channel: Annotated[str, Path(max_length=200)], message: Annotated[str, Query()]
) -> dict[str, str | int]:
    """Publish through the broker; the answer has the publication's position."""
    try:
        position = await rt.publish(f"redis:{channel}", message)
    except BadRequest as error:
        raise HTTPException(422, error.message) from error
    return {"message": "Published", "offset": position.offset, "epoch": position.epoch}


@router.websocket("/ws/secure/{topic}")
async def secure(websocket: WebSocket, topic: str, gate: GateDep) -> None:
    """Let signed-in users talk about a topic; they also hear what its open route hears."""
    if gate.refusal is not None:
        await rt.refuse(websocket, 4401, gate.refusal, subprotocol=gate.subprotocol)
        return
    speaker = gate.identity

    async def sign_in(text: str) -> Identity:
        nonlocal speaker
        signer: Signer = websocket.app.state.signer
        async with websocket.app.state.sessions() as session:
            speaker = await find_user(session, signer.check(read_first_message(text)))
        return speaker

    async def say(text: str) -> None:
        assert speaker is not None
        await rt.publish(f"secure:{topic}", f"{speaker.user_id}: {text}")

    await rt.attach(
        websocket,
        channels=[f"secure:{topic}", f"topic:{topic}"],
        on_text=say,
        first_text=sign_in if speaker is None else None,
        user_id=speaker.user_id if speaker is not None else "",
        expires_at=speaker.expires_at if speaker is not None else None,
        subprotocol=gate.subprotocol,
    )


@router.websocket("/ws/{client_id}")
async def room(websocket: WebSocket, client_id: str) -> None:
    """Let everybody talk in one room, under a number of their choice."""
    # Not `int` in the route: Python refuses to read more than 4,300 digits, which would be a 500.
    if not CLIENT_ID.fullmatch(client_id):
        await not_found(websocket)
        return
    name = f"Client {int(client_id)}"

    async def say(text: str) -> None:
        await rt.publish(CHAT, f"{name}: {text}")

    async def leave() -> None:
        await rt.publish(CHAT, f"{name} left the chat")

    await rt.attach(websocket, channels=[CHAT], on_text=say, on_close=leave)


@router.websocket("/{path:path}")
async def not_found(websocket: WebSocket) -> None:
    """Answer a route that does not exist as HTTP does."""
    raise HTTPException(404, f"no socket at {websocket.url.path!r:.200}")


@router.get("/online")
async def online() -> dict[str, list[str] | int]:
    """Tell who has the page open: users by name, guests by number."""
    members = (await board().presence()).values()
    users = {member.user_id for member in members if member.user_id}
    guests = sum(not member.user_id for member in members)
    return {"users": sorted(users), "guests": guests}


def ignore(text: str) -> None:
    """Take a message and do nothing with it."""
