"""Commands that act on sessions: flush, evict, hydrate, delete, delete-owner.

Each may be broken off anywhere, and given again: what it did is done whole, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from sessioncache import flushing, ops
from sessioncache.cli.asking import ask, ask_name, with_yes
from sessioncache.cli.context import connected, end_at_sigterm, opened
from sessioncache.cli.output import harmless
from sessioncache.cli.progress import progress
from sessioncache.cli.status import FAILED, NOT_FOUND, UNAVAILABLE
from sessioncache.client import SessionCache
from sessioncache.flushing import Flushed
from sessioncache.info import Info
from sessioncache.lifecycle import deleting


@click.command()
@click.argument("session_key", required=False, metavar="[KEY]")
@click.option("--timeout", type=click.FloatRange(0, 31_536_000), help="Try for so many seconds, whatever fails.")
@click.pass_context
def flush(context: click.Context, session_key: str | None, timeout: float | None) -> None:
    """Drain what waits under one session key, or all of it, into the database now.

    It needs no worker and no RQ, and works on a full Redis. Without --timeout it ends at once where the database is away;
    with it, it tries until then, and ends with status 5 if anything waits still.
    """
    end_at_sigterm()
    with connected() as connections, progress("flushing") as bar:
        done = connections.run(flushing.flush(connections.state, session_key, timeout, bar.told))
    click.echo(f"{done.ops} ops drained" + (f"; {done.left} wait" if done.left else ""))
    for name, why in done.stopped.items():
        click.echo(f"session key {harmless(name)} is stopped: {harmless(why)}", err=True)
    context.exit(_flushed(done, in_time=timeout is None))


def _flushed(done: Flushed, *, in_time: bool) -> int:
    if done.stopped:
        return FAILED
    return UNAVAILABLE if done.left and not in_time else 0


@click.command()
@click.argument("session_key", metavar="KEY")
def evict(session_key: str) -> None:
    """Drop the hot copy of a session. Nothing is lost: the next read brings it back."""
    with opened() as cache:
        click.echo("evicted" if cache.evict(session_key) else "there was no hot copy")


@click.command()
@click.argument("session_keys", required=True, nargs=-1, metavar="KEY...")
@click.pass_context
def hydrate(context: click.Context, session_keys: tuple[str, ...]) -> None:
    """Bring sessions back into Redis before somebody waits for them, and say how each stood.

    What is hot already is left as it is. The status is 3 if a key has no session; the others are brought back all the same.
    """
    end_at_sigterm()
    missing = 0
    with connected() as connections, progress("hydrating", len(session_keys)) as bar:
        for session_key in session_keys:
            found = connections.run(ops.hydrate(connections.state, session_key))
            missing += found.info is None
            click.echo(f"{harmless(session_key)}  {_hydrated(found)}")
            bar.advance(1)
    context.exit(NOT_FOUND if missing else 0)


def _hydrated(found: ops.Hydrated) -> str:
    if found.info is None:
        return "there is no session under this key"
    return f"{'was hot already' if found.was_hot else 'brought back'}: {_said(found.info)}"


def _said(info: Info) -> str:
    return f"session {info.session_id} with {info.message_count} messages"


@click.command()
@click.argument("session_key", required=False, metavar="[KEY]")
@click.option("--session", "session_id", help="Any session, current or not, by its id.")
@with_yes
@click.pass_context
def delete(context: click.Context, session_key: str | None, session_id: str | None, *, yes: bool) -> None:
    """Delete the current session of a key, or any one by its id, in Redis and in the database, for good."""
    if (session_key is None) == (session_id is None):
        raise click.UsageError("Name a session key, or a session by --session.")
    end_at_sigterm()
    with opened() as cache:
        info, act = _to_delete(cache, session_key, session_id or "")
        ask(f"Delete {_said(info)} of key {info.key}, for good?", yes=yes)
        deleted = act()
    click.echo(f"deleted {harmless(_said(info))} of key {harmless(info.key)}" if deleted else "it was deleted meanwhile")
    context.exit(0 if deleted else NOT_FOUND)


def _to_delete(cache: SessionCache, session_key: str | None, session_id: str) -> tuple[Info, Callable[[], bool]]:
    """The session that is meant, and what deletes it and no other, whatever became current meanwhile."""
    if session_key is None:
        return cache.info(session_id), partial(cache.delete_session, session_id)
    session = cache.get(session_key)
    return session.info, session.delete


@click.command("delete-owner")
@click.argument("owner")
@with_yes
@click.pass_context
def delete_owner(context: click.Context, owner: str, *, yes: bool) -> None:
    """Erase everything of an owner, for good: sessions, current and ended ones, what waits, dead letters.

    It asks for the owner's name again. Broken off, it is simply given again: what is left is erased.
    """
    end_at_sigterm()
    ask_name(f"Everything of owner {owner} is erased for good. Type the owner's name again", owner, yes=yes)
    with connected() as connections, progress("erasing") as bar:
        erased = connections.run(deleting.delete_owner(connections.state, owner, bar.told))
    click.echo(f"{erased.sessions} sessions, {erased.messages} messages and {erased.dead_letters} dead letters erased")
    context.exit(0 if erased.sessions or erased.dead_letters else NOT_FOUND)
