"""Names of channels, and who may do what in them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from wirebell.errors import ConfigError, ErrorCode, ProtocolError
from wirebell.model import ChannelOptions, ChannelPermissions, PayloadFormat, PublicationFormat
from wirebell.namespaces import (
    KNOWN_OPTIONS_MAX,
    Namespaces,
    check_publication,
    embed,
    may_history,
    may_presence,
    may_publish,
)

PLAIN = ChannelOptions(presence=True)
CHAT = ChannelOptions(join_leave=True)


def permit(**permissions: bool) -> ChannelOptions:
    """Create options that allow something."""
    return ChannelOptions(permissions=ChannelPermissions(**permissions))


NUM = ChannelOptions(channel_regex="^[0-9é]+$")
NAMESPACES = Namespaces(
    PLAIN, {"chat": CHAT, "num": NUM, "users": permit(allow_user_limited_channels=True)}
)


@pytest.mark.parametrize(
    ("channel", "options"),
    [
        ("news", PLAIN),
        ("$news", PLAIN),
        (":news", PLAIN),
        ("chat:", CHAT),
        ("chat:room", CHAT),
        ("chat:room:1", CHAT),
        ("$chat:room", CHAT),
        ("chat:#42", CHAT),
        ("chat", PLAIN),
        ("nope:1", None),
        ("$nope:1", None),
        ("$$chat:1", None),
        (" chat:1", None),
    ],
)
def test_options(channel: str, options: ChannelOptions | None) -> None:
    """The part before the first boundary, without the private prefix, selects the options."""
    assert options == NAMESPACES.options_for(channel)
    assert options == NAMESPACES.options_for(channel)  # and remembers it


def test_other_signs() -> None:
    """Boundaries and prefixes may be other texts, or none."""
    other = Namespaces(
        PLAIN,
        {"chat": CHAT},
        boundary="::",
        private_prefix="",
        user_boundary="@",
        user_separator="",
    )

    assert CHAT == other.options_for("chat::room")
    assert PLAIN == other.options_for("chat:room")
    assert not other.is_private("$room")
    assert ("42,43",) == other.users_of("room@42,43")
    none = Namespaces(PLAIN, {"chat": CHAT}, boundary="", user_boundary="")
    assert PLAIN == none.options_for("chat:room")
    assert none.users_of("room#42") is None


def test_memory_is_bounded() -> None:
    """At most 10,000 answers are remembered, and no names that clients could not use."""
    namespaces = Namespaces(PLAIN, {"chat": CHAT})
    for number in range(KNOWN_OPTIONS_MAX + 2):
        assert CHAT == namespaces.options_for(f"chat:{number}")

    assert 2 == len(namespaces.known_options)
    assert CHAT == namespaces.options_for("chat:" + "x" * 251)
    assert 2 == len(namespaces.known_options)


@pytest.mark.parametrize(
    "channel",
    [
        "news",
        "chat:room",
        "num:123",
        "$num:1",
        "num:é",  # the expression decides, not ASCII
        "x" * 255,
        "num:" + "1" * 251,
        "nope:1",
        "nope:é",  # error 102 is the answer, not 107
        "chat:\x00\n",
    ],
)
def test_good_names(channel: str) -> None:
    """A name passes that is short enough and ASCII, or matches the namespace's expression."""
    NAMESPACES.check_name(channel)


@pytest.mark.parametrize(
    "channel",
    [
        "",
        "x" * 256,
        "nope:" + "x" * 251,
        "é",
        "chat:é",
        "num:abc",
        "num:",
        "num:1a",
        "num:1\n",
        "num:" + "é" * 126,  # 256 bytes
        "\ud800",
    ],
)
def test_bad_names(channel: str) -> None:
    """A name that is empty, too long, or not what the namespace allows gives 107."""
    with pytest.raises(ProtocolError) as caught:
        NAMESPACES.check_name(channel)
    assert ErrorCode.BAD_REQUEST == caught.value.code


def test_names_without_expressions() -> None:
    """Where no namespace has an expression, a name is ASCII, and its length is bounded."""
    namespaces = Namespaces(PLAIN, {}, name_bytes_max=4)

    namespaces.check_name("abcd")
    for channel in ("abcde", "é", "ééé"):
        with pytest.raises(ProtocolError):
            namespaces.check_name(channel)


def test_expression_without_namespace() -> None:
    """The expression of channels without namespace sees the whole name."""
    namespaces = Namespaces(ChannelOptions(channel_regex=r"^\$?[a-z]+\z"), {"chat": CHAT})

    namespaces.check_name("$abc")
    namespaces.check_name("chat:1")
    with pytest.raises(ProtocolError):
        namespaces.check_name("abc1")


@pytest.mark.parametrize(
    ("expression", "good", "bad"),
    [
        (r"^\d+$", ["12"], ["1a", "1\n", "٣"]),
        (r"^[\w-]+\z", ["a_1-"], ["é", "a\n", "."]),
        (r"^[^\s]+$", ["aé"], ["a b", "a\tb"]),
        (r"^\D\S\W$", ["a.é"], ["1.é", "a é", "a.b"]),
        (r"\bx\b", ["x", "éxé"], ["ax"]),
        (r"^x\B", ["xy"], ["x", "xé"]),
        (r"^[[:alpha:][:^alnum:]]$", ["a", "."], ["1"]),
        (r"^[:a]$", [":"], ["b"]),
        (r"^[]a]+$", ["]a"], ["["]),
        (r"^[^]a]+$", ["b"], ["]"]),
        (r"^[a[b]]$", ["a]", "[]"], ["a", "b"]),
        (r"^[a[]]$", ["[]"], ["a"]),
        (r"^[a&&b]$", ["a", "&"], ["ab"]),
        (r"^[+--]$", ["+", ",", "-"], ["."]),
        (r"^[a~~b]&&$", ["~&&"], ["~"]),
        (r"^\[a\]$", ["[a]"], ["a"]),
        (r"^(?P<a>x)(?<b>y)$", ["xy"], ["x"]),
        (r"^\\d$", ["\\d"], ["1"]),
    ],
)
def test_expressions_are_of_another_language(
    expression: str, good: list[str], bad: list[str]
) -> None:
    """An expression means what it means in RE2, also where Rust or Python read it otherwise."""
    namespaces = Namespaces(PLAIN, {"x": ChannelOptions(channel_regex=expression)})

    for rest in good:
        namespaces.check_name(f"x:{rest}")
    for rest in bad:
        with pytest.raises(ProtocolError):
            namespaces.check_name(f"x:{rest}")


def test_expressions_take_little_time() -> None:
    """A name that nearly matches costs no more than another; with Python's it was for ever."""
    namespaces = Namespaces(PLAIN, {"x": ChannelOptions(channel_regex="^([a-z0-9]+[-_]?)+$")})

    with pytest.raises(ProtocolError):
        namespaces.check_name("x:" + "a" * 250 + "!")


@pytest.mark.parametrize(
    ("expression", "text"),
    [("(", "unclosed group"), ("(?!a)", "look-around"), ("a{999}{999}", "exceeds size limit")],
)
def test_no_expression(expression: str, text: str) -> None:
    """What is no expression is refused with its namespace and in words."""
    with pytest.raises(ConfigError, match=rf"of namespace 'x': .*{text}"):
        Namespaces(PLAIN, {"x": ChannelOptions(channel_regex=expression)})


@pytest.mark.parametrize(
    ("name", "options"),
    [("", CHAT), ("a:b", CHAT), ("$chat", CHAT), ("chat", ChannelOptions(channel_regex="("))],
)
def test_impossible_namespaces(name: str, options: ChannelOptions) -> None:
    """A namespace that no name could be in, or whose expression is none, is refused."""
    with pytest.raises(ConfigError):
        Namespaces(PLAIN, {name: options})


def test_impossible_expression_without_namespace() -> None:
    """The message says whose expression is none."""
    with pytest.raises(ConfigError, match="channels without namespace"):
        Namespaces(ChannelOptions(channel_regex="("), {})


def test_users() -> None:
    """The users stand behind the last boundary."""
    assert NAMESPACES.users_of("chat:room") is None
    assert ("42",) == NAMESPACES.users_of("chat:room#42")
    assert ("42", "43") == NAMESPACES.users_of("chat:a#b#42,43")
    assert ("",) == NAMESPACES.users_of("chat:room#")


def test_personal_channel() -> None:
    """A user's own channel has the user behind the boundary."""
    assert "#42" == NAMESPACES.personal_channel("42")
    assert "chat:#42" == NAMESPACES.personal_channel("42", "chat")
    assert "users:#42" == NAMESPACES.personal_channel("42", "users")
    assert "nope:#4,2" == NAMESPACES.personal_channel("4,2", "nope")


@pytest.mark.parametrize("user_id", ["42,43", "a#b", "#42"])
def test_personal_channel_of_several(user_id: str) -> None:
    """A user id that reads as a list of users has no channel where such lists count."""
    with pytest.raises(ProtocolError) as caught:
        NAMESPACES.personal_channel(user_id, "users")
    assert ErrorCode.PERMISSION_DENIED == caught.value.code


CLIENT = permit(allow_subscribe_for_client=True)
EVERYBODY = permit(allow_subscribe_for_client=True, allow_subscribe_for_anonymous=True)
LIMITED = permit(allow_subscribe_for_client=True, allow_user_limited_channels=True)


@pytest.mark.parametrize(
    ("channel", "options", "user_id", "allowed"),
    [
        ("news", PLAIN, "42", False),  # the default
        ("news", CLIENT, "42", True),
        ("news", CLIENT, "", False),
        ("news", EVERYBODY, "", True),
        ("news", permit(allow_subscribe_for_anonymous=True), "", False),
        ("$news", EVERYBODY, "42", False),  # private
        ("room#42,43", LIMITED, "42", True),
        ("room#42,43", LIMITED, "43", True),
        ("room#42,43", LIMITED, "44", False),  # the list counts, although clients are allowed
        ("room#", LIMITED, "", False),
        ("room", LIMITED, "44", True),
        ("room#42", permit(allow_user_limited_channels=True), "42", True),
        ("$room#42", LIMITED, "42", False),
        ("room#42", CLIENT, "44", True),  # the list does not count
        ("room#42", PLAIN, "42", False),
    ],
)
def test_may_subscribe(channel: str, options: ChannelOptions, user_id: str, allowed: bool) -> None:
    """Nobody may subscribe without a token, unless the options say so."""
    assert allowed == NAMESPACES.may_subscribe(channel, options, user_id)


@pytest.mark.parametrize(("channel", "allowed"), [("news", True), ("a#1", True), ("$news", False)])
def test_insecure_subscribe(channel: str, allowed: bool) -> None:
    """In insecure mode everybody may subscribe to everything but private channels."""
    assert allowed == NAMESPACES.may_subscribe(channel, PLAIN, "", insecure=True)


@pytest.mark.parametrize(
    ("may", "action"),
    [(may_publish, "publish"), (may_presence, "presence"), (may_history, "history")],
)
@pytest.mark.parametrize(
    ("whom", "user_id", "is_subscribed", "allowed"),
    [
        ((), "42", True, False),
        (("client",), "42", False, True),
        (("client",), "", True, False),
        (("subscriber",), "42", True, True),
        (("subscriber",), "42", False, False),
        (("subscriber",), "", True, False),
        (("client", "anonymous"), "", False, True),
        (("subscriber", "anonymous"), "", True, True),
        (("subscriber", "anonymous"), "", False, False),
        (("anonymous",), "", True, False),
        (("anonymous",), "42", True, False),
    ],
)
def test_permissions(
    may: Callable[..., bool],
    action: str,
    whom: tuple[str, ...],
    user_id: str,
    is_subscribed: bool,
    allowed: bool,
) -> None:
    """Clients or subscribers may do what is allowed to them; the anonymous need leave besides."""
    permissions: dict[str, Any] = {f"allow_{action}_for_{name}": True for name in whom}

    assert allowed == may(permit(**permissions), user_id, is_subscribed=is_subscribed)
    assert may(permit(**permissions), user_id, is_subscribed=is_subscribed, insecure=True)


JSON = ChannelOptions()
OBJECTS = ChannelOptions(publication_format=PublicationFormat.JSON_OBJECT)
BINARY = ChannelOptions(publication_format=PublicationFormat.BINARY)


@pytest.mark.parametrize(
    ("options", "data", "found"),
    [
        (JSON, b"null", PayloadFormat.JSON),
        (JSON, b'"text"', PayloadFormat.JSON),
        (JSON, b"12345678901234567890", PayloadFormat.JSON),
        (JSON, ' {"a":\n"é"}\n'.encode(), PayloadFormat.JSON),
        (OBJECTS, b'\n{"a":1}', PayloadFormat.JSON),
        (BINARY, b'{"a":1}', PayloadFormat.JSON),
        (BINARY, b"\x00\x01\xff raw bytes", PayloadFormat.BINARY),
        (BINARY, b'"\xff"', PayloadFormat.BINARY),
        (BINARY, b"[" * 10_000, PayloadFormat.BINARY),
    ],
)
def test_publications(options: ChannelOptions, data: bytes, found: PayloadFormat) -> None:
    """Data that a channel takes passes, and is JSON or just bytes."""
    assert found is check_publication(options, data)


@pytest.mark.parametrize(
    ("options", "data"),
    [
        (JSON, b""),
        (BINARY, b""),
        (JSON, b"text"),
        (JSON, b"{} {}"),
        (JSON, b'"\xff"'),
        (JSON, b"[" * 10_000),
        (OBJECTS, b"[1]"),
        (OBJECTS, b'"text"'),
        (OBJECTS, b"{"),
    ],
)
def test_refused_publications(options: ChannelOptions, data: bytes) -> None:
    """No data, and data of another kind than the channel takes, gives 107."""
    with pytest.raises(ProtocolError) as caught:
        check_publication(options, data)
    assert ErrorCode.BAD_REQUEST == caught.value.code


@pytest.mark.parametrize(
    ("payload", "embedded"),
    [
        (b"", b""),
        (b'{"a":"\\n"}', b'{"a":"\\n"}'),
        (b'{\n  "a": 1,\r\n "b" : [ 1 ]\n}', b'{  "a": 1,\r "b" : [ 1 ]}'),
        (b"\n1\n", b"1"),
        (b"\x00\xff", b'"AP8="'),
        (b'"\xff"', b'"Iv8i"'),
        (b"[" * 9000, b'"' + b64encode(b"[" * 9000) + b'"'),
    ],
)
def test_embed(payload: bytes, embedded: bytes) -> None:
    """JSON loses its line feeds, other bytes become base64 (recording ``publish_data_kinds``)."""
    assert embedded == embed(payload)
