"""``python -m workers``: workers and the schedule, until SIGTERM.

Settings come from ``SESSIONCACHE_*`` variables and the file that one of them, or ``--config``, names; worker processes and
their jobs inherit them.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from sessioncache.config import settings_from
from sessioncache.errors import ConfigurationError
from sessioncache.sources import FILE
from workers.runtime import Supervisor, work


@click.command()
@click.option("--processes", type=click.IntRange(1, 1000), help="Worker processes; by default one for each lane.")
@click.option("--config", metavar="FILE", help=f"A TOML file of settings, in place of {FILE}.")
@click.option("--one-of", type=int, hidden=True, help="Be one worker of the supervisor with this process id.")
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), show_default=True)
def main(*, processes: int | None, config: str | None, one_of: int | None, log_level: str) -> None:
    """Drain what is pending into the store."""
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if config is not None:
        os.environ[FILE] = config
    try:
        settings = settings_from({})
    except ConfigurationError as error:
        sys.exit(f"workers: {error}")
    if one_of is not None:
        work(settings, one_of)
    else:
        Supervisor(settings, processes or settings.lanes).run()


if __name__ == "__main__":
    main()
