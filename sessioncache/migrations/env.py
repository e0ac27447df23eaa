"""Alembic's entry: migrate the connection that `sessioncache.migrate` hands over, and touch no table but ours."""

from __future__ import annotations

from alembic import context

from sessioncache.schema import TABLES, VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=lambda name, kind, _parents: kind != "table" or name in TABLES,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
context.run_migrations()
