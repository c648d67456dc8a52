"""How the server API is described in OpenAPI: requests, results, errors and examples."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import msgspec

from wirebell.http_api import messages
from wirebell.http_api.calls import Method

__all__ = ("describe_batch", "describe_method")

_MAP = "#/$defs/"

_ERROR_EXAMPLE = {"error": {"code": 102, "message": "unknown channel"}}
_BATCH_EXAMPLE = {
    "commands": [
        {"publish": {"channel": "news:1", "data": {"text": "hello"}}},
        {"presence_stats": {"channel": "news:1"}},
    ]
}


def describe_method(method: Method) -> dict[str, Any]:
    """Return what `fastapi.APIRouter.add_api_route` is told of a method."""
    answer = {
        "type": "object",
        "properties": {
            "result": create_schema(method.result),
            "error": create_schema(messages.APIError),
        },
    }
    return _describe(method.name, method.request, method.example, answer)


def describe_batch() -> dict[str, Any]:
    """Return the same of ``batch``."""
    answer = create_schema(messages.BatchResult)
    return _describe("batch", messages.BatchRequest, _BATCH_EXAMPLE, answer)


def create_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a type's JSON Schema in one piece, without references."""
    # FastAPI writes into what it is given: everybody gets a copy.
    return deepcopy(_find_schema(kind))


@cache
def _find_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the same, made once: it takes milliseconds."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    inlined: dict[str, Any] = _inline(schema, definitions)
    return inlined


def _describe(
    name: str,
    request: type[msgspec.Struct],
    example: Mapping[str, object],
    answer: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe a route whose body FastAPI does not read."""
    return {
        "operation_id": f"wirebell_{name}",
        "summary": name.replace("_", " ").capitalize(),
        "description": request.__doc__ or "",
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": create_schema(request), "example": example}
                },
            }
        },
        "responses": {
            200: {
                "description": "A result or an error.",
                "content": {
                    "application/json": {"schema": answer, "example": _ERROR_EXAMPLE},
                },
            },
            400: {"description": "The body is no JSON of this shape."},
            401: {"description": "The key is missing or wrong."},
            413: {"description": "The body is too long."},
        },
    }


def _inline(value: Any, definitions: Mapping[str, Any]) -> Any:
    """Put definitions in the place of references; no type here holds itself."""
    if isinstance(value, list):
        return [_inline(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str):
        return _inline(definitions[reference.removeprefix(_MAP)], definitions)
    return {key: _inline(item, definitions) for key, item in value.items()}
