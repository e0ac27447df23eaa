"""The addresses of servers: what a URL of Redis or of a database may be, and how one is shown.

Guarantee: nothing here puts a password into a message; `masked` is how a URL is shown.
"""

from __future__ import annotations

import re

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from sessioncache.errors import ConfigurationError
from sessioncache.sentinel import SCHEMES, deployment

REDIS_SCHEMES = ("redis", "rediss", "unix", *SCHEMES)
# The driver each door uses, whatever driver the URL names: (blocking, awaiting).
DRIVERS = {
    "sqlite": ("sqlite+pysqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgresql+psycopg", "postgresql+psycopg"),
    "postgres": ("postgresql+psycopg", "postgresql+psycopg"),
}
LAST_PORT = 65_535
_SECRETS = re.compile(r"(?<=://).*(?=@)|(?<=password=)[^&]+")


def check_redis_url(name: str, url: str) -> None:
    """Refuse what is no URL of Redis, or of Sentinels.

    Raises:
        ConfigurationError: it is none.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in REDIS_SCHEMES:
        first = ", ".join(f"{one}://" for one in REDIS_SCHEMES[:-1])
        what = (
            f"not {scheme[:40]!r}" if separator else "as in redis://localhost:6379/0"
        )  # what has no scheme may be a secret
        raise ConfigurationError(f"{name} must begin with {first} or {REDIS_SCHEMES[-1]}://, {what}.")
    try:
        deployment(url)
    except ValueError as error:
        raise ConfigurationError(
            f"{name} cannot be used: {error}; write it like redis+sentinel://host:26379,host:26379/service/0."
        ) from None  # the cause may quote a password


def database_url(url: str, *, awaiting: bool = False) -> URL:
    """The database URL with the driver that fits the door.

    Raises:
        ConfigurationError: not a URL, or not of SQLite or PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("The database URL cannot be read; write it like postgresql://host/name.") from error
    dialect = parsed.drivername.partition("+")[0]
    if dialect not in DRIVERS:
        raise ConfigurationError(f"The database URL must begin with sqlite:// or postgresql://, not {dialect[:40]!r}.")
    return parsed.set(drivername=DRIVERS[dialect][awaiting])


def masked(url: str) -> str:
    """A URL as it may be shown: user and password hidden."""
    return _SECRETS.sub("***", url)


def http_address(value: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets; port 0 is any free one.

    Raises:
        ConfigurationError: it is something else.
    """
    host, _, port = value.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host.replace(":", " ")
    if not re.fullmatch(r"[\w.:-]+", host) or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > LAST_PORT:
        raise ConfigurationError(f"http is HOST:PORT, like 127.0.0.1:9108, not {value!r:.100}.")
    return host, int(port)
