"""Settings: every limit with its unit and reason, from arguments, ``SESSIONCACHE_*`` variables and a file.

An argument beats the environment, which beats the file, which beats the default (`sources`). Everything is validated before
any I/O; a wrong value is a `ConfigurationError` that names the setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from sessioncache.addresses import check_redis_url, database_url, http_address
from sessioncache.conversation.policy import ResetPolicies
from sessioncache.errors import ConfigurationError, InvalidKey
from sessioncache.keys import MAX_PARTITIONS, check_name
from sessioncache.sources import FILE, Given, given, strangers, variable

# Names of processes are forgotten an hour after their last report.
LONGEST_REPORT = 600.0
BACKPRESSURE = ("raise", "wait", "through")
_MAY_BE_ZERO = frozenset(
    {"ttl_jitter", "linger", "near_sessions", "near_bytes", "touch", "expiring_ahead", "empty_after", "archive_after",
     "prune_after", "retention", "max_pending_age", "max_backlog_age", "report"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set. Times are seconds, sizes bytes, unless the name says otherwise.

    Attributes:
        redis_url: the hot tier: ``redis://``, ``rediss://`` or ``unix://``; behind Sentinels
            ``redis+sentinel://host:26379,host:26379/service/0``, with TLS ``rediss+sentinel://``.
        database_url: the store: ``sqlite://`` or ``postgresql://``, with or without a driver named.
        queue_url: the Redis of RQ, which cannot live on a cluster; by default that of the hot tier.
        prefix: what every Redis key begins with; two applications on one Redis take two prefixes.
        queue: the RQ queue of the drain jobs.
        job: dotted name of the drain job.
        namespace: what the session keys of sources begin with, after ``agent:``; agents that share a cache take two.
        group_sessions_per_user: whether each user of a group has a session of their own, for keys of sources.
        thread_sessions_per_user: the same in a thread, where users have their own in groups.
        canonical_aliases: whether WhatsApp's different ids of one user make one key: without ``+`` and what follows ``:``
            or ``@``.
        partitions: slices of the keyspace, 1 to 1,000; once data is written, `sessioncache repartition` changes it.
        lanes: how many drain jobs can run side by side; run as many worker processes.
        ttl: how long a hot copy outlives its last use.
        ttl_jitter: share of ``ttl`` by which it varies, so that copies made together do not expire together.
        unknown_ttl: how long it is remembered that a key has no session: a look-up in SQL per this time, not per call.
        window: the newest messages of a session that are kept hot.
        window_bytes: the same bound in bytes; one message is always kept.
        max_message_bytes: the largest message, as msgpack: Redis is blocked while it copies one.
        max_pending: ops that may wait for the store under one key before a write meets `backpressure`.
        max_pending_bytes: the same bound in bytes; the write that reaches it is still taken.
        max_pending_age: the same bound on the age of the oldest of them; 0: any.
        max_backlog: ops that may wait in one partition, which is 1 of `partitions` slices of all keys.
        max_backlog_bytes: the same bound in bytes; the write that reaches it is still taken.
        max_backlog_age: the same bound on the age of the oldest of them, whichever key keeps it waiting; 0: any.
        backpressure: a write that meets one of these: ``raise`` `Backpressure`, ``wait`` for room, or write ``through``.
        backpressure_wait: how long ``wait`` waits before it raises `Backpressure`.
        batch: ops in one SQL transaction: larger ones gain little and hold locks longer.
        batch_bytes: the same bound in bytes: what a drainer holds in memory.
        claim: session keys that one claim takes.
        visibility: how long a claim lasts: a dead drainer's keys wait that long. Longer than any transaction.
        lease: how long one process may take to hydrate a key before another may try.
        hydration_timeout: how long a reader waits for a hydration before `HydrationTimeout`; above `lease`, so that it
            outlives one that a dead process holds.
        redis_timeout: how long one Redis command may take, with waiting for a connection and connecting.
        timeout: how long a call repeats a Redis command that got no answer.
        database_timeout: how long to wait for a database connection, a lock or a statement.
        retry_pause: the longest pause between two tries while the store is down.
        slice: how long a drain job works before it makes way for another.
        linger: how long a drain job waits for more work before it ends.
        poll: pause of a drain job that has taken all there was, before it looks for more: what comes in between goes in one
            transaction.
        wake: how long the doorbell stays pressed: a lost nudge delays draining by this.
        sweep: how often the schedule looks for overdue work that no nudge announced.
        touch: how often at most a mere read makes SQL learn of the access.
        keep_ops: op ids remembered beside a hot copy, for repeats: about 22 bytes each, rewritten with every write.
        op_retention: how long the store remembers op ids: longer than the age of the oldest Redis snapshot that may
            ever be restored.
        near_sessions: sessions whose messages a process keeps beside the hot tier; 0 keeps none.
        near_bytes: the same bound in bytes of memory, with what Python takes for each message.
        reset: when a conversation is over and a new session begins under its key, as JSON text like
            ``{"default": {"mode": "daily", "at_hour": 4, "zone": "UTC"}, "by_type": {"group": {"mode": "idle"}}}``;
            as an argument a mapping too. Empty: never.
        hold: longest a hold or a turn lasts unless renewed; also how long reset policies wait after a Redis restart, in
            which holds may have been lost.
        on_delete: function of yours that is called with session id, session key and owner (or None) after a session was
            deleted, as ``package.module:function``; empty for none.
        on_expiring: the same, called once with a session's `Info` before the reset policy ends it, by a worker.
        expiring_ahead: how long before a reset ``on_expiring`` is called.
        empty_after: sessions without messages are deleted when they are older than this; 0: never.
        archive_after: sessions that were not accessed for this long are archived, unless they are important; 0: never.
        prune_after: sessions without activity for this long end; their messages stay; 0: never.
        retention: ended sessions are deleted after this; 0: never.
        housekeeping: how often workers look for such sessions.
        allow_eviction: whether to start on a Redis whose ``maxmemory-policy`` is ``allkeys-*``, which may evict what only
            Redis knows.
        stale_reads: whether histories are read from SQL, marked stale, while Redis is away, instead of an error.
        report: how often at most a process tells Redis what it counted, for other processes to see, up to 600; 0: never.
        http: where workers serve ``/metrics``, ``/livez`` and ``/readyz``, as ``HOST:PORT``, for the inside network only;
            empty: nowhere.
        ready_lag: how long an op may wait for the store before ``/readyz`` says that workers are not ready, and
            `doctor` that it is late.
        tracing: whether spans of OpenTelemetry are made of appends, reads, hydrations and drains.
        max_connections: Redis connections of one process.
        pool_size: database connections of one process.
    """

    redis_url: str = "redis://localhost:6379/0"
    database_url: str = "sqlite:///sessioncache.db"
    queue_url: str = ""
    prefix: str = "sc"
    queue: str = "sessioncache"
    job: str = "workers.jobs.drain_lane"
    namespace: str = "main"
    group_sessions_per_user: bool = True
    thread_sessions_per_user: bool = False
    canonical_aliases: bool = False
    partitions: int = 64
    lanes: int = 4
    ttl: float = 3600.0
    ttl_jitter: float = 0.1
    unknown_ttl: float = 5.0
    window: int = 10_000
    window_bytes: int = 16 * 2**20
    max_message_bytes: int = 2**20
    max_pending: int = 100_000
    max_pending_bytes: int = 256 * 2**20
    max_pending_age: float = 0.0
    max_backlog: int = 1_000_000
    max_backlog_bytes: int = 2**30
    max_backlog_age: float = 0.0
    backpressure: str = "raise"
    backpressure_wait: float = 10.0
    batch: int = 1_000
    batch_bytes: int = 16 * 2**20
    claim: int = 100
    visibility: float = 30.0
    lease: float = 10.0
    hydration_timeout: float = 15.0
    redis_timeout: float = 2.0
    timeout: float = 5.0
    database_timeout: float = 8.0
    retry_pause: float = 5.0
    slice: float = 10.0
    linger: float = 0.5
    poll: float = 0.05
    wake: float = 10.0
    sweep: float = 5.0
    touch: float = 3600.0
    keep_ops: int = 64
    op_retention: float = 7 * 86_400.0
    near_sessions: int = 1_000
    near_bytes: int = 128 * 2**20
    reset: str = ""
    hold: float = 60.0
    on_delete: str = ""
    on_expiring: str = ""
    expiring_ahead: float = 300.0
    empty_after: float = 0.0
    archive_after: float = 0.0
    prune_after: float = 0.0
    retention: float = 0.0
    housekeeping: float = 3600.0
    allow_eviction: bool = False
    stale_reads: bool = False
    report: float = 5.0
    http: str = ""
    ready_lag: float = 60.0
    tracing: bool = False
    max_connections: int = 100
    pool_size: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for field in fields(self):
            self._check_number(field.name, getattr(self, field.name))
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}, not {self.partitions}.")
        if not 1 <= self.lanes <= self.partitions:
            raise ConfigurationError(f"lanes must be 1 to partitions ({self.partitions}), not {self.lanes}.")
        if not 0 <= self.ttl_jitter < 1:
            raise ConfigurationError(f"ttl_jitter is a share of ttl from 0 to below 1, not {self.ttl_jitter}.")
        if self.database_timeout >= self.lease:
            raise ConfigurationError("database_timeout must be below lease, or a slow load outlives its lease.")
        if self.visibility <= self.database_timeout:
            raise ConfigurationError("visibility must be above database_timeout, or claims end before their transaction.")
        if self.redis_timeout > self.timeout:
            raise ConfigurationError("redis_timeout must be at most timeout, or no command has time for an answer.")
        if self.backpressure not in BACKPRESSURE:
            raise ConfigurationError(f"backpressure is {', '.join(BACKPRESSURE)}, not {self.backpressure!r:.60}.")
        if not self.prefix.isprintable() or not self.prefix or set(self.prefix) & set("{}: "):
            raise ConfigurationError("prefix must be printable text without braces, colons or spaces.")
        _check_namespace(self.namespace)
        check_redis_url("redis_url", self.redis_url)
        check_redis_url("queue_url", self.queue_url or self.redis_url)
        database_url(self.database_url)
        _check_reset(self.reset)
        _check_telling(self)

    @staticmethod
    def _check_number(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        may_be_zero = name in _MAY_BE_ZERO
        if not isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
            raise ConfigurationError(f"{name} must be {'0 or more' if may_be_zero else 'more than 0'}, not {value}.")


def settings_from(arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from arguments, then ``SESSIONCACHE_*`` variables, then the file ``SESSIONCACHE_CONFIG``, then defaults.

    Raises:
        ConfigurationError: an unknown name, a value that cannot be used, or a file that cannot be read.
    """
    return effective(arguments, environment)[0]


def effective(
    arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, Given]]:
    """The same, with where each comes from that has not its default.

    Raises:
        ConfigurationError: as `settings_from`.
    """
    environment = os.environ if environment is None else environment
    found = given({field.name: type(field.default) for field in fields(Settings)}, arguments, environment)
    try:
        return Settings(**{name: one.value for name, one in found.items()}), found
    except ConfigurationError as error:
        if not any(one.source == "file" for one in found.values()):
            raise
        raise ConfigurationError(f"{environment[FILE]}: {error}") from error


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Variables that begin like those of settings and are of none; they change nothing."""
    return strangers({field.name: type(field.default) for field in fields(Settings)}, environment or os.environ)


def as_environment(settings: Settings) -> dict[str, str]:
    """All settings as ``SESSIONCACHE_*`` variables: how a child process gets them, which then reads no file."""
    return {variable(field.name): str(getattr(settings, field.name)) for field in fields(Settings)} | {FILE: ""}


def _check_namespace(value: str) -> None:
    try:
        check_name(value, "namespace")
    except InvalidKey as error:
        raise ConfigurationError(str(error)) from error


def _check_telling(settings: Settings) -> None:
    if settings.report > LONGEST_REPORT:
        raise ConfigurationError(f"report must be at most {LONGEST_REPORT:.0f}, not {settings.report}.")
    if settings.http:
        http_address(settings.http)


def _check_reset(value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"reset must be JSON text, not {type(value).__name__}; `ResetPolicies.to_json` gives it.")
    ResetPolicies.parse(value)
