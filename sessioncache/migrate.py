"""Migrations: Alembic over the scripts that this package ships, with a version table of its own."""

from __future__ import annotations

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config(location: str) -> Config:
    config = Config()
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version, in the caller's transaction."""
    with as_file(files("sessioncache") / "migrations") as folder:
        config = _config(str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revisions() -> list[str]:
    """Every schema version this package knows, newest first."""
    with as_file(files("sessioncache") / "migrations") as folder:
        return [script.revision for script in ScriptDirectory.from_config(_config(str(folder))).walk_revisions()]
