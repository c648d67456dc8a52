"""How something is published: keywords, payloads, and their bounds. Pure.

Source: protocol document, section 2.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, TypeVar

import msgspec
from pydantic_core import to_json

from wirebell.errors import BadRequest, ConfigError, LimitExceeded
from wirebell.model import PayloadFormat, Publication, PublishOptions

__all__ = (
    "CHANNELS_MAX",
    "PublishKeywords",
    "check_channel",
    "check_count",
    "check_size",
    "check_tags",
    "compose",
    "create_options",
    "encode_payload",
    "require",
)

CHANNELS_MAX = 10_000
"""Channels that one call publishes to; with the memory broker a tenth of a second's work."""

# Keys and versions are kept for minutes: 10,000 of these are 10 MB.
WORD_BYTES_MAX = 1024
# Tags travel with every publication, and are no payload.
TAGS_BYTES_MAX = 16_384
# What the wire can carry.
VERSION_MAX = 2**64 - 1


class PublishKeywords(TypedDict, total=False):
    """How something is published; all of it may be left out.

    Attributes:
        key: What it is the newest state of, where a channel keeps the latest for subscribers that
            do not read (`wirebell.Overflow.KEEP_LATEST`).
        tags: Words that subscribers can filter by; at most 16 KiB together.
        delta: It may travel as a patch to the publication before (section 1.9).
        idempotency_key: Within five minutes the same key in the same channel publishes once, and
            each call returns the first one's position; at most 1024 bytes.
        version: With history, it is left out unless its version is above the newest one's of the
            same ``version_epoch``; 0 has no version.
        version_epoch: Versions of different epochs are not compared; at most 1024 bytes.
        skip_history: Deliver it, and keep it nowhere.
        exclude: A client id that does not get it live: who sent it.
    """

    key: str
    tags: Mapping[str, str] | None
    delta: bool
    idempotency_key: str
    version: int
    version_epoch: str
    skip_history: bool
    exclude: str


KEYWORDS = PublishKeywords.__optional_keys__
OutboxT = TypeVar("OutboxT")


def encode_payload(data: object, key: str = "") -> Publication:
    """Serialise a payload, once for all subscribers.

    Args:
        data: ``str`` travels as text; a Pydantic model, or anything that Pydantic can write as
            JSON, travels as JSON. JSON has no words for NaN and infinity: they become null.
        key: What it is the newest state of, for `wirebell.Overflow.KEEP_LATEST`.

    Raises:
        BadRequest: It is text that UTF-8 cannot hold, or nothing that JSON can.
    """
    try:
        if isinstance(data, str):
            return Publication(data.encode(), PayloadFormat.TEXT, key=key)
        return Publication(to_json(data, inf_nan_mode="null"), PayloadFormat.JSON, key=key)
    except (UnicodeEncodeError, ValueError, TypeError) as error:
        raise BadRequest(f"cannot serialise {type(data).__name__}: {error}") from error


def compose(
    publication: Publication, how: PublishKeywords
) -> tuple[Publication, PublishOptions | None]:
    """Apply keywords to a payload.

    Returns:
        What is published, and what holds for it alone; ``None`` for nothing.

    Raises:
        BadRequest: A keyword is out of its bounds.
        TypeError: There is no such keyword.
    """
    if not how:
        return publication, None
    if unknown := how.keys() - KEYWORDS:
        # Left out it would be a promise that nobody keeps.
        raise TypeError(f"publish has no keyword {', '.join(sorted(unknown))} here")
    version = how.get("version", 0)
    composed = msgspec.structs.replace(
        publication,
        key=how.get("key", ""),
        tags=check_tags(how.get("tags")),
        has_delta=how.get("delta", False),
        version=version,
        exclude=how.get("exclude", ""),
    )
    options = create_options(
        how.get("idempotency_key", ""),
        version,
        how.get("version_epoch", ""),
        skip_history=how.get("skip_history", False),
    )
    return composed, options


def create_options(
    idempotency_key: str, version: int, version_epoch: str, *, skip_history: bool
) -> PublishOptions | None:
    """Create what holds for one publication; ``None`` for nothing.

    Raises:
        BadRequest: A word or the version is out of its bounds.
    """
    if not (idempotency_key or version or skip_history):
        return None
    check_size("an idempotency key", idempotency_key, WORD_BYTES_MAX)
    check_size("a version epoch", version_epoch, WORD_BYTES_MAX)
    if not 0 <= version <= VERSION_MAX:
        raise BadRequest(f"a version is 0 to {VERSION_MAX}, got {version}")
    return PublishOptions(idempotency_key, version, version_epoch, skip_history)


def check_tags(tags: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Let tags pass that are words and not too many; none at all are ``None``.

    Returns:
        A copy: a publication is encoded later, and kept, whatever becomes of the caller's.

    Raises:
        BadRequest: They are too many, or one is no text that UTF-8 can hold.
    """
    if not tags:
        return None
    try:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in tags.items())
    except (AttributeError, UnicodeEncodeError) as error:
        raise BadRequest(f"tags are text by text: {error}") from error
    if size > TAGS_BYTES_MAX:
        raise BadRequest(f"tags have at most {TAGS_BYTES_MAX} bytes together, got {size}")
    return dict(tags)


def check_size(what: str, text: str, most: int) -> None:
    """Refuse a text of more than ``most`` bytes in UTF-8.

    Raises:
        BadRequest: It has more, or is no text that UTF-8 can hold.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadRequest(f"{what} is no text that UTF-8 can hold: {error}") from error
    if size > most:
        raise BadRequest(f"{what} has at most {most} bytes, got {size}")


def check_channel(channel: str, bytes_max: int) -> None:
    """Refuse a name that no channel can have.

    Raises:
        BadRequest: It is empty, longer than ``bytes_max`` in UTF-8, or has a character that
            cannot be printed.
    """
    if not channel or not channel.isprintable():
        raise BadRequest(f"a channel's name is 1 or more printable characters, got {channel!r:.80}")
    size = len(channel.encode())
    if size > bytes_max:
        raise BadRequest(f"a channel's name has at most {bytes_max} bytes, got {size}")


def check_count(what: str, count: int, most: int) -> None:
    """Refuse more than ``most`` of something in one call.

    Raises:
        LimitExceeded: There are more.
    """
    if count > most:
        raise LimitExceeded(f"one call has at most {most} {what}, got {count}")


def require(outbox: OutboxT | None) -> OutboxT:
    """Return an application's outbox.

    Raises:
        ConfigError: It has none, so nobody would relay what is written there.
    """
    if outbox is None:
        raise ConfigError("publish(outbox=...) needs Realtime(outbox=Outbox(engine)), which relays")
    return outbox
