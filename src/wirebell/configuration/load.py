"""From sources to values: file, environment, flags, and what they come to together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from wirebell.configuration.brokers import choose_brokers, find_presence_ttl, list_unused
from wirebell.configuration.channels import (
    create_channel_options,
    find_unsupported,
    is_unavailable,
)
from wirebell.configuration.key import COUNT_MAX
from wirebell.configuration.keys import ACCEPTED, KEYS, TREE, read_known
from wirebell.configuration.parts import (
    INTERNAL_KEYS,
    check_paths,
    create_api,
    create_client,
    create_endpoints,
    create_server,
    create_token_keys,
    create_transports,
    has_internal_address,
)
from wirebell.configuration.reading import Values
from wirebell.configuration.result import ServeConfiguration
from wirebell.configuration.sources import (
    Namespace,
    Source,
    is_in_list,
    read_environment,
    read_file,
    read_flags,
)
from wirebell.configuration.values import is_default
from wirebell.errors import ConfigError
from wirebell.model import ChannelOptions
from wirebell.namespaces import Namespaces
from wirebell.options import ChannelNames, PersonalChannel
from wirebell.rates import CommandRates
from wirebell.settings import Settings

__all__ = ("load",)

WITHOUT_NAMESPACE = "channel.without_namespace"
INTERNAL = "what was for that address only (server API, health, metrics, swagger) is not served"


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    prefix: str = "WIREBELL",
) -> ServeConfiguration:
    """Read a configuration. A flag wins over the environment, that over the file, that over all.

    Args:
        path: A file in JSON, TOML or YAML, told by its suffix; ``None`` for no file.
        environ: Variables; those with the prefix are read, by the upper-case path of a key.
        flags: Key's path (``client.ping_interval``) → value, as text or as the file would have it.
        prefix: Of variables, without the underscore.

    Raises:
        ConfigError: A value cannot be used; the message names key, value and bound.
    """
    file = Source() if path is None else read_file(path)
    environment = read_environment(environ, prefix, file.namespaces or [])
    flagged = read_flags(flags)
    entries = {**file.entries, **environment.entries, **flagged.entries}
    # Each source has already taken in what the one below it says of a namespace.
    namespaces = next(
        (
            source.namespaces
            for source in (flagged, environment, file)
            if source.namespaces is not None
        ),
        [],
    )
    values = Values(entries)
    without = Namespace(
        "",
        {
            path.removeprefix(f"{WITHOUT_NAMESPACE}."): entry
            for path, entry in entries.items()
            if path.startswith(f"{WITHOUT_NAMESPACE}.")
        },
    )
    options = {item.name: _create_options(item, values) for item in (without, *namespaces)}
    without_namespace = options.pop("")
    settings = _create_settings(values)
    chosen = choose_brokers(values)
    names = ChannelNames(**values.collect("names"))
    client = create_client(values)
    transports, api, endpoints = (
        create_transports(values),
        create_api(values),
        create_endpoints(values),
    )
    check_paths(values, transports, api, endpoints)
    _check_names(names, settings, without_namespace, options)
    _check_personal(client.personal, without_namespace, options)
    has_own_keys = values.get("client.subscription_token.enabled")
    return ServeConfiguration(
        settings=settings,
        broker=chosen.broker,
        presence=chosen.presence,
        namespaces=options,
        without_namespace=without_namespace,
        names=names,
        unavailable=frozenset(
            item.name
            for item in (without, *namespaces)
            if is_unavailable(_where(item), item.entries)
        ),
        connection_tokens=create_token_keys(values, "client.token"),
        subscription_tokens=(
            create_token_keys(values, "client.subscription_token") if has_own_keys else None
        ),
        client=client,
        transports=transports,
        api=api,
        endpoints=endpoints,
        server=create_server(values),
        warnings=tuple(
            _list_warnings(prefix, [file, environment, flagged], [without, *namespaces], values)
        ),
    )


def _where(namespace: Namespace) -> str:
    """Return a namespace's path."""
    return f"channel.namespaces.{namespace.name}" if namespace.name else WITHOUT_NAMESPACE


def _create_options(namespace: Namespace, values: Values) -> ChannelOptions:
    """Create the options of a namespace."""
    return create_channel_options(
        _where(namespace),
        namespace.entries,
        history_meta_ttl=values.get("channel.history_meta_ttl"),
        publication_format=values.get("channel.publication_data_format"),
    )


class GivenSettings(Settings):
    """Settings that are all given: nothing is read from the environment once more.

    An object that is given in two places would be joined from both.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what was given."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def _create_settings(values: Values) -> Settings:
    """Create the limits and intervals."""
    fields = values.collect("settings")
    if not values.is_given("publication_bytes_max"):
        # What a client may send it may publish, and an endpoint may add as much.
        doubled = min(2 * fields["message_bytes_max"], COUNT_MAX)
        fields["publication_bytes_max"] = max(fields["publication_bytes_max"], doubled)
    presence_ttl = find_presence_ttl(values)
    if presence_ttl and not values.is_given("presence_ttl_seconds"):
        fields["presence_ttl_seconds"] = values.get(presence_ttl)
    # The process ends within its time: the drain gets what the last ends and cancelling leave.
    last = max(fields["close_timeout_seconds"], fields["handover_seconds"])
    spare = values.get("shutdown.timeout") - last - 2.0
    fields["drain_window_seconds"] = min(fields["drain_window_seconds"], max(spare, 0.0))
    try:
        settings = GivenSettings(**fields)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(error, values))) from error
    # Nodes find out too, when they start.
    CommandRates(settings.commands_per_second_max)
    return settings


def _describe(error: ValidationError, values: Values) -> Iterator[str]:
    """Say what is wrong with a setting in the words of whoever set it."""
    paths = {
        key.target.removeprefix("settings."): key.path
        for key in KEYS.values()
        if key.target.startswith("settings.")
    }
    if not values.is_given("presence_ttl_seconds"):
        paths["presence_ttl_seconds"] = find_presence_ttl(values) or "presence_ttl_seconds"
    for item in error.errors(include_url=False):
        if item["loc"]:
            origin = values.origin(paths[str(item["loc"][0])])
            yield f"{origin}: {item['msg']}, got {item['input']!r:.80}"
        else:
            message = item["msg"].removeprefix("Value error, ")
            for field, path in paths.items():
                message = message.replace(field, values.origin(path))
            yield message


def _check_names(
    names: ChannelNames,
    settings: Settings,
    without_namespace: ChannelOptions,
    options: Mapping[str, ChannelOptions],
) -> None:
    """Refuse namespaces that no channel could be in, and expressions that are none."""
    for name in options:
        if not all(letter.isalnum() or letter in "-_." for letter in name) or not name.isascii():
            raise ConfigError(
                f"channel.namespaces: a name has letters, digits, '-', '_' and '.', got {name!r}"
            )
    Namespaces(
        without_namespace,
        options,
        boundary=names.namespace_boundary,
        private_prefix=names.private_prefix,
        user_boundary=names.user_boundary,
        user_separator=names.user_separator,
        name_bytes_max=settings.channel_bytes_max,
    )


def _check_personal(
    personal: PersonalChannel | None,
    without_namespace: ChannelOptions,
    options: Mapping[str, ChannelOptions],
) -> None:
    """Refuse personal channels in a namespace that is not there, or whose presence is missing."""
    if personal is None:
        return
    section = "client.subscribe_to_user_personal_channel"
    found = options.get(personal.namespace) if personal.namespace else without_namespace
    if found is None:
        raise ConfigError(
            f"{section}.personal_channel_namespace must be one of channel.namespaces, "
            f"got {personal.namespace!r}"
        )
    if personal.single_connection and not found.presence:
        raise ConfigError(f"{section}.single_connection needs presence in that namespace")


def _list_warnings(
    prefix: str,
    sources: list[Source],
    namespaces: list[Namespace],
    values: Values,
) -> Iterator[str]:
    """Name each key that has no effect, once."""
    for name in dict.fromkeys(name for source in sources for name in source.unknown):
        if is_in_list(name, prefix):
            yield f"{name}: not there yet, ignored"
        else:
            yield f"{name}: unknown key, ignored{_guess(name)}"
    known = read_known()
    for path, entry in values.entries.items():
        is_channel = path.startswith(f"{WITHOUT_NAMESPACE}.")
        if path in KEYS or path in ACCEPTED or is_channel:
            continue
        if path in INTERNAL_KEYS:
            if has_internal_address(values):
                yield f"{entry.origin}: not there yet; {INTERNAL}"
        elif not is_default(entry.value, known[path]):
            yield f"{entry.origin}: not there yet, ignored"
    for item in namespaces:
        blocks = is_unavailable(_where(item), item.entries)
        channels = "channels without a namespace" if not item.name else f"channels of {item.name!r}"
        for origin in find_unsupported(item.entries):
            suffix = f"; {channels} answer error 108" if blocks else ""
            yield f"{origin}: not there yet, ignored{suffix}"
    yield from list_unused(values)


def _guess(name: str) -> str:
    """Guess which key was meant."""
    section, _, leaf = name.rpartition(".")
    siblings = [
        path.removeprefix(f"{section}." if section else "")
        for path in (*read_known(), *TREE)
        if path.rpartition(".")[0] == section
    ]
    found = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.8)
    return f"; did you mean {found[0]!r}?" if found else ""
