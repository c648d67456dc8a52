"""Where values come from: a file, the environment, flags. Each is read into the same entries."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wirebell.configuration.keys import (
    KEYS,
    NAMESPACE_LISTS,
    TREE,
    flatten,
    read_channel_tree,
    read_known,
)
from wirebell.configuration.values import Kind, parse
from wirebell.errors import ConfigError

__all__ = (
    "Entry",
    "Namespace",
    "Source",
    "is_in_list",
    "read_environment",
    "read_file",
    "read_flags",
)

# Far above every real configuration (the reference's whole tree is 28 KB), far below what hurts.
FILE_BYTES_MAX = 4 * 1024 * 1024
NAMESPACES = "channel.namespaces"
# Prefixes of variables that other programs of ours read.
FOREIGN = ("DEMO_", "TEST_")
SETTINGS = "settings."


@dataclass(frozen=True, slots=True)
class Entry:
    """One value as somebody wrote it.

    Attributes:
        value: Text, or what the file's format gave.
        origin: How that somebody calls the key: ``client.ping_interval``,
            ``WIREBELL_CLIENT_PING_INTERVAL``, ``--client.ping_interval``.
    """

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """What one source says of one namespace: its name, and key → entry."""

    name: str
    entries: Mapping[str, Entry]


@dataclass(slots=True)
class Source:
    """What one source says.

    Attributes:
        entries: Path of a known key → entry.
        namespaces: Of channels, in order; ``None`` when the source does not name them.
        unknown: How the source calls what nobody knows.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    namespaces: list[Namespace] | None = None
    unknown: list[str] = field(default_factory=list)


def read_file(path: Path) -> Source:
    """Read a configuration file, in the format that its suffix names.

    Raises:
        ConfigError: It cannot be read, or is not of its format.
    """
    tree = _decode_file(path)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold an object, got {type(tree).__name__}")
    source = Source()
    for key, value in _walk(tree, TREE, source):
        if key == NAMESPACES:
            source.namespaces = _read_namespaces(value, source, str)
        else:
            source.entries[key] = Entry(value, key)
    return source


def _decode_file(path: Path) -> Any:
    """Read and decode a file."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".toml", ".yaml", ".yml"):
        raise ConfigError(f"{path}: must end in .json, .toml, .yaml or .yml")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError(f"{path}: has more than {FILE_BYTES_MAX} bytes")
        text = data.decode("utf-8-sig")
        if suffix == ".json":
            return json.loads(text)
        return tomllib.loads(text) if suffix == ".toml" else _decode_yaml(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not {suffix[1:].upper()}: {error}") from error


def _decode_yaml(text: str) -> Any:
    """Decode YAML, whose library is an extra."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a configuration in YAML needs PyYAML: pip install 'wirebell[server]'"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _walk(
    tree: Mapping[str, Any], known: Mapping[str, Any], source: Source, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """List the known leaves of a file; what is not known goes to ``source.unknown``.

    A section without anything in it (YAML's ``client:``) says nothing.
    """
    for name, value in tree.items():
        path = f"{prefix}{name}"
        section = known.get(name) if isinstance(name, str) else None
        if isinstance(section, dict) and section:
            if isinstance(value, dict):
                yield from _walk(value, section, source, f"{path}.")
            elif value is not None:
                raise ConfigError(f"{path}: must be an object, got {value!r:.80}")
        elif path in KEYS or (isinstance(name, str) and name in known):
            yield path, value
        else:
            source.unknown.append(path)


def _read_namespaces(
    value: Any, source: Source, name_origin: Callable[[str], str]
) -> list[Namespace]:
    """Read a list of namespaces as a file has it.

    Args:
        value: The list.
        source: Hears of options that nobody knows.
        name_origin: Turns ``channel.namespaces.news.presence`` into how the source calls it.
    """
    namespaces: list[Namespace] = []
    try:
        items = parse(Kind.OBJECTS, value if value is not None else [])
    except ConfigError as error:
        raise ConfigError(f"{name_origin(NAMESPACES)}: {error}") from None
    for index, item in enumerate(items):
        name = item.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{name_origin(NAMESPACES)}: item {index} has no name")
        if any(name == known.name for known in namespaces):
            raise ConfigError(f"{name_origin(NAMESPACES)}: {name!r} stands there twice")
        prefix = f"{NAMESPACES}.{name}."
        leaves = _walk(item, read_channel_tree(), source, prefix)
        entries = {
            path.removeprefix(prefix): Entry(option, name_origin(path)) for path, option in leaves
        }
        del entries["name"]
        namespaces.append(Namespace(name, entries))
    return namespaces


def read_environment(
    environ: Mapping[str, str], prefix: str, namespaces_before: list[Namespace]
) -> Source:
    """Read the variables with a prefix.

    Args:
        environ: All variables.
        prefix: Without the underscore.
        namespaces_before: Of the file: the environment reaches into them by name.

    Raises:
        ConfigError: Two variables say the same, or a list of namespaces is none.
    """
    start = f"{prefix}_"
    variables = {name[len(start) :]: name for name in environ if name.startswith(start)}
    source = Source()
    for suffix, path in sorted(_known_suffixes().items()):
        if suffix in variables and path != NAMESPACES:
            name = variables.pop(suffix)
            if path in source.entries:
                other = source.entries[path].origin
                raise ConfigError(f"{name} and {other} are the same key: set one of them")
            source.entries[path] = Entry(_in_words_of(path, suffix, environ[name]), name)
    known = list(namespaces_before)
    suffix = _to_suffix(NAMESPACES)
    if suffix in variables:
        known = _read_names(environ[variables.pop(suffix)], source, f"{start}{suffix}")
        source.namespaces = []
    found = [_read_options(item, variables, environ) for item in known]
    if source.namespaces is not None or any(item.entries for item in found):
        source.namespaces = found
    source.unknown += [
        name for suffix, name in sorted(variables.items()) if not suffix.startswith(FOREIGN)
    ]
    return source


def _to_suffix(path: str) -> str:
    """Write a path as variables have it."""
    return path.upper().replace(".", "_").replace("-", "_")


def _known_suffixes() -> dict[str, str]:
    """Return variable without prefix → path. Settings may be called by the field's name too."""
    aliases = {
        key.target.removeprefix(SETTINGS).upper(): key.path
        for key in KEYS.values()
        if key.target.startswith(SETTINGS)
    }
    return aliases | {_to_suffix(path): path for path in read_known()}


def _in_words_of(path: str, suffix: str, value: str) -> Any:
    """Read a setting by the field's name, whose unit is in it, as the tree would have it."""
    if suffix == _to_suffix(path):
        return value
    match KEYS[path].kind:
        case Kind.DURATION:
            return f"{value}s"
        case Kind.LIST:
            return [text.strip() for text in value.split(",") if text.strip()]
        case _:
            return value


def _read_names(text: str, source: Source, origin: str) -> list[Namespace]:
    """Read which namespaces there are: names, or a list of objects in JSON."""
    if not text.strip().startswith("["):
        return [Namespace(name, {}) for name in dict.fromkeys(parse(Kind.LIST, text))]
    return _read_namespaces(
        text, source, lambda path: origin + path.removeprefix(NAMESPACES).replace(".", " ")
    )


def _read_options(
    namespace: Namespace, variables: dict[str, str], environ: Mapping[str, str]
) -> Namespace:
    """Read the variables of one namespace, and take them from those that are left."""
    entries = {}
    for path, _ in flatten(read_channel_tree()):
        name = variables.pop(_to_suffix(f"{NAMESPACES}.{namespace.name}.{path}"), None)
        if name is not None and path != "name":
            entries[path] = Entry(environ[name], name)
    return Namespace(namespace.name, {**namespace.entries, **entries})


def read_flags(flags: Mapping[str, object]) -> Source:
    """Read flags.

    Raises:
        ConfigError: A flag names no key.
    """
    source = Source()
    known = read_known()
    for path, value in flags.items():
        if path == NAMESPACES:
            source.namespaces = _read_namespaces(value, source, lambda name: f"--{name}")
        elif path in known:
            source.entries[path] = Entry(value, f"--{path}")
        else:
            raise ConfigError(f"--{path}: no such key")
    return source


def is_in_list(name: str, prefix: str) -> bool:
    """Tell whether a variable reaches into one of the lists whose items have names."""
    return any(name.startswith(f"{prefix}_{_to_suffix(path)}_") for path in NAMESPACE_LISTS)
