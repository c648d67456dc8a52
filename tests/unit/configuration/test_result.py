"""What a configuration says of itself."""

from __future__ import annotations

import pickle

import pytest

from wirebell.configuration import load


def test_nothing_is_insecure_by_default() -> None:
    """Without a word no mode for development is on."""
    assert [] == load(None, {}, {}).find_insecure_modes()


@pytest.mark.parametrize(
    "key",
    ["client.insecure", "client.insecure_skip_token_signature_verify", "http_api.insecure"],
)
def test_insecure_modes_are_named(key: str) -> None:
    """Each mode for development is named with what it opens."""
    modes = load(None, {}, {key: True}).find_insecure_modes()

    assert [True] == [mode.startswith(f"{key} is on: ") for mode in modes]


def test_workers_get_all_of_it() -> None:
    """A configuration travels to the processes of workers as it is."""
    configuration = load(
        None, {}, {"channel.namespaces": [{"name": "a"}], "client.token.hmac_secret_key": "s" * 32}
    )

    assert configuration == pickle.loads(pickle.dumps(configuration))  # noqa: S301
