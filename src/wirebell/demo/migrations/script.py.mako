"""${message}."""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

__all__ = ("down_revision", "downgrade", "revision", "upgrade")

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Go to this revision."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Go back."""
    ${downgrades if downgrades else "pass"}
