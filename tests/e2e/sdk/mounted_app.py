"""An application with Wirebell below ``/realtime``, with the options of `wirebell serve`."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tests.e2e.sdk.targets import CONFIG_VARIABLE, MOUNT_PATH
from wirebell import Caller, CommandError, Realtime
from wirebell.configuration import load

configuration = load(Path(os.environ[CONFIG_VARIABLE]), {}, {})

rt = Realtime(
    configuration.settings,
    tokens=configuration.connection_tokens,
    namespaces=configuration.namespaces,
    without_namespace=configuration.without_namespace,
    clients=configuration.client,
    transports=configuration.transports,
    api=configuration.api,
)
app = FastAPI(lifespan=rt.lifespan)
rt.mount(app, MOUNT_PATH)


class NotEnoughError(CommandError):
    """An error of the application's own."""

    code = 1000


@rt.rpc("sum")
def add(caller: Caller, data: dict[str, int]) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": data["a"] + data["b"]}


@rt.rpc("fail")
def fail(caller: Caller, data: Any) -> None:
    """Fail as an application does."""
    raise NotEnoughError("not enough")
