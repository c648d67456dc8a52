"""How workers wake each other: datagrams on Unix sockets in a folder beside the database.

A datagram says nothing but "read the log". Whoever does not get it reads within a poll's interval,
so every failure here is only slow: a queue that is full, a peer that died, a folder that cannot be
made.

The folder is ``<database>-workers``, of this user only. An address of a Unix socket has at most
107 bytes (unix(7)); where that is too long, the folder is ``/tmp/wirebell-<user>-<hash>``, with the
hash of the database's path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import select
import socket
import stat
import time
from pathlib import Path

__all__ = ("Wakeups", "find_folder")

logger = logging.getLogger(__name__)

ADDRESS_BYTES_MAX = 107
SUFFIX = ".socket"
NAME_BYTES = 8 + len(SUFFIX)
# Two changes of a folder within a tick of the kernel's clock leave it the same time of change.
LIST_SECONDS_MAX = 1.0
DATAGRAM_BYTES = 1


def find_folder(path: Path) -> Path:
    """Return the folder where the workers of a database meet."""
    beside = path.with_name(path.name + "-workers")
    if len(os.fsencode(beside)) + 1 + NAME_BYTES <= ADDRESS_BYTES_MAX:
        return beside
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path("/tmp") / f"wirebell-{user}-{digest}"  # noqa: S108 - its owner and mode are checked


class Wakeups:
    """Wakes this worker's reader, and those of the others.

    Mutable state: this worker's sockets, and which others there are. `wait` is called by the
    reader's thread, `wake_others` by the writer's, `kick` by any.

    Args:
        folder: Where workers meet; ``None`` leaves all to polling.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.name = secrets.token_hex(4) + SUFFIX
        self.inbox: socket.socket | None = None
        self.sender: socket.socket | None = None
        self.names: list[str] = []
        self.listed_at = 0.0
        self.folder_changed_at = 0
        self.is_kicked = False
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.settimeout(0)
        self.poll = select.poll() if hasattr(select, "poll") else None
        self._watch(self.ours)

    def open(self) -> None:
        """Listen, where that is possible."""
        if self.folder is None or not hasattr(socket, "AF_UNIX"):
            return
        try:
            _make_folder(self.folder)
            self.inbox = _create_socket()
            self.inbox.bind(os.fspath(self.folder / self.name))
            self.sender = _create_socket()
        except OSError as error:
            logger.warning(
                "workers cannot wake each other in %s (%s): they look for what is new a few times "
                "a second",
                self.folder,
                error,
            )
            self._close_sockets()
            return
        self._watch(self.inbox)

    def close(self) -> None:
        """Be no longer there; idempotent."""
        self._close_sockets()
        self.ours.close()
        self.theirs.close()

    def wait(self, seconds: float | None) -> None:
        """Wait until somebody wakes this worker, or so long; ``None`` is no bound."""
        if self.poll is not None:
            self.poll.poll(None if seconds is None else seconds * 1_000)
        else:  # pragma: no cover - Windows
            select.select([self.ours], [], [], seconds)
        for end in (self.ours, self.inbox):
            if end is not None:
                _drain(end)
        # Last: a kick whose byte was drained must not keep the next one from being sent. What was
        # asked before either of them is seen by who called.
        self.is_kicked = False

    def kick(self) -> None:
        """Wake this worker's own reader."""
        if self.is_kicked:
            return
        self.is_kicked = True
        with contextlib.suppress(OSError):
            self.theirs.send(b"\x00")

    def wake_others(self) -> None:
        """Wake all other workers."""
        if self.sender is None or self.folder is None:
            return
        for name in self._list_names():
            address = os.fspath(self.folder / name)
            try:
                self.sender.sendto(b"\x00", address)
            except OSError as error:
                # EAGAIN: its queue is full of the same. ENOENT: it ended.
                if error.errno == errno.ECONNREFUSED:
                    # Killed: its name is a fresh one each time, so that nobody else is meant.
                    with contextlib.suppress(OSError):
                        os.unlink(address)
                if error.errno not in {errno.EAGAIN, errno.ENOBUFS}:
                    self.listed_at = 0.0

    def _list_names(self) -> list[str]:
        """List the others; reads the folder only when it may have changed."""
        assert self.folder is not None
        now = time.monotonic()
        try:
            changed_at = self.folder.stat().st_mtime_ns
            if changed_at != self.folder_changed_at or now - self.listed_at > LIST_SECONDS_MAX:
                found = os.listdir(self.folder)
                self.names = [n for n in found if n.endswith(SUFFIX) and n != self.name]
                self.folder_changed_at, self.listed_at = changed_at, now
        except OSError:
            self.names = []
        return self.names

    def _watch(self, end: socket.socket) -> None:
        """Have `wait` end when something comes there."""
        if self.poll is not None:
            self.poll.register(end, select.POLLIN)

    def _close_sockets(self) -> None:
        """Close what was opened, and take the name away."""
        for end in (self.inbox, self.sender):
            if end is not None:
                if end is self.inbox and self.poll is not None:
                    with contextlib.suppress(KeyError):
                        self.poll.unregister(end)
                end.close()
        if self.inbox is not None and self.folder is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.folder / self.name)
        self.inbox = self.sender = None


def _create_socket() -> socket.socket:
    """Make a socket for datagrams that waits for nothing."""
    created = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    created.settimeout(0)
    return created


def _make_folder(folder: Path) -> None:
    """Make the folder, and refuse one that others may write to.

    Raises:
        OSError: It cannot be made, or is somebody else's.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else", str(folder))
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def _drain(end: socket.socket) -> None:
    """Take all that came: it says the same."""
    with contextlib.suppress(OSError):
        while end.recv(64):
            pass
