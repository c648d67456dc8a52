"""What OpenAPI says of the server API."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.unit.orders import running
from wirebell.http_api.calls import METHODS
from wirebell.http_api.schema import create_schema

pytestmark = pytest.mark.anyio


async def test_every_method_is_described() -> None:
    """Each method has its request, its result, an example and a key; what is not there has none."""
    async with running() as board:
        document = board.app.openapi()

    hidden = {name for name in METHODS if name.startswith(("map_", "shared_poll_"))} | {"rpc"}
    names = {path.removeprefix("/api/") for path in document["paths"]}
    assert {*METHODS, "batch"} - hidden == names
    for path in document["paths"].values():
        operation = path["post"]
        content = operation["requestBody"]["content"]["application/json"]
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert operation["description"]
        assert content["example"].keys() <= content["schema"]["properties"].keys()
        assert {"result", "error"} & answer["properties"].keys() or "replies" in answer[
            "properties"
        ]
        assert operation["security"]
    assert "#/$defs" not in json.dumps(document)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_examples_are_requests(name: str) -> None:
    """Each example can be read as what it is an example of."""
    method = METHODS[name]

    assert isinstance(method.decoder.decode(msgspec.json.encode(method.example)), method.request)


def test_schema_in_one_piece() -> None:
    """Nested types stand where they are used."""
    schema = create_schema(METHODS["disconnect"].request)

    reason = schema["properties"]["disconnect"]["anyOf"]
    assert "code" in json.dumps(reason)
    assert "$ref" not in json.dumps(schema)
