"""Plain FastAPI without any library: an echo, and doors with and without dependencies.

Strategy: the shortest endpoints that FastAPI's documentation would show, on uvicorn's fastest
settings (`servers.UVICORN`). The room on plain FastAPI is `article`.
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from peers.dependencies import CurrentVisitor, CurrentWork

__all__ = ("app",)

app = FastAPI()


async def answer_texts(websocket: WebSocket) -> None:
    """Answer every text by itself until the client leaves."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        return


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Serve whoever comes."""
    await answer_texts(websocket)


@app.websocket("/echo/dependencies")
async def echo_with_dependencies(
    websocket: WebSocket, visitor: CurrentVisitor, work: CurrentWork
) -> None:
    """Serve somebody."""
    work.done.append(visitor.user_id)
    await answer_texts(websocket)
