"""The generated module has what ``protocol/client.proto`` says; `scripts/check` compares bytes."""

from __future__ import annotations

import re

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.unit.protocol.vectors import ROOT
from wirebell.protocol import client_pb2 as pb

MESSAGE = re.compile(r"^message (\w+) \{\n?(.*?)\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (repeated )?([\w<>, ]+?) (\w+) = (\d+);", re.MULTILINE)
TYPES = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def describe(message: Descriptor) -> dict[str, tuple[int, bool, str | int]]:
    """List a message's fields: name → number, whether repeated, type."""
    fields: dict[str, tuple[int, bool, str | int]] = {}
    for field in message.fields:
        kind = field.message_type
        fields[field.name] = (
            field.number,
            field.is_repeated,
            field.type if kind is None else kind.name,
        )
    return fields


def test_fields() -> None:
    """Every message and every field is there, under its number, and no other."""
    text = (ROOT / "client.proto").read_text(encoding="utf-8")
    written = {name: FIELD.findall(body) for name, body in MESSAGE.findall(text)}
    made = pb.DESCRIPTOR.message_types_by_name

    assert len(written) > 40
    assert set(written) == set(made)
    for name, fields in written.items():
        expected: dict[str, tuple[int, bool, str | int]] = {}
        for repeated, kind, field, number in fields:
            is_map = kind.startswith("map<")
            entry = "".join(part.capitalize() for part in field.split("_")) + "Entry"
            expected[field] = (
                int(number),
                bool(repeated) or is_map,
                entry if is_map else TYPES.get(kind, kind),
            )
        assert expected == describe(made[name]), name
