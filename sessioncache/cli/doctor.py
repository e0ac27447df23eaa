"""`sessioncache doctor`: what is wrong, how bad it is, and what to do."""

from __future__ import annotations

import click

from sessioncache.cli.context import settings
from sessioncache.cli.output import harmless, with_json, write_json
from sessioncache.cli.status import UNHEALTHY
from sessioncache.client import SessionCache
from sessioncache.diagnosis import ERROR, INFO, OK, WARNING, Finding

_SEVERITIES = {ERROR: "red", WARNING: "yellow", INFO: "cyan", OK: "green"}
_MARGIN = 20


@click.command()
@with_json
@click.pass_context
def doctor(context: click.Context, *, as_json: bool) -> None:
    """Look at Redis, the database, the queue and the workers, and say what is wrong and what to do.

    The worst comes first. error: something is lost, late or refused now, or at the next occasion. warning: it may be one
    day. info: it may be meant so. The status is 4 if there is an error or a warning, else 0. Nothing is changed.
    """
    with SessionCache(settings=settings()) as cache:
        order = list(_SEVERITIES)
        found = sorted(cache.doctor(), key=lambda one: order.index(one.severity))
    for one in found:
        if as_json:
            write_json(one)
        else:
            _write(one)
    troubles = [one.severity for one in found if one.severity in {ERROR, WARNING}]
    if not as_json:
        click.echo(f"{troubles.count(ERROR)} errors, {troubles.count(WARNING)} warnings")
    context.exit(UNHEALTHY if troubles else 0)


def _write(one: Finding) -> None:
    severity = click.style(f"{one.severity:8}", fg=_SEVERITIES[one.severity])
    click.echo(f"{severity} {one.check:10} {harmless(one.found)}")
    if one.advice:
        click.echo(f"{'':{_MARGIN}}{click.style(harmless(one.advice), bold=one.severity in {ERROR, WARNING})}")
