"""Making: the bus that the settings ask for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from platziverse.broker.ports import Membership, MessageBus
from platziverse.bus.kept import BusState
from platziverse.bus.notify import NotifyBus
from platziverse.bus.settings import BusSettings
from platziverse.bus.url import CLUSTER, POSTGRES, SENTINEL, BusUrl, parse_url, without_password
from platziverse.errors import Unusable


def make_bus(
    settings: BusSettings, reactor: Any, members: Membership, database: Callable[[], str] = lambda: ""
) -> MessageBus | None:
    """Return the bus, which has not started; ``None``: the daemon is alone.

    :param database: returns the connection string of the daemon's database, once that is there.
    :raises Unusable: a file cannot be read, or a package is missing.
    """
    if not settings.url:
        return None
    url = parse_url(settings.url)
    if url.kind == POSTGRES:
        where, dsn = without_password(settings.url), (lambda: url.dsn) if url.dsn else database
        state = BusState(where, reactor.seconds)
        return NotifyBus(reactor, settings.name, members, dsn, state, settings.max_pending)
    return _redis_bus(settings, url, reactor, members)


def _redis_bus(settings: BusSettings, url: BusUrl, reactor: Any, members: Membership) -> MessageBus:
    try:
        from platziverse.bus.redis import RedisBus
        from platziverse.bus.rediscluster import RedisClusterBus
        from platziverse.bus.sentinel import Sentinels
        from platziverse.bus.server import Server
        from platziverse.bus.tls import TlsFiles
    except ModuleNotFoundError as error:
        raise Unusable(f"bus.url: {error.name} is missing: pip install 'platziverse[redis]'") from None
    tls = TlsFiles(settings.ca_file, settings.certificate, settings.key)
    if url.tls:
        tls.options("localhost")  # says now what is wrong with the files
    password = partial(bus_password, settings)
    password()  # likewise of that file
    server = Server(reactor, url, password, tls, f"platziverse-{settings.name}")
    state = BusState(without_password(settings.url), reactor.seconds)
    if url.kind == CLUSTER:
        return RedisClusterBus(
            reactor, settings.name, members, server, url.hosts, state, settings.max_pending
        )
    if url.kind == SENTINEL:
        opener = Sentinels(server, url.hosts, url.service).open
    else:
        opener = partial(server.open, url.hosts[0] if url.hosts else ("", 0))
    return RedisBus(reactor, settings.name, members, opener, state, settings.max_pending)


def bus_password(settings: BusSettings) -> str:
    """Return the password that does not stand in the URL: of its file, else of its setting.

    :raises Unusable: the file cannot be read.
    """
    if not settings.password_file:
        return settings.password
    try:
        return Path(settings.password_file).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise Unusable(f"bus.password_file: {settings.password_file}: cannot be read: {reason}") from None
