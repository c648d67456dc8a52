"""``python -m wirebell`` is the command ``wirebell``."""

from wirebell.cli import main

__all__ = ()

main()
