"""What the whole life of a session needs: exact costs, names, the state that lists are made by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STATE = (
    "CASE WHEN deleted THEN 'deleted' WHEN ended_at IS NOT NULL THEN 'ended' WHEN archived THEN 'archived' ELSE 'live' END"
)
NAMES = ("cost_status", "cost_source", "model", "provider", "base_url", "display_name")


def upgrade() -> None:
    """Add columns and indexes."""
    op.add_column("sessions", sa.Column("cost_nano", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    for name in NAMES:
        op.add_column("sessions", sa.Column(name, sa.String(255)))
    op.add_column("sessions", sa.Column("told", sa.Boolean, nullable=False, server_default=sa.false()))
    op.drop_column("sessions", "estimated_cost")
    kind = "STORED" if op.get_bind().dialect.name == "postgresql" else "VIRTUAL"
    op.execute(f"ALTER TABLE sessions ADD COLUMN state VARCHAR(16) GENERATED ALWAYS AS ({STATE}) {kind}")
    op.drop_index("sessions_by_owner", "sessions")
    op.create_index("sessions_by_owner", "sessions", ["owner", "state", "updated_at", "session_id"])
    op.create_index("sessions_by_activity", "sessions", ["state", "updated_at", "session_id"])
