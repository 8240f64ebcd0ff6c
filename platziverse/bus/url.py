"""Url: a bus URL taken apart; only its password is never shown."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote

from attrs import evolve, field, frozen
from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn

REDIS: Final = "redis"
SENTINEL: Final = "sentinel"
CLUSTER: Final = "cluster"
POSTGRES: Final = "postgresql"

_FORM: Final = re.compile(r"([a-z+]+):(?://(?:([^/]*)@)?([^/?#@]*)(/[^?#]*)?)?(?:\?([^#]*))?")
#: Kind, whether over TLS, and the port when none is given.
_SCHEMES: Final = {
    "redis": (REDIS, False, 6379),
    "rediss": (REDIS, True, 6379),
    "unix": (REDIS, False, 0),
    "redis+unix": (REDIS, False, 0),
    "redis+sentinel": (SENTINEL, False, 26379),
    "rediss+sentinel": (SENTINEL, True, 26379),
    "redis+cluster": (CLUSTER, False, 6379),
    "rediss+cluster": (CLUSTER, True, 6379),
}


@frozen
class BusUrl:
    """A BusUrl says where the bus is.

    :param kind: ``REDIS``, ``SENTINEL``, ``CLUSTER`` or ``POSTGRES``.
    :param hosts: pairs of host and port; of Sentinels, or nodes of a cluster, some of them.
    :param path: of the Unix socket, in the place of a host.
    :param service: the name under which the Sentinels know the master.
    :param dsn: connection string of PostgreSQL; empty: that of the daemon's own database.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    service: str = ""
    dsn: str = field(default="", repr=False)


def parse_url(url: str) -> BusUrl:
    """Take ``url`` apart.

    :raises ValueError: it is none of ours; the text says what is wrong, and repeats no password.
    """
    scheme, _, rest = url.partition(":")
    if scheme in ("postgresql", "postgres"):
        if rest:
            _check_dsn(url)
        return BusUrl(POSTGRES, dsn=url if rest else "")
    form = _FORM.fullmatch(url)
    if form is None or form[1] not in _SCHEMES:
        raise ValueError(
            "is no URL of a bus; write redis://HOST:PORT, rediss://, unix://, redis+sentinel://,"
            " redis+cluster:// or postgresql:"
        )
    kind, tls, port = _SCHEMES[form[1]]
    username, _, password = (form[2] or "").partition(":")
    options = dict(parse_qsl(form[5] or "", keep_blank_values=True))
    found = BusUrl(kind, tls=tls, username=unquote(username), password=unquote(password))
    path = unquote(form[4] or "")
    if not port:
        return _at_socket(found, form[3] or "", path, options)
    return _on_hosts(evolve(found, hosts=_hosts(form[3] or "", port)), path.strip("/"), options)


def _check_dsn(url: str) -> None:
    try:
        host = parse_dsn(url).get("host", "")
    except ProgrammingError:  # libpq repeats what it could not read, a password perhaps
        host = "@"
    if "@" in host:  # that of a password, which would be shown as the name of a host that is not found
        raise ValueError(
            "is no connection string; postgresql: alone is the database of the daemon, another one is"
            " postgresql://USER:PASSWORD@HOST/NAME, where @ and % of a password are written %40 and %25"
        )


def _at_socket(found: BusUrl, host: str, path: str, options: dict[str, str]) -> BusUrl:
    if host or not path.strip("/"):
        raise ValueError("a Unix socket is written with three slashes, unix:///run/redis/redis.sock")
    return evolve(found, path=path, database=_database(options))


def _on_hosts(found: BusUrl, path: str, options: dict[str, str]) -> BusUrl:
    if found.kind == REDIS:
        if len(found.hosts) > 1:
            raise ValueError("several hosts are those of redis+sentinel:// or redis+cluster://")
        return evolve(found, database=_database({"db": path} | options if path else options))
    if found.kind == SENTINEL:
        if not path or "/" in path:
            raise ValueError("the name of the master is missing, as in redis+sentinel://HOST:26379/mymaster")
        return evolve(found, service=path, database=_database(options))
    if path or options:
        raise ValueError("a Redis cluster has no database numbers, redis+cluster://HOST:PORT is all")
    return found


def _database(options: dict[str, str]) -> int:
    text = options.pop("db", "0")
    if options:
        raise ValueError(f"?{next(iter(options))}= is unknown; there is ?db=NUMBER")
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise ValueError(f"{text!r} is no number of a Redis database, like the 1 of redis://HOST:6379/1")
    return int(text)


def _hosts(netloc: str, port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for part in netloc.split(","):
        form = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:\s]+)?(?::(\d{1,5}))?", part)
        number = int(form[2]) if form is not None and form[2] else port
        if form is None or not 0 < number < 65_536:
            raise ValueError("has no HOST:PORT behind its slashes")
        found.append(((form[1] or "localhost").strip("[]"), number))
    return tuple(found)


def without_password(url: str) -> str:
    """Return ``url`` as it may be shown: with ``***`` in the place of a password."""
    shown = re.sub(r"(://[^/:@]*:).*@", r"\1***@", url)
    return re.sub(r"\b(password|sslpassword)=[^&\s]*", r"\1=***", shown)
