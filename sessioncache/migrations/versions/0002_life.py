"""What the whole life of a session needs: exact costs, names, the state that lists are made by, and indexes to find it."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

from sessioncache.store.words import searchable

revision = "0002"
down_revision = "0001"

# The tables that it alters, for `sessioncache.migrate`; and that it computes what SQL cannot, where there are rows.
locks = ("sessions", "messages")
computes = True

STATE = (
    "CASE WHEN deleted THEN 'deleted' WHEN ended_at IS NOT NULL THEN 'ended' WHEN archived THEN 'archived' ELSE 'live' END"
)
NAMES = ("cost_status", "cost_source", "model", "provider", "base_url", "display_name")

LIVE = "deleted IS FALSE AND ended_at IS NULL AND archived IS FALSE"
PARTIAL = {
    "sessions_empty": ("created_at", f"message_count = 0 AND {LIVE}"),
    "sessions_untold": ("updated_at", f"told IS FALSE AND {LIVE}"),
    "sessions_ended": ("ended_at", "deleted IS FALSE AND ended_at IS NOT NULL"),
}
# Searched: a table, its text, what is to be found in place of it, and which rows have any.
SEARCHED = (("messages", "text", "words", "TRUE"), ("sessions", "title", "title_words", "title IS NOT NULL"))
SEARCHED_CHARACTERS = 200_000
SEPARATORS = "!-/:-@\\[-`{-~\u00a0\u00ab\u00b7\u00bb\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2022\u2026\u2192\ufffd"
TOKENIZER = "unicode61 remove_diacritics 0 categories 'L* N* Co M*'"
PAGE = 1000


def upgrade() -> None:
    """Add columns and indexes."""
    context = op.get_context()
    postgresql = context.dialect.name == "postgresql"
    if postgresql:
        op.execute("SET LOCAL statement_timeout = 0")  # indexing what is there takes as long as it takes
    else:
        _name_row_ids()
    op.add_column("sessions", sa.Column("cost_nano", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.add_column("sessions", sa.Column("claims", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    for name in NAMES:
        op.add_column("sessions", sa.Column(name, sa.String(255)))
    op.add_column("sessions", sa.Column("told", sa.Boolean, nullable=False, server_default=sa.false()))
    op.drop_column("sessions", "estimated_cost")
    kind = "STORED" if postgresql else "VIRTUAL"
    op.execute(f"ALTER TABLE sessions ADD COLUMN state VARCHAR(16) GENERATED ALWAYS AS ({STATE}) {kind}")
    for table, text, words, _ in SEARCHED:
        op.add_column(table, sa.Column(words, sa.Text))
        if not context.as_sql:
            _fill_words(table, text, words)
    _create_indexes(dropped=["sessions_by_key", "sessions_by_owner"] if postgresql else [])
    for table, text, words, having in SEARCHED:
        if postgresql:
            _index_words(table, text, words, having)
        else:
            _keep_search_table(table, text, words)


def _name_row_ids() -> None:
    """Make SQLite's tables anew, with the row id as a column, which alone VACUUM leaves as it is.

    The copies are made before anything is dropped, and the copy of messages refers to the copy of sessions, so that no
    foreign key is ever broken. Their indexes go with the old tables.
    """
    bind = op.get_bind()
    for name in ("sessions", "messages"):
        made = bind.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": name}).scalar_one()
        made = re.sub(r"PRIMARY KEY \(", "UNIQUE (", made)
        made = re.sub(r"REFERENCES \"?sessions\"?", "REFERENCES new_sessions", made)
        made = re.sub(r"^CREATE TABLE \"?\w+\"? \(", f"CREATE TABLE new_{name} (id INTEGER PRIMARY KEY, ", made)
        bind.exec_driver_sql(made)
        columns = ", ".join(column["name"] for column in sa.inspect(bind).get_columns(name))
        bind.exec_driver_sql(f"INSERT INTO new_{name} ({columns}) SELECT {columns} FROM {name} ORDER BY rowid")  # noqa: S608 - our own names
    for name in ("messages", "sessions"):
        bind.exec_driver_sql(f"DROP TABLE {name}")
    for name in ("sessions", "messages"):
        bind.exec_driver_sql(f"ALTER TABLE new_{name} RENAME TO {name}")


def _fill_words(table: str, text: str, words: str) -> None:
    """Fill the new column for the rows that are there, a page at a time."""
    bind, key = op.get_bind(), ["session_id", "seq"] if table == "messages" else ["session_id"]
    row = sa.table(table, *map(sa.column, (*key, text, words)))
    names = [row.c[name] for name in key]
    page = sa.select(*names, row.c[text]).where(row.c[text].is_not(None)).order_by(*names).limit(PAGE)
    changed = sa.update(row).where(*(row.c[name] == sa.bindparam(f"its_{name}") for name in key))
    found = list(bind.execute(page))
    while found:
        made = [(*one[:-1], searchable(one[-1])) for one in found]
        filled = [dict(zip((*(f"its_{name}" for name in key), "made"), one, strict=True)) for one in made if one[-1]]
        if filled:
            bind.execute(changed.values({words: sa.bindparam("made")}), filled)
        last = sa.tuple_(*map(sa.literal, found[-1][:-1]))
        found = list(bind.execute(page.where(sa.tuple_(*names) > last)))


def _create_indexes(dropped: list[str]) -> None:
    for name in dropped:
        op.drop_index(name, "sessions")
    op.create_index(
        "sessions_by_key", "sessions", ["session_key", "last_seq"], postgresql_ops={"session_key": "varchar_pattern_ops"}
    )
    op.create_index("sessions_by_owner", "sessions", ["owner", "state", "updated_at", "session_id"])
    op.create_index("sessions_by_activity", "sessions", ["state", "updated_at", "session_id"])
    for name, (time, holds) in PARTIAL.items():
        condition = sa.text(holds)
        op.create_index(name, "sessions", [time, "session_id"], postgresql_where=condition, sqlite_where=condition)


def _index_words(table: str, text: str, words: str, having: str) -> None:
    """PostgreSQL: an index of the words."""
    head = f"left(coalesce({words}, {text}), {SEARCHED_CHARACTERS})"
    spaced = f"regexp_replace({head}, '[{SEPARATORS}]+', ' ', 'g')"
    op.execute(f"CREATE INDEX {table}_by_words ON {table} USING gin (to_tsvector('simple', {spaced})) WHERE {having}")


def _keep_search_table(table: str, text: str, words: str) -> None:
    """SQLite: a table of the words, without the texts, and triggers that keep it."""
    bind, search = op.get_bind(), f"{table}_search"
    head = f"substr(coalesce({{0}}{words}, {{0}}{text}), 1, {SEARCHED_CHARACTERS})"
    add = f"INSERT INTO {search} (rowid, words) SELECT new.id, {head.format('new.')} WHERE new.{text} IS NOT NULL;"
    remove = (
        f"INSERT INTO {search} ({search}, rowid, words)"
        f" SELECT 'delete', old.id, {head.format('old.')} WHERE old.{text} IS NOT NULL;"
    )
    differs = f"old.{text} IS NOT new.{text} OR old.{words} IS NOT new.{words}"
    changed = f"AFTER UPDATE OF {text}, {words} ON {table} WHEN {differs}"
    for statement in (
        f"CREATE VIRTUAL TABLE {search} USING fts5(words, content='', tokenize=\"{TOKENIZER}\")",
        f"INSERT INTO {search} (rowid, words) SELECT id, {head.format('')} FROM {table} WHERE {text} IS NOT NULL",  # noqa: S608 - our own names
        f"CREATE TRIGGER {search}_insert AFTER INSERT ON {table} BEGIN {add} END",
        f"CREATE TRIGGER {search}_delete AFTER DELETE ON {table} BEGIN {remove} END",
        f"CREATE TRIGGER {search}_update {changed} BEGIN {remove} {add} END",
    ):
        bind.exec_driver_sql(statement)
