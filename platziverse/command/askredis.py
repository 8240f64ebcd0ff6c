"""Askredis: a Redis server asked by a command, which waits for each answer."""

import socket
import ssl
from contextlib import ExitStack, closing
from typing import Any, Final

from hiredis import ProtocolError, Reader, ReplyError

from platziverse.bus.making import bus_password
from platziverse.bus.pubsub import CHECK, channel
from platziverse.bus.rediscluster import SLOTS
from platziverse.bus.resp import Refused, packed
from platziverse.bus.settings import BusSettings
from platziverse.bus.url import BusUrl
from platziverse.errors import Unusable

#: Seconds for one answer.
DEADLINE: Final = 5.0

Place = tuple[str, int]


class Server:
    """A Server is one that was reached, and has let us in.

    :param login: false: it wants none.
    :raises Unusable: it cannot be reached, or refuses us.
    """

    def __init__(self, settings: BusSettings, url: BusUrl, place: Place, login: bool = True) -> None:
        host, port = place
        self.name = f"{host}:{port}" if host else url.path
        self._reader = Reader()
        try:
            self._socket = _connected(settings, url, place)
        except OSError as error:
            raise Unusable(f"{self.name} cannot be reached: {error.strerror or error}") from None
        password = bus_password(settings) or url.password
        if login and password:
            try:
                self.ask("AUTH", *([url.username] if url.username else []), password)
            except Unusable:
                self.close()
                raise

    def ask(self, *words: str) -> Any:
        """Return the answer to a command.

        :raises Unusable: it is an error, or there is none.
        """
        try:
            self._socket.sendall(packed(*(word.encode() for word in words)))
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(65_536)
                if not data:
                    raise Unusable(f"{self.name} has closed the connection")
                self._reader.feed(data)
        except TimeoutError:
            raise Unusable(f"{self.name} has not answered for {DEADLINE:.0f} s") from None
        except OSError as error:
            raise Unusable(f"{self.name}: {error.strerror or error}") from None
        except (ProtocolError, MemoryError):
            raise Unusable(f"{self.name} does not speak the Redis protocol") from None
        if isinstance(reply, ReplyError):
            raise Refusal(self.name, str(reply))
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Refusal(Unusable):
    """A server has answered with an error.

    :ivar said: the error as it was answered; the text says more.
    """

    def __init__(self, name: str, said: str) -> None:
        super().__init__(str(Refused(name, said)))
        self.said = said


def _connected(settings: BusSettings, url: BusUrl, place: Place) -> socket.socket:
    with ExitStack() as failed:
        if place[0]:
            found = failed.enter_context(socket.create_connection(place, DEADLINE))
        else:
            found = failed.enter_context(socket.socket(socket.AF_UNIX))
            found.settimeout(DEADLINE)
            found.connect(url.path)
        if url.tls:
            context = ssl.create_default_context(cafile=settings.ca_file or None)
            # Python 3.13 has begun to refuse authorities without a key identifier; the daemon takes them.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if settings.certificate:
                context.load_cert_chain(settings.certificate, settings.key)
            found = context.wrap_socket(found, server_hostname=place[0])
        failed.pop_all()
    return found


def ask_server(settings: BusSettings, url: BusUrl, place: Place) -> None:
    """Find out whether we may publish and subscribe.

    :raises Unusable: one of it is not so; the text says what to do.
    """
    with closing(Server(settings, url, place)) as server:
        if url.database:
            server.ask("SELECT", str(url.database))
        one = channel(settings.name, CHECK).decode()
        server.ask("PUBLISH", one, "")
        server.ask("SUBSCRIBE", one)


def ask_master(settings: BusSettings, url: BusUrl) -> list[str]:
    """Find out the same about the master, and return a line about each Sentinel that does not know it.

    :raises Unusable: none does, or it is not so.
    """
    troubles, master = [], None
    for place in url.hosts:
        try:
            found = _answer(settings, url, place)
        except Unusable as error:
            troubles.append(f"a Sentinel does not help: {error}")
            continue
        if found is None:
            raise Unusable(f"no master {url.service!r} at the Sentinels; check the end of bus.url")
        master = found[0].decode(), int(found[1])
    if master is None:
        raise Unusable("; ".join(troubles))
    ask_server(settings, url, master)
    return troubles


def _answer(settings: BusSettings, url: BusUrl, place: Place) -> Any:
    """Return what a Sentinel knows; most want no login."""
    try:
        server = Server(settings, url, place)
    except Refusal:
        server = Server(settings, url, place, login=False)
    with closing(server):
        return server.ask("SENTINEL", "get-master-addr-by-name", url.service)


def ask_cluster(settings: BusSettings, url: BusUrl) -> None:
    """Find out the same about a cluster.

    :raises Unusable: no node can be reached, a slot has no node, or we have no permission.
    """
    troubles = []
    for place in url.hosts:
        try:
            server = Server(settings, url, place)
        except Unusable as error:
            troubles.append(str(error))
            continue
        with closing(server):
            rows = server.ask("CLUSTER", "SLOTS")
            covered = sum(last - first + 1 for first, last, *_ in rows)
            if covered != SLOTS:
                raise Unusable(f"{server.name}: {SLOTS - covered} slots of the cluster have no node")
            one = channel(settings.name, CHECK).decode()
            for words in (("SPUBLISH", one, ""), ("SSUBSCRIBE", one)):
                _ask_wherever(server, *words)
            return
    raise Unusable("; ".join(troubles))


def _ask_wherever(server: Server, *words: str) -> None:
    """Ask what another node may have to answer; then this one says so, and that we have permission."""
    try:
        server.ask(*words)
    except Refusal as error:
        if not error.said.startswith("MOVED "):
            raise
