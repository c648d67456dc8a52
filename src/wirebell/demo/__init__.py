"""Taskboard, the reference app: every system of the article on its route, for real.

Its routes use only Wirebell's public face; its server borrows the commands' logging. It needs the
extra ``wirebell[demo]``.
"""

__all__ = ()
