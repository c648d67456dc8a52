"""Files, environment and flags are read into the same entries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from wirebell.configuration.sources import (
    FILE_BYTES_MAX,
    Entry,
    Namespace,
    is_in_list,
    read_environment,
    read_file,
    read_flags,
)
from wirebell.errors import ConfigError

TEXTS = {
    "json": '{"client": {"ping_interval": "5s"}, "channel": {"namespaces": [{"name": "news"}]}}',
    "toml": 'client.ping_interval = "5s"\n[[channel.namespaces]]\nname = "news"\n',
    "yaml": "client:\n  ping_interval: 5s\nchannel:\n  namespaces:\n    - name: news\n",
    "yml": "\ufeffclient: {ping_interval: 5s}\nchannel: {namespaces: [{name: news}]}\n",
}


def write(folder: Path, text: str, suffix: str = "json") -> Path:
    """Write a configuration file."""
    path = folder / f"wirebell.{suffix}"
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", TEXTS)
def test_formats(suffix: str, tmp_path: Path) -> None:
    """JSON, TOML and YAML say the same."""
    source = read_file(write(tmp_path, TEXTS[suffix], suffix))

    assert {"client.ping_interval": Entry("5s", "client.ping_interval")} == source.entries
    assert [Namespace("news", {})] == source.namespaces
    assert [] == source.unknown


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    """An empty YAML file, and an empty section of one, are no error."""
    empty = read_file(write(tmp_path, "", "yaml"))
    section = read_file(write(tmp_path, "client:\nchannel:\n  namespaces:\n", "yaml"))

    assert ({}, None) == (empty.entries, empty.namespaces)
    assert ({}, []) == (section.entries, section.namespaces)


def test_unknown_keys_are_collected(tmp_path: Path) -> None:
    """What nobody knows is remembered by its path, a whole section once."""
    source = read_file(
        write(
            tmp_path,
            '{"klient": {"a": 1}, "client": {"nothing": 1}, "tick_bytes_max": 5,'
            ' "channel": {"namespaces": [{"name": "news", "histroy_size": 1}]}}',
        )
    )

    assert [
        "klient",
        "client.nothing",
        "channel.namespaces.news.histroy_size",
    ] == source.unknown
    assert ["tick_bytes_max"] == list(source.entries)


def test_keys_that_are_no_texts_are_unknown(tmp_path: Path) -> None:
    """YAML's keys may be numbers; no key of ours is."""
    assert ["5"] == read_file(write(tmp_path, "5: x\n", "yaml")).unknown


def test_an_object_may_be_a_value(tmp_path: Path) -> None:
    """A key that holds an object is one entry."""
    headers = {"a": "b"}
    tree = {"client": {"proxy": {"connect": {"http": {"static_headers": headers}}}}}

    source = read_file(write(tmp_path, json.dumps(tree)))

    assert headers == source.entries["client.proxy.connect.http.static_headers"].value


def test_an_object_of_ours_may_be_a_value(tmp_path: Path) -> None:
    """A setting that holds an object is one entry, too."""
    source = read_file(write(tmp_path, '{"commands_per_second_max": {"publish": 10}}'))

    assert {"publish": 10} == source.entries["commands_per_second_max"].value


@pytest.mark.parametrize(
    ("suffix", "text", "told"),
    [
        ("ini", "", "must end in .json, .toml, .yaml or .yml"),
        ("json", "{", "is not JSON"),
        ("json", "[" * 100_000, "is not JSON"),
        ("toml", "= 1", "is not TOML"),
        ("yaml", "a: [", "is not YAML"),
        ("json", "[]", "must hold an object, got list"),
        ("json", '{"client": 5}', "client: must be an object, got 5"),
        ("json", '{"channel": {"namespaces": [{}]}}', "item 0 has no name"),
        ("json", '{"channel": {"namespaces": [{"name": 5}]}}', "item 0 has no name"),
        ("json", '{"channel": {"namespaces": 5}}', "must be a list of objects"),
        (
            "json",
            '{"channel": {"namespaces": [{"name": "a"}, {"name": "a"}]}}',
            "'a' stands there twice",
        ),
    ],
)
def test_bad_files(suffix: str, text: str, told: str, tmp_path: Path) -> None:
    """What is wrong with a file is said by its name or its key."""
    with pytest.raises(ConfigError, match=told):
        read_file(write(tmp_path, text, suffix))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, one that is no text, and an endless one are refused."""
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe")
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (FILE_BYTES_MAX + 1))

    with pytest.raises(ConfigError, match="No such file"):
        read_file(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_file(binary)
    with pytest.raises(ConfigError, match=f"has more than {FILE_BYTES_MAX} bytes"):
        read_file(large)


def test_yaml_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its library a YAML file is refused with what to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(ConfigError, match=r"pip install 'wirebell\[server\]'"):
        read_file(write(tmp_path, "", "yaml"))


def test_environment_by_path() -> None:
    """A key's variable is its path in capitals; other programs' variables are not ours."""
    source = read_environment(
        {
            "WIREBELL_CLIENT_PING_INTERVAL": "5s",
            "WIREBELL_DEMO_DATA_DIR": "x",
            "WIREBELL_NOTHING": "1",
            "PATH": "/bin",
        },
        "WIREBELL",
        [],
    )

    assert {"client.ping_interval": Entry("5s", "WIREBELL_CLIENT_PING_INTERVAL")} == source.entries
    assert ["WIREBELL_NOTHING"] == source.unknown
    assert source.namespaces is None


def test_environment_by_the_setting_s_own_name() -> None:
    """What an application reads as a setting a server reads too, with the unit in its name."""
    source = read_environment(
        {
            "WIREBELL_CONNECTIONS_MAX": "7",
            "WIREBELL_PING_INTERVAL_SECONDS": "5",
            "WIREBELL_ALLOWED_ORIGINS": "https://a.example, https://b.example,",
        },
        "WIREBELL",
        [],
    )
    origins = ["https://a.example", "https://b.example"]

    assert {
        "client.connection_limit": Entry("7", "WIREBELL_CONNECTIONS_MAX"),
        "client.ping_interval": Entry("5s", "WIREBELL_PING_INTERVAL_SECONDS"),
        "client.allowed_origins": Entry(origins, "WIREBELL_ALLOWED_ORIGINS"),
    } == source.entries


def test_environment_twice_the_same_key() -> None:
    """Two variables for one key are refused: nobody could say which counts."""
    with pytest.raises(ConfigError, match="are the same key: set one of them"):
        read_environment(
            {"WIREBELL_CONNECTIONS_MAX": "7", "WIREBELL_CLIENT_CONNECTION_LIMIT": "8"},
            "WIREBELL",
            [],
        )


def test_namespaces_by_name() -> None:
    """One variable names the namespaces, and each has variables of its own."""
    source = read_environment(
        {
            "CENTRIFUGO_CHANNEL_NAMESPACES": "a b-c",
            "CENTRIFUGO_CHANNEL_NAMESPACES_A_HISTORY_SIZE": "10",
            "CENTRIFUGO_CHANNEL_NAMESPACES_B_C_MAP_MODE": "persistent",
        },
        "CENTRIFUGO",
        [Namespace("of-the-file", {})],
    )

    size = Entry("10", "CENTRIFUGO_CHANNEL_NAMESPACES_A_HISTORY_SIZE")
    mode = Entry("persistent", "CENTRIFUGO_CHANNEL_NAMESPACES_B_C_MAP_MODE")
    assert [
        Namespace("a", {"history_size": size}),
        Namespace("b-c", {"map.mode": mode}),
    ] == source.namespaces
    assert [] == source.unknown


def test_namespaces_in_json() -> None:
    """The variable may hold the whole list."""
    source = read_environment(
        {"X_CHANNEL_NAMESPACES": '[{"name": "env", "presence": true, "bad": 1}]'}, "X", []
    )

    assert source.namespaces is not None
    assert {"presence": Entry(True, "X_CHANNEL_NAMESPACES env presence")} == (
        source.namespaces[0].entries
    )


def test_the_environment_reaches_into_the_file() -> None:
    """A variable of a namespace that the file has changes that namespace."""
    before = [Namespace("news", {"presence": Entry(True, "file")}), Namespace("chat", {})]

    source = read_environment({"X_CHANNEL_NAMESPACES_NEWS_HISTORY_SIZE": "5"}, "X", before)

    size = Entry("5", "X_CHANNEL_NAMESPACES_NEWS_HISTORY_SIZE")
    assert [
        Namespace("news", {"presence": Entry(True, "file"), "history_size": size}),
        Namespace("chat", {}),
    ] == source.namespaces


def test_flags() -> None:
    """A flag is a key's path; one that names no key is refused."""
    source = read_flags(
        {"client.insecure": "true", "channel.namespaces": '[{"name": "a", "presence": true}]'}
    )

    assert {"client.insecure": Entry("true", "--client.insecure")} == source.entries
    assert source.namespaces is not None
    entry = source.namespaces[0].entries["presence"]
    assert Entry(True, "--channel.namespaces.a.presence") == entry
    with pytest.raises(ConfigError, match=r"--client\.nothing: no such key"):
        read_flags({"client.nothing": "1"})


def test_variables_of_lists() -> None:
    """Items of lists have variables too, which are known even where they mean nothing yet."""
    assert is_in_list("X_PROXIES_A_ENDPOINT", "X")
    assert not is_in_list("X_PROXY", "X")
