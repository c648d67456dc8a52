"""Real networks on one machine: namespaces joined by bridges, and links that are cut and healed.

Nodes live in namespaces of their own. One bridge joins each with the clients, another with the
broker, so that a node can be cut off from its broker alone. A cut is silent; the broker forgets the
node's links while it lasts, and the node finds out by itself. Namespaces are held by descriptors of
this process and by nothing else: they are gone when it ends, however it ends.

Needs the rights of an administrator, here or in a namespace of users: ``unshare --net`` as root, or
``unshare --user --map-root-user --net`` as anybody.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ("BROKER_HOST", "Network", "network")

CLONE_NEWNET = 0x40000000
FRONT, BACK = "10.113.1", "10.113.2"
BROKER_HOST = f"{BACK}.1"
"""Where the broker listens."""
IP_SECONDS = 10.0
# The kernel of whoever is reached refuses this at once.
CLOSED_PORT = 1
PROBE_SECONDS = 0.2
# How often the broker's kernel sends again before it forgets a link: 0.6 s. Elsewhere it is 15, a
# quarter of an hour, and who waits that long plays the same.
RETRIES = 1


def ip(*words: str) -> None:
    """Change the network of this thread as an administrator does.

    Raises:
        OSError: It could not be changed; says why.
    """
    done = subprocess.run(
        ["ip", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=IP_SECONDS,
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library that returns zero."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Have sockets, threads and processes that this thread begins live in a namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("setns", namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextmanager
def _namespace() -> Iterator[int]:
    """Make a namespace; gives the descriptor that holds it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            made = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            ip("link", "set", "lo", "up")
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)
    try:
        yield made
    finally:
        os.close(made)


@dataclass(frozen=True)
class Network:
    """A namespace for the broker and the clients, and one for each node.

    Attributes:
        hub: Of the broker and the clients.
        nodes: Of the nodes.
    """

    hub: int
    nodes: Sequence[int]

    def host_of(self, number: int) -> str:
        """Return where clients reach a node."""
        return f"{FRONT}.{number + 2}"

    def cut(self, number: int) -> None:
        """Cut the link between a node and the broker: no packet passes, and nobody is told.

        Raises:
            OSError: Packets pass still.
        """
        with inside(self.hub):
            ip("link", "set", f"back{number}", "down")
        with inside(self.nodes[number]), socket.socket() as probe:
            probe.settimeout(PROBE_SECONDS)
            try:
                probe.connect((BROKER_HOST, CLOSED_PORT))
            except TimeoutError:
                return
            except ConnectionRefusedError as error:
                raise OSError("the link is cut, and packets pass") from error

    def heal(self, number: int) -> None:
        """Join them again."""
        with inside(self.hub):
            ip("link", "set", f"back{number}", "up")


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Make a network for so many nodes; it is gone when the block ends.

    Raises:
        OSError: There is no ``ip``, or this user may not make networks here.
    """
    with ExitStack() as stack:
        hub = stack.enter_context(_namespace())
        made = [stack.enter_context(_namespace()) for _ in range(count)]
        sides = (("front", FRONT), ("back", BACK))
        with inside(hub):
            Path("/proc/sys/net/ipv4/tcp_retries2").write_text(str(RETRIES))
            for side, prefix in sides:
                ip("link", "add", side, "type", "bridge")
                ip("addr", "add", f"{prefix}.1/24", "dev", side)
                ip("link", "set", side, "up")
        for number, namespace in enumerate(made):
            path = f"/proc/{os.getpid()}/fd/{namespace}"
            for side, prefix in sides:
                with inside(hub):
                    port = f"{side}{number}"
                    ip("link", "add", port, "type", "veth", "peer", "name", side, "netns", path)
                    ip("link", "set", port, "master", side, "up")
                with inside(namespace):
                    ip("addr", "add", f"{prefix}.{number + 2}/24", "dev", side)
                    ip("link", "set", side, "up")
        yield Network(hub, made)
