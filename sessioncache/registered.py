"""The RQ workers that are registered for our queue, as RQ itself keeps them.

Guarantees: two round trips however many there are, and `MOST` of them at most are looked at. Nothing is written: a worker
that died without a word is registered until RQ notices, and is left out here as soon as what it said of itself has expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.utils import utcparse
from rq.worker_registration import get_keys

from sessioncache.checks.queue import asked, aware
from sessioncache.flow import Apart, Flow
from sessioncache.state import State

MOST = 500
_PREFIX = "rq:worker:"


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """An RQ worker.

    Attributes:
        name: RQ's name for it.
        state: in RQ's words: ``idle``, ``busy``, ``started`` or ``suspended``.
        job: the id of the job in hand; ``""`` for none.
        silent: seconds since its last sign of life, by this host's clock; an idle one gives few. None where it is not told.
    """

    name: str
    state: str
    job: str
    silent: float | None


def registered(state: State) -> Flow[list[RegisteredWorker]]:
    """The workers of our queue, by name.

    Raises:
        HotTierUnavailable, HotTierRefused: the queue's Redis does not answer, or not as RQ would have it.
    """
    settings = state.settings
    found: list[RegisteredWorker] = yield Apart(partial(asked, settings, partial(_registered, name=settings.queue)))
    return found


def _registered(connection: redis.Redis, name: str) -> list[RegisteredWorker]:
    queue = Queue(name, connection=connection, serializer=JSONSerializer)
    keys = sorted(get_keys(queue))[:MOST]
    with connection.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hmget(key, "state", "current_job", "last_heartbeat")
        rows = pipeline.execute()
    now = datetime.now(UTC)
    return [_worker(key, row, now) for key, row in zip(keys, rows, strict=True) if any(row)]


def _worker(key: str, row: Sequence[bytes | None], now: datetime) -> RegisteredWorker:
    state, job, beat = ((value or b"").decode() for value in row)
    silent = max(0.0, (now - aware(utcparse(beat))).total_seconds()) if beat else None
    return RegisteredWorker(key.removeprefix(_PREFIX), state or "unknown", job, silent)
