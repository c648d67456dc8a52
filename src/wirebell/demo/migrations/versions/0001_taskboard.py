"""Create users, tasks, messages and tickets."""

import sqlalchemy as sa
from alembic import op

__all__ = ("down_revision", "downgrade", "revision", "upgrade")

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "users",
        sa.Column("username", sa.String(32), primary_key=True),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("created_at", time, nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("created_by", sa.String(32), sa.ForeignKey("users.username")),
        sa.Column("completed_at", time),
        sa.Column("completed_by", sa.String(32), sa.ForeignKey("users.username")),
        # An id is an address that people share: one is never given twice.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("sent_at", time, nullable=False),
        sa.Column("sent_by", sa.String(32), sa.ForeignKey("users.username")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tickets",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("username", sa.String(32), sa.ForeignKey("users.username"), nullable=False),
        sa.Column("expires_at", time, nullable=False),
        sa.Column("token_expires_at", time, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("tickets", "messages", "tasks", "users"):
        op.drop_table(table)
