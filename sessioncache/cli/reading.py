"""`sessioncache ls`, `show`, `history`, `search`, `keys` and `stats`: looking, without changing anything.

None of them counts as an access of a session, or keeps one hot; `history` brings a session in that is not hot, as any
reader does, and drains what is pending for what only SQL can say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, TypeVar

import click
from rich.console import Console

from sessioncache import inspection
from sessioncache.cli.context import connected, opened, settings
from sessioncache.cli.output import harmless, with_json, write_facts, write_json, write_table
from sessioncache.cli.transcript import moment, write_message
from sessioncache.finding import Listed, Wanted
from sessioncache.info import Info
from sessioncache.inspection import Inspected
from sessioncache.keys import Keyspace
from sessioncache.lifecycle import moving

Command = TypeVar("Command", bound=Callable[..., Any])

LARGEST_PAGE = 1000
MOST_MESSAGES = 10_000
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
FLAG = {"yes": True, "no": False, "any": None}


def _duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> timedelta | None:
    """The time that a text like 90s, 15m, 2h or 7d says."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text or "")
    if text is not None and not found:
        raise click.BadParameter("write a number and s, m, h or d, as in 90s, 15m, 2h or 7d.")
    return timedelta(seconds=int(found[1]) * SECONDS[found[2]]) if found else None


def of_owner(command: Command) -> Command:
    """Give a command ``--owner``."""
    return click.option("--owner", help="Only this owner's sessions; others are as if they were not there.")(command)


def _flag(name: str, default: str, words: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=click.Choice(list(FLAG)), default=default, show_default=True, help=words)


FRESH = click.option("--fresh", is_flag=True, help="Drain what is pending first, so that SQL knows everything.")


@contextmanager
def _patiently(*, fresh: bool) -> Iterator[None]:
    """Say on a terminal what is waited for."""
    console = Console(stderr=True)
    if not fresh or not console.is_terminal:
        yield
        return
    with console.status("draining what is pending"):
        yield


@click.command("ls")
@of_owner
@click.option("--platform", help="Only those of this platform.")
@click.option("--prefix", "key_prefix", help="Only those whose session key begins so.")
@click.option(
    "--active-within", metavar="TIME", callback=_duration, help="Only those with activity within 90s, 15m, 2h, 7d …"
)
@_flag("archived", "no", "Archived ones.")
@_flag("ended", "no", "Ended ones: those that were reset, switched away from or pruned.")
@_flag("important", "any", "Important ones.")
@click.option("-n", "--limit", type=click.IntRange(1, LARGEST_PAGE), default=50, show_default=True, help="How many.")
@click.option("--cursor", help="Go on after a page: what that one ended with.")
@click.option("--all", "every", is_flag=True, help="All of them, page after page.")
@FRESH
@with_json
def list_sessions(limit: int, cursor: str | None, *, every: bool, fresh: bool, as_json: bool, **asked: Any) -> None:
    """List sessions, newest activity first, as SQL knows them.

    What is pending is not in SQL yet (see `sessioncache stats`: under a second while workers run); --fresh drains it first.
    Where there are more, standard error says with which --cursor they follow.
    """
    wanted: Wanted = {**asked, **{name: FLAG[asked[name]] for name in ("archived", "ended", "important")}}  # type: ignore[typeddict-item]  # as click's options are named
    size = LARGEST_PAGE if every else limit
    rows: list[Listed] = []
    with opened() as cache, _patiently(fresh=fresh):
        page = cache.list(limit=size, cursor=cursor, fresh=fresh, **wanted)
        rows += _written(page.sessions, as_json=as_json)
        while every and page.cursor is not None:
            page = cache.list(limit=size, cursor=page.cursor, **wanted)
            rows += _written(page.sessions, as_json=as_json)
    if not as_json:
        _write_list(rows, with_id=asked["ended"] != "no")
    if page.cursor is not None:
        click.echo(f"there are more: --cursor {page.cursor}", err=True)


def _written(sessions: list[Listed], *, as_json: bool) -> list[Listed]:
    """What is still to be written of these sessions: nothing, once they are written as JSON."""
    for one in sessions if as_json else []:
        write_json({**asdict(one.info), "preview": one.preview})
    return [] if as_json else sessions


def _write_list(rows: list[Listed], *, with_id: bool) -> None:
    columns = ("session key", *(("session id",) if with_id else ()), "messages", "updated", "owner", "state", "title")
    shown = (
        (one.info.key, *((one.info.session_id,) if with_id else ()), one.info.message_count, moment(one.info.updated_at),
         one.info.owner or "", _state(one.info), one.info.title or one.preview)
        for one in rows
    )  # fmt: skip
    write_table(columns, shown)


def _state(info: Info) -> str:
    flags = [name for name in ("archived", "important", "suspended") if getattr(info, name)]
    return ", ".join([info.end_reason or "ended", *flags] if info.ended_at else flags)


@click.command()
@click.argument("name", metavar="KEY|SESSION_ID")
@of_owner
@with_json
def show(name: str, owner: str | None, *, as_json: bool) -> None:
    """Show where a session stands, in Redis and in SQL.

    Takes a session key, which wins, or the id of a session, current or ended. It changes nothing: what is not hot stays
    so, what is pending waits on, and no time to live is lengthened. Dead letters and holds are looked for among the newest
    1,000 of the partition.
    """
    with connected() as connections:
        found = connections.run(inspection.inspect(connections.state, name, owner))
    if as_json:
        _write_inspected(found)
        return
    facts = {**_which(found), **(_known(found.info) if found.info else {}), **_hot(found), **_stored(found)}
    write_facts({label: value for label, value in facts.items() if value not in (None, "")})


def _write_inspected(found: Inspected) -> None:
    """As JSON, with what is known of the session once."""
    hot: dict[str, Any] = asdict(found.hot)
    stored: dict[str, Any] | None = asdict(found.stored) if found.stored else None
    for tier in (hot, *([stored] if stored else [])):
        tier["message_count"] = (tier.pop("info") or {}).get("message_count")
    write_json({**asdict(found), "hot": hot, "stored": stored})


def _which(found: Inspected) -> dict[str, object]:
    session = found.session_id or "none" + (", or not to be told while it is pending" if found.hot.pending else "")
    return {
        "session key": found.session_key,
        "partition": f"{found.partition:03d}",
        "session": session + ("" if found.is_current or not found.session_id else ", which is not current"),
        "version": found.version,
    }


def _known(info: Info) -> dict[str, object]:
    used = {name: value for name, value in asdict(info.usage).items() if value and name != "cost_status"}
    times = {name: moment(getattr(info, name)) for name in ("created_at", "updated_at", "last_accessed", "last_message_at")}
    return {
        **{name: getattr(info, name) for name in ("owner", "title", "platform", "chat_type", "parent_id")},
        "state": _state(info),
        "messages": info.message_count,
        **{name.removesuffix("_at").replace("_", " "): value for name, value in times.items()},
        "ended": moment(info.ended_at),
        "usage": ", ".join(f"{name} {value}" for name, value in used.items()),
    }


def _hot(found: Inspected) -> dict[str, object]:
    hot = found.hot
    copy = {"hot": f"{hot.messages} messages", "other": "no; what stands there is no valid copy", "none": "no"}[hot.copy]
    waits = f"{hot.pending} ops, {hot.pending_bytes} bytes, for {hot.oldest_pending:.1f} s"
    if hot.due is not None:
        waits += f"; claimed for {hot.due:.1f} s" if hot.due > 0 else "; due"
    return {
        "hot": copy + (f", for {hot.ttl:.0f} s" if hot.ttl is not None else ""),
        "pending": waits if hot.pending or hot.due is not None else "nothing",
        "dead letters": hot.dead or None,
        "hydration": f"somebody is at it, for {hot.lease:.1f} s at most" if hot.lease else None,
        "turn": f"taken, for {hot.turn:.1f} s at most" if hot.turn else None,
        "held by": "; ".join(f"{name}, for {left:.1f} s" for name, left in hot.holds.items()),
    }


def _stored(found: Inspected) -> dict[str, object]:
    if found.stored is None:
        return {"in SQL": "not to be told: the database is away"}
    if found.stored.version is None:
        return {"in SQL": "nothing yet"}
    messages = f"{found.stored.info.message_count} messages, " if found.stored.info else ""
    return {"in SQL": f"{messages}version {found.stored.version}, {found.stored.sessions} sessions of this key"}


@click.command()
@click.argument("session_key", metavar="[KEY]", required=False)
@click.option("--session", "session_id", help="Instead of a key: the id of a session, current or ended.")
@of_owner
@click.option("-n", "--limit", type=click.IntRange(1, MOST_MESSAGES), default=20, show_default=True, help="The newest n.")
@click.option("--before", type=click.IntRange(0), help="Of those with a number (#) below this one.")
@with_json
def history(session_key: str | None, session_id: str | None, owner: str | None, *, as_json: bool, **page: Any) -> None:
    """Print the messages of a session, oldest first.

    Takes a session key, for its current session, or --session. It is no access and lengthens no time to live, but brings a
    session that is not hot into Redis, as any reader does; --before and --session drain what is pending and read SQL.
    With --json the messages are whole and exact. For all of a long session: sessioncache export --session.
    """
    if (session_key is None) == (session_id is None):
        raise click.UsageError("Name a session key, or --session and an id.")
    limit, before = page["limit"], page["before"]
    with connected() as connections:
        state, run = connections.state, connections.run
        if session_id is None:
            info, found = run(inspection.newest(state, session_key or "", owner, 1 if before is not None else limit))
            session_id = info.session_id
        if before is not None or session_key is None:
            found = run(moving.read(state, session_id, owner, limit, before))
        for record in found:
            write_message(session_id, record, as_json=as_json)


@click.command()
@click.argument("query")
@of_owner
@click.option("-n", "--limit", type=click.IntRange(1, LARGEST_PAGE), default=20, show_default=True, help="How many.")
@FRESH
@with_json
def search(query: str, owner: str | None, limit: int, *, fresh: bool, as_json: bool) -> None:
    """Search messages and titles for all words of QUERY, the best first, as SQL knows them.

    A hit in a title has no number (#). What is pending is not found, unless --fresh drains it first.
    """
    with opened() as cache, _patiently(fresh=fresh):
        hits = cache.search(query, owner=owner, limit=limit, fresh=fresh)
    if as_json:
        for hit in hits:
            write_json(
                {**asdict(hit.info), **{name: getattr(hit, name) for name in ("seq", "message_id", "snippet", "rank")}}
            )
        return
    rows = ((hit.info.key, "" if hit.seq is None else f"#{hit.seq}", hit.snippet) for hit in hits)
    write_table(("session key", "message", "text"), rows)


@click.command()
@click.argument("session_key")
@with_json
def keys(session_key: str, *, as_json: bool) -> None:
    """Print the Redis keys of a session, one on a line, for redis-cli."""
    known = settings()
    found = asdict(Keyspace(known.prefix, known.partitions).of(session_key))
    named = {kind: name for kind, name in found.items() if not isinstance(name, tuple)}  # each once
    if as_json:
        write_json(named)
        return
    for kind, name in named.items():
        if kind not in {"session_key", "partition"}:
            click.echo(f"{kind:8} {harmless(name)}")


@click.command()
@with_json
def stats(*, as_json: bool) -> None:
    """Show what waits for SQL, what was set aside, and what SQL has."""
    with opened() as cache:
        found = asdict(cache.stats())
    del found["counters"]  # those of this process
    if as_json:
        write_json(found)
    else:
        away = {name: "not to be told: the database is away" for name in ("sessions", "messages") if found[name] is None}
        write_facts({**found, "oldest_pending": f"{found['oldest_pending']:.3f}", **away})
