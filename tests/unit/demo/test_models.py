"""The shapes of the task board's API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

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

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK = TaskOut(
    id=1,
    title="t",
    description="",
    created_at=NOW,
    created_by=None,
    completed_at=None,
    completed_by=None,
)


def test_texts_are_trimmed() -> None:
    """Space around a title and a message is nothing; within a description it stays."""
    task = TaskCreate(title=" milk ", description=" two\n")

    assert ("milk", " two\n") == (task.title, task.description)
    assert "hi" == MessageCreate(text=" hi\n").text


def test_foreign_fields_are_ignored() -> None:
    """What the article sends besides is no error and decides nothing."""
    task = TaskCreate.model_validate({"title": "t", "id": 7, "created_at": "never"})

    assert {"title": "t", "description": ""} == task.model_dump()


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (TaskCreate, {}),
        (TaskCreate, {"title": "  "}),
        (TaskCreate, {"title": "x" * 201}),
        (TaskCreate, {"title": "a\x00"}),
        (TaskCreate, {"title": "a", "description": "x" * 10_001}),
        (TaskCreate, {"title": "a", "description": "\x00"}),
        (MessageCreate, {"text": " "}),
        (MessageCreate, {"text": "x" * 2_001}),
        (MessageCreate, {"text": "\x00"}),
        (TaskChange, {}),
        (TaskChange, {"completed": None}),
    ],
)
def test_bounds(model: type[BaseModel], data: dict[str, Any]) -> None:
    """What is empty, too long, or cannot be stored is refused."""
    with pytest.raises(ValidationError):
        model.model_validate(data)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (TaskCreate, {"title": "x" * 200, "description": "x" * 10_000}),
        (TaskCreate, {"title": "line\nfeed", "description": "späť ☃\n\n"}),
        (MessageCreate, {"text": "x" * 2_000}),
    ],
)
def test_at_the_bounds(model: type[BaseModel], data: dict[str, Any]) -> None:
    """The longest values are taken as they are."""
    assert data == model.model_validate(data).model_dump()


def test_events() -> None:
    """Events say their type and what happened."""
    message = MessageOut(id=1, text="hi", sent_by="ann", sent_at=NOW)

    task_event = TaskEvent(type="task.created", task=TASK).model_dump(mode="json")
    message_event = MessageEvent(message=message).model_dump(mode="json")

    assert ("task.created", 1) == (task_event["type"], task_event["task"]["id"])
    assert ("message.created", "2026-01-01T00:00:00Z") == (
        message_event["type"],
        message_event["message"]["sent_at"],
    )
    assert "Task created successfully" == TaskCreated(task=TASK).message


def test_instants_have_a_time_zone() -> None:
    """A time without a zone never leaves."""
    with pytest.raises(ValidationError, match="timezone"):
        TASK.model_validate(TASK.model_dump() | {"created_at": NOW.replace(tzinfo=None)})
