"""The store's tables, as SQLAlchemy Core; the migrations of this package create the same (a test compares them).

An append is remembered by its message: ``(session_id, message_id)`` is unique. ``applied_ops`` remembers every other op,
and the message ids of messages that were removed, so that an op is known to have been applied exactly if it stands in one
of the two. ``sessions.claims`` counts how often a key has claimed the session. Order is by ``seq``, never by time. Times
are aware UTC, to the millisecond. Costs are whole billionths, so that sums are exact in any order.

``sessions.state`` is computed by the database from the other columns: ``deleted``, ``ended``, ``archived`` or ``live``.
``layout.moving_to`` is the number of partitions that the layout is being changed to, while it is.

``told`` says that the application was told that the session is about to be reset; activity clears it.

``messages.words`` and ``sessions.title_words`` hold what a search is to find in place of ``text`` and ``title``, where that
differs; who writes one writes the other. What is only for searching stands in the migrations alone: in PostgreSQL the
indexes ``messages_by_words`` and ``sessions_by_words``; in SQLite the tables ``messages_search`` and ``sessions_search``,
kept by triggers, and the column ``id`` that they name rows by (a row id without a name may change at VACUUM).

What the indexes of sessions are for; each costs every write of the rows that are in it:

- ``sessions_by_key``: the sessions of a key, the newest ops of a key, and keys that begin alike.
- ``sessions_by_owner``, ``sessions_by_activity``: lists and counts, newest activity first, of one owner or of all; the
  latter also the sessions to archive and the routes to prune, oldest activity first.
- ``sessions_empty``, ``sessions_untold``, ``sessions_ended``: what housekeeping looks for. They hold only what it still
  has to look at: sessions without a message, those whose reset nobody was told of, those that are over.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    FetchedValue,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

HEAD = "0003"
VERSION_TABLE = "sessioncache_version"

log = logging.getLogger("sessioncache.schema")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

metadata = MetaData()


def as_text(moment: datetime) -> str:
    """An aware time as SQLite keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


class Instant(TypeDecorator[datetime]):
    """An aware UTC time. SQLite, which has no times, keeps text; what is no time there counts as 1970, with a warning."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of a database."""
        return dialect.type_descriptor(self.impl_instance if dialect.name == "postgresql" else String(32))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """What the database is given."""
        if value is None or dialect.name == "postgresql":
            return value
        return as_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """What the database gave back, aware."""
        if value is None:
            return None
        if dialect.name == "postgresql":
            return cast("datetime", value).astimezone(UTC)
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except (ValueError, TypeError):
            return _unreadable()


def _unreadable() -> datetime:
    log.warning("a time in the database cannot be read and counts as 1970")
    return _EPOCH


def milliseconds_of(raw: Any) -> int:
    """Milliseconds since 1970 of an `Instant` as the driver gave it, for rows in bulk that were read without its type."""
    try:
        moment = raw if type(raw) is datetime else datetime.fromisoformat(raw).replace(tzinfo=UTC)
        return (moment - _EPOCH) // _MILLISECOND
    except (ValueError, TypeError):
        return (_unreadable() - _EPOCH) // _MILLISECOND


def _counter(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=false())


# What the partial indexes hold. A statement uses one only if it says the same, in the same words, without parameters; that
# ``state`` is not named keeps SQLite from preferring ``sessions_by_activity``.
_LIVE = "deleted IS FALSE AND ended_at IS NULL AND archived IS FALSE"
EMPTY = f"message_count = 0 AND {_LIVE}"
UNTOLD = f"told IS FALSE AND {_LIVE}"
ENDED = "deleted IS FALSE AND ended_at IS NOT NULL"


def _partial(name: str, time: str, holds: str) -> Index:
    return Index(name, time, "session_id", postgresql_where=text(holds), sqlite_where=text(holds))


sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String(255), primary_key=True),
    Column("session_key", String(512)),
    Column("owner", String(255)),
    Column("title", String(255)),
    Column("platform", String(255)),
    Column("chat_type", String(255)),
    Column("origin", JSON(none_as_null=True)),
    Column("metadata", JSON(none_as_null=True)),
    _flag("archived"),
    _flag("important"),
    _flag("suspended"),
    _flag("deleted"),
    _counter("message_count"),
    _counter("last_seq"),
    _counter("consolidated_seq"),
    _counter("claims"),
    _counter("input_tokens"),
    _counter("output_tokens"),
    _counter("cache_read_tokens"),
    _counter("cache_write_tokens"),
    _counter("last_prompt_tokens"),
    _counter("cost_nano"),
    Column("cost_status", String(255)),
    Column("cost_source", String(255)),
    Column("model", String(255)),
    Column("provider", String(255)),
    Column("base_url", String(255)),
    Column("display_name", String(255)),
    _flag("told"),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("last_accessed", Instant, nullable=False),
    Column("last_message_at", Instant),
    Column("ended_at", Instant),
    Column("end_reason", String(64)),
    Column("parent_id", String(255)),
    Column("state", String(16), server_default=FetchedValue()),
    Column("title_words", Text),
    Index("sessions_by_key", "session_key", "last_seq", postgresql_ops={"session_key": "varchar_pattern_ops"}),
    Index("sessions_by_owner", "owner", "state", "updated_at", "session_id"),
    Index("sessions_by_activity", "state", "updated_at", "session_id"),
    _partial("sessions_empty", "created_at", EMPTY),
    _partial("sessions_untold", "updated_at", UNTOLD),
    _partial("sessions_ended", "ended_at", ENDED),
)

messages = Table(
    "messages",
    metadata,
    Column("session_id", String(255), ForeignKey("sessions.session_id"), primary_key=True),
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("message_id", String(255), nullable=False),
    Column("role", String(255)),
    Column("body", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("words", Text),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("session_id", "message_id", name="messages_by_id"),
)

routes = Table(
    "routes",
    metadata,
    Column("session_key", String(512), primary_key=True),
    Column("session_id", String(255)),
    Column("version", BigInteger, nullable=False),
)

applied_ops = Table(
    "applied_ops",
    metadata,
    Column("session_id", String(255), primary_key=True),
    Column("op_id", String(255), primary_key=True),
    Column("session_key", String(512), nullable=False),
    Column("version", BigInteger, nullable=False),
    _flag("refused"),
    Column("applied_at", Instant, nullable=False),
    Index("applied_ops_by_key", "session_key", "version"),
    Index("applied_ops_by_time", "applied_at"),
)

layout = Table(
    "layout",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("partitions", Integer, nullable=False),
    Column("moving_to", Integer),
)

TABLES = frozenset(metadata.tables)
