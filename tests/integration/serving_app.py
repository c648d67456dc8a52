"""A tiny ASGI app and its command line; `test_serving` runs it as our own commands run theirs.

``python -m tests.integration.serving_app LOOP WORKERS HOST`` prints its address.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from wirebell.logs import log_config
from wirebell.process import PROCESS
from wirebell.server import (
    announce,
    compute_drain_seconds,
    create_listener,
    raise_file_limit,
    serve,
)
from wirebell.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BROKEN = "WIREBELL_TEST_BROKEN"


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Echo on sockets, tell of the process over HTTP, and be stuck on ``/stuck``."""
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "http":
        if scope["path"] == "/stuck":
            await asyncio.to_thread(time.sleep, 3_600)
        process = {"pid": os.getpid(), **dataclasses.asdict(PROCESS)}
        collector = {"threshold": gc.get_threshold(), "frozen": gc.get_freeze_count()}
        body = json.dumps({**process, **collector, "headers": len(scope["headers"])}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


async def live(receive: Receive, send: Send) -> None:
    """Start and end."""
    if os.environ.get(BROKEN):
        raise RuntimeError("this application does not start")
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


def main(loop: str, workers: str, host: str) -> None:
    """Serve as our commands do, on a free port."""
    settings = Settings()
    config = uvicorn.Config(
        "tests.integration.serving_app:app",
        loop=loop,
        workers=int(workers),
        lifespan="on",
        http="wirebell.uvicorn:HTTPProtocol",
        ws="wirebell.uvicorn:WebSocketProtocol",
        ws_ping_interval=None,
        log_config=log_config(),
        timeout_graceful_shutdown=compute_drain_seconds(settings),
        timeout_worker_healthcheck=60,
    )
    raise_file_limit(settings.connections_max, settings.descriptors_spare)
    listener = create_listener(host, 0, backlog=config.backlog, tcp_user_timeout_seconds=20)
    announce(listener, "It", "/")
    serve(config, listener, descriptors_spare=settings.descriptors_spare)


if __name__ == "__main__":
    main(*sys.argv[1:])
