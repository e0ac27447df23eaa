"""Worker processes and the schedule: started, kept running, ended.

`supervise` starts worker processes, restarts any that dies after a pause, and runs the schedule in a thread. At SIGTERM or
SIGINT every worker finishes the batch in hand, acknowledges it and exits; a worker whose supervisor was killed does the
same by itself. A worker is an RQ ``SimpleWorker``: it runs jobs in its own process, which keeps database connections from
job to job. Killing one at any instant is harmless (I3).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from sessioncache import nudge
from sessioncache.addresses import masked
from sessioncache.config import Settings, unknown_variables
from sessioncache.connect import BlockingConnections
from sessioncache.errors import ConfigurationError
from sessioncache.process import end_with_parent
from sessioncache.reports import Report
from workers import jobs
from workers.endpoint import Endpoint
from workers.schedule import Schedule

log = logging.getLogger("workers.runtime")

TICK_SECONDS = 0.1
RESTART_SECONDS = 1.0
STOP_SECONDS = 30.0
# A supervisor that does not look after its workers for so long hangs.
STILL_SECONDS = 30.0


class OwnJob(Job):
    """A job of ours. One that names any other function was put in the queue by somebody else, and is refused.

    Nor is anything else done that a job can ask for: no callback is called, no web hook sent.
    """

    def perform(self) -> Any:
        """Do the job.

        Raises:
            ConfigurationError: it is none of ours.
        """
        if self.func_name not in {jobs.connections().settings.job, jobs.KEEP_HOUSE, jobs.TELL_EXPIRING}:
            raise ConfigurationError("A job in the queue of sessioncache is none of its own; give the queue another name.")
        return super().perform()

    def execute_success_callback(self, *_: object) -> None:
        """Call nothing."""

    def execute_failure_callback(self, *_: object) -> None:
        """Call nothing."""

    def send_webhooks(self, *_: object, **_named: object) -> None:
        """Send nothing."""


class DrainWorker(SimpleWorker):
    """An RQ worker that at SIGTERM ends after the batch in hand, or at once if there is none.

    RQ's own way raises an `Exception` wherever the worker happens to be, and redis-py swallows those in some places: the
    worker would go on waiting for a job.
    """

    def request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Stop warmly.

        Raises:
            SystemExit: no job is under way.
        """
        jobs.stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise SystemExit

    def teardown(self) -> None:
        """Sign off, over a new connection: one that was interrupted may wait for a job still, and answer nothing else."""
        self.connection.connection_pool.disconnect(inuse_connections=False)
        super().teardown()  # type: ignore[no-untyped-call]  # rq leaves it without types


def work(settings: Settings, supervisor: int) -> None:
    """Be one worker until told to stop, or until the supervisor, of this process id, ends."""
    end_with_parent(supervisor)
    connection = nudge.queue_connection(settings)
    jobs.connections().reporter.run()
    try:
        queue = Queue(settings.queue, connection=connection, serializer=JSONSerializer)
        worker = DrainWorker([queue], connection=connection, serializer=JSONSerializer, job_class=OwnJob)
        worker.work(logging_level="WARNING")
    except (RedisError, OSError) as error:
        log.warning("the queue is unavailable (%s), this worker starts again", type(error).__name__)
        time.sleep(RESTART_SECONDS)
    finally:
        jobs.connections().close()
        connection.close()


class Supervisor:
    """Keeps a number of worker processes running, and the schedule."""

    def __init__(self, settings: Settings, processes: int, options: Sequence[str] = ()) -> None:
        """``options`` are those that each worker process is given, too."""
        self._settings, self._processes, self._options = settings, processes, options
        self._stopping = threading.Event()
        self._children: list[subprocess.Popen[bytes]] = []
        self._turned = time.monotonic()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            ConfigurationError: what the setting ``http`` asks for cannot be served.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        connections = BlockingConnections(self._settings, kind="worker")
        schedule = threading.Thread(target=Schedule(connections, self._stopping).run, name="schedule")
        endpoint = self._endpoint(connections, schedule)
        schedule.start()
        for name in unknown_variables():
            log.warning("there is no setting %s; it is left alone", name)
        log.info("%d workers on %s", self._processes, masked(self._settings.redis_url))
        try:
            while not self._stopping.wait(TICK_SECONDS):
                self._start_missing()
                self._turned = time.monotonic()
        finally:
            self._stopping.set()
            if endpoint:
                endpoint.close()
            self._end()
            schedule.join()
            connections.close()

    def _endpoint(self, connections: BlockingConnections, schedule: threading.Thread) -> Endpoint | None:
        if not self._settings.http:
            return None

        def own(told: Sequence[Report]) -> list[Report]:
            mine = connections.reporter.present()
            pids = {child.pid for child in self._children}
            return [mine, *(one for one in told if one.host == mine.host and one.pid in pids)]

        return Endpoint(self._settings, lambda: self._wrong(schedule), own)

    def _wrong(self, schedule: threading.Thread) -> dict[str, str]:
        """What a restart of this process would mend."""
        still = time.monotonic() - self._turned
        wrong = {"supervisor": f"It has not looked after its workers for {still:.0f} s."} if still > STILL_SECONDS else {}
        return wrong if schedule.is_alive() else {**wrong, "schedule": "Its thread has ended."}

    def _start_missing(self) -> None:
        dead = [child for child in self._children if child.poll() is not None]
        for child in dead:
            about = {"worker": child.pid, "reason": f"status {child.returncode}"}
            log.warning("worker %d ended with status %d, starting another", child.pid, child.returncode, extra=about)
            self._children.remove(child)
        if dead and self._stopping.wait(RESTART_SECONDS):
            return
        while len(self._children) < self._processes:
            command = [sys.executable, "-P", "-m", "workers", "--one-of", str(os.getpid()), *self._options]
            self._children.append(subprocess.Popen(command))  # noqa: S603 - a fixed command

    def _end(self) -> None:
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("worker %d did not end in time and is killed; nothing is lost", child.pid)
                child.kill()
                child.wait()
