"""Where ``wirebell serve`` listens: an address or a Unix socket, with TLS or without."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wirebell.server import ANSWER_SECONDS_MAX, create_listener

if TYPE_CHECKING:
    from wirebell.configuration import ServerOptions, TLSOptions
    from wirebell.settings import Settings

__all__ = ("create_tls_context", "listen", "wait_answer")

# How often somebody who waits for a first answer looks.
LOOK_SECONDS = 0.1


def create_tls_context(tls: TLSOptions, *_uvicorn: object) -> ssl.SSLContext:
    """Create how a process proves itself; uvicorn hands its own configuration over, too.

    Raises:
        ssl.SSLError: Certificate and key do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory(prefix="wirebell-") as folder:
        # OpenSSL reads a key from a file only; nobody else may enter the folder.
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(tls.certificate)
        key.touch(mode=0o600)
        key.write_text(tls.key)
        context.load_cert_chain(certificate, key)
    if tls.client_authorities:
        context.load_verify_locations(cadata=tls.client_authorities)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def listen(server: ServerOptions, settings: Settings, backlog: int) -> socket.socket:
    """Listen where the configuration says, with a socket that workers can inherit.

    Args:
        server: Says where.
        settings: For what the kernel does about stuck peers.
        backlog: Connections that may wait to be taken.

    Raises:
        OSError: The address cannot be had.
    """
    if server.unix_socket:
        return _listen_unix(Path(server.unix_socket), backlog)
    return create_listener(
        server.address,
        server.port,
        backlog=backlog,
        tcp_user_timeout_seconds=settings.tcp_user_timeout_seconds,
    )


def _listen_unix(path: Path, backlog: int) -> socket.socket:
    """Listen on a Unix socket."""
    if path.is_socket():
        # Left behind by a process that was killed, unless somebody still answers there.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(f"{path} is in use: another process answers there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(f"{path} cannot be had: {error.strerror or error}") from error
    listener.listen(backlog)
    listener.set_inheritable(True)
    return listener


def wait_answer(name: Any, *, is_tls: bool) -> str:
    """Wait until a server answers HTTP, whatever it says. Blocks; for a thread.

    Args:
        name: Of its listening socket: a path, or address and port.
        is_tls: It speaks TLS; its certificate is not looked at, that is for others.

    Returns:
        The address for people; empty when nothing answered within ``ANSWER_SECONDS_MAX``.
    """
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if _is_answering(name, is_tls=is_tls):
                return _show(name, is_tls=is_tls)
        time.sleep(LOOK_SECONDS)
    return ""


def _is_answering(name: Any, *, is_tls: bool) -> bool:
    """Ask a server for anything."""
    with contextlib.ExitStack() as stack:
        if isinstance(name, str):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(ANSWER_SECONDS_MAX)
            connection.connect(name)
        else:
            address = (_reach(name[0]), name[1])
            connection = stack.enter_context(socket.create_connection(address, ANSWER_SECONDS_MAX))
        if is_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            stack.enter_context(context.wrap_socket(connection))
            # A process that serves has answered; one that asks for certificates says no more.
            return True
        connection.sendall(b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return connection.recv(5) == b"HTTP/"


def _reach(host: str) -> str:
    """Return an address by which a server is reached that listens on every one."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only


def _show(name: Any, *, is_tls: bool) -> str:
    """Write an address as people type it."""
    if isinstance(name, str):
        return name
    host = _reach(name[0])
    address = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{address}:{name[1]}"
