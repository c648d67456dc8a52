"""Taskboard, the reference app: every system of the article on its route, for real.

It uses only Wirebell's public face, and needs the extra ``wirebell[demo]``.
"""

__all__ = ()
