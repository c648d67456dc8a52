"""What a process counts and bounds beside its nodes: file descriptors, and how it takes sockets.

The operating system gives both to the process, not to a node: two nodes of one process share them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from asyncio import Transport
from dataclasses import dataclass

__all__ = (
    "ACCEPT_BURST",
    "PROCESS",
    "Descriptors",
    "ProcessStatistics",
    "abort_late",
    "count_descriptors",
    "find_free_descriptor",
    "read_descriptors_max",
)

ACCEPT_BURST = 16
"""Sockets that asyncio's own loop may take at once before anybody is asked; uvloop takes one.
More would have to be kept in reserve, fewer cost a turn of the loop each."""

# What there is room for where there is no limit: counted anew when half of it has come.
UNLIMITED = 1_000_000
OPEN_FILES = "/proc/self/fd"


@dataclass(slots=True)
class ProcessStatistics:
    """What this process has counted since it started; plain integers, read by metrics."""

    is_accepting: bool = True
    """Whether the listener is served; false while descriptors are short, and when draining."""
    accept_pause_count: int = 0
    """Times the listener was left alone because descriptors were short."""
    descriptors_refused_count: int = 0
    """Connections answered with 503 for the same reason, where the listener is not ours."""
    drained_count: int = 0
    """Connections that were closed because the process was told to end."""
    aborted_count: int = 0
    """Connections that did not close by themselves in time and were cut."""


PROCESS = ProcessStatistics()
"""The one instance: counters of the process this module is loaded in."""


def abort_late(transport: Transport) -> None:
    """Cut a link that had time to close by itself, and count it unless it has done so."""
    if transport.get_write_buffer_size() or not transport.is_closing():
        PROCESS.aborted_count += 1
    transport.abort()


def set_user_timeout(transport: Transport, seconds: float) -> None:
    """Have the kernel drop a peer that acknowledges nothing; Linux only, and TCP only."""
    link = transport.get_extra_info("socket")
    if link is None or not hasattr(socket, "TCP_USER_TIMEOUT") or link.family == socket.AF_UNIX:
        return
    # A link that is gone already has no number any more.
    with contextlib.suppress(OSError):
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


@dataclass(frozen=True, slots=True)
class Descriptors:
    """How many of the process' file descriptors connections may have.

    Who owns the listener leaves it alone from `threshold` on; who does not refuses a connection
    that `is_reserved`. The former is lower by what a loop may have taken already.

    Attributes:
        limit: What the system lets the process have (``RLIMIT_NOFILE``); 0 is no limit.
        spare: Kept for files, databases and the application.
    """

    limit: int
    spare: int

    @property
    def reserve(self) -> int:
        """Descriptors that no connection may keep.

        Of a small limit a quarter is enough, so that it leaves room for anybody at all.
        """
        return min(self.spare, self.limit // 4)

    @property
    def threshold(self) -> int:
        """From how many open descriptors on no connection is taken; 0 where there is no limit."""
        return max(self.limit - self.reserve - ACCEPT_BURST, 0)

    def is_reserved(self, descriptor: int) -> bool:
        """Tell from a new descriptor's number whether it comes from the reserve.

        The system always gives the lowest free number, so all below it are taken (POSIX.1-2017,
        2.14 File Descriptor Allocation).
        """
        return 0 < self.limit <= descriptor + self.reserve

    def count_free(self) -> int:
        """Count the connections there is room for; 0 or less when there is none."""
        if not self.limit:
            return UNLIMITED
        lowest = find_free_descriptor()
        # Where the kernel does not keep count, 20,000 names take 20 ms to read: not for nothing.
        if lowest is None or lowest >= self.threshold:
            return 0
        return self.threshold - count_descriptors()


def read_descriptors_max() -> int:
    """Read how many descriptors the process may have now; 0 is no limit."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows has no such limit.
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def find_free_descriptor() -> int | None:
    """Ask for the lowest free number, in two system calls; None when there is none."""
    try:
        descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    os.close(descriptor)
    return descriptor


def count_descriptors() -> int:
    """Count the descriptors that the process has open.

    Linux from 6.2 on keeps the number as the folder's size; elsewhere the names are counted.
    """
    try:
        count = os.stat(OPEN_FILES).st_size
        # Listing opens the folder, and that is one of the names.
        return count or len(os.listdir(OPEN_FILES)) - 1
    except OSError:
        # macOS and the BSDs. The same folder's descriptor is counted along.
        return len(os.listdir("/dev/fd")) - 1
