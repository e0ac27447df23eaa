"""Alembic's entry: migrate the connection that `sessioncache.migrate` hands over, or print; touch no table but ours."""

from __future__ import annotations

from alembic import context

from sessioncache.schema import TABLES, VERSION_TABLE, metadata

attributes = context.config.attributes
if context.is_offline_mode():
    context.configure(
        dialect_name=attributes["dialect"], version_table=VERSION_TABLE, literal_binds=True, transactional_ddl=True
    )
else:
    context.configure(
        connection=attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=lambda name, kind, _parents: kind != "table" or name in TABLES,
        render_as_batch=attributes["connection"].dialect.name == "sqlite",
    )
with context.begin_transaction():
    context.run_migrations()
