"""Handshakes that SDKs sent before they were mended, and that are still out there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transcripts.links import open_socket

if TYPE_CHECKING:
    from tests.e2e.sdk.targets import Target

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_empty_subprotocol(target: Target) -> None:
    """`centrifuge-python` 0.5 sends an empty ``Sec-WebSocket-Protocol`` in JSON."""
    headers = {"Sec-WebSocket-Protocol": ""}
    socket, answer = await open_socket(target.ws_url, headers, is_push=False)

    assert 101 == answer.status
    assert socket is not None
    await socket.close()
