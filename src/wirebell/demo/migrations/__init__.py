"""Alembic's migrations of the reference app, inside the package so that a wheel has them."""

__all__ = ()
