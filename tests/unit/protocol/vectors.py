"""Golden frames of ``protocol/vectors``, and a second, slow way to read and write them.

A case's model is neutral: names of the schema, zero values left out, a payload as the text of its
bytes (or ``{"bytes_hex": ...}``). What is here shares no code with the codecs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from wirebell.model import ClientInfo, Membership, PayloadFormat, Publication, StreamPosition
from wirebell.protocol import messages, pushes
from wirebell.protocol.messages import Command, FilterNode, Reply

__all__ = (
    "PAYLOADS",
    "ROOT",
    "build_command",
    "build_publication",
    "build_push",
    "build_reply",
    "fill",
    "load",
    "read_payload",
    "spell",
    "split_frames",
)

ROOT = Path(__file__).parents[3] / "protocol"
PAYLOADS = {"data", "conn_info", "chan_info"}

Model = dict[str, Any]


def load(name: str) -> list[Model]:
    """Read the cases of one file."""
    text = (ROOT / "vectors" / f"{name}.json").read_text(encoding="utf-8")
    cases: list[Model] = json.loads(text)["cases"]
    return cases


def read_payload(value: str | Mapping[str, str]) -> bytes:
    """Read a payload of a model."""
    return value.encode() if isinstance(value, str) else bytes.fromhex(value["bytes_hex"])


def split_frames(data: bytes) -> Iterator[bytes]:
    """Take messages from behind their lengths."""
    place = 0
    while place < len(data):
        size = shift = 0
        while True:
            byte = data[place]
            place += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        yield data[place : place + size]
        place += size


def fill(message: Message, model: Model) -> None:
    """Put a model into a protobuf message."""
    for name, value in model.items():
        if name == "format":
            continue
        field, target = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
        if _is_map(field):
            _fill_map(target, value)
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    fill(target.add(), entry)
                else:
                    target.append(entry)
        elif field.message_type is not None:
            target.SetInParent()
            fill(target, value)
        else:
            is_payload = field.type == FieldDescriptor.TYPE_BYTES
            setattr(message, name, read_payload(value) if is_payload else value)


def _is_map(field: Any) -> bool:
    """Tell a map from another repeated field."""
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _fill_map(target: Any, value: Model) -> None:
    """Put entries into a map."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            target[key].SetInParent()
            fill(target[key], entry)
        else:
            target[key] = entry


def spell(message: Message) -> Model:
    """Make a model of a protobuf message."""
    return {field.name: _spell(field, value) for field, value in message.ListFields()}


def _spell(field: FieldDescriptor, value: Any) -> Any:
    """Make a model of a field's value."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes_hex": value.hex()}
    if field.message_type is None:
        return list(value) if hasattr(value, "extend") else value
    if _is_map(field):
        return {
            key: spell(entry) if isinstance(entry, Message) else entry
            for key, entry in value.items()
        }
    return [spell(entry) for entry in value] if hasattr(value, "add") else spell(value)


def build_command(model: Model) -> Command:
    """Build a command of its model."""
    fields: Model = {}
    for name, value in model.items():
        kind = KINDS.get(name)
        fields[name] = value if kind is None else _build_request(kind, value)
    return Command(**fields)


def _build_request(kind: type[msgspec.Struct], model: Model) -> Any:
    """Build a request, or a part of one."""
    fields = dict(model)
    if "data" in model:
        fields["data"] = msgspec.Raw(read_payload(model["data"]))
    if "subs" in model:
        subs = model["subs"].items()
        fields["subs"] = {name: _build_request(KINDS["subscribe"], sub) for name, sub in subs}
    if "since" in model:
        fields["since"] = StreamPosition(**model["since"])
    if "tf" in model:
        fields["tf"] = _build_request(FilterNode, model["tf"])
    if "nodes" in model:
        fields["nodes"] = tuple(_build_request(FilterNode, node) for node in model["nodes"])
    if "vals" in model:
        fields["vals"] = tuple(model["vals"])
    return kind(**fields)


KINDS: Mapping[str, type[msgspec.Struct]] = {
    "connect": messages.ConnectRequest,
    "subscribe": messages.SubscribeRequest,
    "unsubscribe": messages.UnsubscribeRequest,
    "publish": messages.PublishRequest,
    "presence": messages.PresenceRequest,
    "presence_stats": messages.PresenceStatsRequest,
    "history": messages.HistoryRequest,
    "ping": messages.PingRequest,
    "send": messages.SendRequest,
    "rpc": messages.RPCRequest,
    "refresh": messages.RefreshRequest,
    "sub_refresh": messages.SubRefreshRequest,
}


def build_info(model: Model) -> ClientInfo:
    """Build a ClientInfo of its model."""
    return ClientInfo(
        model.get("client", ""),
        model.get("user", ""),
        read_payload(model.get("conn_info", "")),
        read_payload(model.get("chan_info", "")),
    )


def build_publication(model: Model) -> Publication:
    """Build a publication of its model; what a patch stands for is not in there."""
    return Publication(
        read_payload(model.get("data", "")),
        PayloadFormat(model.get("format", "json")),
        model.get("offset", 0),
        model.get("epoch", ""),
        info=build_info(model["info"]) if "info" in model else None,
        tags=model.get("tags"),
        version=model.get("version", 0),
    )


def build_subscribe(model: Model) -> messages.SubscribeResult:
    """Build a SubscribeResult; a publication with ``delta`` is its patch."""
    items = model.get("publications", [])
    return messages.SubscribeResult(
        **{key: value for key, value in model.items() if key not in {"publications", "data"}},
        publications=[build_publication(item) for item in items],
        patches=[read_payload(item["data"]) if item.get("delta") else None for item in items],
        data=read_payload(model.get("data", "")),
    )


def build_connect(model: Model) -> messages.ConnectResult:
    """Build a ConnectResult of its model."""
    return messages.ConnectResult(
        **{key: value for key, value in model.items() if key not in {"subs", "data"}},
        subs={channel: build_subscribe(sub) for channel, sub in model.get("subs", {}).items()},
        data=read_payload(model.get("data", "")),
    )


def build_reply(model: Model) -> Reply:
    """Build a reply of its model."""
    fields: Model = {"id": 0}
    for name, value in model.items():
        fields[name] = RESULTS[name](value)
    return Reply(**fields)


RESULTS: Mapping[str, Any] = {
    "id": lambda value: value,
    "error": lambda model: messages.Error(**model),
    "connect": build_connect,
    "subscribe": build_subscribe,
    "unsubscribe": lambda _: messages.UnsubscribeResult(),
    "publish": lambda _: messages.PublishResult(),
    "presence": lambda model: messages.PresenceResult(
        {client: build_info(info) for client, info in model.get("presence", {}).items()}
    ),
    "presence_stats": lambda model: messages.PresenceStatsResult(**model),
    "history": lambda model: messages.HistoryResult(
        [build_publication(item) for item in model.get("publications", [])],
        model.get("epoch", ""),
        model.get("offset", 0),
    ),
    "rpc": lambda model: messages.RPCResult(read_payload(model.get("data", ""))),
    "refresh": lambda model: messages.RefreshResult(**model),
    "sub_refresh": lambda model: messages.SubRefreshResult(**model),
}


def build_push(model: Model) -> Publication | Membership | pushes.Push:
    """Build what a push tells, of its model."""
    (name,) = model.keys() - {"channel"}
    body = dict(model[name])
    if name == "pub":
        return build_publication(body)
    if name in {"join", "leave"}:
        return Membership(build_info(body["info"]), joined=name == "join")
    if name == "connect":
        return pushes.ConnectPush(build_connect(body))
    if "data" in body:
        body["data"] = read_payload(body["data"])
    if name in {"subscribe", "unsubscribe"}:
        body["channel"] = model["channel"]
    push: pushes.Push = PUSHES[name](**body)
    return push


PUSHES: Mapping[str, Any] = {
    "subscribe": pushes.SubscribePush,
    "unsubscribe": pushes.UnsubscribePush,
    "message": pushes.MessagePush,
    "disconnect": pushes.DisconnectPush,
    "refresh": pushes.RefreshPush,
}
