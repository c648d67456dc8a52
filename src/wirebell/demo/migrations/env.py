"""How Alembic reaches the database: the URL is given by `wirebell.demo.db.prepare`."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from wirebell.demo.db import Base

__all__ = ()


def migrate(connection: Connection) -> None:
    """Run what is missing, in one transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Connect as the application does, with the same driver."""
    engine = create_async_engine(context.config.attributes["url"])
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(main())
