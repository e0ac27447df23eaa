"""Addresses of Redis behind Sentinels: ``redis+sentinel://user:password@host:26379,host:26379/service/0?option=value``.

User and password are those of Redis; the Sentinels' own stand in the options ``sentinel_username`` and
``sentinel_password``. With ``rediss+sentinel`` Redis and the Sentinels speak TLS. `deployment` reads such an address and
connects nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Deployment:
    """A Redis service and the Sentinels that know its primary.

    Attributes:
        service: the name that the Sentinels have for it.
        sentinels: their hosts and ports.
        credentials: ``username`` and ``password`` for the Sentinels, where there are any.
        url: everything else, as an ordinary address; its host stands for the primary.
    """

    service: str
    sentinels: tuple[tuple[str, int], ...]
    credentials: dict[str, str]
    url: str


def deployment(url: str) -> Deployment | None:
    """What an address names; None for one without Sentinels.

    Raises:
        ValueError: it names no host or no service, or a port that is none; the text holds no secret.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        return None
    place, _, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    user, at, hosts = netloc.rpartition("@")
    service, _, database = path.partition("/")
    sentinels = tuple(_address(one) for one in hosts.split(","))
    if not service:
        raise ValueError("no service is named after the hosts")
    options = parse_qsl(query, keep_blank_values=True)
    mine = {name.removeprefix("sentinel_"): value for name, value in options if name.startswith("sentinel_")}
    others = urlencode([(name, value) for name, value in options if not name.startswith("sentinel_")])
    ordinary = f"{scheme.removesuffix('+sentinel')}://{user}{at}primary/{_number(database)}?{others}".rstrip("?")
    return Deployment(unquote(service), sentinels, _credentials(mine), ordinary)


def _address(text: str) -> tuple[str, int]:
    parsed = urlsplit(f"//{text}")
    if not parsed.hostname:
        raise ValueError("a Sentinel has no host")
    return parsed.hostname, SENTINEL_PORT if parsed.port is None else parsed.port


def _number(database: str) -> int:
    if database and not database.isdecimal():
        raise ValueError("the database after the service is no number")
    return int(database or 0)


def _credentials(options: dict[str, str]) -> dict[str, str]:
    if unknown := set(options) - {"username", "password"}:
        raise ValueError(f"there is no option sentinel_{min(unknown)}")
    return options
