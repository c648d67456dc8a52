"""What the task board takes and tells: the shapes of its HTTP API and of its channel."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

__all__ = (
    "BoardEvent",
    "MessageCreate",
    "MessageEvent",
    "MessageOut",
    "TaskChange",
    "TaskCreate",
    "TaskCreated",
    "TaskEvent",
    "TaskOut",
)

# PostgreSQL cannot store NUL, so nobody may send it.
NO_NUL = r"^[^\x00]*$"


class TaskCreate(BaseModel):
    """A task as people send it; ``id`` and ``created_at`` of the article are ignored."""

    title: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL),
    ]
    description: str = Field(default="", max_length=10_000, pattern=NO_NUL)


class TaskChange(BaseModel):
    """What can be changed of a task."""

    completed: bool


class MessageCreate(BaseModel):
    """Something to say."""

    text: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000, pattern=NO_NUL),
    ]


class TaskOut(BaseModel):
    """A task as it is."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    title: str
    description: str
    created_at: AwareDatetime
    created_by: str | None
    completed_at: AwareDatetime | None
    completed_by: str | None


class MessageOut(BaseModel):
    """Something that was said."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    text: str
    sent_by: str | None
    sent_at: AwareDatetime


class TaskCreated(BaseModel):
    """The article's answer, and the task as the server made it."""

    message: str = "Task created successfully"
    task: TaskOut


class BoardEvent(BaseModel):
    """What the board's channel tells; which kind it is stands in ``type``."""


class TaskEvent(BoardEvent):
    """What the board's channel tells of a task."""

    type: Literal["task.created", "task.updated"]
    task: TaskOut


class MessageEvent(BoardEvent):
    """What the board's channel tells of the chat."""

    type: Literal["message.created"] = "message.created"
    message: MessageOut
