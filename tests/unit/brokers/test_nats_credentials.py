"""Files of credentials: what is read, and what is refused."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from tests.services.nats_keys import USER, Key, Operator
from wirebell.broker_options import NATSOptions
from wirebell.brokers.nats.addresses import read_place
from wirebell.brokers.nats.credentials import read_credentials
from wirebell.errors import ConfigError

# Of NATS' own documentation.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


def test_a_known_key(tmp_path: Path) -> None:
    """A seed gives the public key that NATS' own tool gives for it, and signs the nonce."""
    path = tmp_path / "seed"
    path.write_text(f"{SEED}\n")

    found = read_credentials(str(path))

    assert "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" == found.public_key
    answer = found.answer("nonce")
    signature = base64.urlsafe_b64decode(answer["sig"] + "==")
    found.key.public_key().verify(signature, b"nonce")
    assert found.public_key == answer["nkey"]
    assert found.ended_at is None


def test_a_whole_file(tmp_path: Path) -> None:
    """A ``.creds`` file has a JWT besides, which is shown instead of the key, and may end."""
    path, operator = tmp_path / "app.creds", Operator()
    path.write_text(operator.create_credentials())
    lasting = read_credentials(str(path))
    path.write_text(operator.create_credentials(expires_at=time.time() + 60))
    later = read_credentials(str(path))
    path.write_text(operator.create_credentials(expires_at=time.time() - 60))
    ended = read_credentials(str(path))

    assert {"jwt", "sig"} == lasting.answer("x").keys()
    assert lasting.ended_at is None is later.ended_at
    assert ended.ended_at is not None
    assert lasting._replace(token="no.jwt").ended_at is None
    assert lasting._replace(token="nothing").ended_at is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "hold no seed"),
        (f"{SEED[:-1]}A", "hold no seed"),
        ("not base32!", "hold no seed"),
        ("\xff", "hold no seed"),
        ("SAANDLKMXL6CUS3CP52WIXBEDN6YJ545GDKC65U5JZPPV6WH6ESWUA6YAI", "not a user's"),
        ("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4", "hold no seed"),
        ("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------", "not whole"),
        (f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER", "not whole"),
    ],
)
def test_refused(tmp_path: Path, text: str, words: str) -> None:
    """What is no such file is refused before anything is connected to; its content is not shown."""
    path = tmp_path / "file"
    path.write_text(text)

    with pytest.raises(ConfigError, match=words) as raised:
        read_place(NATSOptions(credentials=str(path)))

    assert "file" in str(raised.value)
    assert len(text) < 10 or text not in str(raised.value)


def test_missing() -> None:
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match=r"'/nowhere', cannot be read: .*No such file"):
        read_place(NATSOptions(credentials="/nowhere"))


def test_two_ways_in(tmp_path: Path) -> None:
    """A user in the URL and credentials are one too many."""
    path = tmp_path / "seed"
    path.write_text(Key(USER).seed)

    with pytest.raises(ConfigError, match="which of them counts"):
        read_place(NATSOptions(urls=("nats://ann:pw@h",), credentials=str(path)))
