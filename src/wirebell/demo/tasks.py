"""The task board and the page's chat: stored first, then told to everybody."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from sqlalchemy import Select, select

from wirebell.demo.credentials import MaybeUser
from wirebell.demo.db import Db, Message, Task
from wirebell.demo.live import board, rt
from wirebell.demo.models import (
    MessageCreate,
    MessageEvent,
    MessageOut,
    TaskChange,
    TaskCreate,
    TaskCreated,
    TaskEvent,
    TaskOut,
)

__all__ = ("router",)

router = APIRouter(tags=["taskboard"])

# Ids are 64-bit in every database; a larger one is nobody's.
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="only ids below this one")]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.post("/tasks", status_code=201)
async def create_task(task: TaskCreate, user: MaybeUser, session: Db) -> TaskCreated:
    """Create a task; everybody hears of it once it is stored."""
    row = Task(
        title=task.title,
        description=task.description,
        created_at=datetime.now(UTC),
        created_by=user,
    )
    session.add(row)
    await session.commit()
    created = TaskOut.model_validate(row)
    await rt.publish("topic:tasks", f"New task created: {created.title}")
    await board().publish(TaskEvent(type="task.created", task=created))
    return TaskCreated(task=created)


@router.get("/tasks")
async def list_tasks(
    request: Request, response: Response, session: Db, limit: Limit = 100, before: Before = None
) -> list[TaskOut]:
    """List tasks, newest first; the Link header leads to older ones (RFC 8288)."""
    query = select(Task).order_by(Task.id.desc())
    if before is not None:
        query = query.where(Task.id < before)
    rows = await _page(request, response, session, query, limit)
    return [TaskOut.model_validate(row) for row in rows]


@router.patch("/tasks/{task_id}")
async def change_task(task_id: Id, change: TaskChange, user: MaybeUser, session: Db) -> TaskOut:
    """Complete a task, or open it again."""
    row = await session.get(Task, task_id, with_for_update=True)
    if row is None:
        raise HTTPException(404, f"task {task_id} does not exist")
    if change.completed != (row.completed_at is not None):
        row.completed_at = datetime.now(UTC) if change.completed else None
        row.completed_by = user if change.completed else None
        await session.commit()
        await board().publish(TaskEvent(type="task.updated", task=TaskOut.model_validate(row)))
    return TaskOut.model_validate(row)


@router.post("/messages", status_code=201)
async def send_message(message: MessageCreate, user: MaybeUser, session: Db) -> MessageOut:
    """Say something in the page's chat."""
    row = Message(text=message.text, sent_at=datetime.now(UTC), sent_by=user)
    session.add(row)
    await session.commit()
    said = MessageOut.model_validate(row)
    await board().publish(MessageEvent(message=said))
    return said


@router.get("/messages")
async def list_messages(
    request: Request, response: Response, session: Db, limit: Limit = 50, before: Before = None
) -> list[MessageOut]:
    """List what was said, newest first; the Link header leads to older messages."""
    query = select(Message).order_by(Message.id.desc())
    if before is not None:
        query = query.where(Message.id < before)
    rows = await _page(request, response, session, query, limit)
    return [MessageOut.model_validate(row) for row in rows]


async def _page(
    request: Request, response: Response, session: Db, query: Select[Any], limit: int
) -> list[Any]:
    """Read one page, and link to the next when there is one."""
    rows = list(await session.scalars(query.limit(limit + 1)))
    if len(rows) > limit:
        rows.pop()
        url = request.url.include_query_params(limit=limit, before=rows[-1].id)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return rows
