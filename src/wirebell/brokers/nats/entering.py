"""How a connection to NATS begins: who is there, TLS, and who we are."""

from __future__ import annotations

import asyncio
import re
import ssl

import msgspec

from wirebell.broker_options import BrokerTLS
from wirebell.broker_tls import create_tls
from wirebell.brokers.nats.addresses import Address
from wirebell.brokers.nats.credentials import read_credentials
from wirebell.brokers.nats.faults import Refused, WireLost
from wirebell.brokers.nats.wire import NOT_NATS, ServerInfo, Wire
from wirebell.errors import ConfigError
from wirebell.version import __version__

__all__ = ("open_wire",)

# What the broker needs came with it: headers, JetStream, publishing anew what was stored.
VERSION_MIN = (2, 9)


async def open_wire(address: Address, connect_seconds: float, io_seconds: float) -> Wire:
    """Connect and enter.

    Raises:
        OSError: It cannot be reached; `ssl.SSLError` where TLS fails, ``TimeoutError`` where it
            takes too long.
        Refused: It does not let us in, or is not what it has to be.
        WireLost: It closed the link.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(connect_seconds):
        _, wire = await loop.create_connection(Wire, address.host, address.port)
    try:
        async with asyncio.timeout(io_seconds):
            await _enter(wire, address)
    except BaseException:
        wire.abort()
        raise
    return wire


async def _enter(wire: Wire, address: Address) -> None:
    """Learn who it is, and say who we are."""
    try:
        await wire.greeting
    except WireLost as error:
        if wire.trouble == NOT_NATS:
            raise Refused(f"{NOT_NATS}: is the port right?") from error
        raise WireLost(f"it closed the link before it said anything ({error})") from error
    info = wire.info
    _check_version(info)
    context = address.tls
    if context is None and info.tls_required:
        context = create_tls(BrokerTLS(), "NATS", ssl.SSLContext)
    if context is not None:
        if not (info.tls_required or info.tls_available):
            raise Refused("it does not speak TLS: write nats:// instead of tls://")
        await _encrypt(wire, context, address)
    words: dict[str, object] = {
        "verbose": False,
        "pedantic": False,
        "tls_required": context is not None,
        "name": "wirebell",
        "lang": "python",
        "version": __version__,
        "protocol": 1,
        "headers": True,
        "no_responders": True,
        "echo": True,
    }
    words |= _identify(address, info)
    wire.write(b"CONNECT %b\r\n" % msgspec.json.encode(words))
    wire.listen()
    try:
        await wire.sync()
    except WireLost as error:
        raise _refusal_of(wire, address, error, is_encrypted=context is not None) from error


def _identify(address: Address, info: ServerInfo) -> dict[str, str]:
    """Return the words that say who we are.

    Raises:
        Refused: The credentials cannot be read any more.
    """
    if address.credentials and info.nonce:
        try:
            return read_credentials(address.credentials).answer(info.nonce)
        except ConfigError as error:
            raise Refused(str(error)) from error
    if address.password:
        return {"user": address.user, "pass": address.password}
    return {"auth_token": address.user} if address.user else {}


async def _encrypt(wire: Wire, context: ssl.SSLContext, address: Address) -> None:
    """Speak TLS from now on."""
    assert wire.transport is not None
    transport = await wire.loop.start_tls(
        wire.transport,
        wire,
        context,
        server_hostname=address.server_name or address.host,
    )
    if transport is None:
        raise WireLost("it closed the link in the middle of TLS")
    wire.connection_made(transport)


def _check_version(info: ServerInfo) -> None:
    """Refuse a server that cannot do what is needed.

    Raises:
        Refused: It is too old.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", info.version)[:2])
    if version < VERSION_MIN:
        raise Refused(
            f"it is nats-server {info.version}, needed is {VERSION_MIN[0]}.{VERSION_MIN[1]} or "
            "newer: upgrade it"
        )


def _refusal_of(wire: Wire, address: Address, error: WireLost, *, is_encrypted: bool) -> Exception:
    """Say why a server closed the link while we entered."""
    trouble = wire.trouble.lower()
    if "authorization" in trouble or "authentication" in trouble:
        return Refused(f"it refuses {_name_what_was_shown(address)} ({wire.trouble})")
    if is_encrypted and not trouble:
        return Refused(
            "it closed the link behind TLS: does it want a certificate of ours (tls_cert, tls_key)?"
        )
    return error


def _name_what_was_shown(address: Address) -> str:
    """Name what a server did not believe, and what to do."""
    if not address.credentials:
        return (
            "user and password, or wants some: give them in the URL "
            "(nats://user:password@host), or a file (?credentials=)"
        )
    try:
        ended_at = read_credentials(address.credentials).ended_at
    except ConfigError:
        ended_at = None
    end = f", whose JWT ended at {ended_at:%Y-%m-%d %H:%M:%S} UTC" if ended_at else ""
    return f"the credentials {address.credentials!r}{end}: does its account know this user?"
