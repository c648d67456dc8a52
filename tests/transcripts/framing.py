"""Splits what transports carry into messages: plain objects that can be compared.

Bytes fields of protobuf are strings where they are printable, as in the recordings.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.descriptor import FieldDescriptor

from wirebell.protocol import client_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

__all__ = (
    "Decoder",
    "create_decoder",
    "decode_frame",
    "decode_message",
    "replace_in_commands",
    "replace_in_emulation",
)


class Decoder(Protocol):
    """Splits a body that arrives in pieces."""

    def feed(self, data: bytes) -> list[Any]:
        """Return the messages that `data` completes."""


def create_decoder(content_type: str) -> Decoder:
    """Return the decoder for a streamed body of this type."""
    if content_type.startswith("text/event-stream"):
        return EventStream()
    return Delimited() if content_type.startswith("application/octet-stream") else Lines()


def decode_frame(data: str | bytes, *, is_push: bool = False) -> list[Any]:
    """Return the messages of one WebSocket message.

    Args:
        data: Text is JSON, bytes are protobuf.
        is_push: Bare pushes instead of replies.
    """
    if isinstance(data, str):
        return [json.loads(line) for line in data.split("\n") if line]
    return Delimited(client_pb2.Push if is_push else client_pb2.Reply).feed(data)


class Lines:
    """JSON objects that end with a line feed."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Any]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class EventStream:
    """Server-sent events whose data is JSON.

    The protocol sends nothing but data, so other fields of an event are added to the message,
    where a comparison finds them. Comments are allowed: they say nothing.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._others: dict[str, str] = {}

    def feed(self, data: bytes) -> list[Any]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [message for line in lines for message in self._feed_line(line)]

    def _feed_line(self, line: bytes) -> Iterator[Any]:
        name, _, value = line.decode().removesuffix("\r").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name:
            self._others[f"sse {name}"] = value
        elif not value and self._data:
            yield {**json.loads("\n".join(self._data)), **self._others}
            self._data, self._others = [], {}


class Delimited:
    """Protobuf messages with their length in front."""

    def __init__(self, kind: Callable[[], Message] = client_pb2.Reply) -> None:
        self._kind = kind
        self._rest = b""

    def feed(self, data: bytes) -> list[Any]:
        self._rest += data
        messages = []
        while (place := _find_end(self._rest)) is not None:
            start, end = place
            message = self._kind()
            message.ParseFromString(self._rest[start:end])
            self._rest = self._rest[end:]
            messages.append(decode_message(message))
        return messages


def _find_end(data: bytes) -> tuple[int, int] | None:
    """Return where the first message of `data` starts and ends; ``None``: not all is there."""
    length = 0
    for index, byte in enumerate(data):
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            end = index + 1 + length
            return (index + 1, end) if end <= len(data) else None
    return None


def decode_message(message: Message) -> dict[str, Any]:
    """Return a protobuf message as an object: what is not set is not there."""
    return {field.name: _decode_field(field, value) for field, value in message.ListFields()}


def _decode_field(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {key: _decode_value(inner, value[key]) for key in value}
    if field.is_repeated:
        return [_decode_value(field, item) for item in value]
    return _decode_value(field, value)


def _decode_value(field: FieldDescriptor, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return decode_message(value)
    if field.type != FieldDescriptor.TYPE_BYTES:
        return value
    try:
        text: str = value.decode()
    except UnicodeDecodeError:
        return {"bytes_hex": value.hex()}
    is_printable = all(character.isprintable() or character.isspace() for character in text)
    return text if is_printable else {"bytes_hex": value.hex()}


def replace_in_commands(data: bytes, change: Callable[[str], str]) -> bytes:
    """Return delimited commands with `change` applied to each string; malformed ones as is."""
    rest, result = data, b""
    while (place := _find_end(rest)) is not None:
        start, end = place
        command = client_pb2.Command()
        command.ParseFromString(rest[start:end])
        _replace(command, change)
        encoded = command.SerializeToString()
        result += _encode_length(len(encoded)) + encoded
        rest = rest[end:]
    return result + rest


def replace_in_emulation(data: bytes, change: Callable[[str], str]) -> bytes:
    """Return an emulation request with `change` applied to each string, also of its commands."""
    request = client_pb2.EmulationRequest()
    request.ParseFromString(data)
    _replace(request, change)
    request.data = replace_in_commands(request.data, change)
    return request.SerializeToString()


def _replace(message: Message, change: Callable[[str], str]) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, change(value))
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            for key in value if inner.message_type is not None else ():
                _replace(value[key], change)
        elif field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                _replace(item, change)


def _encode_length(length: int) -> bytes:
    encoded = bytearray()
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*encoded, length))
