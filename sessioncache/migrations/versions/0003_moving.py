"""Where a change of the number of partitions stands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# The tables that it alters, for `sessioncache.migrate`.
locks = ("layout",)


def upgrade() -> None:
    """Add a column, which costs nothing and which earlier releases do not see."""
    op.add_column("layout", sa.Column("moving_to", sa.Integer))
