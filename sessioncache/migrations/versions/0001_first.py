"""The first schema: sessions, messages, routes, applied ops, layout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def upgrade() -> None:
    """Create everything."""
    _create_sessions()
    _create_messages()
    op.create_table(
        "routes",
        sa.Column("session_key", sa.String(512), primary_key=True),
        sa.Column("session_id", sa.String(255)),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    _create_applied_ops()
    op.create_table(
        "layout",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("partitions", sa.Integer, nullable=False),
    )


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String(255), primary_key=True),
        sa.Column("session_key", sa.String(512)),
        *(sa.Column(name, sa.String(255)) for name in ("owner", "title", "platform", "chat_type")),
        sa.Column("origin", sa.JSON),
        sa.Column("metadata", sa.JSON),
        *map(_flag, ("archived", "important", "suspended", "deleted")),
        *map(_counter, ("message_count", "last_seq", "consolidated_seq")),
        *map(_counter, ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")),
        _counter("last_prompt_tokens"),
        sa.Column("estimated_cost", sa.Float, nullable=False, server_default=sa.text("0")),
        *(_time(name, nullable=False) for name in ("created_at", "updated_at", "last_accessed")),
        *map(_time, ("last_message_at", "ended_at")),
        sa.Column("end_reason", sa.String(64)),
        sa.Column("parent_id", sa.String(255)),
    )
    op.create_index("sessions_by_key", "sessions", ["session_key", "last_seq"])
    op.create_index("sessions_by_owner", "sessions", ["owner", "updated_at"])


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("session_id", sa.String(255), sa.ForeignKey("sessions.session_id"), primary_key=True),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("message_id", sa.String(255), nullable=False),
        sa.Column("role", sa.String(255)),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        _time("created_at", nullable=False),
        sa.UniqueConstraint("session_id", "message_id", name="messages_by_id"),
    )


def _create_applied_ops() -> None:
    op.create_table(
        "applied_ops",
        sa.Column("session_id", sa.String(255), primary_key=True),
        sa.Column("op_id", sa.String(255), primary_key=True),
        sa.Column("session_key", sa.String(512), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        _flag("refused"),
        _time("applied_at", nullable=False),
    )
    op.create_index("applied_ops_by_key", "applied_ops", ["session_key", "version"])
    op.create_index("applied_ops_by_time", "applied_ops", ["applied_at"])
