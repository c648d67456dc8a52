"""How the link to a broker is encrypted: what the options say, as the standard library has it."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import TypeVar

from wirebell.broker_options import BrokerTLS
from wirebell.errors import ConfigError

__all__ = ("create_tls",)

ContextT = TypeVar("ContextT", bound=ssl.SSLContext)


def create_tls(tls: BrokerTLS, broker: str, kind: type[ContextT]) -> ContextT:
    """Make what a link is encrypted with.

    Args:
        tls: What the options say; ``server_name`` is the caller's to look at.
        broker: For the message: whose certificates they are.
        kind: Of the context: ``ssl.SSLContext``, or what a driver needs.

    Raises:
        ConfigError: A certificate cannot be read.
    """
    try:
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        if _is_pem(tls.authorities):
            context.load_verify_locations(cadata=tls.authorities)
        elif tls.authorities:
            context.load_verify_locations(cafile=tls.authorities)
        else:
            context.load_default_certs()
        if tls.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate:
            _load_certificate(context, tls)
    except (OSError, ValueError) as error:
        raise ConfigError(f"a certificate for {broker} cannot be read: {error}") from error
    return context


def _load_certificate(context: ssl.SSLContext, tls: BrokerTLS) -> None:
    """Load our own certificate; the standard library takes files only."""
    with tempfile.TemporaryDirectory(prefix="wirebell-") as folder:
        paths: list[str] = []
        for name, text in (("certificate", tls.certificate), ("key", tls.key)):
            if _is_pem(text):
                path = Path(folder, name)
                path.touch(mode=0o600)
                path.write_text(text)
                paths.append(str(path))
            else:
                paths.append(text)
        context.load_cert_chain(paths[0], paths[1] or None)


def _is_pem(text: str) -> bool:
    """Tell a certificate itself from the path of one."""
    return "-----BEGIN" in text
