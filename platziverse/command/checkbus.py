"""Checkbus: the part of ``platziverse check`` that asks the server of the bus."""

import select
from collections.abc import Iterator
from typing import Final

from platziverse.bus.notify import NOT_HEARD
from platziverse.bus.settings import BusSettings
from platziverse.bus.url import CLUSTER, POSTGRES, SENTINEL, BusUrl, parse_url, without_password
from platziverse.command.database import connected, find_dsn
from platziverse.command.findings import ERROR, OK, WARNING, Finding
from platziverse.config import Config
from platziverse.errors import Unusable

#: Seconds for everything that one server is asked.
DEADLINE: Final = 5.0
NAME: Final = "bus"


def check_bus(config: Config) -> Iterator[Finding]:
    """Check that the server of the bus is there, lets us in, and lets us publish and subscribe."""
    if not config.bus.url:
        return
    url = parse_url(config.bus.url)
    shown = without_password(config.bus.url)
    dsn = url.dsn
    if url.kind == POSTGRES and not dsn:
        try:
            dsn = find_dsn(config)
        except Unusable:  # which the check of the database says
            return
    try:
        if url.kind == POSTGRES:
            _hear(dsn, config.bus.name)
        else:
            yield from _redis(config.bus, url)
    except Unusable as error:
        yield Finding(NAME, ERROR, f"{shown}: {error}")
    else:
        yield Finding(NAME, OK, f"{shown}: set {config.bus.name!r} may publish and subscribe")


def _hear(dsn: str, name: str) -> None:
    """Find out whether a connection hears what it notifies; behind a pooler it may not."""
    with connected(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f'LISTEN "pv_{name}_check"')
        cursor.execute("SELECT pg_notify(%s, '')", (f"pv_{name}_check",))
        connection.poll()
        if not connection.notifies and not select.select([connection], [], [], DEADLINE)[0]:
            raise Unusable(NOT_HEARD)


def _redis(settings: BusSettings, url: BusUrl) -> Iterator[Finding]:
    try:
        from platziverse.command.askredis import ask_cluster, ask_master, ask_server
    except ModuleNotFoundError as error:
        raise Unusable(f"{error.name} is missing: pip install 'platziverse[redis]'") from None
    if url.kind == SENTINEL:
        yield from (Finding(NAME, WARNING, text) for text in ask_master(settings, url))
    elif url.kind == CLUSTER:
        ask_cluster(settings, url)
    else:
        ask_server(settings, url, url.hosts[0] if url.hosts else ("", 0))
