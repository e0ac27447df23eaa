"""``python -m workers``: workers and the schedule, until SIGTERM.

Settings come from ``SESSIONCACHE_*`` variables and the file that one of them, or ``--config``, names; worker processes and
their jobs inherit them.
"""

from __future__ import annotations

import os
import sys

import click

from sessioncache.config import settings_from
from sessioncache.errors import ConfigurationError
from sessioncache.sources import FILE
from workers import logs
from workers.runtime import Supervisor, work


@click.command()
@click.option("--processes", type=click.IntRange(1, 1000), help="Worker processes; by default one for each lane.")
@click.option("--config", metavar="FILE", help=f"A TOML file of settings, in place of {FILE}.")
@click.option("--one-of", type=int, hidden=True, help="Be one worker of the supervisor with this process id.")
@click.option("--http", metavar="HOST:PORT", help="Serve /metrics, /livez and /readyz there, for the inside network only.")
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), show_default=True)
@click.option("--log-format", default="text", type=click.Choice(["text", "json"]), show_default=True)
def main(
    *, processes: int | None, config: str | None, one_of: int | None, http: str | None, log_level: str, log_format: str
) -> None:
    """Drain what is pending into the store."""
    logs.set_up(log_level, log_format)
    if config is not None:
        os.environ[FILE] = config
    try:
        settings = settings_from({} if http is None else {"http": http})
        if one_of is not None:
            work(settings, one_of)
        else:
            options = ["--log-level", log_level, "--log-format", log_format]
            Supervisor(settings, processes or settings.lanes, options).run()
    except ConfigurationError as error:
        sys.exit(f"workers: {error}")


if __name__ == "__main__":
    main()
