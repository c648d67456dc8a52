"""The reference app's channels: what travels where, and what is kept.

The article's six systems are plain text channels. The page listens to one more, ``board``, which
has history and presence: it is how a browser that was away gets what it missed.
"""

from wirebell import History, Realtime
from wirebell.demo.models import BoardEvent
from wirebell.demo.settings import TaskboardLimits

__all__ = ("CHAT", "board", "rt")

rt = Realtime(TaskboardLimits())

CHAT = "chat"
"""The article's room: everybody, nothing kept."""

board = rt.channel(
    "board",
    sends=BoardEvent,
    history=History(size=500, ttl_seconds=3600),
    presence=True,
    public=True,
)
"""All that happens on the task board, as JSON."""

rt.channel("redis:{channel:path}", history=History(size=100, ttl_seconds=300))
