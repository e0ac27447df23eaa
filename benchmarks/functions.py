"""What the functions for redis-cli cost a Redis with much to show: for how long it is busy, and how long others wait.

    PYTHONPATH=tests python benchmarks/functions.py [--redis7]

A session of 100,000 messages, all hot and all waiting for SQL; backlog and dead letters in each of 1,000 partitions;
messages of 256 KiB that are slow to show. Each function is called once, as it is by default, and with the most that its
arguments allow; the slowest stands first. Valkey comes from the wheel of the tests. Nothing is asserted; numbers depend on
the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial

import redis
from servers import RedisServer, redis_7, valkey_wheel
from showing import fill, install, measure, settings, table

from sessioncache import SessionCache


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis7", action="store_true", help="the redis-server of this machine")
    program = redis_7() if parser.parse_args().redis7 else valkey_wheel()
    if program is None:
        raise SystemExit("There is no such server on this machine.")
    server = RedisServer(program).start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            url = f"sqlite:///{directory}/store.db"
            with SessionCache(settings=settings(server.url, url)) as cache, redis.Redis.from_url(server.url) as raw:
                fill(cache, raw)
                install(cache)
                print(table(measure(partial(redis.Redis.from_url, server.url))))  # noqa: T201
    finally:
        server.close()


if __name__ == "__main__":
    main()
